"""The verifier: each rule of the IR broken once, and the message points at the op."""

import pytest

from graphopt.errors import IRError
from graphopt.ir import Builder, Graph, parse_graph, tensor, verify

NESTED = """
graph @net(%x: f32[N, 3]) -> f32[N, 3] {
  %0 = fused(%x) {kind="elementwise"} [
    graph @body(%y: f32[N, 3]) -> f32[N, 3] {
      %1 = exp(%y) : f32[N, 3]  # loc("inner/Exp")
      return %1
    }
  ] : f32[N, 3]  # loc("outer")
  return %0
}
"""


def chain() -> Graph:
    """relu, then exp, then neg; the middle one is named y and came from block/Exp."""
    g = Graph("net")
    x = g.add_input(tensor("f32", "N", 3), "x")
    a = Builder(g).relu(x)
    y = Builder(g, loc=("block/Exp",)).exp(a)
    y.name = "y"
    g.outputs = [Builder(g).neg(y)]
    verify(g)
    return g


def refused(graph: Graph, *parts: str) -> None:
    with pytest.raises(IRError) as error:
        verify(graph)
    for part in parts:
        assert part in str(error.value)


EXP = "@net: exp %y at block/Exp: "


def test_an_operand_must_be_defined_before():
    g = chain()
    _relu, exp, neg = g.ops
    exp.set_operand(0, neg.result)
    refused(g, EXP, "operand 0 (%?: f32[N, 3]) is not defined before its use")


def test_an_operand_must_be_of_this_graph():
    g, other = chain(), chain()
    _relu, exp, _neg = g.ops
    exp.set_operand(0, other.inputs[0])
    refused(g, EXP, "operand 0 (%x: f32[N, 3]) is not defined")


def test_a_moved_op_breaks_dominance():
    g = chain()
    relu, exp, _neg = g.ops
    g.move_before(exp, relu)
    refused(g, EXP, "not defined before its use")


def test_every_operand_is_among_its_values_uses():
    g = chain()
    relu, exp, _neg = g.ops
    del relu.result.uses[exp, 0]
    refused(g, EXP, "does not list this use")


def test_every_use_is_there():
    g = chain()
    relu, exp, neg = g.ops
    relu.result.uses[neg, 0] = None
    refused(g, "@net: ", "lists a use that is not there: operand 0 of neg")
    g = chain()
    relu, exp, neg = g.ops
    relu.result.uses[exp, 3] = None
    refused(g, "lists a use that is not there: operand 3 of exp %y at block/Exp")


def test_an_erased_user_is_no_use():
    g = chain()
    _relu, exp, neg = g.ops
    g.outputs = [exp.result]
    neg.erase()
    exp.result.uses[neg, 0] = None
    refused(g, "lists a use that is not there")


def test_outputs_are_values_of_the_graph_and_know_it():
    g = chain()
    value = g.outputs[0]
    del value.uses[g.return_op, 0]
    refused(g, "@net: output 0", "does not list this use")
    g = chain()
    g.outputs = [chain().inputs[0]]
    refused(g, "@net: output 0 (%x: f32[N, 3]) is not a value of the graph")


def test_results_know_their_producer():
    g = chain()
    relu, exp, _neg = g.ops
    exp.result.op = relu
    refused(g, EXP, "result 0 does not know its producer")


def test_the_list_of_ops_is_whole():
    g = chain()
    _relu, exp, neg = g.ops
    neg.prev = None
    refused(g, "neg: the list of ops is broken here")
    g = chain()
    _relu, exp, neg = g.ops
    exp.graph = chain()
    refused(g, EXP, "the list of ops is broken here")


def test_types_are_what_inference_says():
    g = chain()
    _relu, exp, _neg = g.ops
    for wrong in (tensor("f64", "N", 3), tensor("f32", "N", 4), tensor("f32", "N")):
        exp.result.type = wrong
        refused(g, EXP, f"result 0 is {wrong}, but inference says f32[N, 3]")


def test_a_more_exact_type_is_allowed():
    g = chain()
    _relu, exp, _neg = g.ops
    exp.result.type = tensor("f32", 5, 3)
    verify(g)


def test_operand_types_are_checked_where_they_meet():
    g = chain()
    g.inputs[0].type = tensor("i64", "N", 3)
    with pytest.raises(IRError, match=r"^@net: relu: result 0 is f32\[N, 3\], but inference says i64\[N, 3\]"):
        verify(g)
    g = chain()
    _relu, exp, _neg = g.ops
    exp.set_operand(0, g.add_input(tensor("i64", "N", 3), "n"))
    refused(g, EXP, "operand x cannot be i64")


def test_rules_of_shapes_are_checked():
    text = "graph @net(%x: f32[2, 3]) -> f32[4] {\n  %0 = reshape(%x) {shape=[4]} : f32[4]  # loc(\"flat\")\n  return %0\n}"
    refused(parse_graph(text), "@net: reshape at flat: f32[2, 3] has 6 elements, shape [4] has 4")


def test_the_number_of_results():
    text = ("graph @net(%x: f32[4]) -> f32[2] {\n  %a, %b = split(%x) {axis=0, sizes=[4]} : f32[2], f32[2]\n  return %a\n}")
    refused(parse_graph(text), "@net: split %a: has 2 results, the table says 1")


@pytest.mark.parametrize("attrs, message", [
    ({"axes": [1], "keepdims": False}, "attribute axes=[1] is not of kind ints"),  # a list, where tuples are canonical
    ({"axes": (1,), "keepdims": 0}, "attribute keepdims=0 is not of kind bool"),
    ({"axes": ("1",), "keepdims": False}, "is not of kind ints"),
    ({"axes": (1,)}, "attributes are ['axes'], the table says ['axes', 'keepdims']"),
    ({"axes": (1,), "keepdims": False, "more": 1}, "attributes are ['axes', 'keepdims', 'more']"),
])
def test_attributes_are_those_of_the_table(attrs, message):
    g = chain()
    op = g.add("reduce_sum", [g.inputs[0]], {"axes": [1]}, loc=("pool",))
    verify(g)
    op.attrs = attrs
    refused(g, "@net: reduce_sum at pool: ", message)


def test_nested_graphs_are_verified_and_named():
    g = parse_graph(NESTED)
    verify(g)
    (fused,) = g.ops
    (exp,) = fused.regions[0].ops
    exp.result.type = tensor("f32", "N", 4)
    refused(g, "@net: fused at outer > @body: exp at inner/Exp: result 0 is f32[N, 4]")


def test_nested_graphs_see_only_their_own_inputs():
    g = parse_graph(NESTED)
    (fused,) = g.ops
    (exp,) = fused.regions[0].ops
    exp.set_operand(0, g.inputs[0])
    refused(g, "@body: exp at inner/Exp: operand 0 (%x: f32[N, 3]) is not defined before its use")


def test_regions_are_there():
    g = parse_graph(NESTED)
    (fused,) = g.ops
    fused.regions = ()
    refused(g, "@net: fused at outer: needs the regions ['body']")
