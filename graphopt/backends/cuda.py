"""NVIDIA GPUs: CUDA C++ for one architecture, built without a GPU, and run on the host by an emulation."""

from __future__ import annotations

import os
from typing import Any

from graphopt.backends.emitted import EmittedBackend, EmittedModel
from graphopt.codegen import cuda
from graphopt.codegen.c.host import FLAGS, load
from graphopt.codegen.lower.schedule import Style
from graphopt.ir.graph import Graph
from graphopt.runtime.host.executable import aligned
from graphopt.runtime.model import Model
from graphopt.ship.projects import write_project
from graphopt.targets import Target
from graphopt.targets.cuda import Cuda


class CudaModel(EmittedModel):
    """A network as CUDA C++ for one architecture."""

    forms = ("cuda",)

    def __init__(self, graph: Graph, target: Target, validate: bool = False) -> None:
        super().__init__(graph, target, validate)
        assert isinstance(target, Cuda)
        self._arch = target.arch
        self._text, self.launches = cuda.emit(self._plan, target)
        self._code: bytes | None = None

    def source(self, kind: str | None = None) -> str:
        """The CUDA C++ text: kernels and the function that launches them."""
        self._form(kind)
        return self._text

    def cubin(self) -> bytes:
        """Machine code of the kernels, made once; no GPU is needed. TargetError where there is neither nvcc nor NVRTC."""
        if self._code is None:
            self._code = cuda.cubin(self._text, self._arch)
        return self._code

    def launch_list(self) -> list[dict[str, Any]]:
        """What to launch, in order: kernel, blocks, threads of a block, and arguments as (space, index, byte offset)."""
        return [{"kernel": c.kernel.name, "blocks": self.launches[c.kernel.name].blocks,
                 "threads": self.launches[c.kernel.name].threads, "args": [[s.space, s.index, s.offset] for s in c.args],
                 "op": c.op.name, "loc": list(c.op.loc)} for c in self._plan.calls]

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write kernels.cu, kernels.cubin (where it can be made), weights.bin, emulation.h and the launch list to `folder`,
        all or nothing. What was saved there before is replaced; `force`: with files that graphopt did not write."""
        files: dict[str, str | bytes] = {"kernels.cu": self._text, "emulation.h": cuda.HEADER,
                                         "weights.bin": self._plan.pack_weights(aligned).tobytes()}
        if cuda.available():
            files["kernels.cubin"] = self.cubin()
        write_project(folder, files, {**self._manifest(), "arena_bytes": self._plan.arena_size,
                                      "weights_bytes": self._plan.weights_size, "launches": self.launch_list()}, force)

    def emulated(self, reverse: bool = False) -> Model:
        """The same kernels on the host, one thread after the other; with `reverse`, the last thread first."""
        flags = (*FLAGS, "-DGRAPHOPT_EMULATE", "-w", "-x", "c++", *(["-DGRAPHOPT_REVERSE"] if reverse else []))
        library = load({"kernels.cu": self._text, "emulation.h": cuda.HEADER}, "kernels.cu", flags)
        return self._on_host(lambda *pointers: library.graphopt_run(*pointers, None))


class CudaBackend(EmittedBackend):
    """Kernels and the function that launches them."""

    kind = "cuda"
    forms = CudaModel.forms
    model = CudaModel

    def read(self, detail: str | None, threads: int | None) -> Target:
        return Cuda.named(detail)

    def style(self, target: Target) -> Style:
        return cuda.STYLE


BACKEND = CudaBackend()

__all__ = ["BACKEND", "CudaBackend", "CudaModel"]
