"""Gather, scatter and selection against torch, ONNX's reference and plain Python."""

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt.errors import EvaluationError, IRError
from graphopt.ir import DTYPES, Graph, tensor
from tests.ir.one_op import graph_of, run_op, same

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def run_onnx(op: str, *inputs: np.ndarray, outputs: int = 1, opset: int = 18, **attrs) -> list[np.ndarray]:
    """ONNX's reference implementation of one node."""
    names, results = [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, **attrs)
    make, code = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    info = [make(n, code(x.dtype), x.shape) for n, x in zip(names, inputs)]
    outs = [make(n, onnx.TensorProto.UNDEFINED, None) for n in results]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info, outs),
                                   opset_imports=[onnx.helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, dict(zip(names, inputs)))


# Gather -------------------------------------------------------------------------------------
@pytest.mark.parametrize("of", [np.int32, np.int64])
@pytest.mark.parametrize("shape, axis, where", [((5, 3), 0, (2, 4)), ((2, 5), 1, ()), ((5,), 0, (0,)), ((0, 5, 2), 1, (3,)),
                                                ((1,), 0, (7,))])
def test_gather(of, shape, axis, where):
    x, n = floats(*shape), shape[axis]
    indices = RNG.integers(-n, n, where).astype(of)
    wanted = torch.from_numpy(x).index_select(axis, torch.from_numpy(np.asarray(indices % n, np.int64).reshape(-1)))
    same(run_op("gather", x, indices, axis=axis), wanted.numpy().reshape(*shape[:axis], *where, *shape[axis + 1:]))


@settings(max_examples=40)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
def test_gather_elements(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    where = [data.draw(st.integers(1, 5)) if i == axis else data.draw(st.integers(1, n)) for i, n in enumerate(shape)]
    x = floats(*shape)
    indices = RNG.integers(-shape[axis], shape[axis], where)
    wanted = torch.gather(torch.from_numpy(x), axis, torch.from_numpy(indices % shape[axis])).numpy()
    same(run_op("gather_elements", x, indices, axis=axis), wanted)


GATHER_ND = [((2, 3, 4), (5, 2), 0), ((2, 3, 4), (3,), 0), ((2, 3, 4), (2, 1), 1), ((2, 3, 4), (2, 6, 2), 1),
             ((2, 3, 4), (2, 3, 1), 2), ((4,), (2, 2, 1), 0), ((1, 5), (0, 2), 0)]


@pytest.mark.parametrize("shape, where, batch", GATHER_ND)
def test_gather_nd(shape, where, batch):
    x = floats(*shape)
    indices = np.stack([RNG.integers(0, shape[batch + i], where[:-1]) for i in range(where[-1])], -1)
    wanted = run_onnx("GatherND", x, indices, batch_dims=batch)[0]
    same(run_op("gather_nd", x, indices, symbolic=False, batch_dims=batch), wanted)
    sizes = np.array(shape[batch:batch + where[-1]])
    same(run_op("gather_nd", x, indices - sizes, symbolic=False, batch_dims=batch), wanted)


def test_gather_nd_with_empty_tuples_takes_the_whole():
    x = floats(2, 3)
    same(run_op("gather_nd", x, np.zeros((4, 0), np.int64)), np.broadcast_to(x, (4, 2, 3)))
    same(run_op("gather_nd", x, np.zeros((2, 4, 0), np.int64), batch_dims=1), np.broadcast_to(x[:, None], (2, 4, 3)))


def test_gathers_keep_symbolic_dims():
    g = Graph()
    x, i = g.add_input(tensor("f32", "N", 4, "S")), g.add_input(tensor("i64", "K", 2))
    assert str(g.add("gather", [x, i], {"axis": 1}).result.type) == "f32[N, K, 2, S]"
    assert str(g.add("gather_nd", [x, i], {}).result.type) == "f32[K, S]"
    j = g.add_input(tensor("i64", "N", "K"))
    with pytest.raises(IRError, match=r"^gather_nd: the last dim of indices must be known"):
        g.add("gather_nd", [x, j], {})


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_out_of_range_is_an_error(index):
    x, i = floats(5, 2), np.array([0, index])
    with pytest.raises(EvaluationError, match=rf"^gather: index {index} is out of range for an axis of 5"):
        run_op("gather", x, i, axis=0)
    with pytest.raises(EvaluationError, match="out of range"):
        run_op("gather_elements", x, i[:, None], axis=0)
    with pytest.raises(EvaluationError, match="out of range"):
        run_op("gather_nd", x, i[:, None])
    with pytest.raises(EvaluationError, match="out of range"):
        run_op("scatter_nd", x, i[:, None], floats(2, 2))


# Scatter ------------------------------------------------------------------------------------
@settings(max_examples=60)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
def test_scatter_elements(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    where = [data.draw(st.integers(1, 5)) if i == axis else data.draw(st.integers(1, n)) for i, n in enumerate(shape)]
    x = RNG.integers(-5, 5, shape).astype(np.float32)
    updates = RNG.integers(-5, 5, where).astype(np.float32)
    indices = RNG.integers(0, shape[axis], where)
    t, i, u = (torch.from_numpy(a) for a in (x, indices, updates))
    given_indices = indices - shape[axis] * data.draw(st.booleans())
    for reduction, mode in {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}.items():
        got = run_op("scatter_elements", x, given_indices, updates, axis=axis, reduction=reduction)
        same(got, t.scatter_reduce(axis, i, u, mode).numpy())
    wanted = x.copy()
    for place in np.ndindex(*where):  # the last one stays
        wanted[(*place[:axis], indices[place], *place[axis + 1:])] = updates[place]
    same(run_op("scatter_elements", x, given_indices, updates, axis=axis), wanted)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("shape, where", [((4, 3, 2), (5, 2)), ((4, 3, 2), (2, 2, 1)), ((6,), (4, 1)), ((2, 3), (0, 1)),
                                          ((2, 3), (2,))])
def test_scatter_nd(reduction, shape, where):
    x, depth = RNG.integers(-5, 5, shape).astype(np.float32), where[-1]
    indices = np.stack([RNG.integers(0, shape[i], where[:-1]) for i in range(depth)], -1)
    updates = RNG.integers(-5, 5, (*where[:-1], *shape[depth:])).astype(np.float32)
    combine = {"none": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    wanted = x.copy()
    for place in np.ndindex(*where[:-1]):
        at = tuple(indices[place])
        wanted[at] = combine(wanted[at], updates[place])
    same(run_op("scatter_nd", x, indices, updates, symbolic=False, reduction=reduction), wanted)


def test_scatter_with_empty_tuples_replaces_the_whole():
    x, u = floats(2, 3), floats(2, 2, 3)
    same(run_op("scatter_nd", x, np.zeros((2, 0), np.int64), u), u[1])
    same(run_op("scatter_nd", x, np.zeros((2, 0), np.int64), u, reduction="max"), np.maximum(np.maximum(x, u[0]), u[1]))


def test_scatter_of_halves_adds_in_f32():
    x = np.zeros(1, ml_dtypes.bfloat16)
    updates = np.array([256] + [1] * 20).astype(ml_dtypes.bfloat16)
    got = run_op("scatter_elements", x, np.zeros(21, np.int64), updates, axis=0, reduction="add")
    same(got, np.array([276.0]).astype(ml_dtypes.bfloat16))


def test_scatter_of_any_dtype_and_what_is_refused():
    for d in DTYPES.values():
        a, b = (np.array(v).astype(np.int8).astype(d.numpy) if d.kind != "str" else np.array(v, str).astype(object)
                for v in ([1, 1, 1], [0]))
        same(run_op("scatter_elements", a, np.array([-2]), b, axis=0), np.array([a[0], b[0], a[0]], d.numpy))
    strings = np.array(["a", "b"], object)
    with pytest.raises(IRError, match=r"^scatter_elements: reduction add needs numbers"):
        graph_of("scatter_elements", (strings, np.array([0]), strings[:1]), {"axis": 0, "reduction": "add"})
    with pytest.raises(IRError, match=r"^scatter_nd: reduction must be one of"):
        graph_of("scatter_nd", (floats(2), np.array([[0]]), floats(1)), {"reduction": "mean"})
    with pytest.raises(IRError, match=r"^scatter_nd: updates f32\[2\] must have shape \[1\]"):
        graph_of("scatter_nd", (floats(2), np.array([[0]]), floats(2)), {})
    with pytest.raises(IRError, match=r"^scatter_elements: updates .* differ in shape"):
        graph_of("scatter_elements", (floats(2), np.array([0]), floats(2)), {"axis": 0})
    with pytest.raises(IRError, match=r"^gather_elements: indices .* reach past axis 1"):
        graph_of("gather_elements", (floats(2, 2), np.zeros((2, 3), np.int64)), {"axis": 0})


# Selection ----------------------------------------------------------------------------------
@settings(max_examples=60)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), largest=st.booleans(), data=st.data())
def test_top_k_prefers_the_lower_index_among_equals(shape, largest, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    k = data.draw(st.integers(0, shape[axis]))
    of = data.draw(st.sampled_from([np.float32, np.uint8, np.int64, ml_dtypes.bfloat16]))
    x = RNG.integers(0, 4, shape).astype(of)
    values, indices = run_op("top_k", x, k=k, axis=axis, largest=largest)
    wanted = np.zeros([k if i == axis else n for i, n in enumerate(shape)], np.int64)
    for place in np.ndindex(*[1 if i == axis else n for i, n in enumerate(shape)]):
        row = x[(*place[:axis], slice(None), *place[axis + 1:])].astype(float)
        best = np.lexsort((np.arange(len(row)), -row if largest else row))  # by value, then by index
        wanted[(*place[:axis], slice(None), *place[axis + 1:])] = best[:k]
    same(indices, wanted)
    same(values, np.take_along_axis(x, wanted, axis))


@pytest.mark.parametrize("largest", [True, False])
def test_top_k_of_nan_and_infinity_agrees_with_torch(largest):
    x = np.array([1, np.nan, np.inf, -np.inf, 0, -5], np.float32)
    values, _ = run_op("top_k", x, k=6, axis=0, largest=largest)
    same(values, torch.topk(torch.from_numpy(x), 6, largest=largest).values.numpy())


def test_top_k_of_unsigned_and_least_integers():
    for x in (np.array([0, 255, 1], np.uint8), np.array([-(2**63), 0, 2**63 - 1])):
        values, _ = run_op("top_k", x, k=3, axis=0)
        assert values.tolist() == sorted(x.tolist(), reverse=True)
    with pytest.raises(IRError, match=r"^top_k: there are no 4 elements along axis 0"):
        graph_of("top_k", (floats(3),), {"k": 4, "axis": 0})


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("shape, axis", [((13,), None), ((4, 3), None), ((6, 2), 0), ((2, 6), 1), ((3, 2, 5), 1), ((), None),
                                         ((0,), None)])
def test_unique_agrees_with_onnx(shape, axis, sort):
    x = RNG.integers(0, 3, shape).astype(np.float32)
    results = run_op("unique", x, axis=axis, sorted=sort)
    if x.ndim and x.size and sort:  # onnx's reference fails on unsorted ones of more than one axis
        wanted = run_onnx("Unique", x, outputs=4, sorted=1, **({} if axis is None else {"axis": axis}))
        for got, w in zip(results, wanted, strict=True):
            same(got, np.asarray(w, got.dtype).reshape(got.shape))
    values, first, inverse, counts = results
    flat, along = (x.reshape(-1), 0) if axis is None else (x, axis)
    same(np.take(values, inverse, along), flat)
    same(np.take(flat, first, along), values)
    assert counts.tolist() == np.bincount(inverse, minlength=0).tolist()
    assert first.tolist() == [inverse.tolist().index(i) for i in range(len(first))]
    assert sort or first.tolist() == sorted(first)


def test_unique_of_strings_and_narrow_dtypes():
    x = np.array([["b", "a"], ["b", "a"], ["a", "c"]], object)
    values, first, inverse, counts = run_op("unique", x)
    assert values.tolist() == ["a", "b", "c"] and first.tolist() == [1, 0, 5]
    assert inverse.tolist() == [1, 0, 1, 0, 0, 2] and counts.tolist() == [3, 2, 1]
    values, first, inverse, counts = run_op("unique", x, axis=0, sorted=False)
    assert values.tolist() == [["b", "a"], ["a", "c"]] and inverse.tolist() == [0, 0, 1]
    values, *_ = run_op("unique", np.array([3, -1, 3]).astype(np.int8).astype(ml_dtypes.int4))
    assert values.tolist() == [-1, 3]


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 0), (2, 3, 2)])
@pytest.mark.parametrize("of", [np.float32, bool, np.int8, ml_dtypes.bfloat16])
def test_nonzero(shape, of):
    x = RNG.integers(0, 2, shape).astype(of)
    wanted = torch.nonzero(torch.from_numpy(x.astype(np.float32))).numpy().T
    same(run_op("nonzero", x), wanted)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_compress(axis):
    x, condition = floats(4, 3), np.array([True, False, True])
    wanted = run_onnx("Compress", x, condition, **({} if axis is None else {"axis": axis}))[0]
    same(run_op("compress", x, condition, axis=axis), wanted)


# Non-maximum suppression --------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("center", [False, True])
def test_nms_agrees_with_onnx(seed, center):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 4, (2, 30, 2)), rng.uniform(-2 if not center else 0, 2, (2, 30, 2))
    boxes = np.concatenate([corner, size if center else corner + size], -1).astype(np.float32)
    scores = rng.integers(0, 12, (2, 3, 30)).astype(np.float32) / 12  # with equal ones
    most, iou, score = int(rng.integers(1, 9)), float(rng.uniform(0, 0.8)), float(rng.uniform(0, 0.6))
    wanted = run_onnx("NonMaxSuppression", boxes, scores, np.array([most]), np.float32([iou]), np.float32([score]),
                      opset=11, center_point_box=int(center))[0]
    got = run_op("nms", boxes, scores, max_output=most, iou_threshold=iou, score_threshold=score, center_point_box=center)
    same(got, wanted)


def test_nms_of_little():
    one = np.array([[[0, 0, 1, 1], [0, 0, 1, 1]]], np.float32)
    def keep(**changes):
        how = {"max_output": 9, "iou_threshold": 0.5, "score_threshold": -np.inf, "center_point_box": False} | changes
        return run_op("nms", one, np.float32([[[-1, 2]]]), **how).tolist()
    assert keep() == [[0, 0, 1]]
    assert keep(iou_threshold=1.0) == [[0, 0, 1], [0, 0, 0]]
    assert keep(iou_threshold=1.0, score_threshold=0.0) == [[0, 0, 1]]
    assert keep(max_output=0) == []
    assert run_op("nms", one[:, :0], np.zeros((1, 2, 0), np.float32), max_output=1, iou_threshold=0.5, score_threshold=0.0,
                  center_point_box=False).shape == (0, 3)
    with pytest.raises(IRError, match=r"^nms: needs boxes"):
        graph_of("nms", (one[0], one), {"max_output": 1, "iou_threshold": 0, "score_threshold": 0, "center_point_box": False})
