"""The program: which kernels run in which order over which memory. Shared by all targets.

Every tensor lives somewhere: in the caller's inputs and outputs, in the weights (constants, packed once),
in the arena (one block per call, offsets fixed here), or with the host where its shape is only known when
running. Views share their operand's memory and cost nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from graphopt.codegen.kernel.loops import Kernel
from graphopt.codegen.kernel.verify import verify
from graphopt.codegen.lower.kernels import Lowered, Packing, Template, inlined, kernel_key, lower
from graphopt.codegen.lower.registry import why_not
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.lower.tuning import Picks, Wanted, nothing_wanted
from graphopt.codegen.program import control, steps
from graphopt.codegen.program.arena import arrange, largest_sum
from graphopt.codegen.program.control import Loop, Planned
from graphopt.codegen.program.steps import Branch, Call, Host, Repeat, Slot, Step, Stride
from graphopt.ir.graph import Graph, Op, Tensor, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType

ALIGN = 64


@dataclass
class Weight:
    tensor: Tensor
    packing: Packing | None
    offset: int
    nbytes: int


class WeightBlock:
    """The packed weights of several programs in one block: what one of them has placed is there for those that follow.

    Equal bytes lie there once, whatever they are of: passes fold constants anew for every program, and arrangements of
    different names may be equal.
    """

    def __init__(self) -> None:
        self.weights: list[Weight] = []
        self.size = 0
        self._placed: dict[str, Weight] = {}  # by the digest of what is packed

    def place(self, tensor: Tensor, packing: Packing | None) -> Weight:
        h = hashlib.sha256()
        array = tensor.numpy()
        for part in [array] if packing is None else packing.parts(array):
            h.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        found = self._placed.get(h.hexdigest())
        if found is None:
            found = Weight(tensor, packing, self.size, packing.size if packing else nbytes(tensor))
            self._placed[h.hexdigest()] = found
            self.weights.append(found)
            self.size += _round(found.nbytes)
        return found


@dataclass
class Program:
    graph: Graph
    kernels: list[Kernel] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # of each kernel what its code depends on: kernel_key and choices
    picks: dict[str, tuple[str, Picks]] = field(default_factory=dict)  # by kernel name: kernel_key, and what was decided in it
    steps: list[Step] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    weights_size: int = 0  # up to the end of the last one
    arena_size: int = 0
    arena_bound: int = 0  # largest sum of live tensors: no plan needs less
    slots: dict[Value, Slot] = field(default_factory=dict)
    lifetimes: list[tuple[int, int, int, int]] = field(default_factory=list)  # (first step, last step, offset, bytes)
    host_values: int = 0

    @property
    def calls(self) -> list[Call]:
        """The calls of kernels, those in branches and loops too, each once."""
        return list(steps.calls(self.steps))

    @property
    def hosts(self) -> list[Host]:
        return [s for s in self.steps if isinstance(s, Host)]

    def verify(self) -> None:
        """CodegenError where a kernel is not well formed."""
        for kernel in self.kernels:
            verify(kernel)

    def pack_weights(self, allocate: Callable[[int], np.ndarray]) -> np.ndarray:
        """The block of weights, filled piece by piece so that no second packed copy exists."""
        block = allocate(self.weights_size)
        for w in self.weights:
            array = w.tensor.numpy()
            at = w.offset
            for part in [array] if w.packing is None else w.packing.parts(array):
                np.copyto(block[at:at + part.nbytes].view(part.dtype).reshape(part.shape), part)
                at += part.nbytes
            assert at == w.offset + w.nbytes
        return block


def plan(graph: Graph, style: Style, templates: Sequence[Template] = (), wanted: Wanted = nothing_wanted,
         block: WeightBlock | None = None) -> Program:
    """Kernels, order and memory for a graph of static shapes (ops that have none become host steps).

    `wanted` gives the choices recorded for an op's kernel, which go before the templates' own. In `block` the program's weights
    lie beside those of other programs.
    """
    program = Program(graph)
    if block is None and any(op.definition.has(Trait.CONTROL) for op in graph.ops):
        block = WeightBlock()  # bodies fold the same weights each for itself
    made = _Planner(graph, _Shared(program, style, templates, wanted, block)).run()
    program.steps, program.lifetimes, program.host_values = made.steps, made.lives, made.host_values
    program.arena_size, program.arena_bound = made.size, made.least
    program.slots = {v: made.slot(v) for v in graph.values() if v.op is None or v.op.name != "const"}
    return program


def _round(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def nbytes(v: Value | Tensor) -> int:
    """Bytes of what has a static shape."""
    assert isinstance(v.type, TensorType)
    return math.prod(v.type.storage) * v.type.dtype.itemsize


class _Shared:
    """What the plans of a graph and of all bodies in it have in common: kernels, and weights."""

    def __init__(self, program: Program, style: Style, templates: Sequence[Template], wanted: Wanted,
                 block: WeightBlock | None) -> None:
        self.program, self.style, self.templates, self.wanted, self.block = program, style, templates, wanted, block
        self.lowered: dict[str, tuple[Lowered, dict[Value, int]]] = {}
        self.weights: dict[tuple[int, str], Weight] = {}
        self.loops = itertools.count()

    def place(self, tensor: Tensor, packing: Packing | None) -> Weight:
        if self.block is not None:
            return self.block.place(tensor, packing)
        return Weight(tensor, packing, self.program.weights_size, packing.size if packing else nbytes(tensor))


class _Part(NamedTuple):
    """Where a view lies: in the memory of `root`, so many bytes from its start."""

    root: Value
    offset: int = 0
    strides: tuple[Stride, ...] = ()


class _Pending(NamedTuple):
    """A step whose memory has no place yet: a kernel, or control flow with its bodies, else for the evaluator, and why."""

    op: Op
    kernel: Lowered | None = None
    loop: Loop | None = None
    bodies: Sequence[Planned] = ()
    why: str = ""


class _Planner:
    """The plan of one graph: a program's, or a body's in it, whose slots are relative to it. `loop` is that which the graph is
    the body of; `unused` are outputs, by number, that need not be made."""

    def __init__(self, graph: Graph, shared: _Shared, loop: Loop | None = None, unused: Collection[int] = ()) -> None:
        self.graph, self.shared, self.loop, self.unused = graph, shared, loop, unused
        self.blocks: dict[Value, list[int]] = {}  # arena roots: [first step, last step, bytes]
        self.scratch: list[tuple[int, int]] = []  # step, bytes
        self.steps: list[Step] = []
        self.lives: list[tuple[int, int, int, int]] = []
        self.host_values = 0

    def run(self) -> _Planner:
        self.alias()
        self.place_interface()
        pending = [self.pending(op) for op in self.graph.ops if op.name != "const" and op not in self.views]
        copies = [(v, k) for k, v in enumerate(self.graph.outputs) if self.needs_copy(v, k)]
        self.lifetimes(pending, copies)
        self.assign()
        for step, p in enumerate(pending):
            extra = [Slot("arena", 0, offset) for s, offset in self.scratch_at if s == step]
            self.steps.append(self.step(p, extra))
        for v, k in copies:  # an output that is an input, a constant, part of another tensor, or returned twice
            self.steps.append(self.copy(v, self.operand(v, None), Slot("output", k)))
        return self

    def step(self, p: _Pending, extra: Sequence[Slot]) -> Step:
        op = p.op
        results = [self.slot(r) for r in op.results]
        if p.kernel is not None:
            ins = [self.operand(v, p.kernel.packings.get(k)) for k, v in enumerate(p.kernel.operands)]
            return Call(p.kernel.kernel, (*ins, *results, *extra), op)
        if p.bodies:
            given = [None if v is None else self.operand(v, None) for v in op.operands]
            if p.loop is None:
                return control.branch(op, p.bodies, extra[0], given, results)
            return p.loop.steps(p.bodies[0], extra[0], given, results, self.copy, self.clear)
        # constants reach a host op as they are, strings included
        args = tuple(None if v is None or v.constant is not None else self.slot(v) for v in op.operands)
        return Host(op, args, tuple(results), p.why)

    def pending(self, op: Op) -> _Pending:
        style = self.shared.style
        if not (op.definition.has(Trait.CONTROL) and style.control):
            why = why_not(op, style.templated)
            return _Pending(op, why=why) if why else _Pending(op, self.lower(op))
        if why := control.why_not(op, style.templated):
            return _Pending(op, why=why)
        loop = Loop(op, next(self.shared.loops)) if op.name == "loop" else None
        planners = [_Planner(g, self.shared, loop, loop.unused if loop else ()).run() for g in op.regions]
        return _Pending(op, loop=loop, bodies=[Planned(tuple(p.steps), p.size) for p in planners])

    # Views
    def alias(self) -> None:
        """Find the values that are memory of another."""
        self.parts: dict[Value, _Part] = {}
        self.views: set[Op] = set()  # ops that have nothing to do
        for op in reversed(list(self.graph.ops)):
            if op.name == "join":
                self.views.add(op)
                _alias_parts(op, self.parts)
        for op in self.graph.ops:
            if op.name in ("const", "join") or not op.results or not _static(op):
                continue
            offset = _view_offset(op)
            strides: tuple[Stride, ...] = ()
            if offset is None and self.loop is not None and op.name == "gather" and op.operands[1] is not None:
                row = self.loop.row(op, self.part(op.operands[1]).root)
                if row is not None:
                    offset, strides = 0, (Stride(self.loop.number, row),)
            if offset is None:
                continue
            source = op.operands[0]
            assert source is not None
            if source.constant is not None and not strides:
                continue
            root, base, along = self.part(source)
            self.parts[op.results[0]] = _Part(root, base + offset, (*along, *strides))
            self.views.add(op)

    def part(self, v: Value) -> _Part:
        return self.parts.get(v) or _Part(v)

    def place_interface(self) -> None:
        self.fixed: dict[Value, Slot] = {v: Slot("input", k) for k, v in enumerate(self.graph.inputs)}
        for k, v in enumerate(self.graph.outputs):
            root, offset, strides = self.part(v)
            if not isinstance(v.type, TensorType) or not v.type.is_static or root.op is None or root in self.fixed \
                    or root.constant is not None or not _is_static(root) or k in self.unused or strides:
                continue
            if offset == 0 and nbytes(root) == nbytes(v):
                self.fixed[root] = Slot("output", k)

    def needs_copy(self, v: Value, k: int) -> bool:
        root = self.part(v).root
        if not isinstance(v.type, TensorType) or not _is_static(root) or not v.type.is_static or k in self.unused:
            return False
        return self.fixed.get(root) != Slot("output", k)

    # Kernels
    def lower(self, op: Op) -> Lowered:
        shared, program = self.shared, self.shared.program
        kernel = kernel_key(op)
        choices = shared.wanted(op, kernel)
        key = f"{kernel} {sorted(choices.items())}" if choices else kernel
        if key not in shared.lowered:
            picks = Picks(choices)
            low = lower(op, f"k{len(shared.lowered)}_{op.name}", replace(shared.style, pick=picks), shared.templates)
            positions = {v: k for k, v in enumerate(op.operands) if v is not None}
            shared.lowered[key] = (low, {v: positions[v] for v in low.operands})
            program.kernels.append(low.kernel)
            program.keys.append(kernel + picks.tag())
            program.picks[low.kernel.name] = (kernel, picks)
        low, positions = shared.lowered[key]
        operands = tuple(op.operands[positions[v]] for v in low.operands)
        return Lowered(low.kernel, operands, low.packings, low.scratch)  # type: ignore[arg-type]

    def copy(self, like: Value, source: Slot, target: Slot) -> Call:
        """A kernel that copies a value like that one."""
        scratch = Graph("copy")
        op = scratch.add("identity", [scratch.add_input(like.type, "x")])
        scratch.outputs = [op.result]
        return Call(self.lower(op).kernel, (source, target), op)

    def clear(self, like: Value, target: Slot) -> Call:
        """A kernel that writes zeros where a value like that one lies."""
        scratch = Graph("clear")
        zero = scratch.constant(np.zeros((), like.dtype.numpy))
        op = scratch.add("expand", [zero], {"shape": like.static_shape})
        scratch.outputs = [op.result]
        return Call(self.lower(op).kernel, (target,), op)

    # Memory
    def lifetimes(self, pending: Sequence[_Pending], copies: Sequence[tuple[Value, int]]) -> None:
        def touch(v: Value, step: int) -> None:
            root = self.part(v).root
            if root in self.fixed or root.constant is not None or not _is_static(root):
                return
            if root not in self.blocks:
                self.blocks[root] = [step, step, nbytes(root)]
            self.blocks[root][1] = step

        for step, p in enumerate(pending):
            for r in p.op.results:
                touch(r, step)
            for v in p.op.operands:
                if v is not None:
                    touch(v, step)
            if p.kernel is not None:
                self.scratch += [(step, b.size * b.dtype.itemsize) for b in p.kernel.scratch]
            elif p.bodies:
                self.scratch.append((step, p.loop.layout(p.bodies[0], _round) if p.loop else max(b.size for b in p.bodies)))
        for v, _ in copies:
            touch(v, len(pending))

    def assign(self) -> None:
        """Offsets for what lives in the arena."""
        items: list[tuple[int, int, int, Value | int]] = [(b[2], b[0], b[1], v) for v, b in self.blocks.items()]
        items += [(size, step, step, k) for k, (step, size) in enumerate(self.scratch)]
        lives = [(_round(max(size, 1)), first, last) for size, first, last, _ in items]
        self.least = largest_sum(lives)
        places, self.size = arrange(lives, self.least)
        self.offsets: dict[Value, int] = {}
        scratch_offsets: dict[int, int] = {}
        for (size, first, last), at, (_, _, _, owner) in zip(lives, places, items):
            self.lives.append((first, last, at, size))
            if isinstance(owner, int):
                scratch_offsets[owner] = at
            else:
                self.offsets[owner] = at
        self.scratch_at = [(self.scratch[k][0], scratch_offsets[k]) for k in range(len(self.scratch))]

    def slot(self, v: Value) -> Slot:
        root, offset, strides = self.part(v)
        if root in self.fixed:
            return self.fixed[root].shifted(offset, *strides)
        if root.constant is not None:
            return self.weight(root, None).shifted(offset, *strides)
        if root in self.offsets:
            return Slot("arena", 0, self.offsets[root] + offset, strides)
        self.fixed[root] = Slot("host", self.host_values)
        self.host_values += 1
        return self.fixed[root]

    def operand(self, v: Value, packing: Packing | None) -> Slot:
        return self.weight(v, packing) if v.constant is not None else self.slot(v)

    def weight(self, v: Value, packing: Packing | None) -> Slot:
        program, weights = self.shared.program, self.shared.weights
        tensor = v.op.attrs["value"]  # type: ignore[union-attr]
        key = (id(tensor), packing.key if packing else "")
        if key not in weights:
            w = self.shared.place(tensor, packing)
            weights[key] = w
            program.weights.append(w)
            program.weights_size = max(program.weights_size, w.offset + _round(w.nbytes))
        return Slot("weights", 0, weights[key].offset)


def _is_static(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.type.is_static


def _static(op: Op) -> bool:
    return all(v is None or _is_static(v) for v in (*op.operands, *op.results))


def _alias_parts(op: Op, found: dict[Value, _Part]) -> None:
    """Place a join's operands in its result, or the result where its operands lie already."""
    parts = op.variadic()
    if parts[0] in found:
        found.setdefault(op.result, found[parts[0]])
        return
    root, at, _ = found.get(op.result) or _Part(op.result)
    for v in parts:
        found[v] = _Part(root, at)
        assert isinstance(v.type, TensorType)
        within = v.type.layout is not None and op.attrs["axis"] == 1  # a pixel
        at += v.static_shape[1] * v.dtype.itemsize if within else nbytes(v)


def _view_offset(op: Op) -> int | None:
    """Byte offset of a view's memory in its operand's, None where the op is no view."""
    t = op.results[0].type
    assert isinstance(t, TensorType)
    offset = op.definition.view(op.view(), t)
    return None if offset is None else offset * t.dtype.itemsize


__all__ = ["ALIGN", "Branch", "Call", "Host", "Program", "Repeat", "Slot", "Step", "Weight", "WeightBlock", "arrange", "inlined",
           "largest_sum", "plan"]
