"""Composites in the forms that exporters write: recognised, and equal."""

import numpy as np
import pytest

from graphopt.rewrite import Canonicalise, CommonSubexpressions, Fold, Recognise, Simplify
from graphopt.targets.capabilities import Capabilities
from tests.rewrite.rewriting import names, rewritten, unchanged

CLEAN = [Canonicalise(), Fold(), Simplify(), CommonSubexpressions(), Recognise()]
X = np.array([[-30, -4, -3, -1, -0.0, 0.5, 1, 2.5, 3, 4, 30]], np.float32)


class KeepsAll(Capabilities):
    def keeps(self, op):
        return True


def expression(lines: str, shape: str = "1, 11", **numbers: float) -> str:
    constants = "\n".join(f"%{n} = const {v!r} : f32[]" for n, v in numbers.items())
    ops = "\n".join(f"{line.strip()} : f32[{shape}]" for line in lines.strip().splitlines())
    return f"graph @g(%x: f32[{shape}]) -> f32[{shape}] {{\n{constants}\n{ops}\nreturn %y\n}}"


@pytest.mark.parametrize("lines", [
    "%s = sigmoid(%x)\n%y = mul(%x, %s)",
    "%s = sigmoid(%x)\n%y = mul(%s, %x)",
    "%n = neg(%x)\n%e = exp(%n)\n%p = add(%one, %e)\n%y = div(%x, %p)",
    "%n = neg(%x)\n%e = exp(%n)\n%p = add(%one, %e)\n%s = div(%one, %p)\n%y = mul(%x, %s)",
])
def test_silu(lines):
    graph = rewritten(CLEAN, expression(lines, one=1.0), inputs=[X])
    assert names(graph) == (["silu"] if "div(%x" not in lines else ["neg", "exp", "add", "div"])


ERF = "%d = div(%x, %root)\n%e = erf(%d)\n%p = add(%e, %one)\n"
ERF_MUL = "%d = mul(%x, %inverse)\n%e = erf(%d)\n%p = add(%one, %e)\n"


@pytest.mark.parametrize("inner", [ERF, ERF_MUL])
@pytest.mark.parametrize("outer", ["%m = mul(%x, %p)\n%y = mul(%m, %half)", "%m = mul(%half, %x)\n%y = mul(%m, %p)",
                                   "%m = mul(%p, %half)\n%y = mul(%x, %m)", "%m = mul(%x, %p)\n%y = div(%m, %two)"])
def test_gelu(inner, outer):
    numbers = {"root": 2**0.5, "inverse": 0.7071067690849304, "one": 1.0, "half": 0.5, "two": 2.0}
    graph = rewritten(CLEAN, expression(inner + outer, **numbers), inputs=[X])
    assert names(graph) == ["gelu"] and graph.last.attrs["approximate"] == "none"


@pytest.mark.parametrize("cube", ["%c = pow(%x, %three)", "%q = mul(%x, %x)\n%c = mul(%q, %x)"])
def test_gelu_by_tanh(cube):
    graph = rewritten(CLEAN, expression(f"""{cube}
        %k = mul(%c, %kappa)
        %a = add(%x, %k)
        %b = mul(%a, %beta)
        %t = tanh(%b)
        %p = add(%t, %one)
        %h = mul(%x, %half)
        %y = mul(%h, %p)""", three=3.0, kappa=0.044715, beta=0.7978845608028654, one=1.0, half=0.5), inputs=[X])
    assert names(graph) == ["gelu"] and graph.last.attrs["approximate"] == "tanh"


@pytest.mark.parametrize("outer", ["%d = div(%q, %six)\n%y = mul(%x, %d)", "%d = mul(%x, %q)\n%y = div(%d, %six)"])
@pytest.mark.parametrize("clip", ["%p = maximum(%a, %zero)\n%q = minimum(%p, %six)", "%p = relu(%a)\n%q = minimum(%p, %six)",
                                  "%p = minimum(%a, %six)\n%q = maximum(%p, %zero)"])
def test_hard_swish(clip, outer):
    graph = rewritten(CLEAN, expression(f"%a = add(%x, %three)\n{clip}\n{outer}", three=3.0, six=6.0, zero=0.0), inputs=[X])
    assert names(graph) == ["hard_swish"]


def test_almost_is_not_enough():
    graph = rewritten(CLEAN, expression(ERF + "%m = mul(%x, %p)\n%y = mul(%m, %half)", root=1.5, one=1.0, half=0.5), inputs=[X])
    assert "gelu" not in names(graph)


def test_softmax():
    graph = rewritten(CLEAN, """graph @g(%x: f32[3, 5, 2]) -> f32[3, 5, 2] {
      %m = reduce_max(%x) {axes=[1], keepdims=true} : f32[3, 1, 2]
      %d = sub(%x, %m) : f32[3, 5, 2]
      %e = exp(%d) : f32[3, 5, 2]
      %s = reduce_sum(%e) {axes=[1], keepdims=true} : f32[3, 1, 2]
      %y = div(%e, %s) : f32[3, 5, 2]
      return %y
    }""")
    assert names(graph) == ["softmax"] and graph.last.attrs["axis"] == 1


def layer_norm(square: str, root: str) -> str:
    return f"""graph @g(%x: f32[2, 3, 7]) -> f32[2, 3, 7] {{
      %two = const 2.0 : f32[]
      %eps = const 1e-05 : f32[]
      %gamma = const [1.0, 2.0, 0.5, -1.0, 3.0, 0.1, 1.5] : f32[7]
      %beta = const [0.0, 2.0, 0.5, -1.0, 3.0, 0.1, 1.5] : f32[7]
      %m = reduce_mean(%x) {{axes=[2], keepdims=true}} : f32[2, 3, 1]
      %d = sub(%x, %m) : f32[2, 3, 7]
      %d2 = sub(%x, %m) : f32[2, 3, 7]
      %q = {square} : f32[2, 3, 7]
      %v = reduce_mean(%q) {{axes=[2], keepdims=true}} : f32[2, 3, 1]
      %w = add(%v, %eps) : f32[2, 3, 1]
      {root}
      %g = mul(%gamma, %n) : f32[2, 3, 7]
      %y = add(%g, %beta) : f32[2, 3, 7]
      return %y
    }}"""


@pytest.mark.parametrize("square", ["mul(%d, %d)", "pow(%d2, %two)"])
@pytest.mark.parametrize("root", [
    "%r = sqrt(%w) : f32[2, 3, 1]\n%n = div(%d, %r) : f32[2, 3, 7]",
    "%r = rsqrt(%w) : f32[2, 3, 1]\n%n = mul(%d, %r) : f32[2, 3, 7]",
    "%s = sqrt(%w) : f32[2, 3, 1]\n%r = reciprocal(%s) : f32[2, 3, 1]\n%n = mul(%d, %r) : f32[2, 3, 7]",
])
def test_layer_norm(square, root):
    graph = rewritten(CLEAN, layer_norm(square, root))
    assert names(graph) == ["layer_norm"]
    assert graph.last.attrs["axis"] == 2 and graph.last.attrs["eps"] == pytest.approx(1e-5)
    assert all(v is not None for v in graph.last.operands)


def test_rms_norm():
    graph = rewritten(CLEAN, """graph @g(%x: f32[2, 3, 5], %gamma: f32[5]) -> f32[2, 3, 5] {
      %two = const 2.0 : f32[]
      %eps = const 1e-06 : f32[]
      %q = pow(%x, %two) : f32[2, 3, 5]
      %v = reduce_mean(%q) {axes=[2], keepdims=true} : f32[2, 3, 1]
      %w = add(%v, %eps) : f32[2, 3, 1]
      %r = rsqrt(%w) : f32[2, 3, 1]
      %n = mul(%x, %r) : f32[2, 3, 5]
      %y = mul(%gamma, %n) : f32[2, 3, 5]
      return %y
    }""")
    assert names(graph) == ["rms_norm"]


def test_a_norm_over_an_inner_axis_is_not_a_layer_norm():
    graph = rewritten(CLEAN, """graph @g(%x: f32[2, 3, 5]) -> f32[2, 3, 5] {
      %eps = const 1e-06 : f32[]
      %q = mul(%x, %x) : f32[2, 3, 5]
      %v = reduce_mean(%q) {axes=[1], keepdims=true} : f32[2, 1, 5]
      %w = add(%v, %eps) : f32[2, 1, 5]
      %r = rsqrt(%w) : f32[2, 1, 5]
      %n = mul(%x, %r) : f32[2, 3, 5]
      return %n
    }""")
    assert "rms_norm" not in names(graph)


def attention(lead: str, scaling: str, mask: str) -> str:
    scaled = {"mul": "%c = const 0.5 : f32[]\n%t = mul(%s, %c)", "div": "%c = const 2.0 : f32[]\n%t = div(%s, %c)"}[scaling]
    masked = f"%u = add(%t, %m) : f32[{lead}, 5, 7]" if mask else f"%u = mul(%t, %one) : f32[{lead}, 5, 7]"
    rank = lead.count(",") + 3
    perm = [*range(rank - 2), rank - 1, rank - 2]
    return f"""graph @g(%q: f32[{lead}, 5, 4], %k: f32[{lead}, 7, 4], %v: f32[{lead}, 7, 6]{mask}) -> f32[{lead}, 5, 6] {{
      %one = const 1.0 : f32[]
      %kt = transpose(%k) {{perm={perm}}} : f32[{lead}, 4, 7]
      %s = matmul(%q, %kt) : f32[{lead}, 5, 7]
      {scaled} : f32[{lead}, 5, 7]
      {masked}
      %w = softmax(%u) {{axis={rank - 1}}} : f32[{lead}, 5, 7]
      %y = matmul(%w, %v) : f32[{lead}, 5, 6]
      return %y
    }}"""


@pytest.mark.parametrize("mask", ["", ", %m: f32[5, 7]"])
@pytest.mark.parametrize("scaling", ["mul", "div"])
@pytest.mark.parametrize("lead", ["2, 3", "6"])
def test_attention(lead, scaling, mask):
    assert "attention" not in names(rewritten(CLEAN, attention(lead, scaling, mask)))
    graph = rewritten([*CLEAN, Canonicalise()], attention(lead, scaling, mask), target=KeepsAll())
    (found,) = (op for op in graph.ops if op.name == "attention")
    assert found.attrs["scale"] == 0.5 and (found.operand("mask") is not None) == bool(mask)
    assert set(names(graph)) <= {"attention", "reshape"}


@pytest.mark.parametrize("pictures, of_mask", [(1, "1, 6, 1, 5, 7"), (2, "1, 3, 1, 5, 7"), (2, "2, 3, 4, 5, 7"), (3, "5, 7")])
def test_attention_in_windows(pictures, of_mask):
    """Heads have a bias and windows a mask, which is added while windows and pictures are two axes."""
    wide = f"f32[{pictures}, {6 // pictures}, 4, 5, 7]"
    graph = rewritten([*CLEAN, Canonicalise()], f"""
    graph @g(%q: f32[6, 4, 5, 4], %k: f32[6, 4, 4, 7], %v: f32[6, 4, 7, 6], %b: f32[1, 4, 5, 7], %m: f32[{of_mask}])
        -> f32[6, 4, 5, 6] {{
      %s = matmul(%q, %k) : f32[6, 4, 5, 7]
      %t = add(%s, %b) : f32[6, 4, 5, 7]
      %r = reshape(%t) {{shape=[{pictures}, {6 // pictures}, 4, 5, 7]}} : {wide}
      %u = add(%r, %m) : {wide}
      %o = reshape(%u) {{shape=[6, 4, 5, 7]}} : f32[6, 4, 5, 7]
      %w = softmax(%o) {{axis=3}} : f32[6, 4, 5, 7]
      %y = matmul(%w, %v) : f32[6, 4, 5, 6]
      return %y
    }}""", target=KeepsAll())
    assert names(graph)[-1] == "attention" and "softmax" not in names(graph) and names(graph).count("add") == 1


def test_attention_scaled_on_both_sides():
    graph = rewritten([*CLEAN, Canonicalise()], """
    graph @g(%q: f32[2, 3, 5, 4], %k: f32[2, 3, 7, 4], %v: f32[2, 3, 7, 6]) -> f32[2, 3, 5, 6] {
      %c = const 0.75 : f32[]
      %qs = mul(%q, %c) : f32[2, 3, 5, 4]
      %kt = transpose(%k) {perm=[0, 1, 3, 2]} : f32[2, 3, 4, 7]
      %ks = mul(%kt, %c) : f32[2, 3, 4, 7]
      %s = matmul(%qs, %ks) : f32[2, 3, 5, 7]
      %w = softmax(%s) {axis=3} : f32[2, 3, 5, 7]
      %y = matmul(%w, %v) : f32[2, 3, 5, 6]
      return %y
    }""", target=KeepsAll())
    assert names(graph) == ["attention"] and graph.last.attrs["scale"] == 0.5625


@pytest.mark.parametrize("kept, lowest", [(True, "-3.4028235e+38"), (False, "-inf"), (True, "-1000.0")])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_with_a_choice_of_keys(kept, lowest, bias):
    cond = np.ones((5, 7), bool)
    cond[:, 3:] = False
    if lowest == "-3.4028235e+38":
        cond[2] = False  # a query that sees nothing: the softmax is uniform, and so it stays
    branches = "%t, %c" if kept else "%c, %t"
    rng = np.random.default_rng(2)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 5, 4), (2, 3, 4, 7), (2, 3, 7, 6), (3, 5, 7))]
    text = f"""
    graph @g(%q: f32[2, 3, 5, 4], %k: f32[2, 3, 4, 7], %v: f32[2, 3, 7, 6], %b: f32[3, 5, 7], %m: bool[5, 7])
        -> f32[2, 3, 5, 6] {{
      %half = const 0.5 : f32[]
      %c = const {lowest} : f32[]
      %s = matmul(%q, %k) : f32[2, 3, 5, 7]
      %t = {"add(%s, %b)" if bias else "abs(%s)" if lowest == "-1000.0" else "mul(%s, %half)"} : f32[2, 3, 5, 7]
      %u = where(%m, {branches}) : f32[2, 3, 5, 7]
      %w = softmax(%u) {{axis=3}} : f32[2, 3, 5, 7]
      %y = matmul(%w, %v) : f32[2, 3, 5, 6]
      return %y
    }}"""
    graph = rewritten(CLEAN, text, inputs=[*inputs, cond if kept else ~cond], target=KeepsAll())
    assert ("attention" in names(graph)) == (lowest != "-1000.0")


@pytest.mark.parametrize("guarded", [True, False])
def test_attention_of_a_query_that_sees_nothing(guarded):
    """NaN as the softmax gives it, or zeros where they replaced it."""
    seen = np.arange(35).reshape(5, 7) % 3 > 0
    seen[2] = False
    rng = np.random.default_rng(2)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in ((1, 2, 5, 4), (1, 2, 4, 7), (1, 2, 7, 6))]
    choice = "%n = isnan(%w) : bool[1, 2, 5, 7]\n%z = where(%n, %zero, %w)" if guarded else "%z = identity(%w)"
    graph = rewritten([*CLEAN, Canonicalise()], f"""
    graph @g(%q: f32[1, 2, 5, 4], %k: f32[1, 2, 4, 7], %v: f32[1, 2, 7, 6], %m: bool[5, 7]) -> f32[1, 2, 5, 6] {{
      %low = const -inf : f32[]
      %zero = const 0.0 : f32[]
      %s = matmul(%q, %k) : f32[1, 2, 5, 7]
      %u = where(%m, %s, %low) : f32[1, 2, 5, 7]
      %w = softmax(%u) {{axis=3}} : f32[1, 2, 5, 7]
      {choice} : f32[1, 2, 5, 7]
      %y = matmul(%z, %v) : f32[1, 2, 5, 6]
      return %y
    }}""", inputs=[*inputs, seen], target=KeepsAll())
    (found,) = (op for op in graph.ops if op.name == "attention")
    assert found.attrs["empty"] == ("zero" if guarded else "nan")


def test_attention_weights_that_are_returned_are_kept():
    unchanged(Recognise(), """
    graph @g(%q: f32[1, 1, 5, 4], %k: f32[1, 1, 4, 7], %v: f32[1, 1, 7, 6]) -> (f32[1, 1, 5, 6], f32[1, 1, 5, 7]) {
      %s = matmul(%q, %k) : f32[1, 1, 5, 7]
      %w = softmax(%s) {axis=3} : f32[1, 1, 5, 7]
      %y = matmul(%w, %v) : f32[1, 1, 5, 6]
      return %y, %w
    }""", target=KeepsAll())
