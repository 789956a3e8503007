"""Recurrent layers with ONNX's semantics: gate order, peepholes, clipping, activations, sequence lengths, directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.errors import IRError
from graphopt.ir.dims import DimLike, Shape
from graphopt.ir.ops.numeric import widen
from graphopt.ir.table import Operands, Trait, f32_or_wider, op
from graphopt.ir.types import TensorType

Activation = Callable[[np.ndarray], np.ndarray]
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


# Name in lower case: the function of (x, alpha, beta), and the defaults of alpha and beta where it has them.
ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray, float, float], np.ndarray], float | None, float | None]] = {
    "relu": (lambda x, a, b: np.maximum(x, 0), None, None),
    "tanh": (lambda x, a, b: np.tanh(x), None, None),
    "sigmoid": (lambda x, a, b: _sigmoid(x), None, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0 * x), 1.0, None),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, None),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "softplus": (lambda x, a, b: np.logaddexp(x, 0), None, None),
}


def resolve_activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], default: Sequence[str],
                        directions: int) -> list[tuple[str, float, float]]:
    """(lower-case name, alpha, beta) of every activation of every direction.

    `alphas` and `betas` are consumed in order by the activations that have one; where they run out, ONNX's
    defaults of the operator of that name hold. Raises IRError for unknown names and wrong counts.
    """
    names = list(names) or list(default) * directions
    if len(names) != len(default) * directions:
        raise IRError(f"{len(names)} activations for {directions} direction(s) of {len(default)}")
    left_a, left_b = list(alphas), list(betas)
    out = []
    for name in (n.lower() for n in names):
        if name not in ACTIVATIONS:
            raise IRError(f"unknown activation {name!r}", hint=f"Known: {', '.join(ACTIVATIONS)}")
        _, a, b = ACTIVATIONS[name]
        alpha = 0.0 if a is None else left_a.pop(0) if left_a else a
        beta = 0.0 if b is None else left_b.pop(0) if left_b else b
        out.append((name, alpha, beta))
    return out


def _functions(names, alphas, betas, default: Sequence[str], directions: int, clip: float | None) -> list[list[Activation]]:
    """The activations of each direction; the first two, the gates', with their input clipped."""

    def make(gate: bool, name: str, alpha: float, beta: float) -> Activation:
        f = ACTIVATIONS[name][0]
        if clip is None or not gate:
            return lambda x: f(x, alpha, beta)
        return lambda x: f(np.clip(x, -clip, clip), alpha, beta)

    resolved = resolve_activations(names, alphas, betas, default, directions)
    made = [make(i % len(default) < 2, *a) for i, a in enumerate(resolved)]
    return [made[i:i + len(default)] for i in range(0, len(made), len(default))]


def _rule(gates: int, default: Sequence[str], cell: bool) -> Callable[[Operands], list[Shape]]:
    def shape(o: Operands) -> list[Shape]:
        if o.direction not in DIRECTIONS:
            raise o.fail(f"direction={o.direction!r}, known: {', '.join(DIRECTIONS)}")
        directions = len(DIRECTIONS[o.direction])
        if o.x.rank != 3:
            raise o.fail(f"x must be [T, B, I], got {o.x}")
        steps, batch, width = o.x.shape
        hidden = o.hidden
        expected: dict[str, tuple[DimLike, ...]] = {
            "w": (directions, gates * hidden, width), "r": (directions, gates * hidden, hidden),
            "b": (directions, 2 * gates * hidden), "lengths": (batch,), "h0": (directions, batch, hidden),
            "c0": (directions, batch, hidden), "p": (directions, 3 * hidden)}
        for p, t in zip(o._def.operands, o.types):
            if not isinstance(t, TensorType) or t.shape is None or p.name not in expected:
                continue
            wanted = expected[p.name]
            if t.rank != len(wanted) or any(isinstance(m, int) and isinstance(n, int) and m != n
                                            for m, n in zip(t.shape, wanted)):
                raise o.fail(f"{p.name} is {t}, it must be [{', '.join(map(str, wanted))}]")
        try:
            resolve_activations(o.activations, o.alphas, o.betas, default, directions)
        except IRError as e:
            raise IRError(e.what, where=o._def.name, hint=e.hint) from None
        state = (directions, batch, hidden)
        return [(steps, directions, batch, hidden), state, *([state] if cell else [])]

    return shape


def _operations(gates: int):
    def operations(o: Operands, results) -> DimLike:
        return 2 * results[0].size * gates * (o.x.shape[2] + o.hidden)

    return operations


Step = Callable[[np.ndarray, tuple[np.ndarray, ...]], tuple[np.ndarray, ...]]


def _run(x: np.ndarray, lengths: np.ndarray | None, reverse: bool, state: tuple[np.ndarray, ...], step: Step
         ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The first state of every step [T, B, H] (zero beyond a sequence's end), and the states after its last step."""
    steps, batch = x.shape[:2]
    ends = np.full(batch, steps) if lengths is None else lengths.astype(np.int64)
    y = np.zeros((steps, *state[0].shape), x.dtype)
    for t in reversed(range(steps)) if reverse else range(steps):
        alive = (t < ends)[:, None]
        new = step(x[t], state)
        state = tuple(np.where(alive, n, s) for n, s in zip(new, state))
        y[t] = np.where(alive, new[0], 0)
    return y, state


def _start(given: np.ndarray | None, d: int, batch: int, hidden: int, like: np.ndarray) -> np.ndarray:
    return np.zeros((batch, hidden), like.dtype) if given is None else widen(given)[d]


def _weights(w, r, b, d: int, gates: int, hidden: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """W^T, R^T and the two biases of direction d, widened."""
    wt, rt = widen(w)[d].T, widen(r)[d].T
    if b is None:
        zero = np.zeros(gates * hidden, wt.dtype)
        return wt, rt, zero, zero
    both = widen(b)[d]
    return wt, rt, both[:gates * hidden], both[gates * hidden:]


def _in_steps(x: np.ndarray) -> np.ndarray:
    """Each row rounded to 256 steps from its least element to its largest, 0 among them."""
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = np.where(high == low, 1, (high - low) / 255).astype(x.dtype)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def _pack(x: np.ndarray, ys: list[np.ndarray], *states: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    return (np.stack(ys, axis=1).astype(x.dtype), *(np.stack(s).astype(x.dtype) for s in states))


@op("lstm(x: T, w: T, r: T, b?: T, lengths?: i32, h0?: T, c0?: T, p?: T; direction: str = forward, activations: strs = [], "
    "alphas: floats = [], betas: floats = [], clip: float?, hidden: int, input_forget: bool = false, "
    "quantize_state: bool = false) -> (y: T, yh: T, yc: T)",
    T="f16|bf16|f32|f64", shape=_rule(4, ("Sigmoid", "Tanh", "Tanh"), True), traits=Trait.CONTRACTION, sums=f32_or_wider,
    operations=_operations(4))
def lstm(x, w, r, b=None, lengths=None, h0=None, c0=None, p=None, *, direction, activations, alphas, betas, clip, hidden,
         input_forget, quantize_state):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; ONNX LSTM) over x [T, B, I]; gates in the order i, o, f, c.

    w [D, 4H, I], r [D, 4H, H], b [D, 8H] (input biases, then recurrent ones), h0 and c0 [D, B, H], p [D, 3H]
    peepholes i, o, f. Gives y [T, D, B, H] and the last states. `clip` bounds the inputs of the gates'
    activations, not that of the cell's (as onnxruntime does). `input_forget` couples the gates, f = 1 - i.
    Beyond a sequence's length y is 0 and the state stays. With `quantize_state` the product with r sees each sequence's state
    rounded to 256 steps over its range, which is widened to hold 0 (as ONNX DynamicQuantizeLinear has it).
    """
    source = widen(x)
    functions = _functions(activations, alphas, betas, ("Sigmoid", "Tanh", "Tanh"), len(DIRECTIONS[direction]), clip)
    ys, hs, cs = [], [], []
    for d, reverse in enumerate(DIRECTIONS[direction]):
        f, g, h = functions[d]
        wt, rt, wb, rb = _weights(w, r, b, d, 4, hidden)
        pi, po, pf = np.zeros((3, hidden), source.dtype) if p is None else widen(p)[d].reshape(3, hidden)

        def step(xt, state, f=f, g=g, h=h, wt=wt, rt=rt, bias=wb + rb, pi=pi, po=po, pf=pf):
            before, cell = state
            seen = _in_steps(before) if quantize_state else before
            i, out, forget, new = np.split(xt @ wt + seen @ rt + bias, 4, axis=-1)
            i = f(i + pi * cell)
            forget = 1 - i if input_forget else f(forget + pf * cell)
            cell = forget * cell + i * g(new)
            return f(out + po * cell) * h(cell), cell

        start = tuple(_start(s, d, x.shape[1], hidden, source) for s in (h0, c0))
        y, (last, cell) = _run(source, lengths, reverse, start, step)
        ys.append(y)
        hs.append(last)
        cs.append(cell)
    return _pack(x, ys, hs, cs)


@op("gru(x: T, w: T, r: T, b?: T, lengths?: i32, h0?: T; direction: str = forward, activations: strs = [], alphas: floats = [], "
    "betas: floats = [], clip: float?, hidden: int, linear_before_reset: bool = false) -> (y: T, yh: T)",
    T="f16|bf16|f32|f64", shape=_rule(3, ("Sigmoid", "Tanh"), False), traits=Trait.CONTRACTION, sums=f32_or_wider,
    operations=_operations(3))
def gru(x, w, r, b=None, lengths=None, h0=None, *, direction, activations, alphas, betas, clip, hidden, linear_before_reset):
    """Gated recurrent unit (Cho et al. 2014; ONNX GRU) over x [T, B, I]; gates in the order z (update), r (reset), h.

    H' = (1 - z) * h + z * H. The reset gate multiplies the state before the recurrent product, or with
    `linear_before_reset` the product and its bias (as torch and cuDNN do). Shapes as in `lstm` with 3 gates.
    """
    source = widen(x)
    functions = _functions(activations, alphas, betas, ("Sigmoid", "Tanh"), len(DIRECTIONS[direction]), clip)
    ys, hs = [], []
    for d, reverse in enumerate(DIRECTIONS[direction]):
        f, g = functions[d]
        wt, rt, wb, rb = _weights(w, r, b, d, 3, hidden)
        n = 2 * hidden

        def step(xt, state, f=f, g=g, wt=wt, rt=rt, wb=wb, rb=rb, n=n):
            before, = state
            z, reset = np.split(f(xt @ wt[:, :n] + before @ rt[:, :n] + wb[:n] + rb[:n]), 2, axis=-1)
            if linear_before_reset:
                recurrent = reset * (before @ rt[:, n:] + rb[n:])
            else:
                recurrent = (reset * before) @ rt[:, n:] + rb[n:]
            new = g(xt @ wt[:, n:] + recurrent + wb[n:])
            return ((1 - z) * new + z * before,)

        y, (last,) = _run(source, lengths, reverse, (_start(h0, d, x.shape[1], hidden, source),), step)
        ys.append(y)
        hs.append(last)
    return _pack(x, ys, hs)


@op("rnn(x: T, w: T, r: T, b?: T, lengths?: i32, h0?: T; direction: str = forward, activations: strs = [], alphas: floats = [], "
    "betas: floats = [], clip: float?, hidden: int) -> (y: T, yh: T)",
    T="f16|bf16|f32|f64", shape=_rule(1, ("Tanh",), False), traits=Trait.CONTRACTION, sums=f32_or_wider,
    operations=_operations(1))
def rnn(x, w, r, b=None, lengths=None, h0=None, *, direction, activations, alphas, betas, clip, hidden):
    """The simple recurrent layer, H' = f(x W^T + H R^T + Wb + Rb) (Elman 1990; ONNX RNN). Shapes as in `lstm` with 1 gate."""
    source = widen(x)
    functions = _functions(activations, alphas, betas, ("Tanh",), len(DIRECTIONS[direction]), clip)
    ys, hs = [], []
    for d, reverse in enumerate(DIRECTIONS[direction]):
        wt, rt, wb, rb = _weights(w, r, b, d, 1, hidden)

        def step(xt, state, f=functions[d][0], wt=wt, rt=rt, bias=wb + rb):
            return (f(xt @ wt + state[0] @ rt + bias),)

        y, (last,) = _run(source, lengths, reverse, (_start(h0, d, x.shape[1], hidden, source),), step)
        ys.append(y)
        hs.append(last)
    return _pack(x, ys, hs)
