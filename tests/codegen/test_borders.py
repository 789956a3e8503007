"""A border holds what its layout says, not always 0, and a kernel reads it only where that is what its window sees."""

from __future__ import annotations

import pytest

from graphopt.errors import IRError
from graphopt.ir import parse_graph, print_graph
from graphopt.ir.types import Layout, tensor
from graphopt.ir.verify import verify
from tests.codegen.interpreting import check
from tests.codegen.test_templates import conv, one


@pytest.mark.parametrize("target", ["x86:skylake-avx512", "cuda:sm_80"])
@pytest.mark.parametrize("d", ["f32", "bf16", "u8", "i8", "i32"])
def test_what_makes_an_image_fills_its_border(d: str, target: str) -> None:
    check(one({"x": f"{d}[1, 5, 4, 3]"}, "relayout(%x)", f"{d}[1, 5, 4, 3]@NHWC+1=7"), target)
    check(one({"x": f"{d}[2, 3, 4, 3]@NHWC+1=7"}, "relu(%x)", f"{d}[2, 3, 4, 3]@NHWC+2=-3") if d[0] != "u" else
          one({"x": f"{d}[2, 3, 4, 3]@NHWC+1=7"}, "relayout(%x)", f"{d}[2, 3, 4, 3]@NHWC+2=200"), target)


@pytest.mark.parametrize("text", [
    conv("f32[1, 3, 7, 6]@NHWC+1=5", "f32[19, 3, 3, 3]", "f32[1, 19, 4, 3]@NHWC+1=-2", stride=2, pad=1),
    conv("f32[2, 19, 5, 6]@NHWC+1=5", "f32[19, 1, 3, 3]", "f32[2, 19, 5, 6]@NHWC", groups=19, pad=1),
    conv("f32[1, 18, 4, 5]@NHWC+1=5", "f32[18, 2, 3, 3]", "f32[1, 18, 4, 5]@NHWC+1=5", groups=9, pad=1),
    conv("f32[1, 5, 6, 5]@NHWC+1=5", "f32[19, 5, 3, 3]", "f32[1, 19, 6, 5]@NHWC+1=9", pad=1),
    conv("f32[2, 5, 3, 4]@NHWC+1=5", "f32[9, 5, 1, 1]", "f32[2, 9, 3, 4]@NHWC+1")])
def test_a_convolution_s_window_sees_zeros_whatever_the_border_holds(text: str) -> None:
    check(text, "x86:skylake-avx512")
    check(text, "cuda:sm_80")


def test_which_border_serves() -> None:
    assert Layout("NHWC", 1).serves(1) and not Layout("NHWC", 1).serves(2)
    assert not Layout("NHWC", 1, fill=3).serves(1) and Layout("NHWC", 1, fill=3).serves(1, 3)
    assert Layout("NHWC", 1, fill=3).serves(0) and Layout("NHWC").serves(0)


@pytest.mark.parametrize("layout", ["NHWC", "NHWC+1", "NHWC+1=128", "NHWC+2=-7/64", "NHWC+1/32"])
def test_text_says_it_where_it_is_not_zero(layout: str) -> None:
    text = f"graph @g(%x: i32[1, 3, 4, 5]@{layout}) -> i32[1, 3, 4, 5]@{layout} {{\n  return %x\n}}\n"
    graph = parse_graph(text)
    assert print_graph(graph).strip() == text.strip()
    assert str(graph.inputs[0].type.layout) == layout


def test_a_border_needs_a_width_and_a_value_of_the_dtype() -> None:
    with pytest.raises(IRError, match="has no width"):
        Layout("NHWC", fill=3)
    assert str(tensor("u8", 1)) == "u8[1]"
    graph = parse_graph("graph @g(%x: u8[1, 3, 4, 5]) -> u8[1, 3, 4, 5] {\n %0 = relayout(%x) : u8[1, 3, 4, 5]@NHWC+1=300\n"
                        " %1 = relayout(%0) : u8[1, 3, 4, 5]\n return %1\n}")
    with pytest.raises(IRError, match="300 is no u8"):
        verify(graph)
