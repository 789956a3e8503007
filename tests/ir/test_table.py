"""Types, and what the op table promises: signatures, attributes, inference, cost."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import IRError
from graphopt.ir import DTYPES, TABLE, Dim, Graph, Layout, OptionalType, SequenceType, TensorType, Trait, dtype, tensor
from graphopt.ir.dims import substitute
from graphopt.ir.graph import refine
from graphopt.ir.table import DECOMPOSITIONS, broadcast_dims, lookup, normalise_axes, normalise_axis, op
from graphopt.ir.types import F32, STR, substitute_type, type_of, type_symbols

N = Dim.symbol("N")


# Types --------------------------------------------------------------------------------------
def test_a_dtype_is_found_by_its_names_and_is_one_object():
    assert dtype("bf16") is dtype(ml_dtypes.bfloat16) is dtype(np.dtype(ml_dtypes.bfloat16)) is dtype(dtype("bf16"))
    assert dtype(np.str_) is dtype(np.dtype("U7")) is STR
    for d in DTYPES.values():
        assert copy.deepcopy(d) is d and pickle.loads(pickle.dumps(d)) is d and dtype(d.numpy) is d


@pytest.mark.parametrize("of", ["f31", "complex64", np.dtype("M8[s]"), 3.5])
def test_unknown_dtypes_are_refused(of):
    with pytest.raises(IRError, match="Known: bool, "):
        dtype(of)


def test_types_print_and_count():
    t = TensorType(F32, (N, 4), Layout("NC", 1))
    assert str(t) == "f32[N, 4]@NC+1" and str(t.size) == "4*N" and str(t.nbytes) == "16*N"
    assert str(TensorType(F32, None)) == "f32[*]" and str(tensor("i4")) == "i4[]" and tensor("i4").size == 1
    assert str(SequenceType(OptionalType(tensor("str", "K")))) == "seq<opt<str[K]>>"
    assert tensor("f16", 2, 3).is_static and not t.is_static and not TensorType(F32, None).is_static
    for question in ("rank", "size"):
        with pytest.raises(IRError, match="not known"):
            getattr(TensorType(F32, None), question)
    with pytest.raises(IRError, match="not static"):
        _ = t.static_shape


def test_types_of_values_and_substitution():
    assert type_of(np.zeros((2, 3), np.int8)) == tensor("i8", 2, 3)
    assert type_of([np.zeros(2)]) == SequenceType(tensor("f64", 2))
    t = SequenceType(TensorType(F32, (N, 2 * N), Layout("NC")))
    assert type_symbols(t) == {"N"}
    assert substitute_type(t, {"N": 3}) == SequenceType(TensorType(F32, (3, 6), Layout("NC")))


def test_refine_takes_the_more_exact_description():
    a, b = tensor("f32", "N", 4), tensor("f32", 2, "M")
    assert refine(a, b) == refine(b, a) == tensor("f32", 2, 4)
    assert refine(a, TensorType(F32, None)) == refine(TensorType(F32, None), a) == a
    for wrong in (tensor("f64", 2, 4), tensor("f32", 2), tensor("f32", "N", 5), SequenceType(a)):
        with pytest.raises(IRError, match="contradicts"):
            refine(a, wrong)


# Broadcasting and axes ----------------------------------------------------------------------
SHAPES = st.lists(st.integers(0, 3), max_size=4)


@given(st.lists(SHAPES, max_size=3))
def test_shapes_broadcast_as_in_numpy(shapes):
    try:
        wanted = np.broadcast_shapes(*map(tuple, shapes))
    except ValueError:
        with pytest.raises(IRError, match="do not broadcast"):
            broadcast_dims(shapes)
        return
    assert broadcast_dims(shapes) == wanted


def test_symbolic_dims_broadcast():
    m = Dim.symbol("M")
    assert broadcast_dims([(N, 1), (4,)]) == (N, 4)
    assert broadcast_dims([(1, N), (5, 1)]) == (5, N)
    assert broadcast_dims([(N,), (7,)]) == (7,)  # N is 1 or 7
    assert broadcast_dims([(N,), (m,)]) == broadcast_dims([(m,), (N,)]) == broadcast_dims([(N, 1), (1, m), (N,)])[1:]
    assert [substitute(broadcast_dims([(N,), (m,)])[0], {"N": n, "M": k}) for n, k in ((3, 3), (1, 4), (5, 1), (1, 0), (0, 1))] \
        == [3, 4, 5, 0, 0]


def test_axes():
    assert [normalise_axis(a, 3) for a in (0, 2, -1, -3)] == [0, 2, 2, 0]
    assert normalise_axes(None, 2) == (0, 1) and normalise_axes([-1, 0], 3) == (0, 2)
    for bad in (3, -4):
        with pytest.raises(IRError, match="out of range for rank 3"):
            normalise_axis(bad, 3)
    with pytest.raises(IRError, match="named twice"):
        normalise_axes([0, -3], 3)


# The table ----------------------------------------------------------------------------------
def add(name, *types, **attrs):
    g = Graph()
    return g.add(name, [None if t is None else g.add_input(t) for t in types], attrs)


def test_attributes_are_checked_and_filled_in():
    x = tensor("f32", "N", 4)
    made = add("reduce_sum", x, axes=[np.int64(1)])
    assert made.attrs == {"axes": (1,), "keepdims": False} and type(made.attrs["axes"][0]) is int
    with pytest.raises(IRError, match=r"^reduce_sum: attribute axes \(ints\) is missing"):
        add("reduce_sum", x)
    with pytest.raises(IRError, match=r"^reduce_sum: no attribute axis; it has: axes, keepdims"):
        add("reduce_sum", x, axes=[1], axis=1)
    for bad in (1, [0.5], ["1"], [True]):
        with pytest.raises(IRError, match=r"^reduce_sum: attribute axes=.* is not of kind ints"):
            add("reduce_sum", x, axes=bad)
    with pytest.raises(IRError, match="keepdims=2 is not of kind bool"):
        add("reduce_sum", x, axes=[1], keepdims=2)
    with pytest.raises(IRError, match="to='f31' is not of kind dtype"):
        add("cast", x, to="f31")


def test_operands_are_checked():
    x = tensor("f32", 3)
    with pytest.raises(IRError, match=r"^add: takes 2 operands, got 3"):
        add("add", x, x, x)
    with pytest.raises(IRError, match=r"^add: operand b is missing"):
        add("add", x, None)
    with pytest.raises(IRError, match=r"^where: operand cond must be bool, got f32\[3\]"):
        add("where", x, x, x)
    with pytest.raises(IRError, match=r"^exp: operand x must be a tensor, got seq<f32\[3\]>"):
        add("exp", SequenceType(x))


def test_errors_name_the_source_location():
    g = Graph()
    with pytest.raises(IRError, match=r"^exp at layer1/Exp: operand x cannot be i64"):
        g.add("exp", [g.add_input(tensor("i64", 3))], loc=("layer1/Exp",))


def test_unknown_ops_suggest_a_known_one():
    with pytest.raises(IRError, match=r"unknown op 'reshpae'\. Did you mean 'reshape'\?"):
        lookup("reshpae")


def test_unranked_operands_give_unranked_results():
    assert add("exp", TensorType(F32, None)).result.type == TensorType(F32, None)
    assert [r.type for r in add("split", TensorType(F32, None), axis=0, sizes=[1, 2]).results] == [TensorType(F32, None)] * 2


def test_unknown_dims_become_fresh_symbols():
    g = Graph()
    x = g.add_input(tensor("f32", "N", 3))
    a, b = (g.add("nonzero", [x]).result.type for _ in range(2))
    assert a.shape[0] == b.shape[0] == 2 and a.shape[1] != b.shape[1]


def test_bad_definitions_are_refused():
    def f(x):
        """Nothing."""

    with pytest.raises(IRError, match="defined twice"):
        op("add(a: T) -> T", T="float", shape=lambda o: ())(f)
    with pytest.raises(IRError, match="shape= or types="):
        op("fresh_op(a: T) -> T", T="float")(f)
    with pytest.raises(IRError, match=r"type variables \['T'\] but constraints \['U'\]"):
        op("fresh_op(a: T) -> T", U="float", shape=lambda o: ())(f)
    with pytest.raises(IRError, match="bad attribute kind"):
        op("fresh_op(a: T; b: complex) -> T", T="float", shape=lambda o: ())(f)
    with pytest.raises(IRError, match="bad signature"):
        op("fresh_op a", shape=lambda o: ())(f)
    with pytest.raises(IRError, match="docstring"):
        op("fresh_op(a: T) -> T", T="float", shape=lambda o: ())(lambda a: a)
    assert "fresh_op" not in TABLE


def test_every_composite_has_a_decomposition_and_only_they():
    assert set(DECOMPOSITIONS) == {name for name, d in TABLE.items() if d.has(Trait.COMPOSITE)}


def test_every_default_is_of_its_kind():
    for name, definition in TABLE.items():
        for attr in definition.attrs:
            if attr.default is not ...:
                assert attr.check(attr.default) == attr.default, f"{name}.{attr.name}"


def test_cost():
    def cost(made):
        return tuple(map(str, made.definition.cost(made.view(), [r.type for r in made.results])))

    x = tensor("f32", "N", 4)
    assert cost(add("add", x, x)) == ("4*N", "48*N")
    assert cost(add("reduce_sum", x, axes=[1])) == ("4*N", "20*N")
    assert cost(add("reshape", x, shape=[4 * N])) == ("0", "0")
    assert cost(add("transpose", x, perm=[1, 0])) == ("0", "32*N")


def test_what_picks_elements_reads_no_more_than_it_gives():
    def touched(made):
        return made.definition.touched(made.view(), [r.type for r in made.results])

    table, few, many = tensor("f32", 1000, 8), tensor("i64", 2, 5), tensor("i32", 4000)
    assert touched(add("gather", table, few, axis=0)) == [10 * 8 * 4, 10 * 8]
    assert touched(add("gather", table, many, axis=0)) == [1000 * 8 * 4, 4000 * 4], "all of it, once"
    assert touched(add("gather_elements", table, tensor("i64", 3, 8), axis=0)) == [3 * 8 * 4, 3 * 8 * 8]
    assert touched(add("gather_nd", table, tensor("i64", 7, 1))) == [7 * 8 * 4, 7 * 8]
    assert touched(add("slice", table, axes=[0], starts=[10], ends=[13], steps=[1])) == [3 * 8 * 4]
    assert touched(add("add", table, table)) == [1000 * 8 * 4] * 2
    made = add("gather", table, few, axis=0)
    assert made.definition.cost(made.view(), [r.type for r in made.results]) == (0, 10 * 8 * 4 + 10 * 8 + 10 * 8 * 4)
