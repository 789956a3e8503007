"""torch's symbolic sizes (sympy expressions over s77, u0, …) as graphopt dims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.capture.torch.table import Refusal
from graphopt.ir.dims import Dim, DimLike, apply, scaled


class Symbols:
    """Dims by torch symbol. Declared dims have the names that the user gave them, others torch's.

    Symbols of inputs are declared, those of data-dependent sizes learned when the op that makes them is there. `sizes` are what
    some stand for from the start.
    """

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.known: dict[str, DimLike] = dict(sizes or {})

    def dim(self, size: Any) -> DimLike:
        """An int, SymInt or sympy expression as a dim. Raises Refusal where it is not integer arithmetic."""
        if isinstance(size, int):
            return int(size)
        if hasattr(size, "node"):
            known = size.node.maybe_as_int()
            size = size.node.expr if known is None else known
        return size if isinstance(size, int) else self._expression(size)

    def _expression(self, e: Any) -> DimLike:
        if e.is_Symbol:
            if str(e) not in self.known:
                raise Refusal("a size computed from the data")
            return self.known[str(e)]
        if e.is_Integer:
            return int(e)
        name = type(e).__name__
        if name == "Pow" and e.args[1].is_Integer and int(e.args[1]) >= 0:
            return _fold(lambda a, b: a * b, [self._expression(e.args[0])] * int(e.args[1]), 1)
        if name in ("TruncToInt", "FloorToInt") and (product := self._scaled(e.args[0])) is not None:
            return product
        parts = [self._expression(a) for a in e.args]
        match name:
            case "Add":
                return _fold(lambda a, b: a + b, parts, 0)
            case "Mul":
                return _fold(lambda a, b: a * b, parts, 1)
            case "FloorDiv" | "CleanDiv":
                return apply("//", *parts)
            case "Mod" | "PythonMod":
                return apply("%", *parts)
            case "Max" | "Min":
                return _fold(lambda a, b: apply(name.lower(), a, b), parts[1:], parts[0])
            case "Identity" | "ToFloat" | "TruncToInt" | "RoundToInt":
                return parts[0]
        raise Refusal(f"the size {e} is not integer arithmetic over dims")

    def _scaled(self, e: Any) -> DimLike | None:
        """A size times a float, rounded down: as interpolation by a factor has."""
        factors = [a for a in e.args if a.is_Float] if type(e).__name__ == "Mul" else []
        rest = [a for a in e.args if not a.is_Float]
        if len(factors) != 1 or len(rest) != 1 or float(factors[0]) < 0:
            return None
        return scaled(self._expression(rest[0]), float(factors[0]), wide=True)

    def declare(self, size: Any) -> None:
        """The symbols of an input's size, under torch's names where they have no other."""
        for symbol in getattr(getattr(getattr(size, "node", None), "expr", None), "free_symbols", ()):
            self.known.setdefault(str(symbol), Dim.symbol(str(symbol)))

    def learn(self, size: Any, dim: DimLike) -> None:
        """Let an unknown symbol stand for a dim that the graph already has, as for nonzero's count."""
        expression = getattr(getattr(size, "node", None), "expr", None)
        if expression is not None and expression.is_Symbol:
            self.known.setdefault(str(expression), dim)


def _fold(f: Any, parts: list[DimLike], start: DimLike) -> DimLike:
    total = start
    for p in parts:
        total = f(total, p)
    return total
