"""Errors are ours: bad options, bad files, and want of memory, threads or room on disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.cache import objects as disk
from graphopt.capture import capture
from graphopt.errors import CaptureError, CodegenError, InputError, OutOfMemoryError, TargetError

N = helper.make_node


def _model(nodes: list, inputs: dict[str, list], outputs: list[str], weights: dict[str, np.ndarray] | None = None,
           functions: list | None = None) -> onnx.ModelProto:
    info = lambda n, s: helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
    graph = helper.make_graph(nodes, "g", [info(n, s) for n, s in inputs.items()], [info(n, None) for n in outputs],
                              [numpy_helper.from_array(np.asarray(w), n) for n, w in (weights or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("l", 1)], ir_version=8,
                             functions=functions or [])


RELU = _model([N("Relu", ["x"], ["y"])], {"x": [2, 3]}, ["y"])


@pytest.mark.parametrize("target", ["cuda:90", "cuda:", "cuda", "fpga:", "fpga:zzz", "x86:nope", "x68", "", ":", "X86", "x86 ", 3,
                                    None, b"x86", ("x86",), "cuda:sm_", "cuda:sm_90a\0", "x86:\0", "x86:" + "a" * 5000])
def test_targets(target: Any) -> None:
    with pytest.raises(TargetError):
        graphopt.compile(RELU, target=target)


@pytest.mark.parametrize("options, part", [
    ({"treads": 2}, "Did you mean threads"), ({"nonsense": 2}, "It has target, "), ({"threads": "2"}, "threads"),
    ({"threads": 0}, "1"), ({"threads": True}, "True"), ({"threads": 1 << 40}, "at most"),
    ({"tune": "fats"}, "tune"), ({"tuning": 3}, "path of a file"),
    ({"validate": "yes"}, "validate"), ({"winograd": 2}, "winograd"), ({"max_specialisations": -1}, "max_specialisations")])
def test_options(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        graphopt.compile(RELU, **options)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/tmp", "a\0b", "a" * 5000, "absent.onnx", ""])
def test_paths(path: str) -> None:
    with pytest.raises(CaptureError):
        graphopt.compile(path)


@pytest.mark.parametrize("inputs", [None, (), 3, "x", (np.array("a"),), (np.zeros((1, 2), ">f4"),), (object(),), {1: 2},
                                    (np.zeros((1, 3), np.float32),), (np.zeros((1, 2), np.float32),) * 2])
def test_example_inputs(inputs: Any) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(CaptureError):
        graphopt.compile(torch.nn.Linear(2, 2).eval(), inputs)


# Files --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dims", [[-2, -3], [-1, 6], [-(2**63), 2], [2**62, 2**62], [2**63 - 1], [2**32, 2**32]])
@pytest.mark.parametrize("place", ["initializer", "constant", "fill", "branch", "external"])
def test_dims_that_no_tensor_has(dims: list[int], place: str, tmp_path: Path) -> None:
    t = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 24)
    add = [N("Add", ["x", "w"], ["y"])]
    model = _model(add, {"x": [2, 3]}, ["y"])
    if place in ("initializer", "external"):
        model.graph.initializer.append(t)
    else:
        held = N("ConstantOfShape", ["s"], ["w"], value=t) if place == "fill" else N("Constant", [], ["w"], value=t)
        model = _model([held, *add], {"x": [2, 3]}, ["y"], {"s": np.array([2, 3])})
    if place == "branch":
        branch = lambda: helper.make_graph(add, "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [t])
        model = _model([N("If", ["c"], ["z"], then_branch=branch(), else_branch=branch())], {"x": [2, 3]}, ["z"],
                       {"c": np.array(True)})
    given: Any = model
    if place == "external":
        t = model.graph.initializer[0]
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        t.external_data.add(key="location", value="w.bin")
        (tmp_path / "w.bin").write_bytes(b"\0" * 24)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        given = tmp_path / "m.onnx"
    with pytest.raises(CaptureError):
        capture(given)


@pytest.mark.parametrize("entries", [
    {"location": "\0"}, {"location": "a\0b"}, {"location": "."}, {"location": "./"}, {"location": ".."},
    {"location": "/etc/passwd"}, {"location": "folder"}, {"location": "fifo"}, {"location": "loop"},
    {"location": "x" * 5000}, {"location": ""}, {},
    {"location": "w", "offset": "-8"}, {"location": "w", "length": "-24"}, {"location": "w", "offset": "9" * 40},
    {"location": "w", "length": "1e3"}, {"location": "w", "offset": "20"}])
def test_external_locations(entries: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "w").write_bytes(b"\0" * 24)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    model = _model([N("Add", ["x", "w"], ["y"])], {"x": [2, 3]}, ["y"], {"w": np.zeros((2, 3), np.float32)})
    t = model.graph.initializer[0]
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        t.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CaptureError, match="initializer 'w'"):
        capture(tmp_path / "m.onnx")


@pytest.mark.parametrize("node, part", [
    (N("Expand", ["x"], ["y"]), r"operand 1 \(shape\) is missing"), (N("Expand", ["x", ""], ["y"]), "operand 1"),
    (N("Pad", ["x"], ["y"]), r"operand 1 \(pads\)"), (N("Concat", [], ["y"], axis=0), "operands"),
    (N("Relu", [], ["y"]), "operand 0"),
    (N("Concat", ["x"], ["y"]), "attribute axis is missing"),
    (N("Transpose", ["x"], ["y"], perm=1.5), "attribute perm is of kind FLOAT"),
    (N("Split", ["x"], ["y"], num_outputs=3), "num_outputs")])
def test_operands_and_attributes(node: onnx.NodeProto, part: str) -> None:
    model = _model([node], {"x": [2, 3]}, ["y"])
    model.opset_import[0].version = 18
    with pytest.raises(CaptureError, match=part):
        capture(model)


def test_values_larger_than_any_memory() -> None:
    for dims in ([2**40, 2**40], [2**62], [2**63 - 1, 2]):
        model = _model([N("Relu", ["x"], ["y"])], {"x": dims}, ["y"])
        for target in ("x86", "cuda:sm_90", "fpga:xc7z020"):
            with pytest.raises(TargetError, match=r"input %x.* bytes, more than a process can address"):
                graphopt.compile(model, target=target)


def _functions(levels: int) -> list[onnx.FunctionProto]:
    """Functions that each call the one before twice."""
    made = []
    for k in range(levels):
        kind, domain = ("Relu", "") if k == 0 else (f"F{k - 1}", "l")
        nodes = [N(kind, ["a"], ["b"], domain=domain), N(kind, ["b"], ["c"], domain=domain)]
        made.append(helper.make_function("l", f"F{k}", ["a"], ["c"], nodes, model_opsets()))
    return made


def model_opsets() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]


def test_functions_that_double_at_each_level() -> None:
    call = lambda k: _model([N(f"F{k}", ["x"], ["y"], domain="l")], {"x": [2]}, ["y"], functions=_functions(60))
    with pytest.raises(CaptureError, match=r"becomes [0-9]+ nodes, more than"):
        capture(call(59))
    assert sum(op.name == "relu" for op in capture(call(5)).ops) == 64


def test_functions_that_call_themselves() -> None:
    functions = _functions(3)
    functions[0].node[0].op_type, functions[0].node[0].domain = "F2", "l"
    with pytest.raises(CaptureError, match="calls itself"):
        capture(_model([N("F2", ["x"], ["y"], domain="l")], {"x": [2]}, ["y"], functions=functions))


# Resources ----------------------------------------------------------------------------------------
@pytest.fixture
def address_space() -> Iterator[None]:
    """Half of what the test asks for: a machine that promises all memory (overcommit) would give it, and end the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = 1 << 45
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("address_space")
def test_no_memory_for_a_result_or_in_between() -> None:
    wide = np.array([1 << 22, 1 << 22])  # 64 TiB
    result = graphopt.compile(_model([N("Expand", ["x", "s"], ["y"])], {"x": [1, 1]}, ["y"], {"s": wide}))
    x = np.ones((1, 1), np.float32)
    for call in (lambda: result(x), lambda: result.run({"x": x})):
        with pytest.raises(OutOfMemoryError, match=f"no memory for a call: it needs .* {4 << 44} for results") as e:
            call()
        assert isinstance(e.value, MemoryError)
    nodes = [N("Expand", ["x", "s"], ["e"]), N("CumSum", ["e", "a"], ["c"], name="sums"), N("CumSum", ["c", "b"], ["d"]),
             N("Slice", ["d", "b1", "b2"], ["y"])]
    weights = {"s": wide, "a": np.array(0), "b": np.array(1), "b1": np.array([0]), "b2": np.array([1])}
    inner = graphopt.compile(_model(nodes, {"x": [1, 1]}, ["y"], weights))
    with pytest.raises(OutOfMemoryError, match=r"the largest is %\w+ .*f32\[4194304, 4194304\]"):
        inner(x)


def test_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process may start none: kernels are compiled one after the other."""
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(disk, "load", lambda key, kind="code": None if kind != "runtime" else _load(key, kind))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    x = RELU.SerializeToString()
    made = graphopt.compile(onnx.ModelProto.FromString(x))
    np.testing.assert_array_equal(made(-np.ones((2, 3), np.float32)), np.zeros((2, 3), np.float32))


_load = disk.load


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """LLVM would end the process where it cannot write one."""
    (tmp_path / "m.onnx").write_bytes(RELU.SerializeToString())
    script = textwrap.dedent("""
        import resource, signal, sys
        import graphopt
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
        try:
            graphopt.compile(sys.argv[1])
        except graphopt.GraphOptError as e:
            print(type(e).__name__, e)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "m.onnx"), "2000"], capture_output=True, text=True,
                          check=False, env={**os.environ, "GRAPHOPT_CACHE": "0"})
    assert done.returncode == 0 and done.stdout.startswith(CodegenError.__name__), done.stderr[-500:]
    assert "may have 2000 bytes" in done.stdout


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are made in memory; only the linker needs a place for them."""
    monkeypatch.setattr(disk, "load", lambda key, kind="code": None if kind != "runtime" else _load(key, kind))
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent/folder")
    with pytest.raises(CodegenError, match=r"cannot be linked.*TMPDIR"):
        graphopt.compile(onnx.ModelProto.FromString(RELU.SerializeToString()))
