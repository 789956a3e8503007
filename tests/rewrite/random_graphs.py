"""Random graphs of ops of every family, for tests that say something about all of them."""

from __future__ import annotations

import numpy as np

from graphopt.errors import IRError
from graphopt.ir import Builder, Graph, Value, tensor

UNARY = ("neg abs relu exp tanh sigmoid sin floor sqrt sign silu gelu reciprocal erf softplus hard_swish").split()
BINARY = "add sub mul div maximum minimum pow".split()


def random_graph(seed: int, ops: int = 25) -> Graph:
    """A valid graph over small f32 tensors, with shared subexpressions, constants, dead ends and several outputs."""
    rng = np.random.default_rng(seed)
    graph = Graph(f"random{seed}")
    pool = [graph.add_input(tensor("f32", *shape), f"x{i}") for i, shape in enumerate([(2, 3, 5), (2, 3, 5), (3, 5), (1, 5)])]
    b = Builder(graph)
    while len(graph) < ops:
        try:
            value = _op(b, rng, pool)
        except IRError:  # the dice fell on shapes that do not go together
            continue
        if 0 < value.type.size <= 4096 and 1 <= value.rank <= 5:
            pool.append(value)
    unused = [v for v in pool if v.op is not None and not v.uses]
    picked = [unused[i] for i in rng.permutation(len(unused))[:3]] or [pool[-1]]
    graph.outputs = picked
    return graph


def _op(b: Builder, rng: np.random.Generator, pool: list[Value]) -> Value:
    x = pool[int(rng.integers(max(0, len(pool) - 6), len(pool)))]
    y = pool[int(rng.integers(len(pool)))]
    axis = int(rng.integers(x.rank))
    match int(rng.integers(16)):
        case 0 | 1 | 2:
            return b.op(str(rng.choice(UNARY)), [x]).result
        case 3 | 4:
            return b.op(str(rng.choice(BINARY)), [x, y]).result
        case 5:
            c = b.const(np.float32(rng.choice([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0])))
            return b.op(str(rng.choice(BINARY)), [x, c] if rng.random() < 0.7 else [c, x]).result
        case 6:
            return b.transpose(x, perm=rng.permutation(x.rank).tolist())
        case 7:
            dims = list(x.shape)
            return b.reshape(x, shape=[*dims[:axis], 1, *dims[axis:]] if rng.random() < 0.5 else [int(x.type.size)])
        case 8:
            n = x.shape[axis]
            start, end = sorted(rng.integers(0, n + 1, 2).tolist())
            return b.slice(x, axes=[axis], starts=[start], ends=[end], steps=[int(rng.integers(1, 3))])
        case 9:
            return b.concat(x, x if x.shape != y.shape else y, axis=axis)
        case 10:
            kind = str(rng.choice(["reduce_sum", "reduce_mean", "reduce_max", "reduce_min"]))
            return b.op(kind, [x], {"axes": [axis], "keepdims": bool(rng.random() < 0.7)}).result
        case 11:
            return b.softmax(x, axis=axis) if rng.random() < 0.5 else b.layer_norm(x, axis=axis, eps=1e-5)
        case 12:
            w = b.const(rng.standard_normal((x.shape[-1], 4)).astype(np.float32), name="w")
            return b.matmul(x, w)
        case 13:
            return b.where(b.less(x, b.const(np.float32(0.5))), x, y)
        case 14:
            indices = rng.integers(0, x.shape[axis], int(rng.integers(1, 4)))
            return b.gather(x, b.const(np.sort(indices)), axis=axis)
        case _:
            return b.pad(x, pads=rng.integers(0, 2, 2 * x.rank).tolist())
