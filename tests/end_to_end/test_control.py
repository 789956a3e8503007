"""Branches and loops run in the compiled program, with the results of onnxruntime and of eager PyTorch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan as torch_scan
from torch._higher_order_ops.while_loop import while_loop

import graphopt
from tests.capture.onnx_models import parse, run_ort, same

RNG = np.random.default_rng(10)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def agree(model: onnx.ModelProto, *feeds: dict[str, np.ndarray], **options: Any) -> Any:
    """Compile, expect no host op, and compare all outputs for all inputs."""
    compiled: Any = graphopt.compile(model, **options)
    for given in feeds:
        for mine, expected in zip(compiled.run(given).values(), run_ort(model, given), strict=True):
            same(np.asarray(mine), expected, 1e-4, 1e-5)
        assert compiled.host_ops == []
    return compiled


# If --------------------------------------------------------------------------------------------------------------------
BRANCHES = """g (float[2, 8] x, float[8, 8] w) => (float[2, 8] y, float[2, 8] z) {
    s = ReduceSum<keepdims = 0>(x)  zero = Constant<value_float = 0.0>()  c = Greater(s, zero)
    y, z = If(c) <then_branch = a () => (float[2, 8] p, float[2, 8] q) { p = MatMul(x, w)  q = Relu(p) },
                  else_branch = b () => (float[2, 8] r, float[2, 8] t) { r = Exp(x)  t = Identity(x) }> }"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_branch_is_taken_by_what_the_data_says(threads: int) -> None:
    w = f32(8, 8)
    inputs = [f32(2, 8), np.abs(f32(2, 8)), -np.abs(f32(2, 8)), np.full((2, 8), np.nan, np.float32), np.zeros((2, 8), np.float32)]
    agree(parse(BRANCHES), *({"x": x, "w": w} for x in inputs), threads=threads)


def test_branches_that_return_what_they_were_given_or_constants() -> None:
    model = parse("""g (float s, float[4] a, float[4] b) => (float[4] x, float[4] y, float[4] z) {
        zero = Constant<value_float = 0.0>()  c = Greater(s, zero)
        x, y, z = If(c) <then_branch = t () => (float[4] p, float[4] q, float[4] r) {
                             p = Identity(a)  q = Identity(b)  r = Constant<value = float[4] {1, 2, 3, 4}>() },
                         else_branch = e () => (float[4] p, float[4] q, float[4] r) {
                             p = Identity(b)  q = Identity(a)  r = Add(a, b) }> }""")
    agree(model, *({"s": np.array(s, np.float32), "a": f32(4), "b": f32(4)} for s in (1, -1, np.nan)))


def test_ifs_within_ifs() -> None:
    model = parse("""g (float[5] x) => (float[5] y) {
        s = ReduceSum<keepdims = 0>(x)  m = ReduceMax<keepdims = 0>(x)
        zero = Constant<value_float = 0.0>()  c = Greater(s, zero)  one = Constant<value_float = 1.0>()  d = Greater(m, one)
        y = If(c) <then_branch = a () => (float[5] p) {
                       p = If(d) <then_branch = aa () => (float[5] pp) { pp = Mul(x, m) },
                                  else_branch = ab () => (float[5] pq) { pq = Add(x, s) }> },
                   else_branch = b () => (float[5] r) {
                       e = Not(d)  r = If(e) <then_branch = ba () => (float[5] rp) { rp = Neg(x) },
                                              else_branch = bb () => (float[5] rq) { rq = Exp(x) }> }> }""")
    inputs = [np.array(v, np.float32) for v in ([.1] * 5, [2, 0, 0, 0, 0], [-1] * 5, [2, -9, 0, 0, 0])]
    agree(model, *({"x": x} for x in inputs))


def test_an_if_without_operands_of_its_own_and_a_convolution_in_a_branch() -> None:
    model = parse("""g (float[1, 8, 12, 12] x, float[16, 8, 3, 3] w, float[16, 16, 3, 3] v) => (float[1, 16, 12, 12] y) {
        s = ReduceMean<keepdims = 0>(x)  zero = Constant<value_float = 0.0>()  c = Greater(s, zero)
        y = If(c) <then_branch = a () => (float[1, 16, 12, 12] p) {
                       h = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(h)  p = Conv<pads = [1, 1, 1, 1]>(r, v) },
                   else_branch = b () => (float[1, 16, 12, 12] q) { q = Conv<pads = [1, 1, 1, 1]>(x, w) }> }""")
    weights = {"w": f32(16, 8, 3, 3), "v": f32(16, 16, 3, 3)}
    for name, value in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for i in list(model.graph.input)[1:]:
        model.graph.input.remove(i)
    x = f32(1, 8, 12, 12)
    agree(model, {"x": x - x.mean() + .1}, {"x": x - x.mean() - .1})


# Loop ------------------------------------------------------------------------------------------------------------------
def loop(body: str, start: str = "x", trip: str = "m", keep: str = "keep", results: str = "float[4] last",
         out: str = "last", inputs: str = "int64 m, float[4] x") -> onnx.ModelProto:
    return parse(f"""g ({inputs}) => ({results}) {{ keep = Constant<value = bool {{1}}>()  no = Constant<value = bool {{0}}>()
        {out} = Loop({trip}, {keep}, {start}) <body = b {body}> }}""")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loop_runs_as_often_as_an_input_says(threads: int) -> None:
    model = loop("(int64 i, bool k, float[4] v) => (bool ko, float[4] vo) { ko = Identity(k)  f = Cast<to = 1>(i)  "
                 "h = Add(v, f)  vo = Tanh(h) }")
    x = f32(4)
    agree(model, *({"m": np.array(m), "x": x} for m in (0, 1, 2, 7, 100)), threads=threads)


def test_a_loop_ends_by_its_condition() -> None:
    body = """(int64 i, bool k, float[4] v) => (bool ko, float[4] vo) {
        vo = Add(v, v)  s = ReduceSum<keepdims = 0>(vo)  most = Constant<value_float = 100.0>()  ko = Less(s, most) }"""
    inputs = [np.full(4, v, np.float32) for v in (.01, 1, 99, np.nan, np.inf)]
    agree(loop(body, trip="", inputs="float[4] x"), *({"x": x} for x in inputs))
    agree(loop(body), *({"x": x, "m": np.array(3)} for x in inputs))
    agree(loop(body, keep="no"), {"x": inputs[0], "m": np.array(3)})


def test_states_that_change_places_and_states_that_stay() -> None:
    model = loop("""(int64 i, bool k, float[4] a, float[4] b, float[4] c) => (bool ko, float[4] ao, float[4] bo, float[4] co) {
        ko = Identity(k)  ao = Identity(b)  bo = Add(a, c)  co = Identity(c) }""", start="x, y, z",
                 inputs="int64 m, float[4] x, float[4] y, float[4] z", out="p, q, r",
                 results="float[4] p, float[4] q, float[4] r")
    given = {n: f32(4) for n in "xyz"}
    agree(model, *({"m": np.array(m), **given} for m in (0, 1, 2, 5, 6)))


def test_a_capture_and_a_constant_become_states() -> None:
    model = loop("""(int64 i, bool k, float[4] a, float[4] b) => (bool ko, float[4] ao, float[4] bo) {
        ko = Identity(k)  one = Constant<value = float[4] {1, 2, 3, 4}>()  ao = Identity(z)  bo = Identity(one) }""",
                 start="x, y", inputs="int64 m, float[4] x, float[4] y, float[4] z", out="p, q", results="float[4] p, float[4] q")
    given = {n: f32(4) for n in "xyz"}
    agree(model, *({"m": np.array(m), **given} for m in (0, 1, 3)))


def test_loops_within_loops_and_branches_within_them() -> None:
    model = parse("""g (int64 m, float[3] x) => (float[3] last, float[3] other) {
        keep = Constant<value = bool {1}>()
        last, other = Loop(m, keep, x, x) <body = b (int64 i, bool k, float[3] v, float[3] u) =>
                (bool ko, float[3] vo, float[3] uo) {
            ko = Identity(k)  yes = Constant<value = bool {1}>()  two = Constant<value_float = 2.0>()
            w = Loop(i, yes, v) <body = c (int64 j, bool l, float[3] s) => (bool lo, float[3] so) {
                lo = Identity(l)  f = Cast<to = 1>(j)  g = Cast<to = 1>(i)  h = Sub(f, g)  p = Add(s, h)
                q = Sin(p)  so = Div(q, two) }>
            t = ReduceSum<keepdims = 0>(w)  zero = Constant<value_float = 0.0>()  d = Greater(t, zero)
            vo = If(d) <then_branch = y () => (float[3] r) { r = Neg(w) },
                        else_branch = n () => (float[3] r) {
                            twice = Constant<value_int = 2>()  on = Constant<value = bool {1}>()
                            r = Loop(twice, on, u) <body = e (int64 o, bool z, float[3] a) => (bool zo, float[3] ao) {
                                zo = Identity(z)  bb = Add(a, w)  ao = Tanh(bb) }> }>
            uo = Add(u, x) }> }""")
    x = f32(3)
    agree(model, *({"m": np.array(m), "x": x} for m in (0, 1, 2, 5)))


def test_a_long_loop_of_known_length_stacks_its_scan_outputs_in_place() -> None:
    model = parse("""g (float[3] x) => (float[3] last, float[A, 3] all, float[B] sums, int64[C] numbers) {
        n = Constant<value_int = 700>()  keep = Constant<value = bool {1}>()
        last, all, sums, numbers = Loop(n, keep, x) <body = b (int64 i, bool k, float[3] v) =>
                (bool ko, float[3] vo, float[3] out, float s, int64 at) {
            ko = Identity(k)  h = Add(v, x)  vo = Sin(h)  out = Identity(v)
            s = ReduceSum<keepdims = 0>(vo)  at = Identity(i) }> }""")
    agree(model, {"x": f32(3)})


def test_a_loop_that_never_runs_gives_what_it_started_with() -> None:
    model = parse("""g (float[3] x) => (float[3] last, float[A, 3] all) {
        n = Constant<value_int = 0>()  keep = Constant<value = bool {1}>()
        last, all = Loop(n, keep, x) <body = b (int64 i, bool k, float[3] v) => (bool ko, float[3] vo, float[3] out) {
            ko = Identity(k)  vo = Sin(v)  out = Identity(v) }> }""")
    agree(model, {"x": f32(3)})


def test_greedy_decoding_with_a_recurrent_cell_and_its_own_tokens() -> None:
    """A GRU cell fed with the embedding of the token that was likeliest, until it is the last one of the vocabulary."""
    model = parse("""g (int64 most, float[1, 1, 16] h0, float[20, 16] table, float[1, 48, 16] w, float[1, 48, 16] r,
                        float[16, 20] o) => (int64[1] token, float[1, 1, 16] h, int64 length, int64[12] said) {
        keep = Constant<value = bool {1}>()  first = Constant<value_ints = [1]>()  none = Constant<value_int = 0>()
        empty = Constant<value = int64[12] {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}>()
        token, h, length, said = Loop(most, keep, first, h0, none, empty)
            <body = b (int64 i, bool k, int64[1] t, float[1, 1, 16] s, int64 n, int64[12] l) =>
                    (bool ko, int64[1] to, float[1, 1, 16] so, int64 no, int64[12] lo) {
                x = Gather(table, t)  zero = Constant<value_ints = [0]>()  xs = Unsqueeze(x, zero)
                all, so = GRU<hidden_size = 16>(xs, w, r, , , s)
                flat = Squeeze(so, zero)  scores = MatMul(flat, o)  to = ArgMax<axis = 1, keepdims = 0>(scores)
                one = Constant<value_int = 1>()  no = Add(n, one)
                at = Unsqueeze(i, zero)  at2 = Unsqueeze(at, zero)  lo = ScatterND(l, at2, to)
                end = Constant<value_ints = [19]>()  other = Equal(to, end)  go = Not(other)  ko = Squeeze(go, zero) }> }""")
    given = {"h0": f32(1, 1, 16), "table": f32(20, 16), "w": f32(1, 48, 16), "r": f32(1, 48, 16), "o": f32(16, 20)}
    agree(model, *({"most": np.array(m), **given, "h0": f32(1, 1, 16)} for m in (0, 1, 5, 12, 12, 12)))


# Scan ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_over_many_rows(reverse: int, axis: int) -> None:
    shape = (600, 5) if axis == 0 else (5, 600)
    model = parse(f"""g (float[5] s, float[7] t, float[{shape[0]}, {shape[1]}] x, float[600, 7] y) =>
            (float[5] sn, float[7] tn, float[600, 5] a, float[7, 600] b) {{
        sn, tn, a, b = Scan<num_scan_inputs = 2, scan_input_axes = [{axis}, 0], scan_input_directions = [{reverse}, 0],
                            scan_output_axes = [0, 1], scan_output_directions = [{reverse}, {1 - reverse}],
            body = r (float[5] p, float[7] q, float[5] xi, float[7] yi) => (float[5] po, float[7] qo, float[5] ao, float[7] bo) {{
                h = Add(p, xi)  po = Tanh(h)  g = Mul(q, yi)  qo = Sin(g)  ao = Sub(xi, p)  bo = Exp(qo) }}>(s, t, x, y) }}""")
    agree(model, {"s": f32(5), "t": f32(7), "x": f32(*shape), "y": f32(600, 7)})


def test_a_scan_of_opset_8_with_a_batch() -> None:
    model = parse("""g (float[2, 3] s, float[2, 400, 3] x) => (float[2, 3] sn, float[2, 400, 3] a) {
        sn, a = Scan<num_scan_inputs = 1, body = r (float[3] p, float[3] xi) => (float[3] po, float[3] ao) {
            h = Add(p, xi)  po = Tanh(h)  ao = Mul(h, xi) }>( , s, x) }""", opset=8, ir_version=3)
    agree(model, {"s": f32(2, 3), "x": f32(2, 400, 3)})


def test_an_lstm_written_as_a_scan() -> None:
    steps, width, hidden = 300, 6, 8
    model = parse(f"""g (float[1, {hidden}] h0, float[1, {hidden}] c0, float[{steps}, 1, {width}] x,
                         float[{width}, {4 * hidden}] w, float[{hidden}, {4 * hidden}] r) =>
            (float[1, {hidden}] h, float[1, {hidden}] c, float[{steps}, 1, {hidden}] y) {{
        h, c, y = Scan<num_scan_inputs = 1, body = b (float[1, {hidden}] p, float[1, {hidden}] q, float[1, {width}] xi) =>
                (float[1, {hidden}] po, float[1, {hidden}] qo, float[1, {hidden}] yo) {{
            a = MatMul(xi, w)  m = MatMul(p, r)  g = Add(a, m)  i, o, f, z = Split<axis = 1, num_outputs = 4>(g)
            si = Sigmoid(i)  so = Sigmoid(o)  sf = Sigmoid(f)  tz = Tanh(z)
            kept = Mul(sf, q)  new = Mul(si, tz)  qo = Add(kept, new)  t = Tanh(qo)  po = Mul(so, t)
            yo = Identity(po) }}>(h0, c0, x) }}""")
    for name, shape in (("w", (width, 4 * hidden)), ("r", (hidden, 4 * hidden))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(f32(*shape) / 3, name))
    for i in list(model.graph.input)[3:]:
        model.graph.input.remove(i)
    agree(model, {"h0": f32(1, hidden), "c0": f32(1, hidden), "x": f32(steps, 1, width)})


def test_nearest_neighbours_of_scikit_learn() -> None:
    """A scan over 812 rows, from which the nearest are picked and vote."""
    skl2onnx = pytest.importorskip("skl2onnx")
    neighbors = pytest.importorskip("sklearn.neighbors")
    points = f32(812, 8)
    kinds = (neighbors.KNeighborsClassifier(5), points[:, 0] > 0), (neighbors.KNeighborsRegressor(3), points[:, 1])
    for estimator, labels in kinds:
        fitted = estimator.fit(points, labels.astype(np.float32 if labels.dtype != bool else np.int64))
        options = {"zipmap": False} if labels.dtype == bool else None
        model = skl2onnx.to_onnx(fitted, points[:1], options=options, target_opset={"": 17, "ai.onnx.ml": 3})
        assert "Scan" in {n.op_type for n in model.graph.node}
        agree(model, {"X": f32(7, 8)})


# What stays outside, and why ---------------------------------------------------------------------------------------------
def reason(model: onnx.ModelProto, given: dict[str, np.ndarray]) -> str:
    compiled: Any = graphopt.compile(model)
    for mine, expected in zip(compiled.run(given).values(), run_ort(model, given), strict=True):
        same(np.asarray(mine), expected, 1e-4, 1e-5)
    (_, _, why), = compiled.host_ops
    return why


def test_a_state_that_grows_is_left_to_the_evaluator() -> None:
    model = loop("""(int64 i, bool k, float[N] v) => (bool ko, float[M] vo) { ko = Identity(k)  vo = Concat<axis = 0>(v, v) }""",
                 results="float[K] last", inputs="int64 m, float[2] x")
    assert "changes its shape" in reason(model, {"m": np.array(3), "x": f32(2)})


def test_branches_of_different_shapes_are_left_to_the_evaluator() -> None:
    model = parse("""g (float[4] x) => (float[K] y) {
        s = ReduceSum<keepdims = 0>(x)  zero = Constant<value_float = 0.0>()  c = Greater(s, zero)
        y = If(c) <then_branch = a () => (float[4] p) { p = Neg(x) },
                   else_branch = b () => (float[8] r) { r = Concat<axis = 0>(x, x) }> }""")
    assert "f32[4]" in (why := reason(model, {"x": f32(4)})) and "f32[8]" in why


def test_an_op_without_a_kernel_in_a_body_is_named() -> None:
    model = loop("""(int64 i, bool k, float[4] v) => (bool ko, float[4] vo) { ko = Identity(k)  nz = NonZero(v)
        n = ReduceSum<keepdims = 0>(nz)  f = Cast<to = 1>(n)  vo = Add(v, f) }""")
    assert "nonzero" in reason(model, {"m": np.array(3), "x": f32(4)})


def test_scan_outputs_of_unknown_length_are_left_to_the_evaluator() -> None:
    model = loop("(int64 i, bool k, float[4] v) => (bool ko, float[4] vo, float[4] o) { ko = Identity(k)  vo = Sin(v)  "
                 "o = Exp(v) }", out="last, all", results="float[4] last, float[K, 4] all")
    assert "scan output" in reason(model, {"m": np.array(3), "x": f32(4)})


def test_scan_outputs_of_a_loop_that_may_end_early_are_cut_behind_it() -> None:
    model = parse("""g (float[4] x, float[4, 4] w) => (float[4] y, float[K, 4] all, int64[K] numbers) {
        keep = Constant<value = bool {1}>()  most = Constant<value_int = 40>()
        y, all, numbers = Loop(most, keep, x) <body = b (int64 i, bool k, float[4] v) =>
                (bool ko, float[4] vo, float[4] out, int64 at) {
            q = MatMul(v, w)  vo = Add(v, q)  s = ReduceSum<keepdims = 0>(vo)  high = Constant<value_float = 5.0>()
            ko = Less(s, high)  out = Identity(v)  at = Identity(i) }> }""")
    w = np.eye(4, dtype=np.float32) / 4
    compiled: Any = graphopt.compile(model)
    lengths = set()
    for start in (9, 1, .1, 0, -1, np.nan):
        given = {"x": np.full(4, start, np.float32), "w": w}
        expected = run_ort(model, given)
        for mine, right in zip(compiled.run(given).values(), expected, strict=True):
            same(np.asarray(mine), right, 1e-4, 1e-5)
        lengths.add(len(expected[1]))
    assert len(lengths) > 2 and {name for name, _, _ in compiled.host_ops} == {"compress"}


# Saved, shared, concurrent -------------------------------------------------------------------------------------------------
def test_a_saved_model_with_a_loop_and_a_branch_runs_again_also_from_c(tmp_path: Path) -> None:
    model = parse("""g (int64[1] m, float[4] x) => (float[4] y) {
        keep = Constant<value = bool {1}>()
        last = Loop(m, keep, x) <body = b (int64 i, bool k, float[4] v) => (bool ko, float[4] vo) {
            ko = Identity(k)  s = ReduceSum<keepdims = 0>(v)  zero = Constant<value_float = 0.0>()  c = Greater(s, zero)
            vo = If(c) <then_branch = t () => (float[4] p) { p = Sub(v, x) },
                        else_branch = e () => (float[4] q) { q = Cos(v) }> }>
        y = Add(last, x) }""")
    compiled = graphopt.compile(model)
    compiled.save(tmp_path / "net.gopt")
    loaded = graphopt.load(tmp_path / "net.gopt")
    for m in (0, 1, 6):
        given = {"m": np.array([m]), "x": f32(4)}
        for run in (compiled, loaded):
            np.testing.assert_allclose(run.run(given)["y"], run_ort(model, given)[0], rtol=1e-4, atol=1e-5)
    flags = ["-I.", "-L.", "-lgraphopt", "-Wl,-rpath,$ORIGIN", "-o", "example"]
    subprocess.run(["cc", "example.c", *flags], cwd=tmp_path / "net.gopt", check=True, capture_output=True)
    said = subprocess.run(["./example"], cwd=tmp_path / "net.gopt", check=True, capture_output=True, text=True).stdout
    assert "y" in said


def test_calls_that_overlap_do_not_disturb_each_other() -> None:
    model = loop("(int64 i, bool k, float[4] v) => (bool ko, float[4] vo) { ko = Identity(k)  h = Add(v, x)  vo = Tanh(h) }")
    compiled = graphopt.compile(model)
    inputs = [{"m": np.array(100 + k), "x": f32(4)} for k in range(16)]
    with ThreadPoolExecutor(4) as workers:
        results = list(workers.map(compiled.run, inputs * 4))
    for given, got in zip(inputs * 4, results):
        np.testing.assert_allclose(got["last"], run_ort(model, given)[0], rtol=1e-3, atol=1e-4)


# PyTorch ---------------------------------------------------------------------------------------------------------------
class Net(nn.Module):
    """A function of layers and inputs."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.f = f
        self.linear, self.cell = nn.Linear(4, 4), nn.GRUCell(4, 4)
        self.table, self.scores = nn.Embedding(10, 4), nn.Linear(4, 10)

    def forward(self, *args: Any) -> Any:
        return self.f(self, *args)


def eager(f: Callable[..., Any], *inputs: Sequence[torch.Tensor], **options: Any) -> None:
    net = Net(f).eval()
    with torch.no_grad():
        compiled: Any = graphopt.compile(net, tuple(inputs[0]), **options)
        for given in inputs:
            torch.testing.assert_close(compiled(*given), net(*given), rtol=1e-4, atol=1e-5, equal_nan=True)
            assert compiled.host_ops == []


def count(n: int) -> torch.Tensor:
    return torch.tensor(n)


def test_cond_with_operands_closures_and_weights() -> None:
    x = torch.randn(2, 4)
    inputs = [(x,), (x + 3,), (x - 3,), (x * float("nan"),)]
    eager(lambda net, x: torch.cond(x.sum() > 0, lambda x: net.linear(x), lambda x: net.cell(x), (x,)), *inputs)
    eager(lambda net, x: torch.cond(x.sum() > 0, lambda: net.linear(x), lambda: x * 2), *inputs)
    eager(lambda net, x: torch.cond(
        x.sum() > 0, lambda x: torch.cond(x.max() > 4, lambda x: net.linear(x), lambda x: x.clone(), (x,)),
        lambda x: net.cell(x), (x,)), *inputs)


def test_while_loop_by_a_count_and_by_the_data() -> None:
    x = torch.randn(2, 4)
    eager(lambda net, x, n: while_loop(lambda i, x: i < n, lambda i, x: (i + 1, torch.tanh(net.linear(x))), (count(0), x)),
          *((x, count(n)) for n in (5, 0, 1, -3, 64)))
    eager(lambda net, x: while_loop(lambda x: x.abs().sum() > 0.1, lambda x: (x * 0.7,), (x,)),
          (x,), (x * 0,), (x * 10,), (x * float("nan"),))


def test_greedy_decoding_in_a_while_loop() -> None:
    def decode(net: Any, h: torch.Tensor, n: torch.Tensor) -> Any:
        def body(i: Any, t: Any, h: Any, said: Any) -> Any:
            h = net.cell(net.table(t), h)
            t = net.scores(h).argmax(-1)
            return i + 1, t, h, torch.where(torch.arange(20) == i, t, said)

        return while_loop(lambda i, t, h, said: (i < n) & (t[0] != 3), body,
                          (count(0), torch.tensor([1]), h, torch.zeros(20, dtype=torch.int64)))

    eager(decode, *((torch.randn(1, 4), count(n)) for n in (15, 0, 3, 20)))


def test_scan_and_map() -> None:
    x, y = torch.randn(300, 4), torch.randn(300, 3)
    eager(lambda net, x: torch_scan(lambda c, x: (c * 0.5 + x, net.linear(c)), torch.zeros(4), x, reverse=True), (x,))
    eager(lambda net, x, y: torch_scan(lambda c, xs: ((c[0] * 0.5 + xs[0], c[1] - xs[1]), (net.linear(c[0]), c[1] * 2)),
                                       (torch.zeros(4), torch.zeros(3)), (x, y), dim=0), (x, y))
    eager(lambda net, x: torch_map(lambda x, y: (net.linear(x) + y).sum(), x, torch.ones(4)), (torch.randn(600, 4),))


def test_a_while_loop_over_a_batch_of_any_size() -> None:
    batch = torch.export.Dim("batch")
    eager(lambda net, x, n: while_loop(lambda i, x: i < n, lambda i, x: (i + 1, torch.tanh(net.linear(x))), (count(0), x)),
          (torch.randn(2, 4), count(5)), (torch.randn(7, 4), count(3)), dynamic_shapes={"args": ({0: batch}, None)})
