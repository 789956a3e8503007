"""Every template of x86, interpreted on any machine at small odd sizes, for the lanes of AVX-512 and AVX2, by threads that
must not touch what another writes, and with whichever candidates: against the reference evaluator of its op."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from graphopt.codegen.lower.schedule import WAYS
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.kernels.conv.winograd_plan import Plan
from graphopt.codegen.x86.templates import MAKERS
from tests.codegen.interpreting import check

TARGETS = ["x86:skylake-avx512", "x86:haswell"]


def conv(x: str, w: str, y: str, *, bias: bool = True, groups: int = 1, stride: int = 1, pad: int = 0, dilation: int = 1,
         given: bool = False) -> str:
    """A convolution of two dimensions; its weights are constants unless `given`."""
    outs = w.split("[")[1].split(",")[0]
    lines = [f"  %w = const @w : {w}"] * (not given) + [f"  %b = const @b : f32[{outs}]"] * bias
    how = f"{{stride=[{stride}, {stride}], pad={[pad] * 4}, dilation=[{dilation}, {dilation}], groups={groups}}}"
    body = "\n".join([*lines, f"  %y = conv(%x, %w, {'%b' if bias else '_'}) {how} : {y}"])
    return f"graph @g(%x: {x}{f', %w: {w}' if given else ''}) -> {y} {{\n{body}\n  return %y\n}}"


def fused(x: str, constants: dict[str, str], inside: str, y: str, kind: str) -> str:
    """A fused op of one input and constants; the last value inside is the result."""
    lines = [f"  %{n} = const @{n} : {t}" for n, t in constants.items()]
    given = ", ".join([f"%x: {x.split('@')[0]}", *(f"%{n}: {t}" for n, t in constants.items())])
    plain = y.split("@")[0]
    last = inside.strip().splitlines()[-1].split("=")[0].strip()
    return "\n".join([
        f"graph @g(%x: {x}) -> {y} {{", *lines,
        f"  %y = fused(%x, {', '.join('%' + n for n in constants)}) {{kind=\"{kind}\"}} [",
        f"    graph @body({given}) -> {plain} {{", inside, f"      return {last}", "    }", f"  ] : {y}", "  return %y", "}"])


def one(ins: dict[str, str], call: str, y: str, *constants: str) -> str:
    given = ", ".join(f"%{n}: {t}" for n, t in ins.items())
    weights = "".join(f"  %{c.split(':')[0]} = const @{c.replace(':', ' : ')}\n" for c in constants)
    names = ", ".join(f"%y{k}" for k in range(len(y.split(", f32"))))
    return f"graph @g({given}) -> ({y}) {{\n{weights}  {names} = {call} : {y}\n  return {names}\n}}" if "," in names else \
        f"graph @g({given}) -> {y} {{\n{weights}  {names} = {call} : {y}\n  return {names}\n}}"


CONV = "conv({}, {}, {}) {{stride=[{s}, {s}], pad={p}, dilation=[1, 1], groups={g}}} : {t}"
PROLOGUE = fused(
    "f32[2, 5, 3, 4]@NHWC", {"s": "f32[5, 1, 1]", "w": "f32[19, 5, 1, 1]", "b": "f32[19]"}, f"""\
      %m = mul(%x, %s) : f32[2, 5, 3, 4]
      %r = relu(%m) : f32[2, 5, 3, 4]
      %c = {CONV.format('%r', '%w', '%b', s=1, p=[0] * 4, g=1, t='f32[2, 19, 3, 4]')}
      %z = relu(%c) : f32[2, 19, 3, 4]""", "f32[2, 19, 3, 4]@NHWC+1", "contraction")
STREAM = fused(
    "f32[1, 3, 6, 7]@NHWC", {"w": "f32[18, 3, 1, 1]", "b": "f32[18]", "d": "f32[18, 1, 3, 3]"}, f"""\
      %c = {CONV.format('%x', '%w', '%b', s=1, p=[0] * 4, g=1, t='f32[1, 18, 6, 7]')}
      %r = relu(%c) : f32[1, 18, 6, 7]
      %z = {CONV.format('%r', '%d', '_', s=1, p=[1] * 4, g=18, t='f32[1, 18, 6, 7]')}""", "f32[1, 18, 6, 7]@NHWC", "stream")
EPILOGUE = fused(
    "f32[7, 5]", {"w": "f32[5, 19]", "b": "f32[19]"}, """\
      %m = matmul(%x, %w) : f32[7, 19]
      %a = add(%m, %b) : f32[7, 19]
      %z = tanh(%a) : f32[7, 19]""", "f32[7, 19]", "contraction")
TURNED = fused("f32[70, 71]", {"w": "f32[71, 70]"}, """\
      %t = transpose(%x) {perm=[1, 0]} : f32[71, 70]
      %z = add(%t, %w) : f32[71, 70]""", "f32[71, 70]", "elementwise")
RECURRENT = {"x": "f32[3, 2, 5]", "h": "f32[1, 2, 6]"}
LSTM = "lstm(%x, %w, %r, %b, _, %h, %c, _) {direction=\"forward\", hidden=6}"

# template, what is special, text
CASES: list[tuple[str, str, str]] = [
    ("matmul", "constant", one({"x": "f32[7, 5]"}, "matmul(%x, %w)", "f32[7, 19]", "w:f32[5, 19]")),
    ("matmul", "given, batched", one({"x": "f32[2, 3, 9]", "w": "f32[2, 9, 17]"}, "matmul(%x, %w)", "f32[2, 3, 17]")),
    ("matmul", "one row", one({"x": "f32[1, 70]"}, "matmul(%x, %w)", "f32[1, 33]", "w:f32[70, 33]")),
    ("matmul", "f64", one({"x": "f64[5, 4]"}, "matmul(%x, %w)", "f64[5, 9]", "w:f64[4, 9]")),
    ("matmul", "bf16", one({"x": "bf16[5, 4]"}, "matmul(%x, %w)", "bf16[5, 19]", "w:bf16[4, 19]")),
    ("matmul", "an epilogue", EPILOGUE),
    ("conv.row_major", "panels", conv("f32[1, 3, 6, 7]", "f32[5, 3, 3, 3]", "f32[1, 5, 2, 3]", stride=2)),
    ("conv.row_major", "slides", conv("f32[1, 3, 6, 19]", "f32[5, 3, 3, 3]", "f32[1, 5, 6, 19]", pad=1)),
    ("conv.row_major", "weights given", conv("f32[1, 3, 6, 19]", "f32[5, 3, 1, 1]", "f32[1, 5, 6, 19]", given=True, bias=False)),
    ("conv.row_major", "groups", conv("f32[2, 4, 5, 18]", "f32[6, 2, 3, 3]", "f32[2, 6, 5, 18]", groups=2, pad=1)),
    ("conv.row_major", "depthwise", conv("f32[1, 3, 7, 9]", "f32[3, 1, 3, 3]", "f32[1, 3, 7, 9]", groups=3, pad=1)),
    ("conv.row_major", "dilated", conv("f32[1, 3, 9, 9]", "f32[4, 3, 3, 3]", "f32[1, 4, 5, 5]", dilation=2)),
    ("conv.channels_last", "3x3 of stride 2", conv(
        "f32[1, 3, 7, 6]@NHWC+1", "f32[19, 3, 3, 3]", "f32[1, 19, 4, 3]@NHWC", stride=2, pad=1)),
    ("conv.channels_last", "1x1 into a border", conv("f32[2, 5, 3, 4]@NHWC", "f32[9, 5, 1, 1]", "f32[2, 9, 3, 4]@NHWC+1")),
    ("conv.channels_last", "dilated", conv(
        "f32[1, 3, 7, 8]@NHWC+2", "f32[5, 3, 2, 3]", "f32[1, 5, 7, 4]@NHWC", dilation=2, bias=False).replace(
        "[0, 0, 0, 0]", "[1, 0, 1, 0]")),
    ("conv.depthwise", "3x3", conv("f32[2, 19, 5, 6]@NHWC+1", "f32[19, 1, 3, 3]", "f32[2, 19, 5, 6]@NHWC", groups=19, pad=1)),
    ("conv.depthwise", "5x5 of stride 2", conv(
        "f32[1, 5, 9, 7]@NHWC+2", "f32[5, 1, 5, 5]", "f32[1, 5, 5, 4]@NHWC+1", groups=5, stride=2, pad=2)),
    ("conv.grouped", "of two", conv("f32[1, 18, 4, 5]@NHWC+1", "f32[18, 2, 3, 3]", "f32[1, 18, 4, 5]@NHWC", groups=9, pad=1)),
    ("conv.winograd", "F(2, 3)", conv("f32[1, 5, 6, 5]@NHWC+1", "f32[19, 5, 3, 3]", "f32[1, 19, 6, 5]@NHWC", pad=1)),
    ("conv.winograd", "F(4, 3)", conv("f32[1, 5, 9, 8]@NHWC+1", "f32[7, 5, 3, 3]", "f32[1, 7, 9, 8]@NHWC", pad=1, bias=False)),
    ("conv.prologue", "scale and relu", PROLOGUE),
    ("conv.streamed", "1x1 into depthwise", STREAM),
    *(("attention", what, one({"q": "f32[1, 4, 5, 6]", "k": f"f32[1, {kv}, 19, 6]", "v": f"f32[1, {kv}, 19, 7]", **mask},
                              f"attention(%q, %k, %v, {'%m' if mask else '_'}) {{scale=0.4, causal={causal}}}",
                              "f32[1, 4, 5, 7]"))
      for what, kv, mask, causal in (("plain", 4, {}, "false"), ("causal, grouped", 2, {}, "true"),
                                     ("masked", 4, {"m": "f32[5, 19]"}, "false"))),
    ("attention", "one query", one({"q": "f32[1, 2, 1, 6]", "k": "f32[1, 2, 9, 6]", "v": "f32[1, 2, 9, 5]"},
                                   "attention(%q, %k, %v, _) {scale=0.4, causal=false}", "f32[1, 2, 1, 5]")),
    ("recurrent", "lstm", one({**RECURRENT, "c": "f32[1, 2, 6]"}, LSTM, "f32[3, 1, 2, 6], f32[1, 2, 6], f32[1, 2, 6]",
                              "w:f32[1, 24, 5]", "r:f32[1, 24, 6]", "b:f32[1, 48]")),
    *(("recurrent", f"gru, {before}", one(
        RECURRENT, f"gru(%x, %w, %r, %b, _, %h) {{direction=\"reverse\", hidden=6, linear_before_reset={before}}}",
        "f32[3, 1, 2, 6], f32[1, 2, 6]", "w:f32[1, 18, 5]", "r:f32[1, 18, 6]", "b:f32[1, 36]")) for before in ("true", "false")),
    ("recurrent", "rnn", one({"x": "f32[3, 2, 5]"}, "rnn(%x, %w, %r, _, _, _) {direction=\"bidirectional\", hidden=6}",
                             "f32[3, 2, 2, 6], f32[2, 2, 6]", "w:f32[2, 6, 5]", "r:f32[2, 6, 6]")),
    *(("pool", f"{kind} of stride {stride}", one(
        {"x": "f32[1, 2, 5, 37]"}, f"{kind}(%x) {{kernel=[3, 3], stride=[{stride}, {stride}], pad=[1, 1, 1, 1], dilation=[1, 1], "
        f"ceil_mode=false{', count_include_pad=false' if kind == 'avg_pool' else ''}}}",
        f"f32[1, 2, {4 // stride + 1}, {36 // stride + 1}]"))
      for kind in ("max_pool", "avg_pool") for stride in (1, 2)),
    *(("global_pool", kind, one({"x": "f32[2, 9, 37]"}, f"{kind}(%x) {{axes=[1], keepdims=false}}", "f32[2, 37]"))
      for kind in ("reduce_mean", "reduce_max", "reduce_sum")),
    ("global_pool", "channels last", one({"x": "f32[1, 19, 3, 4]@NHWC"}, "reduce_mean(%x) {axes=[2, 3], keepdims=true}",
                                            "f32[1, 19, 1, 1]")),
    ("scan", "cumsum", one({"x": "f32[2, 5, 37]"}, "cumsum(%x) {axis=1, exclusive=false, reverse=false}", "f32[2, 5, 37]")),
    ("scan", "from behind", one({"x": "f32[5, 40]"}, "cumsum(%x) {axis=0, exclusive=true, reverse=true}", "f32[5, 40]")),
    ("transpose", "of rows", one({"x": "f32[19, 21]"}, "transpose(%x) {perm=[1, 0]}", "f32[21, 19]")),
    ("transpose", "to channels last", one({"x": "f32[1, 18, 5, 7]"}, "relayout(%x)", "f32[1, 18, 5, 7]@NHWC+1")),
    ("transpose", "into a border of threes", one({"x": "f32[1, 18, 5, 7]"}, "relayout(%x)", "f32[1, 18, 5, 7]@NHWC+1=3")),
    ("transpose", "into a part of a larger one", one({"x": "f32[1, 18, 5, 7]"}, "relayout(%x)", "f32[1, 18, 5, 7]@NHWC+1/24")),
    ("columns", "", one({"x": "f32[40, 70]"}, "softmax(%x) {axis=0}", "f32[40, 70]")),
    ("tiled", "", TURNED),
    ("generic", "rows", one({"x": "f32[5, 37]"}, "softmax(%x) {axis=1}", "f32[5, 37]")),
    ("generic", "norm", one({"x": "f32[3, 37]"}, "layer_norm(%x, _, _) {axis=1, eps=0.001}", "f32[3, 37]")),
    ("loops", "", one({"x": "f32[2, 9]"}, "cumsum(%x) {axis=1, exclusive=false, reverse=false}", "f32[2, 9]")),
]


class Deciding:
    """Picks the best candidate, or any; Winograd's of one size where that is asked for, and else a direct algorithm."""

    def __init__(self, rng: np.random.Generator | None, winograd: int) -> None:
        self.rng, self.winograd = rng, winograd

    def __call__(self, kind: str, candidates: Iterable[tuple[float, Any]]) -> Any:
        found = list(itertools.islice(candidates, 3000))
        if kind == "algorithm":
            found = [c for c in found if (c[1].m if isinstance(c[1], Plan) else 0) == self.winograd]
        return best_of(found)[1] if self.rng is None else found[int(self.rng.integers(len(found)))][1]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("template", "what", "text"), CASES, ids=[f"{t}, {w}" for t, w, _ in CASES])
def test_templates_mean_what_their_ops_do(template: str, what: str, text: str, target: str) -> None:
    winograd = int(what[2]) if template == "conv.winograd" else 0
    kernel = check(text, target, 1, Deciding(None, winograd)).kernel
    assert kernel.template == template
    kernel = check(text, target, 3, Deciding(np.random.default_rng(1), winograd), seed=1).kernel
    assert kernel.template == template


def test_no_template_is_left_out() -> None:
    assert {t for t, _, _ in CASES} >= {*(name for name, _ in MAKERS), *WAYS, "loops"}
