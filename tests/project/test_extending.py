"""What is added to the compiler from outside counts: in what is kept on disk, in templates, in targets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.backends.base import register
from graphopt.backends.cuda import CudaBackend
from graphopt.cache import store
from graphopt.codegen.x86 import templates as x86
from graphopt.errors import TargetError
from graphopt.targets import named, parse_target

ROOT = Path(__file__).parents[2]
EXTENSION = """
from graphopt.capture.onnx.table import entry
from graphopt.codegen.lower.registry import compute
from graphopt.ir.table import Trait, op

@op("bump(x: T) -> T", T="float", shape=lambda o: o.x.shape, traits=Trait.ELEMENTWISE)
def bump(x):
    "x + {step}."
    return x + {step}

@compute("bump")
def _(o, *i):
    return o.x(*i) + {step}

@entry("Bump", domain="com.example")
def _(b, n):
    return b.bump(n[0])
"""
RUN = """
import sys, numpy as np, graphopt
sys.path.insert(0, sys.argv[1])
import extension
model = graphopt.compile(sys.argv[2])
print(model(np.zeros(4, np.float32))[0], model.stats["loaded"], model.stats["from_cache"])
"""


def write(folder: Path, step: float, age: float = 100) -> None:
    path = folder / "extension.py"
    path.write_text(EXTENSION.format(step=step))
    os.utime(path, (path.stat().st_mtime - age,) * 2)


@pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing is kept")
def test_a_changed_extension_finds_nothing_stale(tmp_path: Path) -> None:
    tensor = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Bump", ["x"], ["y"], domain="com.example")], "g", [tensor("x")], [tensor("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("com.example", 1)], ir_version=10)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    said = []
    for step in (1.0, 1.0, 2.0):
        write(tmp_path, step)
        done = subprocess.run([sys.executable, "-B", "-c", RUN, str(tmp_path), str(tmp_path / "m.onnx")], cwd=ROOT, text=True,
                              capture_output=True, check=False, env={**os.environ, "GRAPHOPT_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said[0][0] == "1.0" and said[1] == ["1.0", "True", "True"] and said[2] == ["2.0", "False", "False"]


def test_what_is_registered_twice_is_refused() -> None:
    for kind in ("x86", "cuda", "fpga"):
        with pytest.raises(TargetError, match="there already"):
            named(kind)(lambda detail: parse_target("x86"))
    with pytest.raises(TargetError, match="already"):
        register(CudaBackend())


def test_an_unknown_kind_of_target_is_refused() -> None:
    with pytest.raises(TargetError, match="unknown target 'abacus'"):
        parse_target("abacus")


def test_templates_from_outside_are_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import graphopt
    from graphopt.ir import parse_graph

    monkeypatch.setattr(x86, "MAKERS", list(x86.MAKERS))
    monkeypatch.setattr(store, "_OUTSIDE", set())
    asked = []

    @x86.template
    def nothing(target: object) -> object:
        return lambda op, name, style: asked.append(op.name)

    model = graphopt.compile(parse_graph("graph @g(%x: f32[40, 30]) -> f32[30, 40] {\n"
                                         "  %y = transpose(%x) {perm=[1, 0]} : f32[30, 40]\n  return %y\n}"))
    x = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    np.testing.assert_array_equal(model(x), x.T)
    assert asked == ["transpose"]
