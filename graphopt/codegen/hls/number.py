"""How real numbers are held on the FPGA: as f32, or in fixed point of a chosen width."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.codegen.c.emit import Printer
from graphopt.codegen.kernel.expr import Apply, Buffer, Const, Expr
from graphopt.codegen.kernel.spaces import Space
from graphopt.errors import CodegenError, InputError
from graphopt.ir.types import DType

WIDEST = 24  # a product of two must fit the accumulator, whose limits are written as exact doubles


@dataclass(frozen=True)
class Number:
    """`bits` 0 is f32; else tensors are ap_fixed<bits, whole> and sums are kept in twice the bits, half as many more whole."""

    bits: int = 0
    whole: int = 0

    @staticmethod
    def parse(text: str) -> Number:
        """`float` or `ap_fixed<W,I>`. InputError for anything else."""
        if text == "float":
            return Number()
        match = re.fullmatch(r"ap_fixed<\s*(\d+)\s*,\s*(\d+)\s*>", text)
        if not match:
            raise InputError(f"unknown number format {text!r}",
                             hint="Use 'float' or 'ap_fixed<W,I>', for example 'ap_fixed<16,6>'")
        bits, whole = int(match[1]), int(match[2])
        if not (4 <= bits <= WIDEST and 1 <= whole <= bits):
            raise InputError(f"{text}: the width must be 4 to {WIDEST} bits, of which 1 to all are whole")
        return Number(bits, whole)

    @property
    def fixed(self) -> bool:
        return self.bits > 0

    @property
    def fraction(self) -> int:
        """Bits after the point of a tensor's element."""
        return self.bits - self.whole

    @property
    def wide(self) -> tuple[int, int]:
        """(bits, whole bits) of the accumulator."""
        return 2 * self.bits, self.whole + self.bits // 2

    @property
    def limit(self) -> float:
        """The accumulator's largest value; the least is one step beyond its negative."""
        bits, whole = self.wide
        return 2.0 ** (whole - 1) - 2.0 ** (whole - bits)

    @property
    def tolerance(self) -> float:
        """What a test bench forgives where nothing else is said: 64 units of the last place."""
        return 64 * 2.0**-self.fraction if self.fixed else 1e-5

    def declarations(self) -> str:
        """The types and their conversions, for the design's header."""
        if not self.fixed:
            return ""
        bits, whole = self.wide
        return f"""\
#include "ap_fixed.h"
typedef ap_fixed<{self.bits}, {self.whole}, AP_RND, AP_SAT> data_t;  // a tensor's element
typedef ap_fixed<{bits}, {whole}, AP_RND, AP_SAT> acc_t;  // a value being computed
GO_FN float go_real(acc_t x) {{ return x.to_float(); }}
// The nearest value there is: infinities become the limits, NaN zero.
GO_FN acc_t go_fixed(float x) {{
  if (x != x) return acc_t(0);
  return x > {self.limit!r}f ? acc_t({self.limit!r}) : x < -{self.limit!r}f ? acc_t(-{self.limit!r}) : acc_t(x);
}}
GO_FN acc_t go_abs(acc_t x) {{ return x < 0 ? acc_t(-x) : x; }}
"""


class FixedPrinter(Printer):
    """Prints f32 arithmetic in fixed point. Functions of the C library are computed in f32 and rounded back."""

    number: Number = Number(16, 6)

    def stored_type(self, b: Buffer) -> str:
        if b.dtype.name == "f32":
            return "data_t" if b.space is Space.GLOBAL else "acc_t"
        return super().stored_type(b)

    def type_of(self, d: DType) -> str:
        return "acc_t" if d.name == "f32" else super().type_of(d)

    def loaded(self, text: str, d: DType) -> str:
        return f"acc_t({text})" if d.name == "f32" else super().loaded(text, d)

    def literal(self, e: Const) -> str:
        if e.dtype.name != "f32":
            return super().literal(e)
        held = max(-self.number.limit, min(self.number.limit, e.value)) if e.value == e.value else 0.0
        return f"acc_t({float(held)!r})"

    def cast(self, x: Expr, d: DType) -> str:
        if d.name == "f32":
            text = self.operand(x)
            return f"acc_t({f'{text} ? 1 : 0' if x.dtype.kind == 'bool' else text})"
        if x.dtype.name == "f32" and d.is_integer:
            return f"({self.type_of(d)})go_real({self.value(x)})"
        return super().cast(x, d)

    def apply(self, e: Apply) -> str:
        of = e.args[0].dtype
        for d in (of, e.dtype):
            if d.is_float and d.name != "f32":
                raise CodegenError(f"{d} has no fixed-point form", where=self.kernel.name, hint="Use number='float'")
        if e.kind in ("cast", "select") or "f32" not in (of.name, e.dtype.name) or e.kind in ("eq", "ne", "lt", "le"):
            return super().apply(e)
        if e.kind == "bitcast":
            raise CodegenError("the bits of an f32 have no fixed-point form", where=self.kernel.name, hint="Use number='float'")
        a = [self.operand(x) for x in e.args]
        if e.kind == "isnan":
            return "false"
        if e.kind in _OPERATOR:
            return f"acc_t({a[0]} {_OPERATOR[e.kind]} {a[1]})"
        if e.kind == "fma":
            return f"acc_t({a[0]} * {a[1]} + {a[2]})"
        if e.kind == "neg":
            return f"acc_t(-{a[0]})"
        if e.kind in ("abs", "min", "max"):
            return f"go_{e.kind}{'' if e.kind == 'abs' else '<acc_t>'}({', '.join(a)})"
        return f"go_fixed({self.function_name(e)}({', '.join(f'go_real({x})' for x in a)}))"


_OPERATOR = {"add": "+", "sub": "-", "mul": "*", "div": "/"}

__all__ = ["FixedPrinter", "Number"]
