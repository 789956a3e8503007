"""A random ONNX graph in the making: every node is run as soon as it is drawn, by onnxruntime and by ONNX's ReferenceEvaluator.

A node that either refuses, or of which they disagree, is left out and counted; so are those whose result is decided by rounding.
What stays is valid, its values are known, and with them a bound on the rounding error of each: `Value.err`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.generate.drawing import LARGEST, Drawing, Skip

OPSETS = (11, 13, 17, 18, 21, 22, 23)
IR = {11: 6, 13: 7, 17: 8, 18: 8, 21: 10, 22: 10, 23: 11}
FLOATS = (np.float32, np.float64, np.float16)
INTS = (np.int32, np.int64)


@dataclass(eq=False)
class Value:
    """A tensor of the graph with what it holds. `err`: how far a right result may lie from `array`, by rounding alone."""

    name: str
    array: np.ndarray
    err: float = 0.0
    role: str = "node"  # or "input", "constant"
    control: bool = False  # says what a node does, as sizes and axes do

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def rank(self) -> int:
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"


@dataclass
class Case:
    """A model, what it is called with, and what is right: arrays, and how far off each float result may lie."""

    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    err: dict[str, float]
    skipped: Counter[str] = field(default_factory=Counter)
    values: dict[str, Value] = field(default_factory=dict)  # everything computed on the way

    @property
    def finite(self) -> bool:
        known = [*(v.array for v in self.values.values()), *self.inputs.values(), *self.expected.values()]
        return all(np.isfinite(a).all() for a in known if a.dtype.kind == "f")


def session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options


OPTIONS = session_options()


Proposal = Callable[["Draft"], Any]
PROPOSALS: list[tuple[float, Proposal]] = []  # what may come next, and how often


def proposal(weight: float = 1.0) -> Callable[[Proposal], Proposal]:
    """Register a way to add one node, or a few that belong together."""
    def register(f: Proposal) -> Proposal:
        PROPOSALS.append((weight, f))
        return f
    return register


class Draft(Drawing):
    """Draws values and nodes."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.numbers = np.random.default_rng(source.randrange(2**32))
        self.opset = source.choice(OPSETS)
        self.values: list[Value] = []
        self.nodes: list[onnx.NodeProto] = []
        self.skipped: Counter[str] = Counter()
        self.specials = source.random() < 0.12
        self.count = 0

    # Drawing ------------------------------------------------------------------------------------
    def data(self, dtype: Any, shape: Sequence[int]) -> np.ndarray:
        """Contents for a tensor: floats without ties, small integers."""
        dt, rng = np.dtype(dtype), self.numbers
        if dt.kind == "b":
            return rng.integers(0, 2, shape).astype(bool)
        if dt.kind != "f":
            return rng.integers(0 if dt.kind == "u" else -4, 7, shape).astype(dt)
        x = rng.standard_normal(shape) * self.choice((1, 1, 0.3, 3))
        x = np.abs(x) + 0.1 if self.chance(0.2) else x
        if self.specials and self.chance(0.5) and x.size:
            flat = x.reshape(-1)
            for _ in range(self.integer(1, 3)):
                flat[self.integer(0, x.size - 1)] = self.choice((np.nan, np.inf, -np.inf, 0.0, -0.0))
        return np.asarray(x, dt)

    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def leaf(self, dtype: Any, shape: Sequence[int], array: np.ndarray | None = None, constant: float = 0.4) -> Value:
        """A new input, or with that probability a constant."""
        a = self.data(dtype, shape) if array is None else np.asarray(array)
        role = "constant" if self.chance(constant) else "input"
        value = Value(self.name("c" if role == "constant" else "x"), a, 0.0, role)
        self.values.append(value)
        return value

    def pick(self, fits: Callable[[Value], bool], otherwise: Callable[[], Value] | None = None, fresh: float = 0.12) -> Value:
        """A value that fits, most likely one of the latest; else a new one."""
        found = [v for v in self.values if fits(v) and (v.role != "constant" or v is self.values[-1])]
        if found and not (otherwise is not None and self.chance(fresh)):
            back = 0
            while back < len(found) - 1 and self.chance(0.35):
                back += 1
            return found[-1 - back]
        if otherwise is None:
            raise Skip
        return otherwise()

    def floats(self, low: int = 0, high: int = 6) -> Value:
        """A float tensor of such a rank."""
        return self.pick(lambda v: v.is_float and low <= v.rank <= high,
                         lambda: self.leaf(self.float_type(), self.shape(low, min(high, 5))))

    def any(self, low: int = 0, high: int = 6) -> Value:
        """A tensor of any dtype and of such a rank."""
        return self.pick(lambda v: low <= v.rank <= high, lambda: self.leaf(self.type(), self.shape(low, min(high, 5))))

    def float_type(self) -> Any:
        return np.float32 if self.chance(0.88) else self.choice((np.float64, np.float16))

    def type(self) -> Any:
        return self.float_type() if self.chance(0.75) else self.choice((np.int32, np.int64, np.int64, np.bool_))

    def like(self, v: Value, shape: Sequence[int] | None = None, constant: float = 0.4) -> Value:
        """A value of that dtype and shape: one that is there, or new."""
        want = v.shape if shape is None else tuple(shape)
        return self.pick(lambda w: w.dtype == v.dtype and w.shape == want and w is not v,
                         lambda: self.leaf(v.dtype, want, constant=constant), fresh=0.3)

    def broadcasting(self, shape: Sequence[int], loose: bool = True) -> tuple[int, ...]:
        """A shape that broadcasts to `shape`, with fewer or shorter dims."""
        out = tuple(1 if self.chance(0.3) else n for n in shape)
        drop = self.integer(0, len(out)) if loose and self.chance(0.5) else 0
        return out[drop:]

    # Nodes --------------------------------------------------------------------------------------
    def constant(self, array: Any) -> Value:
        """A constant: an initializer, or the result of a Constant node."""
        a = np.asarray(array)
        value = Value(self.name("c"), a, 0.0, "constant", control=True)
        if self.chance(0.2):
            value.role = "node"
            self.nodes.append(helper.make_node("Constant", [], [value.name], value=numpy_helper.from_array(a)))
        self.values.append(value)
        return value

    def ints(self, numbers: Sequence[int]) -> Value:
        """Integers that say what a node does (sizes, axes, starts): a constant, or computed from shapes."""
        numbers = [int(n) for n in numbers]
        if numbers and self.chance(0.15):
            try:
                made = self._from_shapes(numbers)
                made.control = True
                return made
            except Skip:
                pass
        return self.constant(np.array(numbers, np.int64))

    def _from_shapes(self, numbers: Sequence[int]) -> Value:
        """Each number that is a dim of some value is gathered from its shape."""
        parts: list[Value] = []
        for n in numbers:
            homes = [v for v in self.values if n in v.shape and v.role != "constant"]
            if homes and self.chance(0.7):
                v = self.choice(homes)
                shape, = self.node("Shape", [v], exact=True)
                at = self.choice([k for k, d in enumerate(v.shape) if d == n])
                at = at - v.rank if self.chance(0.3) else at
                if self.chance(0.5):
                    part, = self.node("Gather", [shape, self.constant(np.array([at], np.int64))], exact=True, axis=0)
                else:
                    scalar, = self.node("Gather", [shape, self.constant(np.int64(at))], exact=True, axis=0)
                    part, = self.unsqueeze(scalar, [0])
                parts.append(part)
            else:
                parts.append(self.constant(np.array([n], np.int64)))
        return self.node("Concat", parts, exact=True, axis=0)[0]

    def with_axes(self, axes: Sequence[int] | None, since: int) -> tuple[list[Value | None], dict[str, Any]]:
        """Axes as an attribute before the opset `since`, as an input from it on."""
        if axes is None:
            return [], {}
        return ([self.ints(axes)], {}) if self.opset >= since else ([], {"axes": list(axes)})

    def unsqueeze(self, v: Value, axes: Sequence[int]) -> list[Value]:
        more, attrs = self.with_axes(axes, 13)
        return self.node("Unsqueeze", [v, *more], exact=True, **attrs)

    def node(self, op: str, operands: Sequence[Value | None], *, outputs: int = 1, exact: bool = False, domain: str = "",
             noise: float = 0.0, **attrs: Any) -> list[Value]:
        """Run one node and keep it. Raises Skip.

        `exact`: its float results are elements of its operands, or zeros. `noise`: rounding within it, that moving its operands
        does not show.
        """
        proto = helper.make_node(op, [v.name if v is not None else "" for v in operands],
                                 [self.name("v") for _ in range(outputs)], domain=domain, **attrs)
        while proto.input and not proto.input[-1]:
            proto.input.pop()
        given = {v.name: v for v in operands if v is not None}
        model = self._model([proto], given)
        results, gaps, run = self._both(op, model, given)
        own = self._errors(op, given, results, run, exact)
        errs = [e + g + noise if a.dtype.kind == "f" else 0.0 for a, e, g in zip(results, own, gaps)]
        self.nodes.append(proto)
        made = [Value(n, a, e) for n, a, e in zip(proto.output, results, errs)]
        self.values += made
        return made

    def _model(self, nodes: Sequence[onnx.NodeProto], given: dict[str, Value]) -> onnx.ModelProto:
        """One node with everything given it as an input, but for what says what it does."""
        fixed = {n: v for n, v in given.items() if v.control}
        graph = helper.make_graph(
            nodes, "g", [_info(n, v.array) for n, v in given.items() if n not in fixed],
            [helper.make_empty_tensor_value_info(n) for n in nodes[-1].output if n],
            [numpy_helper.from_array(v.array, n) for n, v in fixed.items()])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR[self.opset])

    def _both(self, op: str, model: onnx.ModelProto,
              given: dict[str, Value]) -> tuple[list[np.ndarray], list[float], Callable[..., Any]]:
        """What both references make of a node, where they agree, and how far apart they are."""
        names = {i.name for i in model.graph.input}
        feed = {n: v.array for n, v in given.items() if n in names}
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), OPTIONS, providers=["CPUExecutionProvider"])
            results = session.run(None, feed)
        except Exception as e:
            raise self._skip("onnxruntime refuses", op) from e
        if any(not isinstance(r, np.ndarray) or r.size > LARGEST for r in results):
            raise self._skip("too large", op)
        for r in results:
            finite = np.abs(r[np.isfinite(r)].astype(np.float64)) if r.dtype.kind in "fiu" else np.zeros(0)
            if finite.size and finite.max() > (100 if r.dtype == np.float16 else 2e4):
                raise self._skip("too large", op)
        try:
            with np.errstate(all="ignore"):
                others = ReferenceEvaluator(model).run(None, feed)
        except Exception as e:
            raise self._skip("ReferenceEvaluator refuses", op) from e
        gaps = []
        for a, b in zip(results, map(np.asarray, others)):
            if a.dtype != b.dtype or a.shape != b.shape or not agrees(a, b, 1e-2 if a.dtype == np.float16 else 1e-3):
                raise self._skip("references disagree", op)
            with np.errstate(all="ignore"):
                gaps.append(_largest(a.astype(np.float64) - b.astype(np.float64)) if a.dtype.kind == "f" else 0.0)
        return results, gaps, lambda moved: session.run(None, {n: moved[n] for n in names})

    def _errors(self, op: str, given: dict[str, Value], results: Sequence[np.ndarray], run: Callable[..., Any],
                exact: bool) -> list[float]:
        """Bounds on the rounding errors of results: what changes when operands move by theirs, and one rounding more."""
        moving = {n: v for n, v in given.items() if v.is_float and not v.control and (v.err or not exact)}
        discrete = all(r.dtype.kind != "f" for r in results)
        if exact and not discrete:
            return [max((v.err for v in given.values()), default=0.0) if r.dtype.kind == "f" else 0.0 for r in results]
        if discrete:
            moving = {n: v for n, v in moving.items() if v.err}
        if not moving:
            return [0.0 if r.dtype.kind != "f" else 2 * _eps(r) * _largest(r) for r in results]
        change = [0.0] * len(results)
        for _ in range(2):
            moved = {n: v.array for n, v in given.items()}
            for n, v in moving.items():
                step = 30 * v.err if discrete else v.err + 2 * _eps(v.array) * np.abs(v.array.astype(np.float64))
                with np.errstate(all="ignore"):
                    moved[n] = (v.array + step * self.numbers.choice([-1, 1], v.shape)).astype(v.dtype)
                moved[n] = np.where(np.isfinite(v.array), moved[n], v.array)
            for k, (a, b) in enumerate(zip(results, run(moved))):
                if a.shape != b.shape or (a.dtype.kind != "f" and not np.array_equal(a, b)):
                    raise self._skip("decided by rounding", op)
                if a.dtype.kind == "f":
                    x, y = a.astype(np.float64), b.astype(np.float64)
                    if not np.array_equal(np.where(np.isfinite(x), 0, x), np.where(np.isfinite(y), 0, y), equal_nan=True):
                        raise self._skip("decided by rounding", op)
                    with np.errstate(all="ignore"):
                        change[k] = max(change[k], float(np.max(np.abs(x - y), where=np.isfinite(x), initial=0.0)))
        errs = [0.0 if r.dtype.kind != "f" else 2 * c + 2 * _eps(r) * _largest(r) for r, c in zip(results, change)]
        for r, e in zip(results, errs):
            if e > (0.1 if r.dtype == np.float16 else 0.005) * _largest(r) + 1e-5:
                raise self._skip("ill-conditioned", op)
        return errs

    def _skip(self, why: str, op: str) -> Skip:
        self.skipped[f"{why}: {op}"] += 1
        return Skip(why)

    # The whole ----------------------------------------------------------------------------------
    def case(self, free: float = 0.35) -> Case:
        """The graph as a model. With probability `free` some dims of its inputs are free (if it is 1, some that are 0 too)."""
        used = {n for node in self.nodes for n in node.input}
        by_name = {v.name: v for v in self.values}
        produced = [by_name[n] for node in self.nodes for n in node.output]
        outputs = [v for v in produced if v.name not in used and not v.name.startswith("c")]
        outputs += [v for v in produced if v not in outputs and self.chance(0.08)]
        if not outputs:
            raise Skip("nothing computed")
        inputs = [v for v in self.values if v.role == "input" and v.name in used]
        symbols: dict[int, str] = {}
        loose = self.chance(free)
        infos = []
        for v in inputs:
            dims: list[int | str] = []
            for n in v.shape:
                if loose and (n or free == 1) and self.chance(0.4):
                    dims.append(symbols.setdefault(n, f"n{n}") if self.chance(0.6) else self.name("d"))
                else:
                    dims.append(n)
            infos.append(helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(v.dtype), dims))
        graph = helper.make_graph(
            self.nodes, "generated", infos,
            [helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(v.dtype), None) for v in outputs],
            [numpy_helper.from_array(v.array, v.name) for v in self.values if v.role == "constant" and v.name in used])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR[self.opset])
        return Case(model, {v.name: v.array for v in inputs}, {v.name: v.array for v in outputs},
                    {v.name: v.err for v in outputs}, self.skipped, by_name)


def agrees(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Equal values; floats within the tolerance of the largest, and NaN and infinities in the same places."""
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.where(np.isfinite(x), 0, x), np.where(np.isfinite(y), 0, y), equal_nan=True):
        return False
    with np.errstate(all="ignore"):
        return bool(np.all(np.abs(x - y) <= tolerance * _largest(a) + 1e-6, where=np.isfinite(x)))


def _info(name: str, a: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)


def _eps(a: np.ndarray) -> float:
    return float(np.finfo(a.dtype).eps)


def _largest(a: np.ndarray) -> float:
    return float(np.max(np.abs(a.astype(np.float64)), where=np.isfinite(a), initial=0.0))
