"""Graphs with free dims give what onnxruntime gives for every size that these may have, and each value has the shape that its
type says: bounds of slices beyond an axis, axes of 1 or 0 among those that broadcast, sizes that are copied or left to infer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.backends.pipeline import optimise
from graphopt.ir import Graph, evaluate
from graphopt.targets import parse_target
from tests.capture.onnx_models import captured, parse, run_ort, same
from tests.generate.verdict import Types

NP = {1: np.float32, 7: np.int64, 9: np.bool_}
LAST = 2**63 - 1


def feeds(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Inputs of these sizes by dim_param: different numbers, in no order."""
    made = {}
    for k, i in enumerate(model.graph.input):
        shape = [sizes.get(d.dim_param, d.dim_value) for d in i.type.tensor_type.shape.dim]
        numbers = np.random.default_rng(k).permutation(int(np.prod(shape))).reshape(shape)
        made[i.name] = (numbers % 7 if i.type.tensor_type.elem_type != 1 else numbers / 8 - 1).astype(
            NP[i.type.tensor_type.elem_type])
    return made


def right(graph: Graph, model: onnx.ModelProto, sizes: Mapping[str, int], passes: bool = True) -> None:
    """The graph, as captured and after all passes, gives what onnxruntime does, of the shapes that it says."""
    x = feeds(model, sizes)
    wanted = run_ort(model, x)
    for g in (graph, optimise(graph, parse_target("x86", 1))[0]) if passes else (graph,):
        got = evaluate(g, list(x.values()), observe=Types(g, list(x.values())))
        for mine, expected in zip(got, wanted, strict=True):
            same(mine, expected)


def of_all(text: str, sizes: Mapping[str, Sequence[int]], opset: int = 18) -> None:
    model = parse(text, opset=opset)
    graph = captured(model)
    assert "deferred" not in {op.name for op in graph.walk()}
    for one in itertools.product(*sizes.values()):
        right(graph, model, dict(zip(sizes, one)))


def constants(**of: Sequence[int]) -> str:
    return "  ".join(f"{name} = Constant<value_ints = {list(v)}>()" for name, v in of.items())


BOUND = st.one_of(st.integers(-7, 7), st.sampled_from([2**62, -2**62, 2**31, -2**31]))  # onnxruntime reads INT_MAX another way


@settings(max_examples=40)
@given(start=BOUND, end=BOUND, step=st.sampled_from([1, 2, 5, -1, -2, -5]), opset=st.sampled_from([11, 13]))
def test_slices_of_a_free_axis(start: int, end: int, step: int, opset: int) -> None:
    model = parse(f"""g (float[2, N] x) => (float[A, B] y) {{
        {constants(s=[start], e=[end], a=[1], t=[step]) if opset > 11 else ""}
        y = Slice(x, s, e, a, t) }}""", opset=13) if opset > 11 else _with_initialisers(start, end, step)
    graph = captured(model)
    for n in (0, 1, 2, 3, 6, 9):
        right(graph, model, {"N": n}, passes=n in (1, 6))


def _with_initialisers(start: int, end: int, step: int) -> onnx.ModelProto:
    model = parse("g (float[2, N] x) => (float[A, B] y) { y = Slice(x, s, e, a, t) }", opset=11)
    for name, v in {"s": start, "e": end, "a": 1, "t": step}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([v], np.int64), name))
    return model


@pytest.mark.parametrize("text, sizes", [
    # what is cut by the size of something else, in both directions
    ("""g (float[N, 3] x, float[M] z) => (float[A, B] y, float[C, D] w) {
        m = Shape(z)  zero = Constant<value_ints = [0]>()  back = Neg(m)  last = Constant<value_ints = [1000]>()
        y = Slice(x, m, last, zero)  w = Slice(x, back, last, zero) }""", {"N": (0, 1, 4), "M": (0, 1, 3, 6)}),
    ("""g (float[N, 3] x, float[M] z) => (float[A, B] y) {
        m = Shape(z)  n = Shape<start = 0, end = 1>(x)  zero = Constant<value_ints = [0]>()  d = Sub(m, n)
        y = Slice(x, d, m, zero) }""", {"N": (0, 1, 4), "M": (0, 1, 3, 6)}),
    ("""g (float[N, 3] x, float[M] z) => (float[A, B] y) {
        m = Shape(z)  first = Constant<value_ints = [-100]>()  zero = Constant<value_ints = [0]>()
        b = Constant<value_ints = [-2]>()
        y = Slice(x, m, first, zero, b) }""", {"N": (0, 1, 4), "M": (0, 1, 3, 6)}),
    # a slice of a slice, the parts joined again, tiled and padded
    (f"""g (float[N, 3] x) => (float[A, B] y, float[C, D] z, float[E, F] p) {{
        {constants(two=[2], zero=[0], five=[5], last=[LAST], minus=[-3], reps=[2, 1], pads=[1, 0, 2, 1])}
        a = Slice(x, zero, two, zero)  b = Slice(x, two, last, zero)  y = Concat<axis = 0>(b, a)
        c = Slice(b, zero, five, zero)  e = Slice(c, minus, last, zero)  z = Tile(e, reps)  p = Pad(e, pads)
    }}""", {"N": (0, 1, 2, 4, 5, 6, 9, 12)}),
    (f"""g (float[N, 3] x) => (float[A, B, C] y) {{
        {constants(one=[1], zero=[0], last=[LAST], like=[0, -1, 1], minus=[-1])}
        a = Slice(x, one, last, zero)  b = Slice(x, zero, minus, zero)  c = Sub(a, b)  y = Reshape(c, like)
    }}""", {"N": (2, 3, 6)}),
    # two sizes, of which either is 1
    ("g (float[N, 3] x, float[M, 1] z) => (float[A, B] y) { y = Add(x, z) }",
     {"N": (1, 4), "M": (1, 4)}),
    ("""g (float[N, 3] x, float[M, 1] z, bool[K, 1] c) => (float[A, B] y, int64[2] s) {
        y = Where(c, x, z)  s = Shape(y) }""", {"N": (1, 4), "M": (1, 4), "K": (1, 4)}),
    ("""g (float[N, 2, 3] x, float[M, 3, K] z) => (float[A, B, C] y, float[D] flat) {
        p = MatMul(x, z)  y = Relu(p)  m = Constant<value_ints = [-1]>()  flat = Reshape(y, m) }""",
     {"N": (1, 4), "M": (1, 4), "K": (1, 5)}),
    ("""g (float[N, 2, 3] x, float[M, 3, K] z) => (float[A, B, C] y) {
        y = Einsum<equation = "bij,bjk->kbi">(x, z) }""", {"N": (1, 4), "M": (1, 4), "K": (1, 5)}),
    ("""g (float[N, 3] x, float[M] z) => (float[A, B] y) {
        m = Shape(z)  three = Constant<value_ints = [3]>()  to = Concat<axis = 0>(m, three)  y = Expand(x, to) }""",
     {"N": (1, 4), "M": (1, 4)}),
    ("""g (float[N, 3] x, float[M, 3] z) => (float[A, B, C] y) {
        s = Add(x, z)  w = Concat<axis = 1>(s, s)  t = Constant<value_ints = [0, 2, 3]>()  y = Reshape(w, t) }""",
     {"N": (1, 4), "M": (1, 4)}),
    ("""g (float[N, 3] x, float[M, 3] z) => (float[A, B] y) {
        s = Max(x, z, x)  zero = Constant<value_ints = [0]>()  two = Constant<value_ints = [2]>()
        y = Slice(s, zero, two, zero) }""",
     {"N": (0, 1, 3), "M": (1,)}),
    # a size that is 0 in a shape copies
    ("""g (float[2, N] x, float[M] z) => (float[A, B] y) {
        m = Shape(z)  rest = Constant<value_ints = [-1]>()  t = Concat<axis = 0>(rest, m)  y = Reshape(x, t) }""",
     {"N": (6,), "M": (0, 1, 2, 3)}),
    ("""g (float[2, N] x, float[M] z) => (float[A, B] y) {
        m = Shape(z)  n = Constant<value_ints = [6]>()  t = Concat<axis = 0>(m, n)  y = Reshape(x, t) }""",
     {"N": (6,), "M": (0, 2)}),
    # how many are counted
    ("""g (float[N] x, float[M] z) => (int64[A] y, int64[B] back) {
        n = Size(x)  m = Size(z)  one = Constant<value_int = 1>()  minus = Constant<value_int = -2>()
        y = Range(n, m, one)  back = Range(n, m, minus) }""", {"N": (0, 1, 5), "M": (0, 2, 4)}),
    ("g (float[N, 3] x) => (float[A, B] a, float[C, D] b, float[E, F] c) { a, b, c = Split<num_outputs = 3>(x) }",
     {"N": (2, 3, 5, 7, 9)}),
    # windows
    ("""g (float[1, 2, N, M] x, float[3, 2, 3, 2] w) => (float[A, B, C, D] y, float[E, F, G, H] p, float[I, J, K, L] t) {
        y = Conv<strides = [2, 1]>(x, w)  p = MaxPool<kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1>(y)
        v = Transpose<perm = [1, 0, 2, 3]>(w)
        t = ConvTranspose<strides = [1, 3], auto_pad = "SAME_UPPER", output_padding = [0, 2]>(x, v) }""",
     {"N": (7, 8, 12), "M": (4, 9)}),
])
def test_every_size_is_right(text: str, sizes: Mapping[str, Sequence[int]]) -> None:
    of_all(text, sizes)


def test_sizes_that_values_decide() -> None:
    """A reshape by the count of what is kept, which is 0: the dim there is copied."""
    model = parse("""g (float[2, 3] x, bool[2] keep, float[4, 1] z) => (float[A, B] y, float[C, D] s) {
        k = Compress<axis = 0>(x, keep)  c = Shape<start = 0, end = 1>(k)  rest = Constant<value_ints = [-1]>()
        t = Concat<axis = 0>(rest, c)  y = Reshape(z, t)  last = Constant<value_ints = [9]>()
        zero = Constant<value_ints = [0]>()  one = Constant<value_ints = [1]>()  s = Slice(k, one, last, zero) }""")
    graph = captured(model)
    for keep in itertools.product((False, True), repeat=2):
        x: dict[str, Any] = {**feeds(model, {}), "keep": np.array(keep)}
        for mine, wanted in zip(evaluate(graph, list(x.values()), observe=Types(graph, list(x.values()))), run_ort(model, x)):
            same(mine, wanted)
    compiled = graphopt.compile(model, threads=1)
    for keep in ((False, False), (True, False), (True, True)):
        x = {**feeds(model, {}), "keep": np.array(keep)}
        for mine, wanted in zip(compiled.run(x).values(), run_ort(model, x)):
            same(mine, wanted)


def test_compiled_for_each_size() -> None:
    model = parse(f"""g (float[N, 4] x, float[M, 1] z) => (float[A, B] y, float[C, D] w) {{
        {constants(s=[-1, 2], e=[-9, LAST], a=[0, 1], t=[-2, 1], like=[0, -1])}
        cut = Slice(x, s, e, a, t)  y = Mul(x, z)  w = Reshape(cut, like) }}""")
    compiled = graphopt.compile(model, threads=1)
    for n, m in ((1, 5), (5, 1), (3, 3), (12, 1)):
        x = feeds(model, {"N": n, "M": m})
        for mine, wanted in zip(compiled.run(x).values(), run_ort(model, x)):
            same(mine, wanted)
