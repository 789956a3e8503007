"""AMD FPGAs: a Vitis HLS project for one part, checked on the host's compiler."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.backends.emitted import EmittedBackend, EmittedModel
from graphopt.codegen import hls
from graphopt.codegen.lower.schedule import Style
from graphopt.errors import InputError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.types import TensorType
from graphopt.runtime.arrays import to_numpy
from graphopt.runtime.model import Model
from graphopt.ship.projects import write_project
from graphopt.targets import Target
from graphopt.targets.fpga import Fpga


class FpgaModel(EmittedModel):
    """A network as a Vitis HLS project for one part."""

    forms = ("hls",)

    def source(self, kind: str | None = None, number: str = "float") -> str:
        """The top function with its kernels. `number` is float, or `ap_fixed<W,I>` to compute in fixed point."""
        self._form(kind)
        return self._design(number).files()["top.cpp"]

    def _design(self, number: str) -> hls.Design:
        assert isinstance(self.target, Fpga)
        return hls.Design(self._plan, self.target, number)

    def save(self, folder: str | os.PathLike[str], *, number: str = "float", stimulus: Sequence[Sequence[Any]] | None = None,
             rtol: float | None = None, atol: float | None = None, force: bool = False) -> None:
        """Write the Vitis HLS project to `folder`, all or nothing. What was saved there before is replaced; `force`: with files
        that graphopt did not write.

        The test bench runs `stimulus`, a list of samples (each a list of arrays, one an input; three random ones where not
        given), and expects what the reference evaluator gives within `atol + rtol * |expected|` (default 1e-5, or 64 units
        of the last place in fixed point).
        """
        design = self._design(number)
        samples = [self._sample(s) for s in stimulus] if stimulus is not None else [self._random(seed) for seed in range(3)]
        expected = [evaluate(self._source, s) for s in samples]
        files = {**design.files(), **design.test_bench(samples, expected, rtol, atol)}
        write_project(folder, files, {**self._manifest(), "part": design.target.part, "number": number, "top": design.name},
                      force)

    def _sample(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        if len(arrays) != len(self.inputs):
            raise InputError(f"a sample has {len(arrays)} arrays; the model takes {len(self.inputs)} inputs", where="stimulus")
        return [self._check(s, to_numpy(a, s.name)) for s, a in zip(self.inputs, arrays)]

    def _random(self, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [_random_array(rng, t) for space, _, t in self._interface if space == "input"]

    def emulated(self, number: str = "float") -> Model:
        """The design on the host, built with its C++ compiler (fixed point: with the ap_types headers of hls4ml)."""
        return self._on_host(self._design(number).host_function())


def _random_array(rng: np.random.Generator, t: TensorType) -> np.ndarray:
    if t.dtype.is_float:
        return rng.uniform(-1, 1, t.static_shape).astype(t.dtype.numpy)
    return rng.integers(0, 2, t.static_shape).astype(t.dtype.numpy)


class FpgaBackend(EmittedBackend):
    """A top function that calls the kernels in order."""

    kind = "fpga"
    forms = FpgaModel.forms
    model = FpgaModel

    def read(self, detail: str | None, threads: int | None) -> Target:
        return Fpga.named(detail)

    def style(self, target: Target) -> Style:
        return hls.STYLE


BACKEND = FpgaBackend()

__all__ = ["BACKEND", "FpgaBackend", "FpgaModel"]
