"""Ops whose result's size the data decides, on constant data: what follows has static shapes and kernels."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphopt
from graphopt.capture import capture
from graphopt.capture.onnx.scope import in_order
from graphopt.ir import evaluate
from tests.capture.onnx_models import captured, check, op_names, parse, run_ort

RNG = np.random.default_rng(5)
MASK = """k = Constant<value = float[6] {1, 0, 1, 1, 0, 1}>()
          zero = Constant<value_ints = [0]>()  one = Constant<value_ints = [1]>()"""
INDEX = MASK + "  nz = NonZero(k)  i = Squeeze(nz, zero)"  # i = 0, 2, 3, 5
BOXES = """b = Constant<value = float[1, 3, 4] {0, 0, 1, 1, 0, 0, 1, 0.9, 0, 0, 0.2, 0.2}>()
           s = Constant<value = float[1, 1, 3] {0.9, 0.8, 0.7}>()  n = Constant<value_ints = [3]>()
           t = Constant<value_floats = [0.5]>()  sel = NonMaxSuppression(b, s, n, t)"""
CASES = {
    "gather": INDEX + "  g = Gather<axis = 1>(x, i)  y = Exp(g)",
    "reshape": INDEX + "  g = Gather<axis = 1>(x, i)  f = Constant<value_ints = [-1]>()  r = Reshape(g, f)  y = Exp(r)",
    "reshape to its own size": INDEX + "  s = Shape(i)  two = Constant<value_ints = [2]>()  t = Concat<axis = 0>(s, two)"
                               "  g = Gather<axis = 1>(x, i)  r = Reshape(g, t)  y = Exp(r)",
    "concat": INDEX + "  g = Gather<axis = 1>(x, i)  c = Concat<axis = 1>(g, x, g)  y = Exp(c)",
    "expand": INDEX + "  s = Shape(i)  two = Constant<value_ints = [2]>()  t = Concat<axis = 0>(two, s)"
              "  c = Slice(x, zero, one, one)  e = Expand(c, t)  y = Exp(e)",
    "range": INDEX + "  s = Size(i)  z = Constant<value_int = 0>()  o = Constant<value_int = 1>()  r = Range(z, s, o)"
             "  g = Gather<axis = 1>(x, r)  y = Exp(g)",
    "tile": INDEX + "  s = Shape(i)  r = Concat<axis = 0>(one, s)  t = Tile(x, r)  y = Exp(t)",
    "scatter": INDEX + "  g = Gather<axis = 1>(x, i)  e = Exp(g)  u = Unsqueeze(i, zero)  two = Constant<value_ints = [2, 1]>()"
               "  w = Tile(u, two)  y = ScatterElements<axis = 1>(x, w, e)",
    "slice to its size": INDEX + "  s = Shape(i)  c = Slice(x, zero, s, one)  y = Exp(c)",
    "unique": MASK + "  u, a, b, c = Unique<sorted = 1>(k)  v = Cast<to = 7>(c)  g = Gather<axis = 1>(x, v)  y = Exp(g)",
    "unique along an axis": MASK + "  m = Reshape(k, two)  two = Constant<value_ints = [3, 2]>()  u = Unique<axis = 0>(m)"
                            "  f = Constant<value_ints = [2, -1]>()  r = Reshape(u, f)  p = MatMul(r, h)"
                            "  h = Slice(w, zero, s, zero)"
                            "  w = Transpose(x)  s = Constant<value_ints = [3]>()  y = Exp(p)",
    "compress": MASK + "  q = Cast<to = 9>(k)  c = Compress<axis = 0>(k, q)  v = Cast<to = 7>(c)  g = Gather<axis = 1>(x, v)"
                "  y = Exp(g)",
    "nms": BOXES + "  col = Constant<value_ints = [2]>()  g = Gather<axis = 1>(sel, col)  f = Constant<value_ints = [-1]>()"
           "  i = Reshape(g, f)  v = Gather<axis = 1>(x, i)  y = Exp(v)",
    "chained": INDEX + "  g = Gather<axis = 0>(k, i)  h = NonZero(g)  f = Constant<value_ints = [-1]>()  j = Reshape(h, f)"
               "  v = Gather<axis = 1>(x, j)  y = Exp(v)",
    "in a branch": INDEX + "  m = ReduceSum<keepdims = 0>(x)  z = Constant<value = float {0}>()  c = Greater(m, z)"
                   "  y = If(c)<then_branch = a () => (float[A, B] p) { g = Gather<axis = 1>(x, i)  p = Exp(g) },"
                   " else_branch = b () => (float[A, B] q) { h = Gather<axis = 1>(x, i)  q = Neg(h) }>",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dims", ["2, 6", "N, 6"])
def test_what_follows_is_static(name: str, dims: str) -> None:
    nodes = CASES[name]
    model = parse(f"g (float[{dims}] x) => (float[A, B] y) {{ {nodes} }}", opset=17)
    _sort(model)
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    graph = captured(model)
    check(graph, model, {"x": x})
    assert not any("_" in s for v in graph.values() for d in v.shape for s in getattr(d, "symbols", set)())


def _sort(model: onnx.ModelProto) -> None:
    """onnxruntime wants producers first."""
    nodes = in_order(list(model.graph.node), lambda n: False, "")
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize("name", ["reshape to its own size", "scatter", "unique along an axis", "nms", "chained"])
def test_what_follows_has_kernels(name: str) -> None:
    model = parse(f"g (float[2, 6] x) => (float[A, B] y) {{ {CASES[name]} }}", opset=17)
    _sort(model)
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    compiled = graphopt.compile(model)
    np.testing.assert_allclose(compiled(x), run_ort(model, {"x": x})[0], rtol=1e-5, atol=1e-6)
    assert compiled.host_ops == []


PAIRS = """g (float[N, 4, P] x) => (float[A, B, C, D] y) {
    s = Shape(x)  two = Constant<value_ints = [2]>()  p = Gather(s, two)  pp = Concat<axis = 0>(p, p)
    ones = ConstantOfShape<value = float[1] {1}>(pp)  low = Trilu<upper = 0>(ones)  nz = NonZero(low)
    i, j = Split<axis = 0, num_outputs = 2>(nz)  flat = Constant<value_ints = [-1]>()  ii = Reshape(i, flat)
    jj = Reshape(j, flat)
    xi = Gather<axis = 2>(x, ii)  xj = Gather<axis = 2>(x, jj)  f = Mul(xi, xj)  e = Tanh(f)
    np = Concat<axis = 0>(n, four, p, p)  zero = Constant<value_ints = [0]>()  n = Gather(s, zero)
    four = Constant<value_ints = [4]>()
    back = Transpose<perm = [2, 0, 1]>(e)  blank = ConstantOfShape<value = float[1] {0}>(ppn)
    ppn = Concat<axis = 0>(p, p, n, four)
    at = Transpose(nz)  put = ScatterND(blank, at, back)  nz2 = Concat<axis = 0>(j, i)  at2 = Transpose(nz2)
    both = ScatterND(put, at2, back)  bias = Transpose<perm = [2, 3, 0, 1]>(both)  y = Softmax(bias) }"""


@pytest.mark.parametrize("size", [5, 150])  # 150: the mask is larger than what constant folding keeps
def test_pairs_of_particles(size: int) -> None:
    """As particle transformers have them: features of pairs below the diagonal, put back on both sides of it."""
    model = parse(PAIRS, opset=18)
    _sort(model)
    x = RNG.standard_normal((1, 4, size)).astype(np.float32)
    compiled = graphopt.compile(model)
    np.testing.assert_allclose(compiled(x), run_ort(model, {"x": x})[0], rtol=1e-5, atol=1e-6)
    assert compiled.host_ops == []


class Pairs(nn.Module):
    """A small particle transformer's attention, biased by an embedding of pairs."""

    def __init__(self, traced: bool) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, 8, 1), nn.GELU(), nn.Conv1d(8, 2, 1))
        self.qkv, self.out, self.traced = nn.Linear(4, 12), nn.Linear(4, 3), traced

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        n, _, p = v.size()
        i, j = torch.ones(p, p, dtype=torch.long).tril().nonzero().t() if self.traced else torch.tril_indices(p, p)
        xx = v.unsqueeze(-1).repeat(1, 1, 1, p)
        xi, xj = xx[:, :, i, j], xx.transpose(-1, -2)[:, :, i, j]
        pairs = torch.stack([(xi[:, 0] - xj[:, 0]).abs(), xi[:, 1] * xj[:, 1], torch.log((xi[:, 2] - xj[:, 2]) ** 2 + 1e-6),
                             torch.minimum(xi[:, 3], xj[:, 3])], 1)
        e = self.embed(pairs)
        bias = torch.zeros(n, 2, p, p, dtype=e.dtype)
        bias[:, :, i, j] = e
        bias[:, :, j, i] = e
        h = self.qkv(v.transpose(1, 2)).view(n, p, 3, 2, 2).permute(2, 0, 3, 1, 4)
        a = nn.functional.scaled_dot_product_attention(h[0], h[1], h[2], attn_mask=bias)
        return self.out(a.transpose(1, 2).reshape(n, p, 4))


def test_a_particle_transformer_from_torch_and_its_onnx_export() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7)
    net = Pairs(traced=False).eval()
    with torch.no_grad():
        want = net(x)
    compiled = graphopt.compile(net, (x,))
    torch.testing.assert_close(compiled(x), want, rtol=1e-4, atol=1e-5)
    assert compiled.host_ops == []
    net.traced, file = True, io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=17, input_names=["v"],
                          dynamic_axes={"v": {0: "n", 2: "p"}})
    exported = graphopt.compile(file.getvalue())
    torch.testing.assert_close(exported(x), want, rtol=1e-4, atol=1e-5)
    assert exported.host_ops == []


class Masked(nn.Module):
    """Rows that a constant mask picks: torch itself does not know how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False, True, True]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x[self.mask]) * 2


def test_a_constant_mask_in_torch() -> None:
    net, x = Masked().eval(), torch.randn(4, 3)
    graph = capture(net, (x,))
    assert graph.outputs[0].shape == (3, 3)
    np.testing.assert_allclose(evaluate(graph, [x.numpy()])[0], net(x).numpy(), rtol=1e-6)
    assert graphopt.compile(net, (x,)).host_ops == []


def test_data_dependent_ops_on_inputs_keep_their_symbols() -> None:
    model = parse(f"g (float[6] x) => (int64[A, B] y) {{ {MASK}  m = Mul(x, k)  y = NonZero(m) }}")
    graph = captured(model)
    assert not graph.outputs[0].type.is_static and "nonzero" in op_names(graph)
    check(graph, model, {"x": np.array([1, 1, 0, 2, 2, 2], np.float32)})
