"""Folders that reproduce failures of the compiler: written by themselves, and made small by graphopt-dump --repro."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.cli.dump import main
from graphopt.codegen.kernel.expr import INDEX, call, const
from graphopt.codegen.lower.registry import COMPUTE
from graphopt.diagnose.checking import in_child
from graphopt.diagnose.repro import attempt
from graphopt.errors import (
    CaptureError,
    CodegenError,
    GraphOptError,
    InputError,
    RewriteError,
    TargetError,
    UnsupportedOperators,
)
from graphopt.ir import evaluate, parse_graph, serial
from graphopt.rewrite import Simplify, Transposes
from graphopt.rewrite.engine.rules import Rule
from graphopt.ship.crash import failure_of, is_failure, load, write
from graphopt.targets import parse_target

ROOT = Path(__file__).parents[2]
TEXT = """graph @net(%x: f32[4, 64], %i: i64[2]) -> (f32[4, 64], f32[2, 64]) {
  %w = const @w : f32[64, 64]
  %big = const @table : i64[2000]
  %a = matmul(%x, %w) : f32[4, 64]  # loc("fc")
  %b = sin(%a) : f32[4, 64]
  %c = softmax(%b) {axis=1} : f32[4, 64]
  %d = transpose(%c) {perm=[1, 0]} : f32[64, 4]
  %e = tan(%d) : f32[64, 4]
  %f = softmax(%e) {axis=1} : f32[64, 4]
  %g = transpose(%f) {perm=[1, 0]} : f32[4, 64]
  %h = cos(%g) : f32[4, 64]
  %k = gather(%big, %i) {axis=0} : i64[2]
  %l = gather(%g, %k) {axis=0} : f32[2, 64]
  return %h, %l
}
"""
SECRET = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def network():
    graph = parse_graph(TEXT, {"w": SECRET, "table": np.arange(2000) % 4})
    graph.input_names, graph.output_names = ["x", "i"], ["h", "l"]
    return graph


@pytest.fixture
def net(tmp_path):
    serial.save(network(), tmp_path / "net.gir")
    return str(tmp_path / "net.gir")


def broken_code(o, *i):
    raise KeyError("no such loop")


def far_away(o, *i):
    """By an index that is known as it runs only: others are refused before."""
    far = (o.x(*(const(0, INDEX) for _ in i)) * 0.0).cast(INDEX) + (1 << 24)
    return o.x(*(i[o.perm.index(d)] + far for d in range(len(i))))


def break_pass(monkeypatch):
    real = Transposes.run_on

    def run_on(self, graph, context):
        if any(op.name == "cos" for op in graph.ops):
            raise AssertionError("a cosine")
        return real(self, graph, context)

    monkeypatch.setattr(Transposes, "run_on", run_on)


BREAK = {
    "a pass": (break_pass, {"cos"}, "AssertionError in pass transposes"),
    "code": (lambda m: m.setitem(COMPUTE, "tan", broken_code), {"tan"}, "KeyError: 'no such loop'"),
    "a crash": (lambda m: m.setitem(COMPUTE, "transpose", far_away), {"transpose"}, "SIGSEGV"),
    "a wrong rule": (lambda m: m.setattr(Simplify, "rules", [*Simplify.rules, Rule("sin is cos", "sin(%x)", "cos(%x)")]),
                     {"sin"}, "wrong result in pass simplify"),
    "a wrong kernel": (lambda m: m.setitem(COMPUTE, "tan", lambda o, *i: call("cos", o.x(*i))), {"tan"},
                       "wrong result in a kernel"),
}


@pytest.mark.parametrize("kind", BREAK)
def test_a_failure_is_made_small_and_fails_again(kind, net, tmp_path, monkeypatch, capfd):
    breaks, ops, says = BREAK[kind]
    breaks(monkeypatch)
    folder = tmp_path / "report"
    assert main([net, "--repro", str(folder)]) == 0
    out = capfd.readouterr().out
    assert says in out and f"To see it: python {folder}/repro.py" in out and "10 ops became" in out
    graph, inputs, about = load(folder)
    assert {op.name for op in graph.ops if op.name != "const"} == ops
    assert about["reduced"] and (kind == "a crash" or all(d <= 4 for v in graph.values() for d in v.static_shape))
    assert not any(np.isin(op.attrs["value"].numpy(), SECRET).any() for op in graph.ops if op.name == "const")
    again, crashed, _ = in_child(lambda report: attempt(graph, parse_target("x86"), inputs, about["failure"]["stage"], report))
    assert (crashed or says.split(" in ")[0].split(":")[0]) in (crashed, again and again.kind) and (crashed or again)
    done = subprocess.run([sys.executable, str(folder / "repro.py")], capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "GRAPHOPT_CACHE": "0"})
    assert done.stdout == "nothing fails any more\n", done.stderr  # nothing is broken in that process


def test_a_sound_compiler_leaves_nothing(net, tmp_path, capsys):
    assert main([net, "--repro", str(tmp_path / "report")]) == 3, "neither done, nor failed, nor a wrong command line"
    assert "nothing fails" in capsys.readouterr().err and not (tmp_path / "report").exists()


def test_a_folder_of_something_else_is_left_alone(net, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert main([net, "--repro", str(tmp_path / "mine")]) == 2 and "something else" in capsys.readouterr().err
    assert main([net, "--repro", str(tmp_path / "r"), "--stats"]) == 2 and "give it alone" in capsys.readouterr().err


# By itself ----------------------------------------------------------------------------------------
def crashed(tmp_path):
    return [p for p in tmp_path.iterdir() if p.name.startswith("graphopt-crash-")]


def test_a_crash_in_compile_leaves_a_folder_and_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path))
    break_pass(monkeypatch)
    with pytest.raises(RewriteError, match=r"a cosine\. This is a failure of graphopt") as e:
        graphopt.compile(network())
    (folder,) = crashed(tmp_path)
    assert str(folder) in e.value.hint and f"graphopt-dump {folder} --repro" in str(e.value)
    assert sorted(p.name for p in folder.iterdir()) == ["about.json", "command.txt", "constants.npz", "graph.ir", "repro.py",
                                                        "traceback.txt"]
    assert "other weights are drawn at random" in str(e.value)
    about = json.loads((folder / "about.json").read_text())
    assert about["failure"]["where"] == "pass transposes" and set(about["drawn"]) == {"w", "table"} and about["versions"]["numpy"]
    assert "AssertionError: a cosine" in (folder / "traceback.txt").read_text()
    graph, _, _ = load(folder)
    assert str(graph) == str(network()) and graph.input_names == ["x", "i"]
    table = {op.attrs["value"].name: op.attrs["value"].numpy() for op in graph.ops if op.name == "const"}
    assert not np.isin(table["w"], SECRET).any() and abs(table["w"].std() - SECRET.std()) < 0.1
    assert table["table"].min() >= 0 and table["table"].max() <= 3  # still indices
    with pytest.raises(RewriteError):
        graphopt.compile(network())
    assert crashed(tmp_path) == [folder]  # the same failure, the same folder


def test_the_command_reduces_the_folder_that_a_crash_left(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path))
    monkeypatch.setitem(COMPUTE, "tan", broken_code)
    with pytest.raises(CodegenError, match="KeyError: 'no such loop'") as e:
        graphopt.compile(network(), threads=1)
    (folder,) = crashed(tmp_path)
    assert str(folder) in str(e.value)
    assert main([str(folder), "--repro", str(tmp_path / "small")]) == 0
    graph, _, about = load(tmp_path / "small")
    assert about["threads"] == 1 and [op.name for op in graph.ops] == ["tan"]
    assert main([str(folder), "--after", "capture"]) == 0
    assert capfd.readouterr().out.endswith(TEXT)


def test_the_command_says_it_too(net, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path))
    break_pass(monkeypatch)
    assert main([net]) == 1
    assert f"{crashed(tmp_path)[0]} holds the graph" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path))
    monkeypatch.setitem(COMPUTE, "tan", broken_code)
    assert main([net, "--emit", "tir"]) == 1
    err = capsys.readouterr().err
    assert "KeyError: 'no such loop'" in err and "Traceback" not in err and "This is a failure of graphopt" in err


def test_it_can_be_turned_off_and_never_hides_the_failure(tmp_path, monkeypatch):
    break_pass(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", "0")
    with pytest.raises(RewriteError, match="a cosine") as e:
        graphopt.compile(network())
    assert "graphopt-crash" not in str(e.value) and crashed(tmp_path) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path / "file"))
    with pytest.raises(RewriteError, match=r"a cosine.*could not be kept"):
        graphopt.compile(network())
    monkeypatch.delenv("GRAPHOPT_CRASH_DIR")
    with pytest.raises(RewriteError, match=str(tmp_path)):
        graphopt.compile(network())
    assert len(crashed(tmp_path)) == 1


def test_what_the_user_did_wrong_leaves_no_folder(net, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path))
    with pytest.raises(InputError):
        graphopt.compile(network())(np.zeros((3, 64), np.float32), np.zeros(2, np.int64))
    (tmp_path / "net.ir").write_text(TEXT)  # constants without data
    assert main([str(tmp_path / "net.ir"), "--after", "fold"]) in (0, 1)
    assert main([net, "--target", "riscv"]) == 2 and main([net, "--after", "no"]) == 2
    assert crashed(tmp_path) == []


@pytest.mark.parametrize("error, is_one", [
    (KeyError("x"), True), (AssertionError(), True), (CodegenError("x"), True), (RewriteError("x", where="pass fold"), True),
    (GraphOptError("compiled code failed"), True), (RewriteError("x", where="validation"), False), (InputError("x"), False),
    (TargetError("x"), False), (CaptureError("x"), False), (UnsupportedOperators([("A", "b")]), False), (MemoryError(), False),
    (OSError("disk full"), False), (KeyboardInterrupt(), False), (ModuleNotFoundError("torch"), False),
])
def test_whose_fault_an_error_is(error, is_one):
    assert is_failure(error) is is_one


def test_constants_of_every_dtype_come_back(tmp_path):
    text = """graph @g(%x: f32[2]) -> (bf16[12], str[9], bool[10], i64[2, 0], f8e4m3fn[9]) {
      %a = const @a : bf16[12]
      %b = const @b : str[9]
      %c = const @c : bool[10]
      %d = const @d : i64[2, 0]
      %e = const @e : f8e4m3fn[9]
      return %a, %b, %c, %d, %e
    }"""
    import ml_dtypes

    given = {"a": np.arange(12).astype(ml_dtypes.bfloat16), "b": np.array(list("abcdefghÄ"), object),
             "c": np.arange(10) % 3 == 0, "d": np.zeros((2, 0), np.int64), "e": np.arange(9).astype(ml_dtypes.float8_e4m3fn)}
    graph = parse_graph(text, given)
    failure = failure_of(KeyError("x"))
    write(tmp_path / "f", graph, parse_target("x86"), failure, {}, inputs=[np.ones(2, np.float32)])
    again, inputs, _ = load(tmp_path / "f")
    for a, b in zip(evaluate(graph, inputs), evaluate(again, inputs)):
        assert a.dtype == b.dtype and (a == b).all()


def test_a_folder_that_is_damaged_is_said(tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "about.json").write_text("{}")
    assert main([str(tmp_path / "bad")]) == 1 and "no folder that graphopt wrote" in capsys.readouterr().err


def test_what_takes_too_long_is_ended():
    assert in_child(lambda report: time.sleep(60), 0.2)[1] == "timeout"
