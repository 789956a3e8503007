"""What `graphopt.compile` was given, and what was made of it so far."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

from graphopt.errors import InputError
from graphopt.measure.records import Records, still_holds
from graphopt.ship import programs

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph


@dataclass
class Recipe:
    """The arguments of `compile`; what takes time to make of them is made when it is first asked for."""

    model: Any
    example_inputs: Any
    dynamic_shapes: Any
    target_given: Any
    threads: int | None
    validate: bool
    tune: str | None = None
    tuning: str | PathLike[str] | None = None
    check_indices: bool = False
    again: bool = False  # whether a program was already made of the model
    overridden: tuple[str, ...] = ()  # inputs of an ONNX model whose defaults are not used

    @cached_property
    def key(self) -> str | None:
        """What names this compilation on disk; None where it cannot be kept there."""
        from os import sched_getaffinity

        if self.validate or self.check_indices or self.dynamic_shapes is not None:
            return None
        threads = self.threads or len(sched_getaffinity(0))
        given = self.target_given
        target = given if isinstance(given, str) else [(k, sorted(v) if isinstance(v, frozenset) else v)
                                                       for k, v in sorted(vars(given).items())]
        return programs.model_key(self.model, {"target": target, "threads": threads, "overridden": self.overridden})

    @cached_property
    def target(self) -> Any:
        from graphopt.targets import parse_target

        return parse_target(self.target_given, self.threads)

    @cached_property
    def records(self) -> Records:
        """What was measured of kernels, so far."""
        return Records.load(self.tuning, to_write=self.tune is not None)

    def holds(self, manifest: Mapping[str, Any]) -> bool:
        """Is a program on disk what this recipe would make, by what is recorded now?"""
        return still_holds(manifest.get("tuning", {}), self.records, self.tune)

    @cached_property
    def graph(self) -> Graph:
        from graphopt.capture import capture

        graph = capture(self.model, self.example_inputs, dynamic_shapes=self.dynamic_shapes, overridden=self.overridden)
        if self.again and self.key != replace(self).key:
            raise InputError("the model's file has changed since it was compiled", where=str(self.model),
                             hint="Compile it again")
        return graph

    def forget(self) -> None:
        """Give back the memory of the graph and its weights; they can be had again."""
        self.again = True
        self.__dict__.pop("graph", None)
        gc.collect()  # graphs are cycles


__all__ = ["Recipe"]
