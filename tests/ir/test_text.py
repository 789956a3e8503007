"""The text form: print, parse, print gives the same text; errors say line and column."""

import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.errors import ParseError
from graphopt.ir import DTYPES, Builder, Dim, Graph, Layout, Tensor, evaluate, parse_graph, print_graph, tensor, verify
from graphopt.ir.graph import refine
from graphopt.ir.text import ConstantNames
from graphopt.ir.types import F32, I64, OptionalType, SequenceType, TensorType


def dedent(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def again(graph: Graph, constants: ConstantNames | None = None) -> Graph:
    """The graph printed and parsed; its text is the same."""
    constants = constants or ConstantNames()
    text = print_graph(graph, constants)
    back = parse_graph(text, constants.tensors)
    assert print_graph(back) == text
    return back


EVERYTHING = dedent(r"""
    graph @net.1(%x: f32[N, 2*N + 1, (N//2)], %mask: bool[*], %s: seq<opt<i64[K]>>, %image: f32[1, 16, H, W]@NCHW16c+1) ->
    (f32[N, 6], i64[2], seq<opt<i64[K]>>) {
      %w = const @w : f32[3, 6]  # loc("fc \"quoted\", with, commas")
      %bias = const @b = [-0.0, 1.5, inf, -inf, nan, 1e-05] : f32[6]
      %0 = const 3 : i64[]
      %flag = const true : bool[]
      %1 = dims() {values=[N, min(5, N)]} : i64[2]
      %2 = slice(%x) {axes=[1, 2], starts=[0, 0], ends=[3, 9223372036854775807], steps=[1, 1]} : f32[N, 3, (N//2)]
      %3 = reduce_sum(%2) {axes=[2], keepdims=false} : f32[N, 3]  # loc("a", "b")
      %4 = matmul(%3, %w) : f32[N, 6]
      %5 = add(%4, %bias) : f32[N, 6]
      %6 = pad(%5, _) {pads=[0, 0, 0, 0], mode="constant"} : f32[N, 6]
      %values, %7 = top_k(%6) {k=2, axis=1, largest=true, sorted=true} : f32[N, 2], i64[N, 2]
      %8 = cast(%6) {to=bf16, saturate=true, rounding="nearest"} : bf16[N, 6]
      %9 = softplus(%6) {beta=1.0, threshold=inf} : f32[N, 6]
      %10 = if(%flag, %9) [
        graph @then(%v: f32[N, 6]) -> f32[N, 6] {
          %0 = fused(%v) {kind="elementwise"} [
            graph @body(%0: f32[N, 6]) -> f32[N, 6] {
              %1 = exp(%0) : f32[N, 6]  # loc("inside")
              return %1
            }
          ] : f32[N, 6]
          return %0
        }
        graph @else(%v: f32[N, 6]) -> f32[N, 6] {
          return %v
        }
      ] : f32[N, 6]  # loc("branch")
      return %10, %1, %s
    }
    """).replace("->\n(", "-> (")


def test_everything_at_once_round_trips():
    graph = parse_graph(EVERYTHING)
    assert print_graph(graph) == EVERYTHING
    verify(graph)


def test_what_is_parsed_is_what_is_written():
    graph = parse_graph(EVERYTHING)
    x, mask, s, image = graph.inputs
    n = Dim.symbol("N")
    assert graph.name == "net.1" and [v.name for v in graph.inputs] == ["x", "mask", "s", "image"]
    assert x.type == TensorType(F32, (n, 2 * n + 1, n // 2))
    assert mask.type.shape is None
    assert s.type == SequenceType(OptionalType(TensorType(I64, (Dim.symbol("K"),))))
    assert image.type.layout == Layout("NCHW16c", 1)
    ops = {op.name: op for op in graph.ops}
    assert ops["reduce_sum"].loc == ("a", "b") and ops["reduce_sum"].attrs == {"axes": (2,), "keepdims": False}
    assert ops["pad"].operands[1] is None
    assert ops["cast"].attrs["to"] is DTYPES["bf16"] and ops["softplus"].attrs["threshold"] == np.inf
    assert ops["slice"].attrs["ends"][1] == 2**63 - 1
    assert [r.name for r in ops["if"].regions] == ["then", "else"]
    consts = {op.result.name: op.attrs["value"] for op in graph.ops if op.name == "const"}
    assert consts["w"].array is None and consts["w"].name == "w"
    np.testing.assert_array_equal(consts["bias"].numpy(), np.float32([-0.0, 1.5, np.inf, -np.inf, np.nan, 1e-5]))
    assert np.signbit(consts["bias"].numpy()[0]) and next(iter(graph.ops)).loc == ('fc "quoted", with, commas',)


def test_a_parsed_graph_runs():
    graph = parse_graph(dedent("""
        graph @g(%x: f32[N, 2]) -> f32[N] {
          %0 = mul(%x, %x) : f32[N, 2]
          %1 = reduce_sum(%0) {axes=[1]} : f32[N]
          return %1
        }
        """))
    np.testing.assert_array_equal(evaluate(graph, [np.float32([[3, 4], [1, 0]])])[0], [25, 1])


def test_attributes_may_come_in_any_order_and_defaults_be_left_out():
    line = "%0 = reduce_sum(%x) {{{}}} : f32[2]"
    text = "graph @g(%x: f32[2, 3]) -> f32[2] {{\n" + line + "\nreturn %0\n}}"
    assert print_graph(parse_graph(text.format("keepdims=false, axes=[1]"))) == print_graph(parse_graph(text.format("axes=[1]")))


def test_comments_and_space_are_free():
    a = parse_graph("graph @g(%x: f32[2]) -> f32[2] {\n # a comment\n%0=exp( %x ):f32[ 2 ]# another\n\n return %0 }")
    assert print_graph(a) == "graph @g(%x: f32[2]) -> f32[2] {\n  %0 = exp(%x) : f32[2]\n  return %0\n}\n"


# Names --------------------------------------------------------------------------------------
@settings(max_examples=80)
@given(st.lists(st.one_of(st.none(), st.sampled_from(["a", "a.1", "0", "1", "", "x:0", "model/layer.1", "ü b"]),
                          st.text(max_size=3)), min_size=1, max_size=6))
def test_any_names_print_and_come_back(given_names):
    graph = Graph("%$")
    for name in given_names:
        graph.add_input(tensor("f32"), name)
    graph.outputs = list(graph.inputs)
    back = again(graph)
    assert len({v.name for v in back.inputs if v.name}) == sum(v.name is not None for v in back.inputs)


@settings(max_examples=80)
@given(loc=st.lists(st.text(max_size=5), max_size=3))
def test_any_location_comes_back(loc):
    graph = Graph()
    graph.outputs = [graph.add("exp", [graph.add_input(tensor("f32"))], loc=tuple(loc)).result]
    assert next(iter(again(graph).ops)).loc == tuple(loc)


@settings(max_examples=60)
@given(patterns=st.text(max_size=8))
def test_any_string_attribute_comes_back(patterns):
    graph = parse_graph('graph @g(%x: f32[2]) -> f32[2] {\n %0 = fused(%x) {kind="k"} [ graph @b(%y: f32[2]) -> f32[2] '
                        "{ return %y } ] : f32[2]\n return %0\n}")
    op = next(iter(graph.ops))
    op.attrs["kind"] = patterns
    assert next(iter(again(graph).ops)).attrs["kind"] == patterns


@settings(max_examples=80)
@given(alpha=st.floats(), beta=st.floats())
def test_float_attributes_come_back_bit_for_bit(alpha, beta):
    graph = Graph()
    graph.outputs = [graph.add("hard_sigmoid", [graph.add_input(tensor("f32"))], {"alpha": alpha, "beta": beta}).result]
    back = next(iter(again(graph).ops)).attrs
    for got, wanted in ((back["alpha"], alpha), (back["beta"], beta)):
        assert repr(got) == repr(wanted)


# Constants ----------------------------------------------------------------------------------
INLINE_DTYPES = [d for d in DTYPES.values() if d.kind != "str" and d.bits >= (16 if d.is_float else 8)]


@pytest.mark.parametrize("of", INLINE_DTYPES, ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_small_constants_are_written_out_exactly(of, data):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=2))
    bits = data.draw(hnp.arrays(f"u{of.itemsize}", shape))
    array = (bits % 2).astype(bool) if of.kind == "bool" else bits.view(of.numpy)
    graph = Graph()
    graph.outputs = [graph.constant(array)]
    text = print_graph(graph)
    assert "@c" not in text
    back = next(iter(again(graph).ops)).attrs["value"].numpy()
    assert back.dtype == array.dtype and back.shape == array.shape
    if of.is_float:
        np.testing.assert_array_equal(np.isnan(back.astype(np.float64)), np.isnan(array.astype(np.float64)))
        keep = ~np.isnan(array.astype(np.float64))
        back, array = back[keep], array[keep]
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("of", DTYPES.values(), ids=str)
def test_large_and_empty_and_narrow_constants_are_held_by_reference(of):
    graph = Graph()
    arrays = [np.zeros(s, np.int8).astype(of.numpy) if of.kind != "str" else np.full(s, "", object) for s in ((9,), (2, 0))]
    graph.outputs = [graph.constant(a, n) for a, n in zip(arrays, ("big one", None))]
    constants = ConstantNames()
    back = again(graph, constants)
    assert list(constants.tensors) == ["big_one", "c"]
    for got, wanted in zip(back.outputs, arrays):
        assert got.constant.dtype == wanted.dtype and got.constant.shape == wanted.shape
    assert parse_graph(print_graph(graph)).outputs[0].type == graph.outputs[0].type


def test_shared_constants_stay_shared_and_equal_names_apart():
    graph = Graph()
    tied, other = Tensor(np.zeros(20, np.float32), "w"), Tensor(np.ones(20, np.float32), "w")
    small = Tensor(np.ones(2, np.float32), "w")
    graph.outputs = [graph.constant(t) for t in (tied, other, tied, small, small)]
    back = again(graph)
    data = [op.attrs["value"] for op in back.ops]
    assert data[0] is data[2] and data[0] is not data[1] and data[3] is data[4] and data[3] is not data[0]
    assert data[0].numpy()[0] == 0 and data[1].numpy()[0] == 1


def test_constants_given_must_have_the_type_written():
    text = "graph @g() -> f32[9] {\n  %0 = const @w : f32[9]\n  return %0\n}\n"
    assert parse_graph(text, {"w": np.ones(9, np.float32)}).outputs[0].constant.sum() == 9
    with pytest.raises(ParseError, match=r"line 2, column 14: constant @w is f32\[8\], the text says f32\[9\]"):
        parse_graph(text, {"w": np.ones(8, np.float32)})


# Errors -------------------------------------------------------------------------------------
BODY = "graph @g(%x: f32[2, 3]) -> f32[2, 3] {{\n  {}\n  return %0\n}}\n"
ERRORS = [  # line 2 of BODY, column of the fault, message
    ("%0 = epx(%x) : f32[2, 3]", 8, "unknown op 'epx'. Did you mean 'exp'"),
    ("%0 = exp(%y) : f32[2, 3]", 12, "%y is not defined before its use"),
    ("%0 = exp(%x : f32[2, 3]", 15, "expected ',', found ':'"),
    ("%0 = exp %x : f32[2, 3]", 12, "expected '(', found '%x'"),
    ("%0 = exp(%x) : f33[2, 3]", 18, "unknown dtype 'f33'"),
    ("%0 = exp(%x) : f32", 0, "expected '['"),
    ("%0 = exp(%x) : f32[2, N N]", 22, "is not a dimension"),
    ("%0 = exp(%x)", 0, "expected ':'"),
    ("%0 = exp(%x) {alpha=1.0} : f32[2, 3]", 8, "no attribute alpha"),
    ("%0 = elu(%x) {alpha=x y} : f32[2, 3]", 25, "expected ',', found 'y'"),
    ("%0 = elu(%x) {alpha=[1} : f32[2, 3]", 25, "expected ',', found '}'"),
    ("%0 = elu(%x) {alpha=\"a\"} : f32[2, 3]", 8, "is not of kind float"),
    ("%0 = elu(%x) {alpha=} : f32[2, 3]", 23, "expected a value to write here, found '}'"),
    ("%0 = reshape(%x) {shape=[2, 3/1]} : f32[2, 3]", 32, "cannot read '/1"),
    ("%0 = reshape(%x) {shape=[2, f(3)]} : f32[2, 3]", 28, "is not a dimension"),
    ("%0 = reshape(%x) {shape=3} : f32[2, 3]", 27, "expected '['"),
    ("%0, %1 = exp(%x) : f32[2, 3]", 12, "exp has 1 results, 2 names"),
    ("%x = exp(%x) : f32[2, 3]", 3, "%x is defined twice"),
    ("%0 = exp(%x) : f32[2, 3] ?", 28, "cannot read '?"),
    ("%0 = const [1, 2] : f32[2, 3]", 14, "the constant is not f32[2, 3]: its elements have shape [2]"),
    ("%0 = const [[1, 2, 3], [4, 5]] : f32[2, 3]", 14, "the constant is not f32[2, 3]"),
    ("%0 = const 1 : seq<f32[2]>", 18, "a constant is a tensor, not seq<f32[2]>"),
    ("%0 = const 1 : f32[N]", 14, "not static"),
    ("%0 = const 1.5 : i32[]", 14, "1.5 does not fit"),
    ("%0 = const [300, 0] : i8[2]", 14, "[300, 0] does not fit"),
    ("%0 = const 1e10 : f16[]", 14, "10000000000.0 does not fit"),
    ("%0 = const 1 : bool[]", 14, "1 does not fit"),
    ("%0 = const 99999999999999999999 : i64[]", 14, "the constant is not i64[]"),
    ("%0 = reshape(%x) {shape=[2, 3//0]} : f32[2, 3]", 28, "is not a dimension"),
    ("%0 = const \"a\" : f32[]", 14, "the constant is not f32[]"),
    ("%0 = exp(%x) : f32[2, 3]  # loc(1)", 35, "expected a string"),
]


@pytest.mark.parametrize("line, column, message", ERRORS, ids=[e[0] for e in ERRORS])
def test_parse_errors_say_where(line, column, message):
    with pytest.raises(ParseError) as error:
        parse_graph(BODY.format(line))
    assert message in str(error.value)
    if column:
        assert str(error.value).startswith(f"line 2, column {column}: ")


@pytest.mark.parametrize("text, message", [
    ("", "line 1, column 1: expected 'graph'"),
    ("graph @g() -> () {\n  return\n}\nmore", "line 4, column 1: expected the end, found 'more'"),
    ("graph @g() -> () {\n  return\n", "line 3, column 1: expected a value, found the end"),
    ("graph @g(%x: f32[2", "line 1, column 19: the shape has no closing bracket"),
    ("graph g() -> () {\n}", "line 1, column 7: expected a ref, found 'g'"),
    ("graph @g(%x: f32[2]) -> f32[3] {\n  return %x\n}", "returns f32[2], but declares f32[3]"),
    ("graph @g(%x: f32[2], %x: f32[2]) -> () {\n  return\n}", "line 1, column 22: %x is defined twice"),
    ("graph @g() -> () {\n  %0 = dims() {values=[N", "the list has no closing bracket"),
    ("graph @g(%x: f32[2]@NC+) -> () {\n return\n}", "line 1, column 23"),
])
def test_errors_outside_of_ops(text, message):
    with pytest.raises(ParseError) as error:
        parse_graph(text)
    assert message in str(error.value)


@settings(max_examples=300)
@given(cut=st.integers(0, len(EVERYTHING)), drop=st.integers(1, 12), put=st.text("(){}[]<>,:=@%\"#-> 19aN\n", max_size=3))
def test_damaged_text_is_refused_as_text_or_read(cut, drop, put):
    try:
        parse_graph(EVERYTHING[:cut] + put + EVERYTHING[cut + drop:])
    except ParseError as e:
        assert str(e).startswith("line ")


# Size ---------------------------------------------------------------------------------------
def test_ten_thousand_ops_build_verify_print_and_parse():
    graph = Graph("chain")
    value = graph.add_input(tensor("f32", "N", 8), "x")
    b = Builder(graph)
    for i in range(5000):
        value = b.add(b.tanh(value), graph.inputs[0] if i % 3 else value)
    graph.outputs = [value]
    assert len(graph) == 10000
    verify(graph)
    back = again(graph)
    verify(back)
    assert len(back) == 10000 and refine(back.outputs[0].type, value.type) == value.type
    same = evaluate(back, [np.zeros((2, 8), np.float32)])[0]
    assert not same.any()
