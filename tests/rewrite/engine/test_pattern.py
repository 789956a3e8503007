"""Patterns and rules: what the text means, which matches are found, when the worklist stops."""

import pytest

from graphopt.errors import IRError, RewriteError
from graphopt.ir import Graph, tensor, verify
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.pattern import match, parse_pattern
from graphopt.rewrite.engine.rules import Rewriter, Rule, rewrite
from tests.rewrite.rewriting import names, parse


def last(text):
    return parse(text).last


def matches(pattern, op):
    return match(parse_pattern(pattern), op)


SILU = """graph @g(%x: f32[3], %y: f32[3]) -> f32[3] {
  %s = sigmoid(%x) : f32[3]
  %z = mul(%s, %x) : f32[3]
  return %z
}"""


def test_commutative_ops_match_either_way_and_names_bind_one_value():
    op = last(SILU)
    assert matches("mul(%x, sigmoid(%x))", op).x.name == "x"
    assert matches("mul(sigmoid(%x), %x)", op) is not None
    assert matches("mul(sigmoid(%x), %y)", op) is not None
    assert matches("mul(sigmoid(%x), sigmoid(%x))", op) is None
    assert matches("mul(%s=sigmoid(%x), %s)", op) is None
    assert matches("mul(tanh|sigmoid(%x), %x)", op) is not None


def test_other_ops_match_in_order_only():
    op = last("""graph @g(%x: f32[3]) -> f32[3] {
      %s = exp(%x) : f32[3]
      %z = sub(%s, %x) : f32[3]
      return %z
    }""")
    assert matches("sub(exp(%x), %x)", op) is not None
    assert matches("sub(%x, exp(%x))", op) is None


def test_used_only_here_is_said_with_a_mark():
    text = """graph @g(%x: f32[3]) -> (f32[3], f32[3]) {
      %s = sigmoid(%x) : f32[3]
      %z = mul(%x, %s) : f32[3]
      return %z, %s
    }"""
    assert matches("mul(%x, sigmoid(%x))", last(text)) is not None
    assert matches("mul(%x, sigmoid!(%x))", last(text)) is None
    assert matches("mul(%x, sigmoid!(%x))", last(SILU)) is not None


def test_a_second_use_inside_the_match_counts_as_inside():
    op = last("""graph @g(%x: f32[3]) -> f32[3] {
      %d = neg(%x) : f32[3]
      %e = exp(%d) : f32[3]
      %z = mul(%d, %e) : f32[3]
      return %z
    }""")
    assert matches("mul(%d=neg!(%x), exp!(%d))", op) is not None


def test_numbers_match_constants_of_any_shape_and_zero_has_a_sign():
    text = """graph @g(%x: f32[3]) -> f32[3] {{
      %c = const {c} : f32[3]
      %z = add(%x, %c) : f32[3]
      return %z
    }}"""
    assert matches("add(%x, 2)", last(text.format(c="[2.0, 2.0, 2.0]"))) is not None
    assert matches("add(%x, 2)", last(text.format(c="[2.0, 2.0, 2.5]"))) is None
    assert matches("add(%x, 0)", last(text.format(c="[-0.0, -0.0, -0.0]"))) is None
    assert matches("add(%x, -0.0)", last(text.format(c="[-0.0, -0.0, -0.0]"))) is not None
    assert matches("add(%x, ~2)", last(text.format(c="[2.001, 2.0, 2.0]"))) is not None
    assert matches("add(%x, ~2)", last(text.format(c="[nan, 2.0, 2.0]"))) is None


def test_attributes_are_compared_or_bound():
    op = last("""graph @g(%x: f32[2, 3, 4]) -> f32[4, 2, 3] {
      %a = transpose(%x) {perm=[1, 0, 2]} : f32[3, 2, 4]
      %b = transpose(%a) {perm=[2, 1, 0]} : f32[4, 2, 3]
      return %b
    }""")
    found = matches("transpose(transpose(%x) {perm=?p}) {perm=?q}", op)
    assert (found.p, found.q) == ((1, 0, 2), (2, 1, 0))
    assert matches("transpose(transpose(%x) {perm=?p}) {perm=?p}", op) is None
    assert matches("transpose(transpose(%x)) {perm=[2, 1, 0]}", op) is not None
    assert matches("transpose(transpose(%x)) {perm=[0, 1, 2]}", op) is None


def test_absent_operands_are_part_of_the_pattern():
    text = """graph @g(%x: f32[1, 2, 5], %w: f32[3, 2, 3], %b: f32[3]) -> f32[1, 3, 3] {{
      %y = conv({operands}) {{stride=[1], pad=[0, 0], dilation=[1], groups=1}} : f32[1, 3, 3]
      return %y
    }}"""
    with_bias, without = last(text.format(operands="%x, %w, %b")), last(text.format(operands="%x, %w"))
    assert matches("conv(%x, %w)", with_bias) is None
    assert matches("conv(%x, %w)", without) is not None
    assert matches("conv(%x, %w, _)", without) is not None
    assert matches("conv(%x, %w, %b)", without) is None
    assert matches("conv(%x, ...)", with_bias) is not None


@pytest.mark.parametrize("text", ["mul(%x", "nonsense(%x)", "mul(%x) {axis=1}", "mul(%x, %y) %z", "mul(%a=%b, %c)", "§"])
def test_a_pattern_that_cannot_be_read_says_so(text):
    with pytest.raises(IRError):
        parse_pattern(text)


def test_rules_are_applied_to_fixpoint_and_the_dead_are_swept():
    graph = parse("""graph @g(%x: f32[3]) -> f32[3] {
      %a = neg(%x) : f32[3]
      %b = neg(%a) : f32[3]
      %c = neg(%b) : f32[3]
      %d = neg(%c) : f32[3]
      %e = exp(%d) : f32[3]
      return %e
    }""")
    assert rewrite(graph, [Rule("double negation", "neg(neg(%x))", "%x")])
    verify(graph)
    assert names(graph) == ["exp"]


def test_a_rewrite_upstream_lets_a_pattern_downstream_match():
    graph = parse("""graph @g(%x: f32[3]) -> f32[3] {
      %a = neg(%x) : f32[3]
      %b = neg(%a) : f32[3]
      %s = sigmoid(%b) : f32[3]
      %z = mul(%x, %s) : f32[3]
      return %z
    }""")
    rewrite(graph, [Rule("silu", "mul(%x, sigmoid(%x))", "silu(%x)"), Rule("double negation", "neg(neg(%x))", "%x")])
    assert names(graph) == ["silu"]


def test_a_replacement_that_refuses_leaves_nothing_behind():
    def build_and_refuse(m):
        m.build.exp(m.x)

    graph = parse(SILU)
    before = str(graph)
    assert not rewrite(graph, [Rule("never", "sigmoid(%x)", build_and_refuse)])
    assert str(graph) == before


def test_locations_of_all_that_was_matched_are_kept():
    graph = parse("""graph @g(%x: f32[3]) -> f32[3] {
      %s = sigmoid(%x) : f32[3]      # loc("act/sigmoid")
      %z = mul(%x, %s) : f32[3]      # loc("act/mul")
      return %z
    }""")
    context = Context()
    changed = []
    Rewriter([Rule("silu", "mul(%x, sigmoid(%x))", "silu(%x)")], graph, context, changed.append).run()
    assert graph.last.loc == ("act/sigmoid", "act/mul")
    assert graph.last.results[0].name == "z"
    assert [op.name for op in changed] == ["silu"]
    assert [r.text for r in context.why("%z")] == ["silu"] == [r.text for r in context.why("act/mul")]


def test_rules_that_chase_each_other_are_stopped():
    graph = parse("""graph @g(%x: f32[3]) -> f32[3] {
      %y = sin(%x) : f32[3]
      return %y
    }""")
    with pytest.raises(RewriteError, match="do not come to an end"):
        rewrite(graph, [Rule("there", "sin(%x)", "cos(%x)"), Rule("back", "cos(%x)", "sin(%x)")])


def test_a_rule_that_changes_the_type_is_a_bug_and_says_where():
    graph = parse("""graph @g(%x: f32[3]) -> f32[1, 3] {
      %y = reshape(%x) {shape=[1, 3]} : f32[1, 3]    # loc("here")
      return %y
    }""")
    with pytest.raises(RewriteError, match=r"drop.*here.*f32\[1, 3\] by f32\[3\]"):
        rewrite(graph, [Rule("drop", "reshape(%x)", "%x")])


def test_a_value_with_ten_thousand_uses():
    graph = Graph("star")
    x = graph.add_input(tensor("f32", 3), "x")
    graph.outputs = [graph.add("sin", [graph.add("identity", [x]).result]).result for _ in range(10_000)]
    rewrite(graph, [Rule("identity", "identity(%x)", "%x"), Rule("silu", "mul(%x, sigmoid(%x))", "silu(%x)")])
    assert len(graph) == 10_000 and len(x.uses) == 10_000


def test_ten_thousand_ops():
    graph = Graph("chain")
    value = graph.add_input(tensor("f32", 3), "x")
    for _ in range(5000):
        value = graph.add("neg", [value]).result
        value = graph.add("sin", [graph.add("neg", [value]).result]).result
    graph.outputs = [value]
    rewrite(graph, [Rule("double negation", "neg(neg(%x))", "%x"), Rule("odd", "sin(neg!(%x))", "neg(sin(%x))")])
    assert len(graph) == 5000
