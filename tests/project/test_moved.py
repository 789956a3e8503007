"""Old names of modules."""

import importlib
import subprocess
import sys

import pytest

from graphopt.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_gives_what_has_moved(old: str) -> None:
    sys.modules.pop(f"graphopt.{old}", None)
    where = (MOVED[old],) if isinstance(MOVED[old], str) else MOVED[old]
    with pytest.warns(DeprecationWarning, match=f"graphopt.{old} is graphopt.{where[0]}"):
        found = importlib.import_module(f"graphopt.{old}")
    for new in where:
        there = importlib.import_module(f"graphopt.{new}")
        assert found is there or all(getattr(found, n) is getattr(there, n) for n in getattr(there, "__all__", ())
                                     if not any(hasattr(importlib.import_module(f"graphopt.{m}"), n)
                                                for m in where[:where.index(new)]))


# What pages, examples and docstrings named before the rooms.
@pytest.mark.parametrize(("module", "names"), [
    ("runtime.artifact", ("load", "read")), ("codegen.c", ("print_kernel", "PLAIN", "Dialect")), ("compiler", ("CompiledModel",)),
    ("emitted", ("EmittedModel", "CudaModel", "FpgaModel")), ("codegen.project", ("write_project", "pointer", "places")),
    ("codegen.x86", ("TEMPLATED", "template", "style_of")), ("rewrite.fuse", ("Fuse",)), ("rewrite.layout", ("Layout",)),
    ("rewrite.recognise", ("Recognise",)), ("pipeline", ("optimise", "specialise", "specs")), ("repro", ("reproduce", "load")),
    ("rewrite.simplify", ("Simplify",)), ("static", ("compile_static", "link")), ("targets", ("named", "parse_target")),
])
def test_names_are_found_where_they_were(module: str, names: tuple[str, ...]) -> None:
    found = importlib.import_module(f"graphopt.{module}")
    assert all(getattr(found, n) is not None for n in names)
    assert not hasattr(found, "no_such_name")


def test_what_users_wrote_still_runs() -> None:
    code = ("from graphopt.targets import named; from graphopt.repro import reproduce; import graphopt.onnx_backend as b; "
            "from graphopt.torch_backend import as_module; from graphopt.codegen.x86 import template; "
            "from graphopt.codegen.expr import Buffer; import graphopt; graphopt.onnx_backend; print(b.prepare.__module__)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["graphopt.interop.onnx_backend"]


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("graphopt.emittde")
