"""Values, ops and graphs: SSA with use lists, ops in a doubly linked list, nested graphs closed over nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import IRError
from graphopt.ir.dims import Dim, DimLike, is_static, too_long
from graphopt.ir.settle import Learnt, settle
from graphopt.ir.table import OpDef, Operands, lookup
from graphopt.ir.types import MapType, OptionalType, SequenceType, TensorType, Type, dtype, type_symbols

Loc = tuple[str, ...]  # where an op came from in the source model, several for a fused op


class Tensor:
    """Constant data by reference: an array (memory-mapped where it came from a file), a name, identity as equality."""

    __slots__ = ("_type", "array", "name")

    def __init__(self, array: np.ndarray | None, name: str | None = None, type: TensorType | None = None) -> None:
        if array is not None and array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        self.array, self.name = array, name
        self._type = type or TensorType(dtype(array.dtype), array.shape)  # type: ignore[union-attr]

    @property
    def type(self) -> TensorType:
        return self._type

    def numpy(self) -> np.ndarray:
        if self.array is None:
            raise IRError(f"constant @{self.name} has no data", hint="Pass constants= when parsing the graph")
        return self.array


class Value:
    """One SSA value. `op` is its producer, None for a graph's input; `uses` maps (op, operand index)."""

    __slots__ = ("graph", "index", "name", "op", "type", "uses")

    def __init__(self, type: Type, op: Op | None, index: int, graph: Graph | None, name: str | None = None) -> None:
        self.type, self.op, self.index, self.graph, self.name = type, op, index, graph, name
        self.uses: dict[tuple[Op, int], None] = {}

    @property
    def shape(self) -> tuple[DimLike, ...]:
        if not isinstance(self.type, TensorType) or self.type.shape is None:
            raise IRError(f"{self!r} has no known rank")
        return self.type.shape

    @property
    def dtype(self) -> Any:
        if not isinstance(self.type, TensorType):
            raise IRError(f"{self!r} is not a tensor")
        return self.type.dtype

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape where every dim is known; IRError where it is not."""
        if not isinstance(self.type, TensorType):
            raise IRError(f"{self!r} is not a tensor")
        return self.type.static_shape

    @property
    def constant(self) -> np.ndarray | None:
        """The value of a constant with data, else None."""
        return self.op.attrs["value"].array if self.op is not None and self.op.name == "const" else None

    @property
    def users(self) -> list[Op]:
        """Ops that use this value, each once, in the order in which they began to; the return op included."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    def replace_all_uses_with(self, other: Value) -> None:
        for user, index in list(self.uses):
            user.set_operand(index, other)

    def __repr__(self) -> str:
        return f"<%{self.name or '?'}: {self.type}>"


class Op:
    """An operation. Absent optional operands are None. Regions are graphs that see only their own inputs."""

    __slots__ = ("attrs", "definition", "graph", "loc", "next", "operands", "prev", "regions", "results")

    def __init__(self, definition: OpDef, operands: Sequence[Value | None], attrs: dict[str, Any],
                 regions: Sequence[Graph], loc: Loc, result_types: Sequence[Type]) -> None:
        self.definition, self.attrs, self.regions, self.loc = definition, attrs, tuple(regions), loc
        self.operands: tuple[Value | None, ...] = tuple(operands)
        for i, v in enumerate(self.operands):
            if v is not None:
                v.uses[self, i] = None
        self.results = tuple(Value(t, self, i, None) for i, t in enumerate(result_types))
        self.graph: Graph | None = None
        self.prev: Op | None = None
        self.next: Op | None = None

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def result(self) -> Value:
        if len(self.results) != 1:
            raise IRError(f"{self.name} has {len(self.results)} results")
        return self.results[0]

    def operand(self, name: str) -> Value | None:
        """The operand of that name, None where absent."""
        for i, p in enumerate(self.definition.operands):
            if p.name == name:
                return self.operands[i] if i < len(self.operands) else None
        raise IRError(f"{self.name} has no operand {name!r}")

    def variadic(self) -> list[Value]:
        """The values of the variadic operand."""
        first = sum(not p.variadic for p in self.definition.operands)
        return [v for v in self.operands[first:] if v is not None]

    def set_operand(self, index: int, value: Value | None) -> None:
        old = self.operands[index]
        if old is not None:
            del old.uses[self, index]
        if value is not None:
            value.uses[self, index] = None
        self.operands = (*self.operands[:index], value, *self.operands[index + 1:])

    def replace_with(self, values: Value | Sequence[Value]) -> None:
        """Let every use of the results use `values` instead, and erase this op. What their types tell of dims that this op
        invented is noted in the graph's `learnt`."""
        values = [values] if isinstance(values, Value) else list(values)
        for old, new in zip(self.results, values, strict=True):
            if new.name is None and old.name is not None and new.op is not None:
                new.name = old.name
            if self.graph is not None:
                self.graph.learnt.note(self, old.type, new)
            old.replace_all_uses_with(new)
        self.erase()

    def erase(self) -> None:
        """Remove from the graph; the results must be unused."""
        for r in self.results:
            if r.uses:
                raise IRError(f"cannot erase {self.name}: its result is used by {r.users[0].name}")
        for i in range(len(self.operands)):
            old = self.operands[i]
            if old is not None:
                old.uses.pop((self, i), None)
        self.operands = ()
        if self.graph is not None:
            self.graph._unlink(self)

    def view(self) -> Operands:
        """What the table's rules see of this op."""
        return view(self.definition, self.operands, self.attrs, self.regions)

    def where(self) -> str:
        """The op for an error message: name and source location."""
        at = f" at {', '.join(self.loc)}" if self.loc else ""
        named = f" %{self.results[0].name}" if self.results and self.results[0].name else ""
        return f"{self.name}{named}{at}"

    def __repr__(self) -> str:
        return f"<{self.where()}>"


def view(definition: OpDef, operands: Sequence[Value | None], attrs: Mapping[str, Any],
         regions: Sequence[Graph] = ()) -> Operands:
    def constant(i: int) -> np.ndarray | None:
        v = operands[i]
        return None if v is None else v.constant

    return Operands(definition, [None if v is None else v.type for v in operands], attrs, constant, regions)


class Graph:
    """Inputs, ops in order, outputs. `symbols` counts the dims invented where inference could not know them."""

    printer: ClassVar[Callable[[Graph], str]]  # the text form, which knows graphs (ir/text.py), and not they it

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self._head: Op | None = None
        self._tail: Op | None = None
        self._length = 0
        self._symbols = itertools.count()
        self._return = Op(lookup("return"), (), {}, (), (), ())
        self.input_names: list[str] = []  # as in the source model; the same length as inputs where set
        self.output_names: list[str] = []
        self.learnt = Learnt()
        self.metadata: dict[str, Any] = {}  # what a capture needs to rebuild calling conventions; never printed

    # Reading --------------------------------------------------------------------------------
    @property
    def ops(self) -> Iterator[Op]:
        """Ops in order. The op just yielded may be erased or replaced; ops inserted after it are seen."""
        op = self._head
        while op is not None:
            following = op.next
            yield op
            op = op.next if op.graph is self else following

    def __len__(self) -> int:
        return self._length

    @property
    def last(self) -> Op | None:
        return self._tail

    @property
    def outputs(self) -> list[Value]:
        return [v for v in self._return.operands if v is not None]

    @outputs.setter
    def outputs(self, values: Sequence[Value]) -> None:
        for i, v in enumerate(self._return.operands):
            if v is not None:
                del v.uses[self._return, i]
        self._return.operands = tuple(values)
        for i, v in enumerate(values):
            v.uses[self._return, i] = None

    @property
    def return_op(self) -> Op:
        """The pseudo-op whose operands are the outputs; not among `ops`."""
        return self._return

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        for op in self.ops:
            yield from op.results

    def walk(self) -> Iterator[Op]:
        """Every op, those of nested graphs after their owner."""
        for op in self.ops:
            yield op
            for region in op.regions:
                yield from region.walk()

    def symbols(self) -> list[str]:
        """Symbolic dims of the inputs, in order of first appearance."""
        found: dict[str, None] = {}
        for v in self.inputs:
            for s in sorted(type_symbols(v.type)):
                found[s] = None
        return list(found)

    # Building -------------------------------------------------------------------------------
    def add_input(self, type: Type, name: str | None = None) -> Value:
        value = Value(type, None, len(self.inputs), self, name)
        self.inputs.append(value)
        return value

    def fresh_symbol(self) -> DimLike:
        """A new dim for a size that only running can tell."""
        return Dim.symbol(f"_{next(self._symbols)}")

    def add(self, name: str, operands: Sequence[Value | None], attrs: Mapping[str, Any] | None = None, *,
            regions: Sequence[Graph] = (), loc: Loc = (), before: Op | None = None,
            types: Sequence[Type] | None = None) -> Op:
        """Create an op at the end, or before another, with inferred types (or the given, more exact, ones)."""
        definition = lookup(name)
        checked = definition.check_attrs(attrs or {})
        operands = list(operands)
        fixed = sum(not p.variadic for p in definition.operands)
        while len(operands) < fixed:
            operands.append(None)
        try:
            inferred = definition.infer(view(definition, operands, checked, regions))
        except IRError as e:
            at = ", ".join(loc)
            raise IRError(e.what, where=f"{e.where or name}{f' at {at}' if at else ''}", hint=e.hint) from None
        if types is not None:
            inferred = [refine(given, got) for given, got in zip(types, inferred, strict=True)]
        op = Op(definition, operands, checked, regions, loc, [self._fill(t) for t in inferred])
        self._link(op, before)
        return op

    def constant(self, value: np.ndarray | Tensor | float | int | bool, name: str | None = None, *, loc: Loc = (),
                 before: Op | None = None) -> Value:
        data = value if isinstance(value, Tensor) else Tensor(np.asarray(value), name)
        return self.add("const", (), {"value": data}, loc=loc, before=before).result

    def nested(self, name: str) -> Graph:
        """A graph for a region of an op of this one; dims invented in either have different names."""
        inner = Graph(name)
        inner._symbols = self._symbols
        return inner

    def _fill(self, t: Type) -> Type:
        if isinstance(t, TensorType):
            if t.shape is not None and any(d is None or too_long(d) for d in t.shape):
                return replace(t, shape=tuple(self.fresh_symbol() if d is None or too_long(d) else d for d in t.shape))
            return t
        return t

    def _link(self, op: Op, before: Op | None) -> None:
        op.graph = self
        op.next = before
        op.prev = self._tail if before is None else before.prev
        if op.prev is None:
            self._head = op
        else:
            op.prev.next = op
        if before is None:
            self._tail = op
        else:
            before.prev = op
        self._length += 1

    def _unlink(self, op: Op) -> None:
        if op.prev is None:
            self._head = op.next
        else:
            op.prev.next = op.next
        if op.next is None:
            self._tail = op.prev
        else:
            op.next.prev = op.prev
        op.graph = None
        self._length -= 1

    def move_before(self, op: Op, before: Op | None) -> None:
        """Move an op of this graph; the caller keeps dominance."""
        self._unlink(op)
        self._link(op, before)

    # Whole-graph operations -----------------------------------------------------------------
    def clone(self, symbols: Mapping[str, DimLike] | None = None, infer: bool | None = None) -> Graph:
        """A copy that shares constants. With `symbols`, dims are substituted and types inferred anew."""
        copy = self._copy(itertools.count(first_free(self)))
        if symbols or infer:
            settle(copy, symbols, everything=bool(symbols) if infer is None else infer)
        return copy

    def _copy(self, counter: Iterator[int]) -> Graph:
        copy = Graph(self.name)
        copy.input_names, copy.output_names = list(self.input_names), list(self.output_names)
        copy.metadata = dict(self.metadata)
        copy._symbols = counter  # type: ignore[assignment]
        seen: dict[Value, Value] = {}
        for v in self.inputs:
            seen[v] = copy.add_input(v.type, v.name)
        for op in self.ops:
            operands = [None if v is None else seen[v] for v in op.operands]
            regions = [r._copy(counter) for r in op.regions]
            new = Op(op.definition, operands, dict(op.attrs), regions, op.loc, [r.type for r in op.results])
            copy._link(new, None)
            for a, b in zip(op.results, new.results):
                b.name = a.name
                seen[a] = b
        copy.outputs = [seen[v] for v in self.outputs]
        copy.learnt = Learnt(dict(self.learnt.symbols), {seen[v] for v in self.learnt.values if v in seen})
        return copy

    def specialise(self, symbols: Mapping[str, int]) -> Graph:
        """A copy with the named dims fixed and every type inferred anew."""
        return self.clone(symbols, infer=True)

    def __str__(self) -> str:
        return Graph.printer(self)


def first_free(graph: Graph) -> int:
    """The number from which invented dims have no names that are taken, in the graph and in those that it holds."""
    taken = -1
    for v in graph.values():
        if not (isinstance(v.type, TensorType) and v.type.is_static):
            taken = max([taken, *(int(s[1:]) for s in type_symbols(v.type) if s[0] == "_" and s[1:].isdigit())])
    return max([taken + 1, *(first_free(r) for op in graph.ops for r in op.regions)])


def refine(known: Type, inferred: Type) -> Type:
    """The more exact of two descriptions of one value. Raises IRError where they contradict each other."""
    if isinstance(known, TensorType) and isinstance(inferred, TensorType):
        if known.dtype is not inferred.dtype:
            raise IRError(f"type {known} contradicts the inferred {inferred}")
        if inferred.shape is None:
            return known
        if known.shape is None:
            return replace(inferred, layout=known.layout)
        if len(known.shape) != len(inferred.shape):
            raise IRError(f"type {known} contradicts the inferred {inferred}")
        dims = []
        for k, i in zip(known.shape, inferred.shape):
            if isinstance(k, int) and isinstance(i, int) and k != i:
                raise IRError(f"type {known} contradicts the inferred {inferred}")
            dims.append(k if i is None or (isinstance(k, int) and not isinstance(i, int)) else
                        i if isinstance(i, int) or k is None else k)
        return TensorType(inferred.dtype, tuple(dims), known.layout)
    if isinstance(known, (SequenceType, OptionalType, MapType)) and type(known) is type(inferred):
        return known
    raise IRError(f"type {known} contradicts the inferred {inferred}")


class Builder:
    """Adds ops by name: `b.conv(x, w, stride=[1, 1], pad=[0, 0, 0, 0])`. Python numbers become constants.

    A keyword that names an operand sets it, others are attributes. One result comes back as a Value,
    several as a tuple. A number takes the dtype of the first tensor operand.
    """

    def __init__(self, graph: Graph, before: Op | None = None, loc: Loc = ()) -> None:
        self.graph, self.before, self.loc = graph, before, loc

    def const(self, value: Any, dtype_of: Any = None, name: str | None = None) -> Value:
        """A constant, of dtype `dtype_of` where given."""
        if isinstance(value, Tensor):
            return self.graph.constant(value, loc=self.loc, before=self.before)
        array = np.asarray(value)
        if dtype_of is not None:
            array = array.astype(dtype(dtype_of).numpy)
        return self.graph.constant(array, name, loc=self.loc, before=self.before)

    def op(self, name: str, operands: Sequence[Any], attrs: Mapping[str, Any] | None = None, *,
           regions: Sequence[Graph] = (), types: Sequence[Type] | None = None) -> Op:
        like = next((v.type.dtype for v in operands if isinstance(v, Value) and isinstance(v.type, TensorType)), None)
        values = [v if v is None or isinstance(v, Value) else self.const(v, like if not isinstance(v, np.ndarray) else None)
                  for v in operands]
        return self.graph.add(name, values, attrs, regions=regions, loc=self.loc, before=self.before, types=types)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        definition = lookup(name.rstrip("_"))

        def build(*operands: Any, **named: Any) -> Any:
            values = list(operands)
            for i, p in enumerate(definition.operands):
                if p.name in named and not p.variadic:
                    while len(values) <= i:
                        values.append(None)
                    values[i] = named.pop(p.name)
            results = self.op(definition.name, values, named).results
            return results[0] if len(results) == 1 else results

        return build


def topological(ops: Iterable[Op]) -> list[Op]:
    """The given ops of one graph in graph order."""
    wanted = set(ops)
    graph = next(iter(wanted)).graph if wanted else None
    return [op for op in graph.ops if op in wanted] if graph is not None else []


__all__ = ["Builder", "Graph", "Loc", "Op", "Tensor", "Value", "first_free", "is_static", "refine", "topological", "view"]
