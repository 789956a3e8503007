"""Graphs: use lists under every kind of change, order, clones, specialisation, the builder."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from graphopt.errors import IRError
from graphopt.ir import Builder, Dim, Graph, Tensor, evaluate, parse_graph, print_graph, tensor, verify
from graphopt.ir.graph import topological

N = Dim.symbol("N")


def diamond() -> tuple[Graph, Builder]:
    """x -> a = exp(x), b = neg(a), c = add(a, b)."""
    g = Graph("diamond")
    x = g.add_input(tensor("f32", "N", 3), "x")
    b = Builder(g)
    a = b.exp(x)
    g.outputs = [b.add(a, b.neg(a))]
    return g, b


def names(g: Graph) -> list[str]:
    return [op.name for op in g.ops]


# Uses ---------------------------------------------------------------------------------------
def test_values_know_their_uses_in_order():
    g, _ = diamond()
    exp, neg, add = g.ops
    assert list(exp.result.uses) == [(neg, 0), (add, 0)] and exp.result.users == [neg, add]
    assert g.inputs[0].users == [exp] and add.result.users == [g.return_op]
    assert exp.result.op is exp and g.inputs[0].op is None


def test_one_op_may_use_a_value_twice():
    g = Graph()
    x = g.add_input(tensor("f32", 3))
    op = g.add("mul", [x, x])
    assert list(x.uses) == [(op, 0), (op, 1)] and x.users == [op]
    y = g.add_input(tensor("f32", 3))
    op.set_operand(0, y)
    assert list(x.uses) == [(op, 1)] and list(y.uses) == [(op, 0)] and op.operands == (y, x)


def test_replacing_a_value_moves_every_use_the_outputs_included():
    g, _ = diamond()
    exp, *_ = g.ops
    g.outputs = [*g.outputs, exp.result]
    tanh = Builder(g, before=exp.next).tanh(g.inputs[0])
    exp.result.replace_all_uses_with(tanh)
    assert not exp.result.uses and g.outputs[1] is tanh
    assert len(tanh.uses) == 3
    verify(g)


def test_replace_with_erases_and_hands_over_the_name():
    g, _ = diamond()
    exp, *_ = g.ops
    exp.result.name = "activation"
    new = Builder(g, before=exp).sin(g.inputs[0])
    exp.replace_with(new)
    assert names(g) == ["sin", "neg", "add"] and new.name == "activation" and len(g) == 3
    verify(g)


def test_replace_with_an_input_leaves_its_name():
    g, _ = diamond()
    exp, *_ = g.ops
    exp.result.name = "gone"
    exp.replace_with(g.inputs[0])
    assert g.inputs[0].name == "x" and names(g) == ["neg", "add"]
    verify(g)


def test_an_op_in_use_is_not_erased():
    g, _ = diamond()
    exp, _neg, add = g.ops
    with pytest.raises(IRError, match=r"cannot erase exp: its result is used by neg"):
        exp.erase()
    with pytest.raises(IRError, match=r"cannot erase add: its result is used by return"):
        add.erase()
    verify(g)


def test_erasing_frees_the_operands():
    g, b = diamond()
    extra = b.mul(g.inputs[0], g.inputs[0])
    extra.op.erase()
    assert g.inputs[0].users == [next(iter(g.ops))] and extra.op.graph is None
    verify(g)


def test_outputs_may_repeat_and_be_reassigned():
    g, _ = diamond()
    x = g.inputs[0]
    g.outputs = [x, x]
    assert list(x.uses)[-2:] == [(g.return_op, 0), (g.return_op, 1)]
    g.outputs = [x]
    assert (g.return_op, 1) not in x.uses and g.outputs == [x]
    verify(g)


# Order --------------------------------------------------------------------------------------
def test_ops_may_be_erased_and_inserted_while_walking():
    g, b = diamond()
    for _ in range(3):
        b.neg(g.inputs[0])
    for op in g.ops:
        if not op.result.uses:
            op.erase()
    assert names(g) == ["exp", "neg", "add"]
    seen = []
    for op in g.ops:
        seen.append(op.name)
        if op.name == "exp":
            Builder(g, before=op.next).tanh(op.result)
    assert seen == ["exp", "tanh", "neg", "add"]


def test_an_op_may_be_replaced_while_walking():
    g, _ = diamond()
    for op in g.ops:
        if op.name == "neg":
            op.replace_with(Builder(g, before=op).abs(op.operands[0]))
    assert names(g) == ["exp", "abs", "add"]
    verify(g)


def test_move_before():
    g, b = diamond()
    late = b.sin(g.inputs[0])
    first = next(iter(g.ops))
    g.move_before(late.op, first)
    assert names(g) == ["sin", "exp", "neg", "add"]
    g.move_before(late.op, None)
    assert names(g) == ["exp", "neg", "add", "sin"] and g.last is late.op and len(g) == 4
    verify(g)


def test_topological_keeps_graph_order():
    g, _ = diamond()
    exp, _neg, add = g.ops
    assert topological([add, exp]) == [exp, add] and topological([]) == []


# Clones -------------------------------------------------------------------------------------
def test_a_clone_is_equal_and_apart():
    g, _ = diamond()
    g.input_names, g.output_names, g.metadata = ["input:0"], ["y"], {"k": 1}
    copy = g.clone()
    assert print_graph(copy) == print_graph(g)
    assert (copy.input_names, copy.output_names, copy.metadata) == (["input:0"], ["y"], {"k": 1})
    verify(copy)
    copy.outputs = [copy.inputs[0]]
    for op in reversed(list(copy.ops)):
        op.erase()
    assert len(copy) == 0 and len(g) == 3
    verify(g)


def test_clones_share_constants_and_keep_locations():
    g = Graph()
    big = np.arange(100, dtype=np.float32)
    g.outputs = [g.constant(big, "w", loc=("layer",))]
    (op,) = g.clone().ops
    assert np.shares_memory(op.attrs["value"].array, big) and op.loc == ("layer",)


def test_constants_are_not_writable():
    given = np.zeros(3)
    with pytest.raises(ValueError, match="read-only"):
        Tensor(given).numpy()[0] = 1
    given[0] = 2  # the caller's own array stays writable


def test_specialise_infers_every_type_anew():
    g = Graph()
    x = g.add_input(tensor("f32", "N", "S"))
    b = Builder(g)
    y = b.reshape(x, shape=[N * Dim.symbol("S")])
    g.outputs = [b.slice(y, axes=[0], starts=[0], ends=[7], steps=[1])]
    assert str(g.outputs[0].type) == "f32[min(7, N*S)]"
    half = g.specialise({"N": 2})
    assert str(half.outputs[0].type) == "f32[min(2*S, 7)]" and half.symbols() == ["S"] and g.symbols() == ["N", "S"]
    full = g.specialise({"N": 2, "S": 3})
    assert str(full.outputs[0].type) == "f32[6]" and full.symbols() == []
    verify(full)
    verify(half)


def test_specialise_keeps_fresh_symbols_apart():
    g = Graph()
    x = g.add_input(tensor("f32", "N"))
    g.outputs = [g.add("nonzero", [x]).result]
    copy = g.specialise({"N": 4})
    again = copy.add("nonzero", [copy.inputs[0]]).result
    assert again.type != copy.outputs[0].type


def test_specialise_reports_what_then_contradicts():
    g = Graph()
    x, y = g.add_input(tensor("f32", "N")), g.add_input(tensor("f32", "M"))
    g.outputs = [g.add("add", [x, y], loc=("block/add",)).result]
    with pytest.raises(IRError, match=r"^add at block/add: .*do not broadcast"):
        g.specialise({"N": 2, "M": 3})


# Builder ------------------------------------------------------------------------------------
def test_numbers_take_the_dtype_of_the_first_tensor():
    g = Graph()
    x = g.add_input(tensor("bf16", 3))
    b = Builder(g, loc=("here",))
    assert str(b.mul(x, 2).type) == str(b.sub(1.5, x).type) == "bf16[3]"
    assert all(op.loc == ("here",) for op in g.ops)


def test_keywords_name_operands_or_attributes_and_python_words_take_an_underscore():
    g = Graph()
    x = g.add_input(tensor("f32", 2))
    c = g.add_input(tensor("bool", 2))
    b = Builder(g)
    y = b.pad(x, pads=[1, 0], value=b.const(7, "f32"))
    g.outputs = [y, b.and_(c, b.not_(c))]
    verify(g)
    got = evaluate(g, [np.float32([1, 2]), np.array([True, False])])
    assert got[0].tolist() == [7, 1, 2] and got[1].tolist() == [False, False]
    values, indices = b.top_k(x, k=1, axis=0)
    assert (str(values.type), str(indices.type)) == ("f32[1]", "i64[1]")


def test_values_say_what_they_lack():
    g = Graph()
    unranked = g.add_input(parse_graph("graph @g(%x: f32[*]) -> f32[*] {\n return %x\n}").inputs[0].type, "u")
    with pytest.raises(IRError, match=r"%u: f32\[\*\]> has no known rank"):
        _ = unranked.shape
    op = g.add("split", [g.add_input(tensor("f32", 2))], {"axis": 0, "sizes": [1, 1]})
    with pytest.raises(IRError, match="split has 2 results"):
        _ = op.result
    with pytest.raises(IRError, match="split has no operand 'y'"):
        op.operand("y")


# Any sequence of changes --------------------------------------------------------------------
class Changes(RuleBasedStateMachine):
    """Random building, rewiring, erasing and moving never breaks what the verifier checks."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.graph.add_input(tensor("f32", "N"))

    def before(self, op) -> list:
        """Values that are defined before `op`."""
        found = list(self.graph.inputs)
        for other in self.graph.ops:
            if other is op:
                break
            found.extend(other.results)
        return found

    @rule(data=st.data())
    def build(self, data):
        at = data.draw(st.sampled_from([None, *self.graph.ops]))
        values = self.before(at)
        pick = st.sampled_from(values)
        self.graph.add("add", [data.draw(pick), data.draw(pick)], before=at)

    @precondition(lambda self: len(self.graph))
    @rule(data=st.data())
    def rewire(self, data):
        op = data.draw(st.sampled_from(list(self.graph.ops)))
        op.set_operand(data.draw(st.integers(0, 1)), data.draw(st.sampled_from(self.before(op))))

    @precondition(lambda self: len(self.graph))
    @rule(data=st.data())
    def replace(self, data):
        op = data.draw(st.sampled_from(list(self.graph.ops)))
        op.replace_with(data.draw(st.sampled_from(self.before(op))))

    @rule(data=st.data())
    def choose_outputs(self, data):
        self.graph.outputs = data.draw(st.lists(st.sampled_from(list(self.graph.values())), max_size=3))

    @rule()
    def erase_unused(self):
        for op in reversed(list(self.graph.ops)):
            if not op.result.uses:
                op.erase()

    @invariant()
    def verifies(self):
        verify(self.graph)
        assert len(self.graph) == len(list(self.graph.ops))
        text = print_graph(self.graph)
        assert print_graph(parse_graph(text)) == text == print_graph(self.graph.clone())


Changes.TestCase.settings = settings(max_examples=25, stateful_step_count=25)
test_random_changes = Changes.TestCase
