"""What the op table says of rows and of views, held against what the ops compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import TABLE, Layout, TensorType, evaluate
from graphopt.ir.types import F32
from tests.ir.one_op import graph_of

RNG = np.random.default_rng(5)
WINDOW = {"kernel": [2, 2], "stride": [1, 1], "pad": [1, 1, 1, 1], "dilation": [1, 1]}
CONV = {"stride": [1, 1], "pad": [1, 1, 1, 1], "dilation": [1, 1]}
IMAGE = (3, 4, 5, 5)
REDUCED = ("sum", "mean", "prod", "max", "min", "logsumexp")

# An op, the shapes of its operands, its attributes, and which operands it takes row by row.
CASES: list[tuple[str, list[tuple[int, ...]], dict[str, Any], tuple[int, ...]]] = [
    ("relu", [(3, 2)], {}, (0,)),
    ("add", [(3, 2), (3, 2)], {}, (0, 1)),
    ("add", [(3, 3), (3,)], {}, (0,)),
    ("add", [(1, 2), (3, 2)], {}, (1,)),
    ("prelu", [(3, 4, 2), (4, 1)], {}, (0,)),
    ("matmul", [(3, 3), (3, 3)], {}, (0,)),
    ("matmul", [(3, 2, 3), (3, 3, 2)], {}, (0, 1)),
    ("matmul", [(3, 3), (3, 3, 3)], {}, (1,)),
    ("matmul", [(1, 3, 3), (3, 3, 3)], {}, (1,)),
    ("conv", [IMAGE, (3, 4, 3, 3), (3,)], CONV, (0,)),
    ("conv_transpose", [IMAGE, (4, 3, 3, 3)], {**CONV, "output_padding": [0, 0]}, (0,)),
    ("deform_conv", [IMAGE, (3, 4, 3, 3), (3, 18, 5, 5)], CONV, (0, 2)),
    ("deform_conv", [IMAGE, (3, 4, 3, 3), (3, 18, 5, 5), (3,), (3, 9, 5, 5)], CONV, (0, 2, 4)),
    ("max_pool", [IMAGE], WINDOW, (0,)),
    ("avg_pool", [IMAGE], {**WINDOW, "count_include_pad": False}, (0,)),
    ("adaptive_avg_pool", [IMAGE], {"output": [2, 2]}, (0,)),
    ("adaptive_max_pool", [IMAGE], {"output": [2, 2]}, (0,)),
    ("softmax", [(3, 3)], {"axis": 1}, (0,)),
    ("softmax", [(3, 3)], {"axis": 0}, ()),
    ("log_softmax", [(3, 3)], {"axis": 1}, (0,)),
    ("layer_norm", [(3, 4), (4,), (4,)], {"axis": 1, "eps": 1e-5}, (0,)),
    ("layer_norm", [(3, 4)], {"axis": 0, "eps": 1e-5}, ()),
    ("rms_norm", [(3, 4), (4,)], {"axis": 1, "eps": 1e-5}, (0,)),
    ("group_norm", [IMAGE, (4,), (4,)], {"groups": 2, "eps": 1e-5}, (0,)),
    *((f"reduce_{kind}", [(3, 4, 2)], {"axes": [1], "keepdims": False}, (0,)) for kind in REDUCED),
    *((f"reduce_{kind}", [(3, 4, 2)], {"axes": [0, 1], "keepdims": True}, ()) for kind in REDUCED),
    ("argmax", [(3, 4)], {"axis": 1}, (0,)),
    ("argmin", [(3, 4)], {"axis": 0}, ()),
    ("reshape", [(3, 4)], {"shape": [3, 2, 2]}, (0,)),
    ("reshape", [(3, 4)], {"shape": [4, 3]}, ()),
    ("transpose", [(3, 4, 2)], {"perm": [0, 2, 1]}, (0,)),
    ("transpose", [(3, 3)], {"perm": [1, 0]}, ()),
    ("expand", [(3, 1)], {"shape": [3, 4]}, (0,)),
    ("expand", [(3,)], {"shape": [3, 3]}, ()),
    ("slice", [(3, 4)], {"axes": [1], "starts": [1], "ends": [3], "steps": [1]}, (0,)),
    ("slice", [(3, 4)], {"axes": [0], "starts": [2], "ends": [-4], "steps": [-1]}, ()),
    ("concat", [(3, 2), (3, 4)], {"axis": 1}, (0, 1)),
    ("concat", [(3, 2), (3, 2)], {"axis": 0}, ()),
    ("join", [(3, 2), (3, 4)], {"axis": 1}, (0, 1)),
    ("split", [(3, 4)], {"axis": 1, "sizes": [1, 3]}, (0,)),
    ("pad", [(3, 2)], {"pads": [0, 1, 0, 2]}, (0,)),
    ("pad", [(3, 2)], {"pads": [-1, 0, 1, 0]}, ()),
    ("tile", [(3, 2)], {"repeats": [1, 2]}, (0,)),
    ("tile", [(3, 2)], {"repeats": [2, 1]}, ()),
    ("flip", [(3, 2)], {"axes": [1]}, (0,)),
    ("flip", [(3, 2)], {"axes": [0]}, ()),
    ("relayout", [(3, 2)], {}, (0,)),
    ("identity", [(3, 2)], {}, (0,)),
    ("det", [(3, 2, 2)], {}, (0,)),
    ("det", [(3, 3)], {}, ()),
    ("couple_pairs", [(3, 2, 2)], {}, (0,)),
    # No rule: recurrent layers run along their first axis, and the indices of these pools count through all images.
    ("rnn", [(3, 3, 2), (1, 4, 2), (1, 4, 4)], {"hidden": 4}, ()),
    ("max_pool_indices", [IMAGE], WINDOW, ()),
]


@pytest.mark.parametrize(("name", "shapes", "attrs", "rows"), CASES)
def test_a_row_of_the_results_is_made_of_the_same_row_of_operands(
        name: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any], rows: tuple[int, ...]) -> None:
    arrays = tuple(RNG.standard_normal(s).astype(np.float32) for s in shapes)
    graph = graph_of(name, arrays, attrs)
    op = next(iter(graph.ops))
    assert tuple(op.definition.rows(op.view())) == rows
    whole = evaluate(graph, list(arrays))
    for i in range(3) if rows else ():
        one = tuple(a[i:i + 1] if k in rows else a for k, a in enumerate(arrays))
        smaller = {**attrs, "shape": [1, *attrs["shape"][1:]]} if "shape" in attrs else attrs
        for got, want in zip(evaluate(graph_of(name, one, smaller), list(one)), whole, strict=True):
            np.testing.assert_allclose(got, want[i:i + 1], rtol=1e-6)


def test_every_op_with_a_rule_for_rows_is_among_those() -> None:
    ruled = {d.name for d in TABLE.values() if d.rows_rule is not None and d.evaluate.__module__.startswith("graphopt.")}
    ruled -= {"reduce_any", "reduce_all"}  # of booleans; their rule is that of the others
    ruled -= {"tree_ensemble"}  # of indices; see test_ops_trees
    assert ruled <= {name for name, *_ in CASES}


def test_types_without_a_rank_have_no_rows() -> None:
    unknown = TensorType(F32, None)
    op = next(iter(graph_of("relu", (np.zeros((3, 2), np.float32),), {}).ops))
    view = op.view()
    view.types[0] = unknown
    assert tuple(op.definition.rows(view)) == ()


@pytest.mark.parametrize(("name", "shape", "attrs", "start"), [
    ("reshape", (3, 4), {"shape": [2, 6]}, 0),
    ("slice", (3, 4), {"axes": [0], "starts": [1], "ends": [3], "steps": [1]}, 4),
    ("slice", (1, 4, 5), {"axes": [1], "starts": [-3], "ends": [3], "steps": [1]}, 5),
    ("slice", (3, 4), {"axes": [1], "starts": [1], "ends": [3], "steps": [1]}, None),
    ("slice", (8,), {"axes": [0], "starts": [0], "ends": [8], "steps": [2]}, None),
    ("transpose", (2, 3, 4), {"perm": [0, 2, 1]}, None),
    ("flip", (3, 4), {"axes": [0]}, None),
])
def test_a_view_lies_where_the_table_says(name: str, shape: tuple[int, ...], attrs: dict[str, Any], start: int | None) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    graph = graph_of(name, (x,), attrs)
    op = next(iter(graph.ops))
    t = op.result.type
    assert isinstance(t, TensorType) and op.definition.view(op.view(), t) == start
    assert op.definition.may_view == (name != "flip")
    if start is not None:
        (y,) = evaluate(graph, [x])
        np.testing.assert_array_equal(y.reshape(-1), np.arange(start, start + y.size))


def test_a_transpose_to_the_layout_in_which_its_operand_lies_is_a_view() -> None:
    op = next(iter(graph_of("transpose", (np.zeros((2, 3, 4, 5), np.float32),), {"perm": [0, 3, 1, 2]}).ops))
    shape = op.result.static_shape
    assert op.definition.view(op.view(), TensorType(F32, shape)) is None
    assert op.definition.view(op.view(), TensorType(F32, shape, Layout("NHWC"))) == 0
    assert op.definition.view(op.view(), TensorType(F32, shape, Layout("NHWC", 1))) is None  # its halo is not there
