"""Programs compiled with `check_indices`: after a call, the least and the greatest of all indices are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.runtime.bounds import IndexCheck, refuse
from graphopt.runtime.host.executable import Executable, Observer
from graphopt.runtime.host.pycall import Call


class Checked:
    """An executable whose results after the first `visible` are the extremes that `checks` look at, two for each."""

    def __init__(self, executable: Executable, checks: Sequence[IndexCheck], visible: int) -> None:
        self.executable, self.checks, self.visible = executable, list(checks), visible
        self._call: tuple[Call, Call] | None = None

    def run(self, inputs: Sequence[Any], observe: Observer | None = None) -> list[Any]:
        """As of the executable. IndexRangeError where an index was out of range."""
        return self._looked_at(self.executable.run(inputs, observe))

    def caller(self, torch: bool = False) -> Call:
        """As of the executable."""
        inner = self.executable.caller(torch)
        if self._call is None or self._call[0] is not inner:
            def call(*arrays: Any) -> Any:
                made = inner(*arrays)
                if made is None:
                    return None
                kept = self._looked_at(list(made))
                return kept[0] if len(kept) == 1 else tuple(kept)

            self._call = inner, call
        return self._call[1]

    def needs(self) -> str:
        """As of the executable."""
        return self.executable.needs()

    def _looked_at(self, made: list[Any]) -> list[Any]:
        for k, check in enumerate(self.checks):
            low, high = (np.asarray(x) for x in made[self.visible + 2 * k:self.visible + 2 * k + 2])
            refuse(check, low, high)
        return made[:self.visible]


__all__ = ["Checked"]
