"""What invented dims turn out to be: types and attributes of a graph anew, where more is known than when it was built.

An op whose result has a size that only running tells (`nonzero`, a loop) invents a symbol for it, which types and attributes of
later ops then name. Where the size becomes known after all (its operands are constant, its branch is chosen, its inputs'
dims are fixed), the symbol is replaced wherever it stands: in types, in attributes, and in regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graphopt.errors import IRError
from graphopt.ir.dims import Dim, DimLike, dim_symbols, substitute, too_long
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType, Type, substitute_type, type_symbols

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph, Op, Value

# Dims of their results that a person wrote may be those of either operand: which one says nothing of the other.
_BROADCASTS = Trait.ELEMENTWISE | Trait.CONTRACTION


@dataclass
class Learnt:
    """What replacing values has told of dims since the graph was last settled: symbols, and values that say more than those
    whose place they took."""

    symbols: dict[str, DimLike] = field(default_factory=dict)
    values: set[Any] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.symbols or self.values)

    def note(self, op: Op, old: Type, value: Value) -> None:
        """A value takes the place of a result of `op`, of type `old`."""
        new = value.type
        if new == old:
            return
        self.values.add(value)
        if not isinstance(old, TensorType) or not isinstance(new, TensorType) or old.shape is None or new.shape is None:
            return
        if not old.is_static and len(old.shape) == len(new.shape):
            broadcasts = op.definition.has(_BROADCASTS)
            for d, known in zip(old.shape, new.shape):
                if isinstance(d, Dim) and d != known and str(d).isidentifier() and not (broadcasts and str(d)[0] != "_"):
                    self.symbols.setdefault(str(d), known)


class Settling:
    """A walk over the ops of a graph, in order, that puts what is known of symbols into each: call `visit` on every op.

    `symbols` is what is known; to it is added what types tell on the way, and what `Graph.learnt` holds. Dims that the graph's
    inputs name are the caller's: they are replaced where `given` says so, and otherwise stay. With `everything`, all types are
    inferred anew, else those that may have changed. Raises IRError where types contradict each other.
    """

    def __init__(self, graph: Graph, given: Mapping[str, DimLike] | None = None, everything: bool = False) -> None:
        self.graph, self.everything = graph, everything
        self.symbols: dict[str, DimLike] = dict(given or {})
        self.own = set(graph.symbols())
        self.named = set(self.own)  # by the inputs, and by the ops visited
        self.changed: set[Any] = set()  # values whose types did
        for v in graph.inputs:
            if type_symbols(v.type) & self.symbols.keys():
                v.type = substitute_type(v.type, self.symbols)
                self.changed.add(v)
        self._absorb()

    def _absorb(self) -> None:
        if learnt := self.graph.learnt:
            self.changed |= learnt.values
            for name, d in learnt.symbols.items():
                self.learn(name, d)
            self.graph.learnt = Learnt()

    def learn(self, name: str, d: DimLike) -> None:
        """Note what an invented symbol stands for."""
        d = substitute(d, self.symbols)
        if name in self.symbols or name in self.own or name in dim_symbols(d):
            return
        for other, known in self.symbols.items():
            self.symbols[other] = substitute(known, {name: d})
        self.symbols[name] = d

    def visit(self, op: Op) -> bool:
        """Settle one op; True if it changed."""
        self._absorb()
        regions = False
        for region in op.regions:
            regions |= settle(region, self._seen_in(op, region), self.everything)
        mentions: set[str] = set()
        for r in op.results:
            if not (isinstance(r.type, TensorType) and r.type.is_static):
                mentions |= type_symbols(r.type)
        first, known = mentions - self.named, self.symbols.keys()
        self.named |= first
        attrs = bool(known) and any(s in known for a in op.attrs.values() for s in _attr_symbols(a))
        if not (self.everything or regions or attrs or mentions & known or any(v in self.changed for v in op.operands)):
            return False
        if attrs:
            op.attrs = {k: substituted(a, self.symbols) for k, a in op.attrs.items()}
        changed = regions or attrs
        try:
            types = op.definition.infer(op.view())
        except IRError as e:
            at = ", ".join(op.loc)
            raise IRError(e.what, where=f"{e.where or op.name}{f' at {at}' if at else ''}", hint=e.hint) from None
        for r, inferred in zip(op.results, types, strict=True):
            new = self._type(op, r.type, inferred, first)
            if new != r.type:
                r.type = new
                self.changed.add(r)
                changed = True
        return changed

    def _type(self, op: Op, old: Type, inferred: Type, first: set[str]) -> Type:
        """The type of a result; `first` are the symbols that nothing before this op names."""
        if not isinstance(old, TensorType) or not isinstance(inferred, TensorType):
            if type(old) is not type(inferred):
                raise IRError(f"type {old} contradicts the inferred {inferred}", where=op.where())
            return substitute_type(old, self.symbols)
        ranks = [len(t.shape) for t in (old, inferred) if t.shape is not None]
        if old.dtype is not inferred.dtype or len(set(ranks)) > 1:
            raise IRError(f"type {old} contradicts the inferred {inferred}", where=op.where())
        if inferred.shape is None:
            return substitute_type(old, self.symbols)
        if old.shape is None:
            return replace(old, shape=tuple(self.graph.fresh_symbol() if d is None else substitute(d, self.symbols)
                                            for d in inferred.shape))
        return replace(old, shape=tuple(self._dim(op, d, n, first) for d, n in zip(old.shape, inferred.shape, strict=True)))

    def _dim(self, op: Op, old: DimLike, inferred: DimLike | None, first: set[str]) -> DimLike:
        invented = str(old) if isinstance(old, Dim) and str(old) in first else ""
        if inferred is None:
            self.symbols.pop(invented, None)  # what is known of an outer dim of that name is not of this one
            return substitute(old, self.symbols)
        broadcasts = op.definition.has(_BROADCASTS)
        known, found = substitute(old, self.symbols), substitute(inferred, self.symbols)
        if isinstance(known, int) and isinstance(found, int) and known != found and (known is old or not broadcasts):
            raise IRError(f"a dim of {old} ({known}) contradicts the inferred {found}", where=op.where())
        if invented and too_long(found):
            return known
        if invented and found != known:
            self.learn(invented, found)
        if isinstance(old, int):
            return old
        return found if isinstance(found, int) or invented or (broadcasts and known != old) else known

    def _seen_in(self, op: Op, region: Graph) -> dict[str, DimLike]:
        """What is known of the symbols of a region: those that its inputs do not use for dims of their own."""
        known = dict(self.symbols)
        for v, given in zip(reversed(region.inputs), reversed(op.operands)):
            if given is None or not (type_symbols(v.type) & known.keys()):
                continue
            if substitute_type(v.type, known) != given.type:
                known = {s: d for s, d in known.items() if s not in type_symbols(v.type)}
        for k in range(op.attrs.get("carried", 0)):  # a loop's state, which may have another shape in each iteration
            before, after = region.inputs[2 + k].type, region.outputs[1 + k].type
            if before != after:
                known = {s: d for s, d in known.items() if s not in type_symbols(before)}
        return known


def settle(graph: Graph, given: Mapping[str, DimLike] | None = None, everything: bool = False) -> bool:
    """Put what is known of symbols (`given`, what the graph has learnt, what types tell) into all types, attributes and regions
    of a graph; True if anything changed. Regions see only what their own ops do not name anew."""
    if not everything and not given and not _has_learnt(graph):
        return False
    walk = Settling(graph, given, everything)
    changed = bool(walk.changed)
    for op in graph.ops:
        changed |= walk.visit(op)
    return changed


def _has_learnt(graph: Graph) -> bool:
    return bool(graph.learnt) or any(_has_learnt(r) for op in graph.ops for r in op.regions)


def _attr_symbols(a: Any) -> set[str]:
    if isinstance(a, tuple) and any(isinstance(d, Dim) for d in a):
        return set().union(*(dim_symbols(d) for d in a))
    return set()


def substituted(a: Any, symbols: Mapping[str, DimLike]) -> Any:
    """An attribute with symbols replaced."""
    return tuple(substitute(d, symbols) for d in a) if _attr_symbols(a) else a


__all__ = ["Learnt", "Settling", "settle", "substituted"]
