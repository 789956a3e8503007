"""What the command line says of programs with branches and loops in them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.cli.dump import main
from graphopt.codegen.kernel.expr import call
from graphopt.codegen.lower.registry import COMPUTE
from graphopt.ir import Graph, parse_graph, serial
from graphopt.measure import tuner
from graphopt.targets import parse_target

TEXT = """graph @net(%m: i64[], %x: f32[4, 32]) -> (f32[4, 32], f32[4, 32]) {
  %w = const @w : f32[32, 32]
  %start = exp(%x) : f32[4, 32]  # loc("start")
  %last = loop(%m, _, %start, %x, %w) {carried=1} [
    graph @body(%i: i64[], %keep: bool[], %v: f32[4, 32], %x: f32[4, 32], %w: f32[32, 32]) -> (bool[], f32[4, 32]) {
      %p = matmul(%v, %w) : f32[4, 32]  # loc("loop.fc")
      %s = sin(%p) : f32[4, 32]  # loc("loop.sin")
      %n = softmax(%s) {axis=1} : f32[4, 32]  # loc("loop.softmax")
      return %keep, %n
    }
  ] : f32[4, 32]  # loc("loop")
  %mean = reduce_mean(%last) {axes=[0, 1], keepdims=false} : f32[]
  %zero = const 0.0 : f32[]
  %c = greater(%mean, %zero) : bool[]
  %y = if(%c, %last) [
    graph @then(%v: f32[4, 32]) -> f32[4, 32] {
      %t = tanh(%v) : f32[4, 32]  # loc("then.tanh")
      return %t
    }
    graph @else(%v: f32[4, 32]) -> f32[4, 32] {
      %e = neg(%v) : f32[4, 32]
      return %e
    }
  ] : f32[4, 32]  # loc("branch")
  return %y, %start
}
"""


def network() -> Graph:
    graph = parse_graph(TEXT, {"w": np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)})
    graph.input_names, graph.output_names = ["m", "x"], ["y", "start"]
    return graph


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("control")
    serial.save(network(), folder / "net.gir")
    np.savez(folder / "in.npz", m=np.array(3), x=np.ones((4, 32), np.float32))
    return str(folder / "net.gir")


def said(capfd: Any, *argv: str) -> str:
    assert main(list(argv)) == 0
    return capfd.readouterr().out


def test_a_profile_has_one_row_for_a_loop_with_all_its_iterations(net: str, capfd: Any) -> None:
    inputs = str(Path(net).with_name("in.npz"))
    rows = json.loads(said(capfd, net, "--profile", "--json", "--inputs", inputs))["steps"]
    assert [r["kernel"] for r in rows if r["op"] in ("loop", "if")] == ["loop", "if"]
    assert all(not r["host"] and r["seconds"] > 0 for r in rows)
    assert any(r["what"].startswith("loop of some iterations: ") for r in rows)
    assert any(r["what"] == "if: 1 op, else 1 -> 4x32" for r in rows)


def test_why_names_the_kernels_within_a_loop(net: str, capfd: Any) -> None:
    text = said(capfd, net, "--why", "loop.fc")
    assert re.search(r"step \d of \d, loop: loop of some iterations", text) and re.search(r"in it, k\d_fused: matmul", text)
    assert "reference evaluator" not in text


def test_the_page_shows_loops_and_branches_with_their_kernels(net: str, capfd: Any, tmp_path: Path) -> None:
    assert main([net, "--emit", "html", "-o", str(tmp_path / "net.html"), "--inputs", str(Path(net).with_name("in.npz"))]) == 0
    packed = re.search(r'<script type="application/octet-stream" id="data">([^<]*)</script>', (tmp_path / "net.html").read_text())
    assert packed is not None
    steps = json.loads(zlib.decompress(base64.b64decode(packed[1])))["steps"]
    held = {s["control"]: s["kernels"] for s in steps if "control" in s}
    assert set(held) == {"loop", "if"} and len(held["loop"]) >= 2 and not any("why" in s for s in steps)


def test_bisect_finds_a_wrong_kernel_within_a_loop(net: str, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "and so does the whole program" in said(capfd, net, "--bisect")
    monkeypatch.setenv("GRAPHOPT_CACHE", "0")
    monkeypatch.setitem(COMPUTE, "sin", lambda o, *i: call("cos", o.x(*i)))
    assert main([net, "--bisect"]) == 1
    out = capfd.readouterr().out
    assert "first wrong kernel: kernel loop" in out and "%last" in out


def test_what_explain_and_the_source_say() -> None:
    model: Any = graphopt.compile(network())
    assert "0 host ops" in model.explain() and "while" in model.source() and "host_ops" in model.stats
    assert re.search(r"j[a-z]+\s", model.source("asm"))


def test_kernels_of_bodies_are_tuned_and_a_loop_counts_as_often_as_it_runs(tmp_path: Path) -> None:
    from graphopt.backends.pipeline import optimise

    target: Any = parse_target("x86", 1)
    text = TEXT.replace("%m: i64[], ", "").replace("loop(%m,", "loop(%many,")
    text = text.replace("  %start = exp", "  %many = const 500 : i64[]\n  %start = exp")
    known, _ = optimise(parse_graph(text, {"w": np.ones((32, 32), np.float32)}), target)
    times = {op.name: n for op, n in tuner._repeated(known)}
    assert times["softmax"] == 500 and times["tanh"] == 1
    kernels = [op for _, op in tuner._worth(known, tuner.EFFORTS["full"], target)]
    assert any(o.name == "matmul" for op in kernels for r in op.regions for o in r.ops)


def test_targets_without_control_flow_refuse_it_by_name() -> None:
    for target in ("cuda:sm_90", "fpga:xc7z020"):
        with pytest.raises(graphopt.GraphOptError, match="loop %last at loop: loop is control flow, not a kernel"):
            graphopt.compile(network(), target=target)
