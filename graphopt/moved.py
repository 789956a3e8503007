"""Modules that stood elsewhere once: what imports them by their old names gets them, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "bundle": "backends.x86.bundle",
    "checking": "diagnose.checking",
    "codegen.expr": "codegen.kernel.expr",
    "codegen.host_cc": "codegen.c.host",
    "codegen.index": "codegen.kernel.index",
    "codegen.interpret": "codegen.kernel.interpret",
    "codegen.kernels": "codegen.lower.kernels",
    "codegen.loops": "codegen.kernel.loops",
    "codegen.math": "codegen.kernel.math",
    "codegen.plan": "codegen.program.plan",
    "codegen.project": "codegen.program.launches",
    "codegen.schedule": "codegen.lower.schedule",
    "codegen.steps": "codegen.program.steps",
    "codegen.tuning": "codegen.lower.tuning",
    "emitted": "backends.emitted",
    "onnx_backend": "interop.onnx_backend",
    "peaks": "measure.peaks",
    "pipeline": "backends.pipeline",
    "profiling": "measure.profiling",
    "programs": "ship.programs",
    "records": "measure.records",
    "reduction": "diagnose.reduction",
    "repro": "diagnose.repro",
    "rewrite.common": "rewrite.engine.common",
    "rewrite.context": "rewrite.engine.context",
    "rewrite.manager": "rewrite.engine.manager",
    "rewrite.pattern": "rewrite.engine.pattern",
    "rewrite.rules": "rewrite.engine.rules",
    "rewrite.validate": "rewrite.engine.validate",
    "runtime.executable": "runtime.host.executable",
    "runtime.library": "runtime.host.library",
    "runtime.machine": "runtime.host.machine",
    "runtime.saved": "runtime.artifact.saved",
    "runtime.saving": "ship.saving",
    "static": "backends.x86.static",
    "store": "cache.store",
    "torch_backend": "interop.torch_backend",
    "torch_backend.dynamo": "interop.torch_backend.dynamo",
    "torch_backend.graphs": "interop.torch_backend.graphs",
    "torch_backend.module": "interop.torch_backend.module",
    "torch_backend.settings": "interop.torch_backend.settings",
    "tuner": "measure.tuner",
}


class Finder:
    """Finds nothing but modules that have moved."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        return ModuleSpec(name, self) if package == "graphopt" and old in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = f"graphopt.{MOVED[old.partition('.')[2]]}"
        warnings.warn(f"{old} is {new} now", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Let old names be found, first of all: what was installed before may have left empty folders of these names."""
    if not any(isinstance(f, Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


__all__ = ["MOVED", "install"]
