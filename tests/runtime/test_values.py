"""Saved models whose programs are for certain values of inputs: from Python with and without numpy, and through C."""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.capture import capture
from graphopt.cli.build import main
from graphopt.cli.dump import main as dump
from graphopt.ir import serial
from tests.runtime.host.c_interface import BAD_ARGUMENT, DAMAGED, NO_PROGRAM, CError, CModel, buffer, edit

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")
RNG = np.random.default_rng(44)
SHIFT = RNG.standard_normal(12).astype(np.float32)
X = RNG.standard_normal((2, 12)).astype(np.float32)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """reshape(x + shift if rate == 16000 else x * shift, sizes), of x[batch, 12], rate[] and sizes[2]."""
    monkeypatch.chdir(tmp_path)
    branch = lambda op: helper.make_graph([helper.make_node(op, ["x", "shift"], [op])], op, [],
                                          [helper.make_tensor_value_info(op, TensorProto.FLOAT, None)])
    nodes = [helper.make_node("Equal", ["rate", "wide"], ["is"]),
             helper.make_node("If", ["is"], ["z"], then_branch=branch("Add"), else_branch=branch("Mul")),
             helper.make_node("Reshape", ["z", "sizes"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 12]),
                                           helper.make_tensor_value_info("rate", TensorProto.INT64, []),
                                           helper.make_tensor_value_info("sizes", TensorProto.INT64, [2])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(SHIFT, "shift"), numpy_helper.from_array(np.array(16000), "wide")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "net.onnx")
    return tmp_path / "net.onnx"


def given(rate: int, *sizes: int) -> dict[str, np.ndarray]:
    return {"x": X, "rate": np.array(rate), "sizes": np.array(sizes)}


def expected(rate: int, *sizes: int) -> np.ndarray:
    return (X.astype(np.float64) + SHIFT if rate == 16000 else X.astype(np.float64) * SHIFT).reshape(sizes)


def right(y: Any, rate: int, *sizes: int) -> None:
    assert y.shape == sizes
    np.testing.assert_allclose(y, expected(rate, *sizes), rtol=1e-6, atol=1e-7)


BUILD = ["net.onnx", "--shape", "x=2x12", "--value", "rate=16000", "--value", "sizes=4,6", "-o", "net.gopt"]
CASES = [(16000, 4, 6), (8000, 4, 6), (16000, 3, 8), (8000, 3, 8)]


@pytest.fixture
def built(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Programs for two values of each of both inputs."""
    assert main([*BUILD, "--value", "rate=8000", "--value", "sizes=3,8"]) == 0
    capsys.readouterr()
    return tmp_path / "net.gopt"


def test_a_value_given_to_build_is_the_one_taken(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(BUILD) == 0
    assert "  x=2x12 rate=16000 sizes=4,6  " in capsys.readouterr().out
    assert main([*BUILD, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["format"] == [1, 2] and said["programs"][0]["values"] == {"rate": 16000, "sizes": [4, 6]}
    model = graphopt.load("net.gopt")
    right(model.run(given(16000, 4, 6))["y"], 16000, 4, 6)
    right(model(X, 16000, np.array([4, 6])), 16000, 4, 6)  # not as the program takes it at once
    with pytest.raises(graphopt.InputError, match=r"has no program for x=2x12 with rate=8000 sizes=4,6; it has those for "
                                                  r"x=2x12 with rate=16000 sizes=4,6\. Give one of these shapes and values"):
        model.run(given(8000, 4, 6))
    with pytest.raises(graphopt.InputError, match=r"input rate: expected dtype i64 \(int64\), got float32"):
        model.run(given(16000, 4, 6) | {"rate": np.array(16000, np.float32)})
    assert "`[2, 12]`, `[]`, `[2]` with `rate=16000 sizes=4,6`" in (tmp_path / "net.gopt" / "README.md").read_text()


def test_several_values(built: Path) -> None:
    model = graphopt.load(built)
    assert sorted((int(v["rate"]), *v["sizes"].tolist()) for v in model.values) == sorted(CASES)
    assert len({id(p.executable.weights) for p in model._programs_by_key.values()}) == 1
    for case in CASES:
        right(model.run(given(*case))["y"], *case)
    with pytest.raises(graphopt.InputError, match="with rate=16000 sizes=2,12; it has those for"):
        model.run(given(16000, 2, 12))


def test_without_numpy(built: Path) -> None:
    model = graphopt.load(built, numpy=False)
    assert {tuple(v) for v in model.values} == {("rate", "sizes")}
    x = memoryview(X)
    for rate, *sizes in CASES:
        right(np.asarray(model(x, array("q", [rate]), array("q", sizes))), rate, *sizes)
        right(np.asarray(model(x, rate.to_bytes(8, "little"), array("q", sizes))), rate, *sizes)
    with pytest.raises(graphopt.InputError, match="no program for x of 2x12 with rate=7 sizes=4,6; it has those for x=2x12 with "
                                                  "rate=16000 sizes=4,6; "):
        model(x, array("q", [7]), array("q", [4, 6]))


def test_through_c(built: Path) -> None:
    with CModel(built) as model:
        cases = {model.find([buffer(a) for a in given(*case).values()]): case for case in CASES}
        assert sorted(cases) == [0, 1, 2, 3]
        for k, (rate, *sizes) in cases.items():
            assert model.value(k, 0) is None and model.value(k, 1) == rate and model.value(k, 2).tolist() == sizes
            right(model(*given(rate, *sizes).values())[0], rate, *sizes)
        assert model.value(4, 1) is None and model.value(0, 3) is None
        y = np.empty((4, 6), np.float32)

        def refused(status: int, says: str, **change: Any) -> None:
            inputs = [buffer(a) for a in (given(16000, 4, 6) | {k: v for k, v in change.items() if k != "field"}).values()]
            for place, field, value in change.get("field", ()):
                setattr(inputs[place], field, value)
            with pytest.raises(CError, match=says) as e:
                model.run_buffers(inputs, [buffer(y)])
            assert e.value.status == status

        refused(NO_PROGRAM, r"was not compiled for x \[2, 12\], rate \[\] = 7, sizes \[2\] = 4, 6\. It was for x \[2, 12\], "
                            r"rate \[\] = 16000, sizes \[2\] = 4, 6; .* Compile it for these shapes and values too",
                rate=np.array(7))
        refused(NO_PROGRAM, r"sizes \[2\] = -1, 6\.", sizes=np.array([-1, 6]))
        refused(BAD_ARGUMENT, "input rate: expected dtype 5", rate=np.array(16000, np.float32))
        refused(BAD_ARGUMENT, "input rate: its data is NULL", field=[(1, "data", None)])
        refused(BAD_ARGUMENT, r"input sizes: int64\[2\] takes 16 bytes, got 8", field=[(2, "bytes", 8)])
        with pytest.raises(CError, match="input sizes: its data is NULL"):
            inputs = [buffer(a) for a in given(16000, 4, 6).values()]
            inputs[2].data = None
            model.find(inputs)


def test_save_keeps_the_values_that_it_was_called_with(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    model = graphopt.compile(net)
    with pytest.raises(graphopt.ArtifactError, match=r"values shape the program \(rate, sizes\), and no program yet"):
        model.save(tmp_path / "none.gopt")
    for again in range(2):  # the second finds its programs on disk
        for case in CASES[1:3]:
            right(model.run(given(*case))["y"], *case)
        assert model.stats["loaded"] is bool(again)
        model.save(tmp_path / "net.gopt")
        loaded = graphopt.load(tmp_path / "net.gopt")
        for case in CASES[1:3]:
            right(loaded.run(given(*case))["y"], *case)
        with pytest.raises(graphopt.InputError, match="no program for"):
            loaded.run(given(*CASES[0]))
        model = graphopt.compile(net)


def test_a_saved_graph_is_bound_to_values_too(net: Path, tmp_path: Path) -> None:
    graph = capture(str(net), shapes={"x": (2, 12)}, values={"sizes": np.array([4, 6])})
    assert graph.metadata["control_inputs"] == ["rate"]
    serial.save(graph, tmp_path / "g.gir")
    assert main(["g.gir", "--value", "rate=16000", "--value", "rate=8000"]) == 0
    model, compiled = graphopt.load("g.gopt"), graphopt.compile(serial.load(tmp_path / "g.gir"))
    for case in CASES[:2]:
        right(model.run(given(*case))["y"], *case)
        right(compiled.run(given(*case))["y"], *case)
    assert compiled.host_ops == []
    assert dump(["g.gir", "--value", "rate=16000", "-o", "bound.ir"]) == 0
    assert "if(" not in (tmp_path / "bound.ir").read_text()


REFUSED = [
    ([], "the value of rate, sizes shapes the program: give --value rate=..."),
    (["--value", "rate=16000"], "the value of sizes shapes the program: give --value sizes=..."),
    (["--value", "rat=1"], "--value rat: only rate, sizes shapes this program"),
    (["--value", "x=1"], "--value x: only rate, sizes shapes this program"),
    (["--value", "rate"], "--value rate: write INPUT=3 or INPUT=3,4"),
    (["--value", "rate=fast"], "--value rate=fast: write INPUT=3 or INPUT=3,4"),
    (["--value", "rate=1.5"], "--value rate=1.5: the input is i64[], which has no such number"),
    (["--value", "rate=1e30"], "which has no such number"), (["--value", "rate=1,2"], "write one number for a scalar"),
    (["--value", "rate=1", "--value", "sizes=4,6", "--shape", "x=2x12,sizes=3"], "sizes=3: its --value has the shape [2]"),
    (["--value", "sizes=24"], "the input is i64[2]; write one number"),
    (["--value", "rate=1", *(a for n in range(65) for a in ("--value", f"sizes={n},2"))], "that is 65 programs"),
]


@pytest.mark.parametrize("arguments, says", REFUSED, ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "")
def test_what_build_refuses(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
                            says: str) -> None:
    assert main(["net.onnx", "--shape", "x=2x12", *arguments]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "net.gopt").exists()


def test_values_that_do_not_fit_the_shapes(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["net.onnx", "--shape", "x=2x12", "--value", "rate=1", "--value", "sizes=5,5"]) == 1
    assert capsys.readouterr().err.startswith("graphopt-build: ") and not (tmp_path / "net.gopt").exists()


DAMAGE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m["programs"][0].pop("values"), "does not say for which value of"),
    (lambda m: m["programs"][0]["values"].pop("sizes"), "does not say for which value of"),
    (lambda m: m["programs"][0]["values"].update(rate="803e"), "does not say for which value of"),
    (lambda m: m["programs"][0]["values"].update(rate="zz" * 8), "hexadecimal"),
    (lambda m: m["control_inputs"].append("other"), "control.inputs"),
]


@pytest.mark.parametrize("change, says", DAMAGE)
def test_damaged_values(built: Path, change: Callable[[dict[str, Any]], Any], says: str) -> None:
    edit(built, change)
    with pytest.raises(graphopt.ArtifactError, match="manifest.json is damaged: .*" + says):
        graphopt.load(built)
    with pytest.raises(CError, match="manifest.json is damaged: .*" + says) as e:
        CModel(built)
    assert e.value.status == DAMAGED
