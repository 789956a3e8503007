"""One op by one template, interpreted: on any machine, for any target's lanes, against the op's reference evaluator."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from graphopt.backends.base import backend_of
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.kernel.text import parse_kernel, print_kernel
from graphopt.codegen.kernel.verify import verify
from graphopt.codegen.lower.kernels import Lowered, lower
from graphopt.codegen.lower.tuning import Pick
from graphopt.diagnose.checking import logical
from graphopt.ir import Graph, dtype, parse_graph
from graphopt.ir.evaluate import evaluate_op
from graphopt.ir.graph import Op, Tensor
from graphopt.ir.types import TensorType
from graphopt.targets import parse_target
from tests.codegen.lower.lowering import random


def graph_of(text: str, rng: np.random.Generator) -> Graph:
    """The graph that a text says, its constants filled at random."""
    found = re.findall(r"const @(\w+) : (\w+)\[([\d, ]+)\]", text)
    return parse_graph(text, {name: Tensor(random(rng, d, *map(int, shape.split(","))), name=name) for name, d, shape in found})


def lowered(op: Op, target: str, threads: int = 1, pick: Pick | None = None) -> Lowered:
    """The target's kernel for an op, shared by as many threads, whatever it has to do."""
    machine = replace(parse_target(target), threads=threads) if threads > 1 else parse_target(target)  # type: ignore[call-arg]
    backend = backend_of(machine)
    style = backend.style(machine)
    if threads > 1:
        style = replace(style, threads=threads, parallel_work=1)
    return lower(op, "k", replace(style, pick=pick) if pick else style, backend.templates(machine))


def interpreted(op: Op, low: Lowered, given: list[np.ndarray | None]) -> list[np.ndarray]:
    """Results of an op's kernel, read from its own text, by the meaning of its statements; borders must be as layouts say."""
    text = print_kernel(low.kernel)
    kernel = parse_kernel(text)
    assert print_kernel(kernel) == text
    verify(kernel)
    values = dict(zip(op.operands, given))
    arrays = []
    for k, v in enumerate(low.operands):
        x = v.constant if v.constant is not None else values[v]
        assert x is not None
        buffer = low.kernel.params[k]
        packing = low.packings.get(k)
        flat = stored(np.asarray(x), v.type) if packing is None else packing.apply(np.asarray(x)).view(buffer.dtype.numpy)
        arrays.append(flat.reshape(buffer.shape))
    out = []
    for r, got in zip(op.results, run_kernel(kernel, arrays), strict=True):
        assert isinstance(r.type, TensorType)
        result = np.array(logical(got.reshape(-1), r.type))
        if r.type.layout is not None and r.type.layout.halo and not r.type.layout.pitch:
            np.testing.assert_array_equal(got.reshape(-1), stored(result, r.type), "the border")
        out.append(result)
    return out


def stored(x: np.ndarray, t: Any) -> np.ndarray:
    """An array as it lies in memory: flat, in the order of its layout, with its halo."""
    flat = np.full(t.storage, 0 if t.layout is None else t.layout.fill).astype(x.dtype).reshape(-1)
    flat[logical(np.arange(flat.size), t)] = x
    return flat


def check(text: str, target: str, threads: int = 1, pick: Pick | None = None, seed: int = 0) -> Lowered:
    """Lower the text's one op, interpret, compare with its reference evaluator; the kernel."""
    rng = np.random.default_rng(seed)
    graph = graph_of(text, rng)
    op = next(o for o in graph.ops if o.name not in ("const", "return"))
    low = lowered(op, target, threads, pick)
    inputs = {v: random(rng, v.dtype.name, *v.static_shape) for v in graph.inputs}
    given = [None if v is None else v.constant if v.constant is not None else inputs[v] for v in op.operands]
    expected = evaluate_op(op, given)
    same(expected, interpreted(op, low, given))
    return low


def same(expected: Iterable[Any], got: Iterable[np.ndarray]) -> None:
    for e, g in zip(expected, got, strict=True):
        assert g.dtype == e.dtype and g.shape == e.shape
        if not dtype(e.dtype).is_float:
            np.testing.assert_array_equal(g, e)
            continue
        narrow = e.dtype.itemsize == 2
        wide = e.astype(np.float64)
        scale = max(1.0, float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0.0)))
        tolerance = 2e-2 if narrow else 1e-5
        np.testing.assert_allclose(g.astype(np.float64), wide, rtol=tolerance, atol=scale * tolerance)
