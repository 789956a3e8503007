"""Damaged models: whatever is wrong with one, it is refused by an error of ours, or captured."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import graphopt
from graphopt.capture import capture
from tests.capture.damage import damaged
from tests.capture.onnx_models import parse

TEXTS = {
    "image": """g (float[N, 3, 8, 8] x) => (float[A, B] y)
        <float[4, 3, 3, 3] w = {W108}, float[4] b = {1, 2, 3, 4}, float[4] one = {1, 1, 1, 1}, float[2, 64] v = {W128}> {
        c = Conv<pads = [1, 1, 1, 1], strides = [1, 1]>(x, w, b)  n = BatchNormalization(c, one, b, b, one)  r = Relu(n)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)  f = Flatten(p)  y = Gemm<transB = 1>(f, v) }""",
    "shapes": """g (float[N, T, 6] x) => (float[A, B, C] y) <int64[1] zero = {0}, int64[1] m = {-1}, int64[2] at = {0, 1}> {
        s = Shape(x)  d = Gather(s, at)  t = Concat<axis = 0>(d, two, m)  two = Constant<value = int64[1] {2}>()
        r = Reshape(x, t)  p = Transpose<perm = [0, 2, 1, 3]>(r)  a, b = Split<axis = 3, num_outputs = 2>(p)
        q = Concat<axis = 3>(b, a)  u = Unsqueeze(q, zero)  z = Squeeze(u, zero)  e = Slice(z, zero, two, m)
        k = ReduceMean<keepdims = 0>(e, m)  y = Softmax(k) }""",
    "control": """g (float[4] x, bool c, int64 n) => (float[A] y, float[B, C] all) {
        i = If(c)<then_branch = t () => (float[4] a) { a = Relu(x) }, else_branch = e () => (float[4] b) { b = Neg(x) }>
        y, all = Loop(n, c, i)<body = l (int64 k, bool g, float[4] s) => (bool h, float[4] o, float[4] v)
            { h = Identity(g)  o = Exp(s)  v = Tanh(o) }> }""",
    "indices": """g (float[5, 6] x, int64[3] i) => (float[A, B] y, int64[C, D] z) <float[6] k = {0, 1, 1, 0, 1, 0}> {
        g1 = Gather<axis = 1>(x, i)  t, j = TopK<axis = 1>(g1, two)  two = Constant<value = int64[1] {2}>()
        h = OneHot(i, d, v)  d = Constant<value_int = 6>()  v = Constant<value_floats = [0.0, 1.0]>()  m = MatMul(x, ht)
        ht = Transpose(h)  w = CumSum(m, zero)  zero = Constant<value_int = 0>()  y = Einsum<equation = "ij,ik->jk">(w, t)
        z = NonZero(k) }""",
    "recurrent": """g (float[T, 2, 3] x) => (float[A, B, C, D] y) <float[1, 16, 3] w = {W48}, float[1, 16, 4] r = {W64}> {
        y = LSTM<hidden_size = 4>(x, w, r) }""",
    "integers": """g (float[2, 4] x) => (float[A, B] y) 
        <float s = {0.1}, uint8 z = {128}, int8[4, 3] w = {W12}, float[3] c = {1, 2, 3}> {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  v = DequantizeLinear<axis = 1>(w, c)  y = MatMul(d, v) }""",
}


def _models() -> list[bytes]:
    made = []
    for text in TEXTS.values():
        for n in (12, 48, 64, 108, 128):
            text = text.replace(f"{{W{n}}}", "{" + ", ".join(str(k % 7 - 3) for k in range(n)) + "}")
        made.append(parse(text).SerializeToString())
    return made


class Hang(BaseException):
    pass


@pytest.fixture(autouse=True)
def bounds() -> Iterator[None]:
    """20 GiB of addresses and ten seconds for a case; graphopt must not take what the damage asks for."""
    def ring(*_: Any) -> None:
        raise Hang

    before, limits = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (20 << 30, limits[1]))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, limits)


def test_capture_takes_a_damaged_model_or_refuses_it() -> None:
    models, refused = _models(), 0
    for seed in range(2500):
        model = damaged(random.Random(seed).choice(models), seed)
        signal.alarm(10)
        try:
            capture(model)
        except graphopt.GraphOptError:
            refused += 1
        except BaseException as e:
            raise AssertionError(f"seed {seed}: {type(e).__name__}: {e}") from e
    assert 500 < refused < 2300  # the damage is neither none nor all there is


def test_compile_takes_a_damaged_model_or_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CRASH_DIR", "0")
    models, compiled = _models(), 0
    for seed in range(10_000, 10_060):
        model = damaged(random.Random(seed).choice(models), seed)
        signal.alarm(60)
        try:
            graphopt.compile(model)
            compiled += 1
        except graphopt.GraphOptError as e:
            assert "bug in graphopt" not in str(e), f"seed {seed}: {e}"
        except BaseException as e:
            raise AssertionError(f"seed {seed}: {type(e).__name__}: {e}") from e
    assert compiled
