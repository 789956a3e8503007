"""The pass manager: results, verification, snapshots, translation validation, reasons."""

import logging

import numpy as np
import pytest

from graphopt.errors import RewriteError
from graphopt.ir import evaluate
from graphopt.rewrite import Canonicalise, Context, DeadCode, Fold, Pass, PassManager, Snapshots, default_passes, optimise
from graphopt.rewrite.engine.manager import GraphPass, RulePass
from graphopt.rewrite.engine.rules import Rule
from graphopt.rewrite.engine.validate import difference, first_bad_change, random_inputs, sensitivity
from tests.rewrite.rewriting import parse

TEXT = """graph @g(%x: f32[3], %y: f32[3]) -> (f32[3], f32[3]) {
  %a = neg(%x) : f32[3]        # loc("first")
  %b = neg(%a) : f32[3]
  %c = sin(%b) : f32[3]        # loc("second")
  %d = sin(%y) : f32[3]        # loc("third")
  %e = tanh(%d) : f32[3]
  return %c, %e
}"""


class Wrong(RulePass):
    """sin is not cos: from the second application on, an output is off."""

    name = "wrong"
    rules = [Rule("tanh is odd", "tanh(%x)", "neg(tanh(neg(%x)))", when=lambda m: m.x.op.name != "neg"),
             Rule("sin is cos", "sin(%x)", "cos(%x)", when=lambda m: m.x.name == "y")]


def test_results_say_what_each_pass_did():
    results = PassManager([Canonicalise(), DeadCode(), Fold()]).run(parse(TEXT))
    canonicalise, dce, fold = results.passes
    assert (canonicalise.name, canonicalise.ops_before, canonicalise.ops_after) == ("canonicalise", 5, 3)
    assert canonicalise.changed
    assert not dce.changed and not fold.changed and fold.seconds >= 0
    assert "canonicalise" in str(results) and "unchanged" in str(results)


def test_a_crash_names_the_pass_and_the_op():
    class Crash(GraphPass):
        name = "crash"

        def run_on(self, graph, context):
            for op in graph.ops:
                context.take("look", op)
                if op.name == "tanh":
                    raise KeyError("nothing")
            return False

    with pytest.raises(RewriteError, match="pass crash: failed at tanh %e: KeyError"):
        PassManager([Crash()]).run(parse(TEXT))


def test_a_broken_graph_is_noticed_right_after_the_pass_that_broke_it():
    class Break(GraphPass):
        name = "break"

        def run_on(self, graph, context):
            first = next(graph.ops)
            graph.move_before(first, None)
            return True

    with pytest.raises(RewriteError, match=r"pass break.*not defined before its use"):
        PassManager([DeadCode(), Break()]).run(parse(TEXT))


def test_validation_names_the_pass_and_the_rewrite():
    graph = parse(TEXT)
    graph.output_names = ["left", "right"]
    with pytest.raises(RewriteError, match=r"pass wrong: changed output right.*change \d of 2: rule 'sin is cos', at sin %d"):
        PassManager([Canonicalise(), Wrong(), DeadCode()], validate=True).run(graph)


def test_validation_passes_what_is_right():
    PassManager(default_passes(), validate=True).run(parse(TEXT))


def test_validation_uses_the_given_inputs():
    class ForNegative(RulePass):
        """Right for random inputs only by chance, wrong below zero."""

        name = "abs"
        rules = [Rule("abs", "sin(%x)", "sin(abs(%x))", when=lambda m: m.x.op is None)]

    text = "graph @g(%x: f32[3]) -> f32[3] {\n %a = sin(%x) : f32[3]\n return %a\n}"
    PassManager([ForNegative()], validate=True, inputs=[np.array([1, 2, 3], np.float32)]).run(parse(text))
    with pytest.raises(RewriteError, match="sin"):
        PassManager([ForNegative()], validate=True, inputs=[np.array([1, -2, 3], np.float32)]).run(parse(text))


def test_a_pass_after_which_nothing_runs_is_named():
    class OutOfRange(GraphPass):
        name = "shift"

        def run_on(self, graph, context):
            for op in graph.ops:
                if op.name == "gather" and context.take("shift", op):
                    op.set_operand(1, graph.constant(np.array([9, 9]), before=op))
            return True

    text = """graph @g(%x: f32[3], %i: i64[2]) -> f32[2] {
      %y = gather(%x, %i) {axis=0} : f32[2]
      return %y
    }"""
    with pytest.raises(RewriteError, match=r"pass shift.*can no longer be evaluated.*change 1 of 1: shift, at gather"):
        PassManager([OutOfRange()], validate=True).run(parse(text))
    with pytest.raises(RewriteError, match="cannot be evaluated before any pass"):
        PassManager([OutOfRange()], validate=True, inputs=[np.ones(3, np.float32), np.array([7, 7])]).run(parse(text))


def test_random_numbers_are_not_validated_but_said(caplog):
    text = """graph @g() -> f32[3] {
      %r = random_normal() {shape=[3], mean=0.0, scale=1.0, dtype=f32} : f32[3]
      %a = neg(%r) : f32[3]
      %b = neg(%a) : f32[3]
      return %b
    }"""
    with caplog.at_level(logging.WARNING):
        PassManager([Canonicalise()], validate=True).run(parse(text))
    assert "not validated" in caplog.text


def test_snapshots_and_diffs():
    snapshots = Snapshots()
    PassManager([Canonicalise(), Fold()], before=[snapshots.before], after=[snapshots.after]).run(parse(TEXT))
    assert "neg" not in snapshots.text("canonicalise")
    assert '-  %a = neg(%x) : f32[3]  # loc("first")' in snapshots.diff("canonicalise")
    assert snapshots.diff("fold") == ""
    with pytest.raises(RewriteError, match=r"no pass 'layout'.*canonicalise, fold"):
        snapshots.text("layout")


def test_fuel_limits_the_changes():
    graph = parse(TEXT)
    context = Context(fuel=1)
    context.begin("wrong")
    Wrong().run(graph, context)
    assert context.applied == 1
    assert [op.name for op in graph.ops].count("cos") + [op.name for op in graph.ops].count("tanh") >= 1


def test_bisection_finds_the_first_bad_change():
    for bad in range(1, 20):
        assert first_bad_change(20, lambda n, bad=bad: n >= bad) == bad
    assert first_bad_change(20, lambda n: False) is None


def test_differences_in_words():
    a = np.array([1.0, np.nan, np.inf, -0.0], np.float32)
    assert difference(a, np.array([1.0, np.nan, np.inf, 0.0], np.float32), 0) is None
    assert "differ" in difference(a, np.array([1.0, np.nan, -np.inf, 0.0], np.float32), 1e9)
    assert "differ" in difference(a, np.array([1.0, 0.0, np.inf, 0.0], np.float32), 1e9)
    nearly = np.array([1.0 + 2**-22, np.nan, np.inf, 0.0], np.float32)
    assert difference(a, nearly, 2) is None and "[0]" in difference(a, nearly, 1)
    assert "became" in difference(a, a.astype(np.float64), 0)
    assert "1 of 2" in difference(np.array([1, 2]), np.array([1, 3]), 0)


def test_sums_that_cancel_have_no_digit_of_their_own():
    graph = parse("""graph @g(%x: f32[4, 5]) -> f32[4] {
      %n = layer_norm(%x) {axis=1, eps=1e-05} : f32[4, 5]
      %s = reduce_sum(%n) {axes=[1], keepdims=false} : f32[4]
      return %s
    }""")
    (x,) = random_inputs(graph)
    (noise,) = sensitivity(graph, [x], evaluate(graph, [x]))
    assert 0 < noise < 1e-5
    PassManager(default_passes(), validate=True).run(graph)


def test_random_inputs_agree_on_symbolic_dims():
    graph = parse("graph @g(%x: f32[N, 2], %y: i64[N], %c: bool[]) -> f32[N, 2] { return %x }")
    x, y, c = random_inputs(graph, seed=3)
    assert x.shape[0] == y.shape[0] and x.dtype == np.float32 and y.dtype == np.int64 and c.dtype == bool
    assert np.array_equal(x, random_inputs(graph, seed=3)[0])


def test_optimise_runs_the_default_passes():
    graph = parse(TEXT)
    results = optimise(graph)
    assert results.passes[-1].name == default_passes()[-1].name and [op.name for op in graph.ops] == ["sin", "fused"]


def test_every_pass_has_a_name_and_says_what_holds():
    for p in default_passes():
        assert isinstance(p, Pass) and p.name
        assert "Before:" in type(p).__doc__ and "After:" in type(p).__doc__
