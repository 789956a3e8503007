"""graphopt-dump --bisect: passes and kernels that were broken on purpose are found by name."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from graphopt.cli.dump import main
from graphopt.codegen.kernel.expr import INDEX, call, const
from graphopt.codegen.lower.registry import COMPUTE
from graphopt.diagnose.checking import in_child, logical
from graphopt.ir import Layout, parse_graph, serial, tensor
from graphopt.rewrite import Fuse, Simplify
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.rules import Rule

TEXT = """graph @net(%x: f32[4, 6]) -> f32[6, 4] {
  %w = const @w : f32[6, 6]
  %a = matmul(%x, %w) : f32[4, 6]  # loc("fc")
  %b = sin(%a) : f32[4, 6]  # loc("first.sin")
  %c = softmax(%b) {axis=1} : f32[4, 6]  # loc("first.softmax")
  %d = transpose(%c) {perm=[1, 0]} : f32[6, 4]  # loc("second.transpose")
  %e = tan(%d) : f32[6, 4]  # loc("second.tan")
  %f = softmax(%e) {axis=1} : f32[6, 4]  # loc("second.softmax")
  return %f
}
"""


@pytest.fixture
def net(tmp_path):
    graph = parse_graph(TEXT, {"w": np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)})
    graph.input_names, graph.output_names = ["x"], ["f"]
    serial.save(graph, tmp_path / "net.gir")
    return str(tmp_path / "net.gir")


def bisect(capfd, *argv):
    code = main([*map(str, argv), "--bisect"])
    return code, capfd.readouterr().out


def test_a_right_compiler_is_found_right(net, capfd):
    code, out = bisect(capfd, net)
    assert code == 0 and "after each it computes the same" in out and "and so does the whole program" in out


def test_a_wrong_pass_is_found_by_name_with_its_change_and_the_first_op(net, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(Simplify, "rules", [*Simplify.rules, Rule("sin is cos", "sin(%x)", "cos(%x)")])
    code, out = bisect(capfd, net)
    assert code == 1 and out.startswith("first wrong pass: simplify\n") and "rule 'sin is cos', at sin %b at first.sin" in out
    assert "first op that differs: %b = cos(...) : f32[4, 6] at first.sin" in out
    assert not (tmp_path / "none").exists()  # who looks for a failure needs no folder of it


def test_the_first_of_two_wrong_passes_is_named(net, capfd, monkeypatch):
    from graphopt import rewrite

    class Later(RulePass):
        """Wrong, after another that is."""

        name = "later"
        rules = [Rule("tan is sin", "tan(%x)", "sin(%x)")]

    passes = rewrite.default_passes
    monkeypatch.setattr(rewrite, "default_passes", lambda *args: [*passes(*args), Later()])
    monkeypatch.setattr(Fuse, "run_on", lambda self, graph, context: False)  # leaves the tangent where it can be seen
    assert "first wrong pass: later" in bisect(capfd, net)[1]
    monkeypatch.setattr(Simplify, "rules", [*Simplify.rules, Rule("sin is cos", "sin(%x)", "cos(%x)")])
    assert "first wrong pass: simplify" in bisect(capfd, net)[1]


@pytest.mark.parametrize("broken, kernel, other", [("sin", "first.sin", "second.tan"), ("tan", "second.tan", "first.sin")])
def test_a_wrong_kernel_is_found_where_all_passes_are_right(net, capfd, monkeypatch, broken, kernel, other):
    monkeypatch.setitem(COMPUTE, broken, lambda o, *i: call("cos", o.x(*i)))
    code, out = bisect(capfd, net)
    assert code == 1 and "after each it computes the same" in out
    finding = out.split("first wrong kernel: ")[1]
    assert finding.startswith("kernel k") and kernel in finding and other not in finding and "elements differ" in finding


def test_a_kernel_that_crashes_ends_neither_the_command_nor_the_search(net, capfd, monkeypatch):
    def far_away(o, *i):
        """By an index that is known as it runs only: others are refused before."""
        far = (o.x(*(const(0, INDEX) for _ in i)) * 0.0).cast(INDEX) + (1 << 27)
        return o.x(*(i[o.perm.index(d)] + far for d in range(len(i))))

    monkeypatch.setitem(COMPUTE, "transpose", far_away)
    code, out = bisect(capfd, net)
    assert code == 1 and "first wrong kernel" in out and "second.transpose" in out and "ended with SIGSEGV" in out


def test_a_plan_that_reuses_memory_too_early_is_found(net, capfd, monkeypatch):
    from graphopt.codegen.program import plan

    real = plan.arrange
    monkeypatch.setattr(plan, "arrange", lambda lives, bound: ([0] * len(lives), real(lives, bound)[1]))
    code, out = bisect(capfd, net)
    assert code == 1 and "another step has overwritten it" in out


def test_a_graph_with_free_dims_is_bisected_without_its_code(tmp_path, capfd):
    (tmp_path / "net.ir").write_text(TEXT.replace("[4, 6]", "[N, 6]").replace("[6, 4]", "[6, N]").replace(
        "const @w : f32[6, 6]", "const [[1.0, 2.0]] : f32[1, 2]").replace("matmul(%x, %w)", "neg(%x)"))
    code, out = bisect(capfd, tmp_path / "net.ir")
    assert code == 0 and "the compiled code was not looked at: its shapes are free" in out


def test_bisect_goes_with_no_part_of_the_passes(net, capsys):
    assert main([net, "--bisect", "--after", "fold"]) == 2 and "leave out --after" in capsys.readouterr().err


@pytest.mark.parametrize("layout", [None, Layout("NHWC"), Layout("NHWC", 1), Layout("NHWC", 2, 11), Layout("NCHW", 1)])
def test_values_are_read_out_of_their_layouts(layout):
    t = replace(tensor("f32", 2, 3, 4, 5), layout=layout)
    value = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    memory = np.full(t.storage, -1, np.float32)
    halo = layout.halo if layout else 0
    if layout is None:
        memory[:] = value
    elif layout.order == "NHWC":
        memory[:, halo:4 + halo, halo:5 + halo, :3] = value.transpose(0, 2, 3, 1)
    else:
        memory[:, :, halo:4 + halo, halo:5 + halo] = value
    np.testing.assert_array_equal(logical(memory.reshape(-1), t), value)


def test_a_child_that_dies_says_how_far_it_came():
    def work(report):
        report(3)
        os.kill(os.getpid(), signal.SIGILL)

    assert in_child(work) == (None, "SIGILL", 3)
    assert in_child(lambda report: [1, 2]) == ([1, 2], "", None)
    with pytest.raises(ValueError, match="said there"):
        in_child(lambda report: (_ for _ in ()).throw(ValueError("said there")))
