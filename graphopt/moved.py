"""Modules that stood elsewhere once: what imports them by their old names gets them, with a DeprecationWarning.

Of a module whose contents went to several, all are looked through. x86's templates were nobody's to import, and are not here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, str | tuple[str, ...]] = {
    "bounds": "runtime.bounds",
    "bundle": "backends.x86.bundle",
    "checking": "diagnose.checking",
    "codegen.arena": "codegen.program.arena",
    "codegen.batches": "codegen.x86.batches",
    "codegen.cache": "cache.objects",
    "codegen.columns": "codegen.lower.columns",
    "codegen.control": "codegen.program.control",
    "codegen.effort": "codegen.kernel.effort",
    "codegen.expr": "codegen.kernel.expr",
    "codegen.host_cc": "codegen.c.host",
    "codegen.index": "codegen.kernel.index",
    "codegen.interpret": ("codegen.kernel.interpret", "codegen.lower.interpret"),
    "codegen.kernels": "codegen.lower.kernels",
    "codegen.layouts": "codegen.x86.layouts",
    "codegen.loops": "codegen.kernel.loops",
    "codegen.math": "codegen.kernel.math",
    "codegen.native": "codegen.x86.native",
    "codegen.plan": "codegen.program.plan",
    "codegen.project": ("codegen.program.launches", "ship.projects"),
    "codegen.schedule": "codegen.lower.schedule",
    "codegen.steps": "codegen.program.steps",
    "codegen.tir": "codegen.x86",
    "codegen.tir.build": "codegen.x86.build",
    "codegen.tir.emit": "codegen.x86.emit",
    "codegen.tir.entry": "codegen.x86.entry",
    "codegen.tir.listing": "codegen.x86.listing",
    "codegen.tuning": "codegen.lower.tuning",
    "emitted": ("backends.emitted", "backends.cuda", "backends.fpga"),
    "onnx_backend": "interop.onnx_backend",
    "ownership": "cache.ownership",
    "peaks": "measure.peaks",
    "pipeline": ("backends.pipeline", "codegen.program.interface"),
    "profiling": "measure.profiling",
    "programs": ("ship.programs", "cache.naming"),
    "records": "measure.records",
    "reduction": "diagnose.reduction",
    "replacing": "ship.replacing",
    "repro": ("diagnose.repro", "ship.crash"),
    "rewrite.absorb": "rewrite.fuse.absorb",
    "rewrite.batches": "rewrite.layout.batches",
    "rewrite.bodies": "rewrite.clean.bodies",
    "rewrite.body": "rewrite.engine.body",
    "rewrite.canonicalise": "rewrite.clean.canonicalise",
    "rewrite.common": "rewrite.engine.common",
    "rewrite.context": "rewrite.engine.context",
    "rewrite.cse": "rewrite.clean.cse",
    "rewrite.dce": "rewrite.clean.dce",
    "rewrite.decompose": "rewrite.recognise.decompose",
    "rewrite.fold": "rewrite.clean.fold",
    "rewrite.fold_norm": "rewrite.clean.fold_norm",
    "rewrite.forests": "rewrite.recognise.forests",
    "rewrite.gathers": "rewrite.clean.gathers",
    "rewrite.heads": "rewrite.recognise.heads",
    "rewrite.indices": "rewrite.clean.indices",
    "rewrite.inline": "rewrite.clean.inline",
    "rewrite.join": "rewrite.fuse.join",
    "rewrite.manager": "rewrite.engine.manager",
    "rewrite.merge": "rewrite.fuse.merge",
    "rewrite.pattern": "rewrite.engine.pattern",
    "rewrite.pointwise": "rewrite.recognise.pointwise",
    "rewrite.projections": "rewrite.recognise.projections",
    "rewrite.reshapes": "rewrite.clean.reshapes",
    "rewrite.rules": "rewrite.engine.rules",
    "rewrite.sequences": "rewrite.clean.sequences",
    "rewrite.simplify": "rewrite.clean.simplify",
    "rewrite.stream": "rewrite.fuse.stream",
    "rewrite.transposes": "rewrite.clean.transposes",
    "rewrite.unroll": "rewrite.clean.unroll",
    "rewrite.upsample": "rewrite.recognise.upsample",
    "rewrite.validate": "rewrite.engine.validate",
    "runtime.buffers": "runtime.artifact.buffers",
    "runtime.cfiles": "ship.cfiles",
    "runtime.executable": "runtime.host.executable",
    "runtime.library": "runtime.host.library",
    "runtime.machine": "runtime.host.machine",
    "runtime.manifest": "runtime.artifact.manifest",
    "runtime.pycall": "runtime.host.pycall",
    "runtime.saved": "runtime.artifact.saved",
    "runtime.saving": "ship.saving",
    "static": ("backends.x86.static", "codegen.x86.link"),
    "store": "cache.store",
    "torch_backend": "interop.torch_backend",
    "torch_backend.dynamo": "interop.torch_backend.dynamo",
    "torch_backend.module": "interop.torch_backend.module",
    "torch_backend.settings": "interop.torch_backend.settings",
    "tuner": "measure.tuner",
}
# Names that are packages now, or modules without what they had: where that is.
HAD: dict[str, str | tuple[str, ...]] = {
    "codegen.c": "codegen.c.emit",
    "codegen.x86": "codegen.x86.templates",
    "compiler": "backends.x86.model",
    "rewrite.fuse": "rewrite.fuse.kernels",
    "rewrite.layout": "rewrite.layout.choose",
    "rewrite.recognise": "rewrite.recognise.composites",
    "runtime.artifact": ("runtime.artifact.reading", "runtime.artifact.loading"),
}


def had(module: str) -> Callable[[str], Any]:
    """A module's `__getattr__`: names that it had once are found where they are now, when they are asked for."""
    old = module.partition(".")[2]

    def find(name: str) -> Any:
        package = sys.modules[module]
        if "__path__" in vars(package) and importlib.util.find_spec(f"{module}.{name}") is not None:
            raise AttributeError(f"{module}.{name} is not imported yet")  # `from package import module` asks this first
        return _found(module, old, _modules(HAD[old]), name)

    return find


def _modules(where: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"graphopt.{m}" for m in ((where,) if isinstance(where, str) else where))


def _found(module: str, old: str, modules: Sequence[str], name: str) -> Any:
    if not name.startswith("__"):
        for new in modules:
            there = importlib.import_module(new)
            if hasattr(there, name):
                if old != "codegen.x86" or name != "template":  # that name is public
                    warnings.warn(f"{module}.{name} is {new}.{name} now", DeprecationWarning, stacklevel=3)
                return getattr(there, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


class Finder:
    """Finds nothing but modules that have moved."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        if name == "graphopt.torch_backend.graphs":  # it would take the place of the function of that name in its package
            raise ModuleNotFoundError(f"{name} is graphopt.interop.torch_backend.graphs now", name=name)
        return ModuleSpec(name, self) if package == "graphopt" and old in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        old = name.partition(".")[2]
        new = _modules(MOVED[old])
        warnings.warn(f"{name} is {' and '.join(new)} now", DeprecationWarning, stacklevel=2)
        if len(new) == 1:
            sys.modules[name] = importlib.import_module(new[0])
        else:
            module.__getattr__ = lambda asked: _found(name, old, new, asked)  # type: ignore[method-assign]


def install() -> None:
    """Let old names be found, first of all: what was installed before may have left empty folders of these names."""
    if not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


__all__ = ["HAD", "MOVED", "had", "install"]
