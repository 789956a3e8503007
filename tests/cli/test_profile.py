"""graphopt-dump --profile: the steps of a program, what is counted of them, and how they are shown."""

import json
from dataclasses import replace

import numpy as np
import pytest

import graphopt
from graphopt.cli.dump import main
from graphopt.cli.profile import table
from graphopt.ir import Builder, Graph, serial, tensor
from graphopt.measure.peaks import Peaks
from graphopt.measure.profiling import Profile, Row

RNG = np.random.default_rng(0)
PEAKS = Peaks(2, {"fma": 1e9}, {"l1": 1e9}, {"l1": 1 << 15})


@pytest.fixture
def net(tmp_path):
    """Two products with an op between them that runs on the evaluator."""
    graph = Graph("net")
    x = graph.add_input(tensor("f32", 32, 64), "x")
    y = Builder(graph, loc=("encoder.fc",)).matmul(x, RNG.standard_normal((64, 48)).astype(np.float32))
    y = Builder(graph, loc=("encoder.act",)).relu(y)
    found = Builder(graph, loc=("head.where",)).nonzero(y)
    z = Builder(graph, loc=("head.fc",)).matmul(y, RNG.standard_normal((48, 16)).astype(np.float32))
    graph.outputs, graph.input_names, graph.output_names = [z, found], ["x"], ["z", "found"]
    serial.save(graph, tmp_path / "net.gir")
    return str(tmp_path / "net.gir")


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    return code, *capsys.readouterr()


def test_every_step_is_timed_with_its_operations_and_bytes(net, capsys):
    code, out, _ = run(capsys, net, "--profile", "--json")
    data = json.loads(out)
    assert code == 0 and data["call"] > 0 and data["sum"] == pytest.approx(sum(s["seconds"] for s in data["steps"]))
    first, last = (next(s for s in data["steps"] if place in s["loc"]) for place in ("encoder.fc", "head.fc"))
    assert first["operations"] >= 2 * 32 * 64 * 48 and first["weights"] == 4 * 64 * 48
    assert last["operations"] == 2 * 32 * 48 * 16 and last["activations"] == 4 * 32 * (48 + 16)
    host = next(s for s in data["steps"] if s["host"])
    assert host["kernel"] == "host nonzero" and host["floor"] is None and host["seconds"] > 0
    assert all(0 < s["low"] <= s["seconds"] <= s["high"] for s in data["steps"] if not s["host"])


def test_of_a_table_the_rows_that_are_gathered_count():
    graph = Graph("net")
    b = Builder(graph)
    ids, kinds = (graph.add_input(tensor("i64", 1, 6), name) for name in ("ids", "kinds"))
    words, sorts = (RNG.standard_normal((n, 16)).astype(np.float32) for n in (5000, 2))
    graph.outputs = [b.add(b.gather(b.const(words), ids, axis=0), b.gather(b.const(sorts), kinds, axis=0))]
    rows = graphopt.compile(graph).profile(np.zeros((1, 6), np.int64), np.ones((1, 6), np.int64), repeats=1)
    assert sum(r["weights"] for r in rows) == 6 * 16 * 4 + 2 * 16 * 4  # of two rows no more than both
    assert rows[-1]["activations"] >= 6 * 16 * 4


def test_the_table_shows_shares_sources_and_sums(net, capsys):
    code, out, _ = run(capsys, net, "--profile")
    assert code == 0 and out.startswith(" share")
    shares = [float(line.split()[0]) for line in out.split("\n\n")[0].splitlines()[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.3) and shares == sorted(shares, reverse=True)
    assert "encoder.fc, encoder.act" in out and "a whole call" in out
    assert {line.split()[-1] for line in out.split("module\n")[1].splitlines()} == {"encoder", "head"}
    code, out, _ = run(capsys, net, "--profile", "--sort", "order")
    lines = out.splitlines()
    assert next(k for k, s in enumerate(lines) if "encoder.fc" in s) < next(k for k, s in enumerate(lines) if "head.fc" in s)


def test_inputs_come_from_a_file(net, capsys, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.zeros((32, 65), np.float32))
    code, _, err = run(capsys, net, "--profile", "--inputs", tmp_path / "in.npz")
    assert code == 1 and "input x: expected shape [32, 64], got [32, 65]" in err
    np.savez(tmp_path / "in.npz", x=np.zeros((32, 64), np.float32))
    assert run(capsys, net, "--profile", "--inputs", tmp_path / "in.npz")[0] == 0


def test_without_a_compiler_there_are_times_and_no_percentages(net, capsys, monkeypatch):
    monkeypatch.setattr("graphopt.codegen.x86.native.compiler", lambda: None)
    code, out, _ = run(capsys, net, "--profile")
    assert code == 0 and "encoder.fc" in out and "roofline  bound" not in out and "there is no C compiler" in out


@pytest.mark.parametrize("argv, says", [
    (["--profile", "--target", "cuda:sm_90"], "does not run here"), (["--profile", "--after", "fold"], "leave out --after"),
    (["--json"], "--json is for --profile"), (["--threads", "0"], "give at least 1"), (["--sort", "name"], "invalid choice"),
    (["--sort", "order"], "--sort is for --profile"),
])
def test_what_cannot_be_profiled_is_refused(net, capsys, argv, says):
    try:
        code = main([net, *argv])
    except SystemExit as e:
        code = e.code
    assert code == 2 and says in capsys.readouterr().err


def made(**changed):
    row = Row(0, "k0_fused", "conv.row_major", "fused", "conv", "conv of some kind " * 4, 1e-3, 1e-3, 1e-3, 500_000, 0,
              100_000, "f32", ("layer1.conv", "layer1.relu"), False)
    return replace(row, **changed)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_no_line_of_kernels_is_wider_than_the_terminal(width):
    text = table(Profile([made(), made(step=1, what="short", loc=("x" * 90,))], 2e-3, 5, 0, 2), PEAKS, "time", width)
    rows = text.split("\n\n")[0].splitlines()
    assert all(len(line) <= max(width, 56) for line in rows)
    assert "layer1.conv" in rows[1] or width < 80


def test_the_bound_is_the_larger_of_arithmetic_and_memory():
    profile = Profile([], 0.0, 1, 0, 2)
    assert profile.floor(made(), PEAKS) == (5e-4, "compute")
    assert profile.floor(made(operations=10), PEAKS) == (1e-4, "memory")
    assert profile.floor(made(dtype="f64"), PEAKS) == (1e-3, "compute")
    assert profile.floor(made(dtype="i32"), PEAKS) == (1e-4, "memory")
    assert profile.floor(made(host=True), PEAKS) is None


def test_profiles_of_a_compiled_model_leave_its_results_alone():
    graph = Graph("net")
    x = graph.add_input(tensor("f32", 40, 40), "x")
    b = Builder(graph)
    graph.outputs = [b.softmax(b.matmul(x, RNG.standard_normal((40, 40)).astype(np.float32)), axis=1)]
    model = graphopt.compile(graph)
    given = RNG.standard_normal((40, 40)).astype(np.float32)
    before = model(given)
    rows = model.profile(given, repeats=3)
    assert len(rows) == model.stats["calls"] and all(r["seconds"] > 0 for r in rows)
    np.testing.assert_array_equal(model(given), before)
