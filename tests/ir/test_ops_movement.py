"""Data movement against numpy and torch; shape rules with symbolic dims."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import EvaluationError, IRError
from graphopt.ir import DTYPES, Builder, Dim, Graph, evaluate, tensor
from graphopt.ir.dims import parse_dim, substitute
from graphopt.ir.ops.movement import slice_extent
from tests.ir.one_op import graph_of, run_op, same

END, FRONT = 2**63 - 1, -(2**63)
N, S = Dim.symbol("N"), Dim.symbol("S")


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def every_dtype(f):
    return pytest.mark.parametrize("of", DTYPES.values(), ids=str)(f)


def filled(of, *shape: int) -> np.ndarray:
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2
    return values.astype(np.int8).astype(of.numpy) if of.kind != "str" else values.astype(str).astype(object)


def result_shape(name: str, x, **attrs) -> str:
    g = Graph()
    return str(g.add(name, [g.add_input(x)], attrs).result.type)


# reshape, transpose, expand -----------------------------------------------------------------
@pytest.mark.parametrize("before, after", [((2, 6), (3, 4)), ((), (1, 1)), ((1,), ()), ((0, 3), (5, 0)), ((7,), (1, 7, 1))])
def test_reshape(before, after):
    same(run_op("reshape", numbers(*before), shape=after), numbers(*before).reshape(after))


def test_reshape_with_symbolic_dims():
    assert result_shape("reshape", tensor("f32", "N", 4, "S"), shape=[N * S, 2, 2]) == "f32[N*S, 2, 2]"
    assert result_shape("reshape", tensor("f32", "N", 6), shape=[N * 3, 2]) == "f32[3*N, 2]"
    g = Graph()
    x = g.add_input(tensor("f32", "N", 6))
    g.outputs = [Builder(g).reshape(x, shape=[2, N, 3])]
    assert evaluate(g, [numbers(5, 6)])[0].shape == (2, 5, 3)


def test_reshape_that_loses_elements_is_refused():
    with pytest.raises(IRError, match=r"^reshape: f32\[2, 3\] has 6 elements, shape \[4\] has 4"):
        graph_of("reshape", (numbers(2, 3),), {"shape": [4]})
    with pytest.raises(IRError, match="write the dim itself in place of -1"):
        graph_of("reshape", (numbers(2, 3),), {"shape": [-1]})
    with pytest.raises(IRError, match="elements"):
        result_shape("reshape", tensor("f32", "N", 2), shape=[2 * N + 1])


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), max_size=4).flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))))
def test_transpose(case):
    shape, perm = case
    same(run_op("transpose", numbers(*shape), perm=perm), torch.from_numpy(numbers(*shape)).permute(perm).numpy())


def test_transpose_wants_a_permutation():
    with pytest.raises(IRError, match=r"^transpose: perm \[0, 0\]"):
        graph_of("transpose", (numbers(2, 3),), {"perm": [0, 0]})


@pytest.mark.parametrize("before, after", [((3, 1), (2, 3, 4)), ((), (2, 2)), ((1,), (0,)), ((2, 3), (2, 3)), ((1, 1), (1, 5))])
def test_expand(before, after):
    same(run_op("expand", numbers(*before), shape=after), torch.from_numpy(numbers(*before)).expand(after).numpy())


def test_expand_that_does_not_fit_is_refused():
    for shape in ([3], [2, 4], [1, 3]):
        with pytest.raises(IRError, match=r"^expand: f32\[2, 3\] does not expand"):
            graph_of("expand", (numbers(2, 3),), {"shape": shape})
    assert result_shape("expand", tensor("f32", "N", 1, 3), shape=[2, N, S, 3]) == "f32[2, N, S, 3]"


# slice --------------------------------------------------------------------------------------
BOUND = st.one_of(st.integers(-9, 9), st.sampled_from([END, FRONT, 2**31 - 1]))
STEP = st.integers(-4, 4).filter(bool)


@settings(max_examples=150)
@given(n=st.integers(0, 7), start=BOUND, end=BOUND, step=STEP)
def test_slice_clamps_as_numpy_does(n, start, end, step):
    x = numbers(n, 2)
    got = run_op("slice", x, symbolic=False, axes=[0], starts=[start], ends=[end], steps=[step])
    same(got, x[start:end:step])


def test_slice_of_several_axes():
    x = numbers(5, 6, 7)
    got = run_op("slice", x, axes=[2, 0], starts=[-1, 1], ends=[FRONT, END], steps=[-3, 2])
    same(got, x[1::2, :, ::-3])


# What a bound may be in terms of the sizes N and S, and a step.
SYMBOLIC = st.one_of(BOUND.map(str), st.sampled_from("S, -S, N - S, S - N, S + 2, N//2, -N, 2*S - 3, N%3".split(", ")))


@settings(max_examples=300)
@given(start=SYMBOLIC, end=SYMBOLIC, step=STEP, size=st.sampled_from(["N", "2*N + 1", "N + S", "min(N, 5)", "N//2", "7"]))
def test_symbolic_extents_are_those_of_all_sizes(start, end, step, size):
    of, low, high = map(parse_dim, (size, start, end))
    extent = slice_extent(of, low, high, step)
    assert parse_dim(str(extent)) == extent
    for n, s in itertools.product((0, 1, 2, 3, 6, 11), (0, 1, 2, 5)):
        known = {"N": n, "S": s}
        wanted = len(range(substitute(of, known))[substitute(low, known):substitute(high, known):step])
        assert substitute(extent, known) == wanted, f"{extent} with {known}"


@pytest.mark.parametrize("start, end, step, wanted", [
    ("0", END, 1, "N"), ("0", FRONT, 1, "0"), ("1", END, 1, "max(N - 1, 0)"), ("0", -1, 1, "max(N - 1, 0)"),
    ("-1", END, 1, "min(1, N)"), ("0", 5, 1, "min(5, N)"), ("-5", END, 1, "min(5, N)"), ("S", END, 1, "max(N - S, 0)"),
    ("0", S, 1, "min(N, S)"), ("0", END, 2, "((N + 1)//2)"), ("-1", FRONT, -1, "N"), (str(N // 2), N, 1, "N - (N//2)"),
])
def test_symbolic_extents_read_simply(start, end, step, wanted):
    assert str(slice_extent(N, parse_dim(start), end, step)) == wanted


@pytest.mark.parametrize("edges", [(0, 3, END), (0, -2, END), (0, S, END), (0, N // 2, END), (0, 2, 5, END), (0, 5, -1, END)])
def test_parts_of_an_axis_that_is_cut_add_up_to_it(edges):
    ordered = edges[:-1] if edges == (0, 5, -1, END) else edges  # where the cuts cross, they do not
    total = sum(slice_extent(N, a, b, 1) for a, b in itertools.pairwise(edges))
    assert (total == N) == (ordered is edges)


def test_what_lies_within_an_axis_is_simple():
    assert slice_extent(N + S, N, N + S, 1) == S == slice_extent(N + S, N, END, 1)
    assert slice_extent(N + S, 0, N, 1) == N == slice_extent(2 * N, N, END, 1)
    assert slice_extent(slice_extent(N, 2, END, 1), 3, END, 1) == slice_extent(N, 5, END, 1)


def test_slices_with_symbolic_bounds_run():
    g = Graph()
    x, y = g.add_input(tensor("f32", 9)), g.add_input(tensor("f32", "S"))
    g.outputs = [Builder(g).slice(x, axes=[0], starts=[S], ends=[S * 2], steps=[1]), y]
    for s in (0, 3, 6, 12):
        same(evaluate(g, [numbers(9), numbers(s)])[0], numbers(9)[s:2 * s])
        assert substitute(g.outputs[0].shape[0], {"S": s}) == len(range(9)[s:2 * s])


def test_bad_slices_are_refused():
    for attrs, message in [({"axes": [1], "steps": [1]}, "axes"), ({"axes": [0, 0], "steps": [1]}, "axes"),
                           ({"axes": [0], "steps": [0]}, "step is 0"), ({"axes": [0], "steps": [1, 1]}, "length")]:
        with pytest.raises(IRError, match=f"^slice: .*{message}"):
            graph_of("slice", (numbers(3),), {"starts": [0], "ends": [1], **attrs})


# concat, split ------------------------------------------------------------------------------
@pytest.mark.parametrize("axis, shapes", [(0, [(2, 3), (0, 3), (1, 3)]), (1, [(2, 3), (2, 1)]), (2, [(1, 2, 0)]), (0, [(3,)])])
def test_concat(axis, shapes):
    parts = [numbers(*s) + 10 * i for i, s in enumerate(shapes)]
    same(run_op("concat", *parts, axis=axis), torch.cat([torch.from_numpy(p) for p in parts], axis).numpy())


def test_concat_adds_symbolic_dims():
    g = Graph()
    a, b, c = (g.add_input(tensor("f32", *s)) for s in (("N", "S"), (4, "S"), ("N", 7)))
    assert str(g.add("concat", [a, b, c], {"axis": 0}).result.type) == "f32[2*N + 4, 7]"
    with pytest.raises(IRError, match=r"^concat: .*differ along axis 1"):
        graph_of("concat", (numbers(2, 3), numbers(2, 4)), {"axis": 0})
    with pytest.raises(IRError, match=r"^concat: .*at least one"):
        graph_of("concat", (), {"axis": 0})
    with pytest.raises(IRError, match=r"^concat: ranks \[1, 2\]"):
        graph_of("concat", (numbers(2), numbers(2, 4)), {"axis": 0})


@pytest.mark.parametrize("sizes", [[2, 0, 5], [7], [1] * 7])
def test_split_undoes_concat(sizes):
    x = numbers(2, 7, 3)
    parts = run_op("split", x, axis=1, sizes=sizes)
    parts = parts if isinstance(parts, list) else [parts]
    for got, wanted in zip(parts, torch.split(torch.from_numpy(x), sizes, 1), strict=True):
        same(got, wanted.numpy())
    same(run_op("concat", *parts, axis=1), x)


def test_split_into_symbolic_sizes():
    g = Graph()
    x, y = g.add_input(tensor("f32", N + 3, 2)), g.add_input(tensor("f32", "N"))
    a, b = Builder(g).split(x, axis=0, sizes=[N, 3])
    assert (str(a.type), str(b.type)) == ("f32[N, 2]", "f32[3, 2]")
    g.outputs = [b, y]
    same(evaluate(g, [numbers(5, 2), numbers(2)])[0], numbers(5, 2)[2:])
    for sizes in ([3, 3], [8, -1], [N, 8]):
        with pytest.raises((IRError, EvaluationError), match="do not add up"):
            bad = Graph()
            v, n = bad.add_input(tensor("f32", 7)), bad.add_input(tensor("f32", "N"))
            bad.outputs = [*bad.add("split", [v], {"axis": 0, "sizes": sizes}).results, n]
            evaluate(bad, [numbers(7), numbers(2)])


# pad, tile, flip ----------------------------------------------------------------------------
@settings(max_examples=100)
@given(data=st.data())
def test_pad_agrees_with_numpy(data):
    mode = data.draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    widths = [data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9))) for _ in shape]
    x = numbers(*shape)
    pads = [b for b, _ in widths] + [e for _, e in widths]
    same(run_op("pad", x, pads=pads, mode=mode), np.pad(x, widths, mode=mode))


@settings(max_examples=60)
@given(data=st.data())
def test_negative_pads_crop(data):
    mode = data.draw(st.sampled_from(["constant", "reflect", "edge"]))
    b, e = (data.draw(st.integers(-3, 2)) for _ in range(2))
    x = numbers(2, 3, 8)
    torch_mode = {"edge": "replicate"}.get(mode, mode)
    got = run_op("pad", x, symbolic=False, pads=[0, 0, b, 0, 0, e], mode=mode)
    same(got, F.pad(torch.from_numpy(x), (b, e), torch_mode).numpy())


def test_pad_with_a_value():
    x = numbers(2, 3)
    same(run_op("pad", x, np.float32(-1.5), pads=[1, 0, 0, 2]), np.pad(x, [(1, 0), (0, 2)], constant_values=-1.5))
    same(run_op("pad", np.zeros((0, 2), np.float32), np.float32([7]), pads=[1, 0, 1, 0]), np.full((2, 2), 7, np.float32))


def test_bad_pads_are_refused():
    for args, attrs, message in [((numbers(3),), {"pads": [1]}, "1 begins and 1 ends"),
                                 ((numbers(3),), {"pads": [-2, -2]}, "crop"),
                                 ((numbers(3),), {"pads": [1, 1], "mode": "mirror"}, "mode must be"),
                                 ((numbers(0),), {"pads": [1, 1], "mode": "edge"}, "nothing to fill"),
                                 ((numbers(3), numbers(2)), {"pads": [1, 1]}, "one element")]:
        with pytest.raises(IRError, match=f"^pad: .*{message}"):
            graph_of("pad", args, attrs)


def test_tile_and_flip():
    x = numbers(2, 1, 3)
    same(run_op("tile", x, repeats=[2, 0, 1]), np.tile(x, (2, 0, 1)))
    same(run_op("tile", x, repeats=[1, 4, 3]), torch.from_numpy(x).tile(1, 4, 3).numpy())
    same(run_op("flip", x, axes=[2, 0]), torch.from_numpy(x).flip(2, 0).numpy())
    same(run_op("tile", np.float32(2), repeats=[]), np.float32(2))
    assert result_shape("tile", tensor("f32", "N", 2), repeats=[3, 1]) == "f32[3*N, 2]"
    with pytest.raises(IRError, match=r"^tile: "):
        graph_of("tile", (x,), {"repeats": [1, 2]})
    with pytest.raises(IRError, match=r"^flip: "):
        graph_of("flip", (x,), {"axes": [3]})


# Tensors made of dims -----------------------------------------------------------------------
@pytest.mark.parametrize("of", ["i64", "u8", "f32", "bf16", "f16"])
def test_iota(of):
    wanted = np.broadcast_to(np.arange(5).astype(DTYPES[of].numpy)[:, None], (2, 5, 3))
    same(run_op("iota", shape=[2, 5, 3], axis=1, dtype=of), wanted)
    assert run_op("iota", shape=[0], axis=0, dtype=of).shape == (0,)
    with pytest.raises(IRError, match=r"^iota: axis 1"):
        graph_of("iota", (), {"shape": [2], "axis": 1, "dtype": of})


def test_shapes_and_dims_as_tensors():
    same(run_op("shape", numbers(2, 0, 3)), np.array([2, 0, 3]))
    assert run_op("shape", np.float32(1)).shape == (0,)
    g = Graph()
    x = g.add_input(tensor("f32", "N", 3))
    b = Builder(g)
    g.outputs = [b.dims(values=[N * 2 + 1, 7]), b.iota(shape=[N, 2], axis=0, dtype="i32"), b.shape(x)]
    assert [str(v.type) for v in g.outputs] == ["i64[2]", "i32[N, 2]", "i64[2]"]
    got = evaluate(g, [numbers(4, 3)])
    assert [v.tolist() for v in got] == [[9, 7], [[0, 0], [1, 1], [2, 2], [3, 3]], [4, 3]]


@every_dtype
def test_movement_takes_every_dtype(of):
    x = filled(of, 2, 3)
    same(run_op("reshape", x, shape=[3, 2]), x.reshape(3, 2))
    same(run_op("transpose", x, perm=[1, 0]), x.T)
    same(run_op("concat", x, x, axis=0), np.concatenate([x, x]))
    same(run_op("slice", x, axes=[1], starts=[1], ends=[END], steps=[1]), x[:, 1:])
    same(run_op("expand", x, shape=[2, 2, 3]), np.broadcast_to(x, (2, 2, 3)))
    same(run_op("tile", x, repeats=[2, 1]), np.concatenate([x, x]))
    same(run_op("flip", x, axes=[0]), x[::-1])
    same(run_op("identity", x), x)
    padded = run_op("pad", x, pads=[0, 1, 0, 0])
    same(padded[:, 1:], x)
    assert all(v == ("" if of.kind == "str" else np.zeros((), of.numpy)) for v in padded[:, 0])
