"""What is asked of a kernel is answered alike for one op and for the same op in a fused one."""

from __future__ import annotations

import pytest

from graphopt.ir import parse_graph
from graphopt.ir.fused import ends, entries, held, kind, makes, only, outside, outsides, reads
from graphopt.ir.graph import Op

ALONE = """graph @main(%x: f32[2, 3], %w: f32[3, 4]) -> f32[2, 4] {
  %y = matmul(%x, %w) : f32[2, 4]
  return %y
}"""
FUSED = """graph @main(%x: f32[2, 3], %w: f32[3, 4]) -> f32[2, 4] {
  %y = fused(%x, %w) {kind="contraction"} [
    graph @body(%a: f32[2, 3], %b: f32[3, 4]) -> f32[2, 4] {
      %p = matmul(%a, %b) : f32[2, 4]
      %q = relu(%p) : f32[2, 4]
      return %q
    }
  ] : f32[2, 4]
  return %y
}"""


def the_op(text: str) -> Op:
    return next(iter(parse_graph(text).ops))


@pytest.mark.parametrize("text", [ALONE, FUSED])
def test_an_op_and_a_fused_op_are_seen_the_same_way(text: str) -> None:
    op = the_op(text)
    product = only(op, "matmul")
    assert product is not None and product in held(op)
    a, b = product.operands
    assert a is not None and b is not None
    assert list(entries(op)) == [a, b]
    assert outsides(op) == dict(zip((a, b), op.operands))
    assert outside(op, a) is op.operands[0]
    assert not makes(op, a) and makes(op, product.result)
    assert reads(op, a) == 1


def test_only_what_is_fused_has_a_kind() -> None:
    assert kind(the_op(ALONE)) is None
    assert kind(the_op(FUSED)) == "contraction"


def test_a_result_counts_as_read() -> None:
    alone, fused = the_op(ALONE), the_op(FUSED)
    (y,), (q,) = ends(alone), ends(fused)
    assert reads(alone, y) == 1 and reads(fused, q) == 1
    product = only(fused, "matmul")
    assert product is not None and reads(fused, product.result) == 1
    both = the_op(FUSED.replace("relu(%p)", "add(%p, %p)"))
    product = only(both, "matmul")
    assert product is not None and reads(both, product.result) == 2


def test_several_of_a_name_are_no_one() -> None:
    assert only(the_op(FUSED.replace("matmul(%a, %b)", "relu(%b)").replace("f32[2, 4]", "f32[3, 4]")
                       .replace("-> f32[2, 4]", "-> f32[3, 4]")), "relu") is None
