"""Fusion: ops that become one kernel.

Groups grow backwards from a root. An op joins the group of its users when *all* its uses are in that one group, so only the
root's result is ever seen outside: the graph of groups is acyclic by construction, nothing is computed twice, and the
fused op can stand where its root stood. One walk for contractions with their epilogues, one for everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.ops.movement import slice_offset
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType
from graphopt.rewrite.engine.body import Body
from graphopt.rewrite.engine.common import static_shape
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass

MAX_OPERANDS = 24
MAX_OPS = 64


@dataclass
class Group:
    """Ops of one kernel to be. `full` is the shape of its loop nest without, `reduced` the shapes with the axes reduced."""

    root: Op
    kind: str
    full: tuple[int, ...]
    ops: list[Op] = field(default_factory=list)  # in reverse order
    anchor: Op | None = None  # the contraction or row kernel
    axes: tuple[int, ...] | None = None  # of its reductions
    reduced: set[tuple[int, ...]] = field(default_factory=set)
    mapped: set[Op] = field(default_factory=set)  # members read through a movement op, at other indices than the root's
    reread: set[Op] = field(default_factory=set)  # movement members whose elements are read more than once
    external: dict[Value, None] = field(default_factory=dict)
    stages: dict[Op, int] = field(default_factory=dict)  # of an epilogue: how many movement ops its operands stand before
    into: str = ""  # what was fused into an operand of the contraction

    def add(self, op: Op) -> None:
        self.ops.append(op)
        for r in op.results:
            self.external.pop(r, None)
        for v in op.operands:
            if v is not None and not is_scalar_constant(v):
                self.external[v] = None

    def has_room(self, op: Op) -> bool:
        new = sum(1 for v in dict.fromkeys(op.operands) if v is not None and v not in self.external and not is_scalar_constant(v))
        return len(self.ops) < MAX_OPS and len(self.external) - 1 + new <= MAX_OPERANDS


def is_scalar_constant(v: Value) -> bool:
    """Does this operand move into the kernel as a number?"""
    return v.constant is not None and v.constant.size == 1


def is_kernel_op(op: Op) -> bool:
    """One result, static shapes, dtypes that a kernel can compute with, the same result every time."""
    if op.definition.has(Trait.CONTROL | Trait.RANDOM | Trait.DATA_DEPENDENT) or len(op.results) != 1 or op.regions:
        return False
    if op.definition.has(Trait.ELEMENTWISE) and op.definition.has(Trait.VIEW):
        return False  # a bitcast may change how many elements there are; as a view it costs nothing
    return all(isinstance(v.type, TensorType) and v.type.is_static and _computes(v.type)
               for v in (*op.operands, *op.results) if v is not None)


def _computes(t: TensorType) -> bool:
    d = t.dtype
    return d.kind == "bool" or (d.is_integer and d.bits >= 8) or (d.is_float and d.bits >= 16)


def _axes(op: Op) -> tuple[int, ...] | None:
    """The axes of a plain reduction; None for anything else, and for those that have no single row to walk (pooling)."""
    return op.attrs.get("axes") if op.definition.has(Trait.REDUCTION) else None


class Fuse(GraphPass):
    """Before: a graph of ops. After: elementwise DAGs, elementwise epilogues of contractions, and reductions with what is
    elementwise around them are `fused` ops; what they compute is unchanged, and nothing is computed twice.

    kind="contraction": one contraction, and elementwise ops of its result's shape after it. Where `target.takes(op, k)`
    says that the contraction's kernel computes operand k element by element, movement and elementwise ops before it; where
    `target.places(op)` says that it stores its result element by element, transposes and reshapes after it.
    kind="reduction": reductions over the same axes of one shape, or one row kernel of the target; elementwise ops on
    that shape or on the reduced one, before, between and after; movement ops only on what flows in.
    kind="elementwise": elementwise ops of the root's shape, and movement ops on what flows in.
    `target.row_kernel(op)` says which composite ops the target computes row by row.
    """

    name = "fuse"

    def run_on(self, graph: Graph, context: Context) -> bool:
        order = list(graph.ops)
        kernel = {op for op in order if op.name != "const" and is_kernel_op(op)}
        ask = context.target
        groups = [g for g in _grow(order, kernel, _Epilogues(ask.places)) if g.anchor is not None]
        taken = {op for g in groups for op in g.ops}
        groups += _grow([op for op in order if op not in taken], kernel, _Rows(_row_values(order, kernel), ask.row_kernel))
        member = {op: g for g in groups for op in g.ops}
        groups = _prologues(order, kernel, groups, member, ask.takes)
        for group in groups:
            if text := _kept_apart(group.root, member):
                context.because(group.root, text)
        changed = False
        position = {op: i for i, op in enumerate(order)}
        for group in sorted(groups, key=lambda g: position[g.root]):
            if len(group.ops) > 1:
                if not context.take(f"fuse {len(group.ops)} ops", group.root):
                    break
                _build(group, context)
                changed = True
        return changed


class _Policy:
    """What may start a group, and what may join one."""

    def start(self, op: Op) -> Group | None:
        raise NotImplementedError

    def join(self, group: Group, op: Op, users: list[Op]) -> bool:
        """Let `op`, all of whose users are in `group`, join: change the group and say True."""
        raise NotImplementedError


def _grow(order: list[Op], kernel: set[Op], policy: _Policy) -> list[Group]:
    """Assign each op of `order`, walked backwards, to the group of its users or to one of its own."""
    groups = []
    member: dict[Op, Group] = {}
    for op in reversed(order):
        if op not in kernel:
            continue
        users = op.results[0].users
        group = member.get(users[0]) if users else None
        if group is not None and all(member.get(u) is group for u in users[1:]) and group.has_room(op) \
                and policy.join(group, op, users):
            group.add(op)
            member[op] = group
            continue
        started = policy.start(op)
        if started is not None:
            started.add(op)
            member[op] = started
            groups.append(started)
    return groups


class _Epilogues(_Policy):
    """Elementwise ops of one shape, and one contraction of that shape which they follow; between them, transposes and
    reshapes that only what follows reads, where the contraction's kernel can store through them."""

    def __init__(self, places: Callable[[Op], bool]) -> None:
        self.places = places

    def start(self, op: Op) -> Group | None:
        if not (op.definition.has(Trait.ELEMENTWISE) or (op.name == "transpose" and self._carries(op))):
            return None
        group = Group(op, "contraction", _shape(op))
        if op.name == "transpose":
            self._step(group, op)
        else:
            group.stages[op] = 0
        return group

    def join(self, group: Group, op: Op, users: list[Op]) -> bool:
        stage = group.stages[users[0]] if group.anchor is None else -1
        if group.anchor is not None or any(group.stages[u] != stage for u in users):
            return False
        if _shape(op) != group.full or stage != max(group.stages.values()):
            return False
        if op.definition.has(Trait.CONTRACTION) and not op.definition.has(Trait.COMPOSITE):
            group.anchor = op
        elif op.name in ("transpose", "reshape") and self._carries(op):
            self._step(group, op)
            return True
        elif not op.definition.has(Trait.ELEMENTWISE):
            return False
        group.stages[op] = stage
        return True

    def _step(self, group: Group, op: Op) -> None:
        """Past a movement op: from here on, what joins has the shape of its operand."""
        assert op.operands[0] is not None
        group.full = op.operands[0].static_shape
        group.stages[op] = 1 + max(group.stages.values(), default=0)

    def _carries(self, op: Op) -> bool:
        """Does the result of a contraction that can be stored through it flow into this movement op, and nowhere else?"""
        v = op.operands[0]
        while v is not None and v.op is not None and len(v.users) == 1:
            op = v.op
            if op.definition.has(Trait.CONTRACTION):
                return all(static_shape(x) is not None for x in op.operands if x is not None) and self.places(op)
            if op.name in ("transpose", "reshape"):
                v = op.operands[0]
            elif op.definition.has(Trait.ELEMENTWISE):
                # the operand that was computed last: the others are biases and residuals
                shape = static_shape(op.result)
                v = next((x for x in op.operands if x is not None and x.op is not None and shape is not None
                          and shape == static_shape(x) and len(x.users) == 1), None)
            else:
                return False
        return False


def _prologues(order: list[Op], kernel: set[Op], groups: list[Group], member: dict[Op, Group],
               takes: Callable[[Op, int], bool]) -> list[Group]:
    """Merge what only a contraction reads into the contraction's group: movement ops, and one elementwise group."""
    anchors = {g.anchor: g for g in groups if g.kind == "contraction"}
    position = {op: i for i, op in enumerate(order)}
    for anchor in (op for op in order if op in kernel and op.definition.has(Trait.CONTRACTION)):
        group = anchors.get(anchor)
        if group is None and anchor in member:
            continue
        for k, v in enumerate(anchor.operands):
            if v is None or v.constant is not None or not takes(anchor, k):
                continue
            chain = _chain(v, anchor, kernel, member)
            if not any(not o.definition.has(Trait.VIEW) for o in chain):
                continue  # views cost nothing
            if group is None:
                group = Group(anchor, "contraction", _shape(anchor), anchor=anchor)
                group.add(anchor)
                member[anchor] = group
                groups.append(group)
            if not all(group.has_room(o) for o in chain) or len(group.ops) + len(chain) > MAX_OPS:
                continue
            for o in chain:
                before = member.get(o)
                if before is not None and before in groups:
                    groups.remove(before)
                group.add(o)
                member[o] = group
            group.into = "left" if k == 0 else "right"
        if group is not None:
            group.ops.sort(key=lambda o: -position[o])
    return groups


def _chain(v: Value, user: Op, kernel: set[Op], member: dict[Op, Group]) -> list[Op]:
    """The ops that compute `v` for `user` alone, last first: movement ops, then the elementwise ops of one group."""
    chain: list[Op] = []
    while v.op is not None and v.op in kernel and v.users == [user] * len(v.users) and len(v.uses) == 1:
        op = v.op
        group = member.get(op)
        if group is not None:
            if group.kind == "elementwise" and group.root is op:
                chain += group.ops
            break
        if op.definition.has(Trait.ELEMENTWISE):
            chain.append(op)
            break
        if op.name not in ("transpose", "reshape", "slice") or _cuts_stored(op) or not _keeps_rows(op):
            break
        chain.append(op)
        user = op
        assert op.operands[0] is not None
        v = op.operands[0]
    while chain and chain[-1].definition.has(Trait.VIEW) and chain[-1].name == "reshape":
        chain.pop()  # the first of them is a view of what is in memory
    return chain


def _keeps_rows(op: Op) -> bool:
    """Can a row be walked through this op by a few strides? A reshape may only split or keep the last axis."""
    if op.name != "reshape":
        return True
    assert op.operands[0] is not None
    inner, outer = op.operands[0].static_shape, _shape(op)
    return bool(inner) and bool(outer) and inner[-1] > 0 and outer[-1] % inner[-1] == 0


class _Rows(_Policy):
    """Elementwise DAGs with movement ops on what flows in, and rows: reductions and what is elementwise around them."""

    def __init__(self, rows: dict[Value, tuple[tuple[int, ...], tuple[int, ...]]], row_kernel: Callable[[Op], bool]) -> None:
        self.rows, self.row_kernel = rows, row_kernel

    def start(self, op: Op) -> Group | None:
        if op.definition.has(Trait.ELEMENTWISE):
            return Group(op, "elementwise", _shape(op))
        group = Group(op, "reduction", _shape(op))
        if self._axis_reduction(group, op) or self._row_kernel(group, op):
            return group
        return None

    def join(self, group: Group, op: Op, users: list[Op]) -> bool:
        mapped = any(u in group.mapped or _moves(u) for u in users)
        if _moves(op):
            if any(u is group.anchor for u in users) or not self._cheap(op):
                return False
            if not mapped and _shape(op) != group.full and _shape(op) in group.reduced:
                return False
            if mapped:
                group.mapped.add(op)
            if len(users) > 1 or any(_grows(op, u) or u in group.reread for u in users):
                group.reread.add(op)
            return True
        if mapped:
            once = len(users) == 1 and not _grows(op, users[0]) and users[0] not in group.reread
            if not (op.definition.has(Trait.ELEMENTWISE) and once):
                return False
            group.mapped.add(op)
            return True
        if group.anchor in users and not _feeds_row(op, group.anchor):
            return False
        if len(_shape(op)) < len(group.full) and any(_shape(u) != _shape(op) for u in users if not _axes(u)):
            return False  # a row's value without the reduced axes would broadcast along others
        if op.definition.has(Trait.ELEMENTWISE):
            return self._elementwise(group, op)
        return self._axis_reduction(group, op) or self._row_kernel(group, op)

    def _elementwise(self, group: Group, op: Op) -> bool:
        shape = _shape(op)
        if shape == group.full or shape in group.reduced:
            return True
        row = self.rows.get(op.results[0])
        # A value per row, whose reduction stands further up: mean, variance and the like.
        return row is not None and row[0] == group.full and group.anchor is None and self._set_axes(group, row[1])

    def _axis_reduction(self, group: Group, op: Op) -> bool:
        axes = _axes(op)
        if axes is None or group.anchor is not None or len(op.operands) != 1 or op.operands[0] is None:
            return False
        of = static_shape(op.operands[0])
        assert of is not None
        if group.axes is None and group.full != of:
            # An epilogue on the reduced shape so far, and nothing else: the loop nest is now that of the operand.
            if _shape(op) != group.full or group.mapped or any(_moves(o) or _shape(o) != group.full for o in group.ops):
                return False
            group.full = of
        if group.full != of or not self._set_axes(group, axes) or _shape(op) not in group.reduced:
            return False
        group.kind = "reduction"
        return True

    def _row_kernel(self, group: Group, op: Op) -> bool:
        if group.anchor is not None or group.axes is not None or not self.row_kernel(op):
            return False
        if _shape(op) != group.full or group.mapped or any(_moves(o) or _shape(o) != group.full for o in group.ops):
            return False
        group.anchor, group.kind = op, "reduction"
        return True

    def _set_axes(self, group: Group, axes: tuple[int, ...]) -> bool:
        if group.axes is None:
            group.axes = axes
            group.reduced = {_reduce(group.full, axes, True), _reduce(group.full, axes, False)}
        return group.axes == axes

    def _cheap(self, op: Op) -> bool:
        """Does reading through this op cost no more than an index? A view that renumbers elements would divide."""
        if (op.definition.operands and op.definition.operands[-1].variadic) or not op.operands:
            return False
        x = op.operands[0]
        if not op.definition.has(Trait.VIEW):
            return not _cuts_stored(op)
        return x is not None and [d for d in static_shape(x) or () if d != 1] == [d for d in _shape(op) if d != 1]


def _shape(op: Op) -> tuple[int, ...]:
    shape = static_shape(op.results[0])
    assert shape is not None
    return shape


def _moves(op: Op) -> bool:
    return op.definition.has(Trait.MOVEMENT | Trait.VIEW) and not op.definition.has(Trait.ELEMENTWISE)


def _cuts_stored(op: Op) -> bool:
    """A contiguous piece of a tensor that is in memory anyway: it costs nothing as a view, and kernels that do not know
    where their piece lies serve for all pieces."""
    x = op.operands[0]
    if op.name != "slice" or x is None or x.constant is not None or (x.op is not None and len(x.users) == 1):
        return False
    a = op.attrs
    return slice_offset(x.static_shape, _shape(op), a["axes"], a["starts"], a["steps"]) is not None


def _grows(op: Op, user: Op) -> bool:
    """Would elements of `op` be computed more than once inside of `user`?"""
    size = lambda o: o.results[0].type.size
    return size(user) > size(op)


def _feeds_row(op: Op, anchor: Op | None) -> bool:
    """Is `op` the operand that the row kernel walks, and only that?"""
    return anchor is not None and anchor.operands[0] is op.results[0] and op.results[0] not in anchor.operands[1:] \
        and _shape(op) == _shape(anchor)


def _reduce(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    return tuple(1 if i in axes else d for i, d in enumerate(shape) if keepdims or i not in axes)


def _row_values(order: list[Op], kernel: set[Op]) -> dict[Value, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Values of one element a row, with the shape and the axes of the reduction that they come from."""
    rows: dict[Value, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for op in order:
        if op not in kernel:
            continue
        axes, operand = _axes(op), op.operands[0] if op.operands else None
        if axes is not None and operand is not None:
            of = static_shape(operand)
            if of is not None and _shape(op) == _reduce(of, axes, True):
                rows[op.results[0]] = of, axes
        elif op.definition.has(Trait.ELEMENTWISE):
            row = next((rows[v] for v in op.operands if v is not None and v in rows), None)
            if row is not None and _shape(op) == _reduce(*row, True):
                rows[op.results[0]] = row
    return rows


def _build(group: Group, context: Context) -> None:
    """Replace the group's ops by one `fused` op at the root's place."""
    members = list(reversed(group.ops))
    body = Body()
    for op in members:
        for v in op.operands:
            if v is not None and v.op is not None and v not in body.inside and is_scalar_constant(v):
                body.hold(v.op)
        body.copy(op)
    context.because(group.root, _reason(group, members))
    body.finish(group.root, group.kind, members)
    for op in group.ops[1:]:
        op.erase()


def _kept_apart(root: Op, member: dict[Op, Group]) -> str | None:
    """Why the result of a group is stored, where it might have gone into the kernel of its users; None where it could not."""
    users = root.results[0].users
    kernels = dict.fromkeys(member[u].root if u in member else u for u in users)
    if not any(u in member for u in users):
        return None
    if len(kernels) > 1:
        return f"stored: {len(kernels)} kernels read it ({', '.join(u.name for u in list(kernels)[:4])}), and it is computed once"
    return f"stored: the kernel of {users[0].name} cannot compute it on the way (another shape, an anchor of its own, or no room)"


def _reason(group: Group, members: list[Op]) -> str:
    names = ", ".join(op.name for op in members)
    if group.kind == "contraction":
        assert group.anchor is not None
        before = f"; what comes before it is computed while the {group.into} operand is packed" if group.into else ""
        return f"fused ({names}): applied to the result of {group.anchor.name} before it is stored{before}"
    if group.kind == "reduction":
        return f"fused ({names}): one walk over the rows, nothing in between is written out"
    return f"fused ({names}): each intermediate value is used only here, so none of them is stored"
