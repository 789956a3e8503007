"""Old names of modules."""

import importlib
import subprocess
import sys

import pytest

from graphopt.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_gives_the_module_that_has_moved(old: str) -> None:
    sys.modules.pop(f"graphopt.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"graphopt.{old} is graphopt.{MOVED[old]} now"):
        found = importlib.import_module(f"graphopt.{old}")
    assert found is importlib.import_module(f"graphopt.{MOVED[old]}")


def test_what_users_wrote_still_runs() -> None:
    code = ("from graphopt.targets import named; from graphopt.repro import reproduce; import graphopt.onnx_backend as b; "
            "from graphopt.torch_backend import as_module; from graphopt.codegen.x86 import template; "
            "from graphopt.codegen.expr import Buffer; import graphopt; graphopt.onnx_backend; print(b.prepare.__module__)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["graphopt.interop.onnx_backend"]


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("graphopt.emittde")
