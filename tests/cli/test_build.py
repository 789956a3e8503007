"""graphopt-build: what it makes runs, is what was asked for, and what it refuses it refuses by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.cli import entries
from graphopt.cli.build import main
from graphopt.cli.models import UsageError
from graphopt.ir import Builder, Graph, serial, tensor
from graphopt.runtime.host import machine
from graphopt.targets import parse_target

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")
RNG = np.random.default_rng(21)
W = RNG.standard_normal((40, 24)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tanh(x @ W) * scale + shift, of x[batch, tokens, 40] and shift[batch, tokens, 24]."""
    monkeypatch.chdir(tmp_path)
    value = lambda name, *dims: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Tanh", ["p"], ["t"]),
             helper.make_node("Add", ["t", "shift"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", "batch", "tokens", 40), value("shift", "batch", "tokens", 24)],
                              [value("y", "batch", "tokens", 24)], [numpy_helper.from_array(W, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def right(folder: Path, batch: int, tokens: int) -> None:
    x, shift = (RNG.standard_normal((batch, tokens, n)).astype(np.float32) for n in (40, 24))
    want = np.tanh(x.astype(np.float64) @ W) + shift
    np.testing.assert_allclose(graphopt.load(folder).run({"x": x, "shift": shift})["y"], want, atol=1e-5)


def test_a_range_becomes_a_program_for_every_size(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "--shape", "x=1x8..24:8x40", "--shape", "x=3x5x40", "--threads", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("net.gopt: 4 programs, ") and "x=1x16x40,shift=1x16x24" in said
    for batch, tokens in ((1, 8), (1, 16), (1, 24), (3, 5)):
        right(tmp_path / "net.gopt", batch, tokens)
    with pytest.raises(graphopt.InputError, match=r"no program for x=1x9x40,shift=1x9x24; it has those for x=1x8x40"):
        right(tmp_path / "net.gopt", 1, 9)


def test_the_summary_as_json(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["x86:haswell", "x86:skylake-avx512", "x86:znver4"]
    assert main([str(model), "--shape", "x=2x4x40", "-o", "out.gopt", "--json", "--threads", "3",
                 *(f"--target={t}" for t in targets)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == "out.gopt" and said["format"] == [1, 1] and said["seconds"] > 0
    assert [p["target"] for p in said["programs"]] == targets
    for p in said["programs"]:
        assert p["inputs"] == {"x": [2, 4, 40], "shift": [2, 4, 24]} and p["threads"] == 3 and p["kernels"] >= 1
        assert p["code_bytes"] == (tmp_path / "out.gopt" / p["code"]).stat().st_size
    on_disk = {f.relative_to("out.gopt").as_posix(): f.stat().st_size for f in Path("out.gopt").rglob("*") if f.is_file()}
    on_disk = {name: size for name, size in on_disk.items() if not name.startswith("manifest.")}
    assert said["files"] == on_disk and said["bytes"] == sum(on_disk.values())
    if not machine.missing(parse_target("x86:haswell").instructions):
        right(tmp_path / "out.gopt", 2, 4)


def test_code_for_other_machines_is_refused_here(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([str(model), "--shape", "x=1x1x40", "--target", "x86:sapphirerapids"]) == 0
    without = frozenset(f for f in machine.features() if not f.startswith("amx"))
    monkeypatch.setattr(machine, "features", lambda: without)
    with pytest.raises(graphopt.ArtifactError, match=r"lacks: x86:sapphirerapids needs amx-bf16, amx-int8, amx-tile"):
        graphopt.load("net.gopt")


def test_saved_graphs_and_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.exp(graph.add_input(tensor("f32", 7), "x"))]
    serial.save(graph, tmp_path / "g.gir")
    (tmp_path / "nets_of_mine.py").write_text("import torch\ndef small():\n    torch.manual_seed(0)\n"
                                              "    return torch.nn.Linear(7, 3).eval(), (torch.zeros(2, 7),)\n")
    assert main(["g.gir", "--no-winograd"]) == 0 and main(["nets_of_mine:small"]) == 0
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    np.testing.assert_allclose(graphopt.load("g.gopt")(x), np.exp(x.astype(np.float64)), rtol=1e-6)
    import torch

    torch.manual_seed(0)
    net = torch.nn.Linear(7, 3).eval()
    x = RNG.standard_normal((2, 7)).astype(np.float32)
    np.testing.assert_allclose(graphopt.load("small.gopt")(x), net(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_the_text_of_a_graph_is_built_where_all_its_constants_stand_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for n in (4, 40):  # of 40 elements the text keeps the name
        graph = Graph()
        b = Builder(graph)
        shift = b.const(np.arange(n, dtype=np.float32), name="shift")
        graph.outputs = [b.add(graph.add_input(tensor("f32", n), "x"), shift)]
        Path(f"g{n}.ir").write_text(str(graph))
    assert main(["g4.ir"]) == 0
    assert graphopt.load("g4.gopt")(np.ones(4, np.float32)).tolist() == [1, 2, 3, 4]
    assert main(["g40.ir"]) == 1 and not Path("g40.gopt").exists()
    assert "1 of its constants are without data: @shift" in capsys.readouterr().err
    assert not list(tmp_path.glob("graphopt-crash-*"))


def test_failures_of_the_compiler_name_their_folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    from graphopt.backends.x86 import static

    def fails(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path))
    monkeypatch.setattr(static, "plan_static", fails)
    assert main([str(model), "--shape", "x=1x2x40"]) == 1
    folder, = tmp_path.glob("graphopt-crash-*")
    err = capsys.readouterr().err
    assert err.startswith("graphopt-build: the code generator failed: ZeroDivisionError: a bug. ")
    assert folder.name in err and "Traceback" not in err


def test_tuning_measures_and_records(model: Path, tmp_path: Path) -> None:
    assert main([str(model), "--shape", "x=1x64x40", "--tune", "fast", "--tuning", "records.json", "--threads", "1"]) == 0
    assert json.loads((tmp_path / "records.json").read_text())["records"]
    right(tmp_path / "net.gopt", 1, 64)


def test_the_command_itself(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graphopt.cli.build"]
    done = subprocess.run([*command, "net.onnx", "--shape", "x=1x2x40", "--json"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", "no bar where nobody looks"
    assert json.loads(done.stdout)["path"] == "net.gopt"
    right(tmp_path / "net.gopt", 1, 2)


# Refused ---------------------------------------------------------------------------------------
WRONG = [
    (["none.onnx"], 1, "no such file"), (["net.onx"], 2, "is not a model"),
    (["net.onnx"], 2, r"the shape of x: f32\[batch, tokens, 40\] is not known: give --shape x=1x1x40"),
    (["net.onnx", "--shape", "x=1x2x41"], 2, r"--shape x=1x2x41: the input is x: f32\[batch, tokens, 40\]"),
    (["net.onnx", "--shape", "x=1x2"], 2, "--shape x=1x2: the input is"),
    (["net.onnx", "--shape", "y=1x2"], 2, "--shape y: the inputs are x"),
    (["net.onnx", "--shape", "x=1x2x40,shift=2x2x24"], 2, "batch is 1 elsewhere and 2 here"),
    (["net.onnx", "--shape", "x"], 2, "names no input and its shape"),
    (["net.onnx", "--shape", "x=1xax40"], 2, "'a' is no size"),
    (["net.onnx", "--shape", "x=1x9..8x40"], 2, "9..8 is empty"),
    (["net.onnx", "--shape", "x=1x8..9:0x40"], 2, "8..9:0 is empty"),
    (["net.onnx", "--shape", "x=1x1..65x40"], 2, "that is 65 programs for every CPU, and an artifact has 64 at most"),
    (["net.onnx", "--shape", "x=1x1..64x40", "--shape", "x=2x1x40"], 2, "that is 65 programs"),
    (["net.onnx", "--shape", "x=1x2x40", "--target", "x86:haswel"], 2, "--target x86:haswel: .*Did you mean haswell"),
    (["net.onnx", "--shape", "x=1x2x40", "--target", "cuda:sm_90"], 2, "artifacts are for x86"),
    (["net.onnx", "--shape", "x=1x2x40", "--target=x86:haswell", "--target=x86:haswell"], 2, "x86:haswell is given twice"),
    (["net.onnx", "--shape", "x=1x2x40", "--threads", "0"], 2, "--threads 0: at least 1"),
    (["net.onnx", "--shape", "x=1x2x40", "-o", "no/where/net.gopt"], 1, "there is no such folder"),
    (["net.onnx", "--shape", "x=1x2x40", "-o", "work"], 1, "something that is not a saved model"),
    (["net.onnx", "--shape", "x=1x2x40", "--tuning", "none.json"], 1, "no such file"),
    (["net.onnx", "--shape", "x=1x2x40", "--target", "x86:sapphirerapids", "--tune", "fast"], 1, "cannot be measured on this"),
]


@pytest.mark.parametrize("arguments,code,says", WRONG, ids=lambda x: " ".join(x[1:]) if isinstance(x, list) else "")
def test_what_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                         arguments: list[str], code: int, says: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes.txt").write_text("mine")
    without = frozenset(f for f in machine.features() if not f.startswith("amx"))
    monkeypatch.setattr(machine, "features", lambda: without)
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("graphopt-build: ")
    import re

    assert re.search(says, err), err
    assert not (tmp_path / "net.gopt").exists() and [p.name for p in (tmp_path / "work").iterdir()] == ["notes.txt"]


def test_host_ops_cannot_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    graph = Graph()
    graph.outputs = [Builder(graph).nonzero(graph.add_input(tensor("f32", 4), "x"))]
    serial.save(graph, tmp_path / "g.gir")
    assert main(["g.gir"]) == 1
    assert "nonzero runs on the reference evaluator" in capsys.readouterr().err and not (tmp_path / "g.gopt").exists()


@pytest.mark.parametrize("arguments", [[], ["net.onnx", "--threads", "many"], ["net.onnx", "--tune", "slow"],
                                       ["net.onnx", "--wrong"]])
def test_wrong_command_lines(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2


# The grammar -----------------------------------------------------------------------------------
@pytest.mark.parametrize("text,made", [
    ("x=1x3x224x224", [{"x": (1, 3, 224, 224)}]),
    ("x=", [{"x": ()}]),
    ("x=2..4x3", [{"x": (n, 3)} for n in (2, 3, 4)]),
    ("x=1x16..40:16", [{"x": (1, 16)}, {"x": (1, 32)}]),
    ("a=1x8..9,b=8..9x2", [{"a": (1, n), "b": (n, 2)} for n in (8, 9)]),
    ("a=1..2x3..4", [{"a": (m, n)} for m in (1, 2) for n in (3, 4)]),
    ("a=1..2,b=1..3", [{"a": (m,), "b": (n,)} for m in (1, 2) for n in (1, 2, 3)]),
    ("a.b:0=5,c=6", [{"a.b:0": (5,), "c": (6,)}]),
])
def test_shapes_as_text(text: str, made: list[entries.Shapes]) -> None:
    assert entries.parse(text) == made


@pytest.mark.parametrize("text", ["", "x", "=3", "x=3x", "x=-1", "x=1.5", "x=1...3", "x=1..", "x=3,x=4", "x=1,2", "x=1..2:",
                                  "x=xx"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--shape "):
        entries.parse(text)


def test_ranges_of_a_torch_model_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ranged_nets.py").write_text("""import torch
def made():
    batch = torch.export.Dim("batch", min=2, max=8)
    return torch.export.export(torch.nn.Linear(7, 3).eval(), (torch.zeros(4, 7),), dynamic_shapes=({0: batch},))
""")
    assert main(["ranged_nets:made", "--shape", "input=9x7"]) == 2
    assert "is 9, outside of the model's range 2..8" in capsys.readouterr().err
    assert main(["ranged_nets:made", "--shape", "input=2x7", "--shape", "input=8x7"]) == 0
    assert [s["input"] for s in graphopt.load("made.gopt").shapes] == [(2, 7), (8, 7)]
