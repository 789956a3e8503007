"""All passes on graphs whose sizes, or even ranks, are not known: what needs sizes leaves them alone."""

import numpy as np
import pytest

from graphopt.backends.pipeline import optimise
from graphopt.ir.evaluate import evaluate
from graphopt.targets import parse_target
from tests.rewrite.rewriting import parse

RNG = np.random.default_rng(2)
CONV = "stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1]"


@pytest.mark.parametrize("text,shape", [
    (f"""graph @g(%x: f32[2, 3, H, W]) -> f32[2, 4, H - 2, W - 2] {{
      %w = const @w : f32[4, 3, 1, 1]
      %y = conv(%x, %w) {{{CONV}, groups=1}} : f32[2, 4, H, W]
      %d = const @d : f32[4, 1, 3, 3]
      %z = conv(%y, %d) {{{CONV}, groups=4}} : f32[2, 4, H - 2, W - 2]
      return %z
    }}""", (2, 3, 5, 6)),
    ("""graph @g(%x: f32[2, N], %y: f32[2, 2]) -> f32[2, 2] {
      %z = matmul(%x, %y) : f32[2, 2]
      %t = transpose(%z) {perm=[1, 0]} : f32[2, 2]
      return %t
    }""", (2, 2)),
])
def test_kernels_wait_for_sizes(text, shape):
    constants = {name: RNG.standard_normal(s).astype(np.float32) for name, s in (("w", (4, 3, 1, 1)), ("d", (4, 1, 3, 3)))}
    graph = parse(text, **constants)
    made, _ = optimise(graph, parse_target("x86", 1))
    given = [RNG.standard_normal(shape if k == 0 else (2, 2)).astype(np.float32) for k in range(len(graph.inputs))]
    np.testing.assert_allclose(evaluate(made, given)[0], evaluate(graph, given)[0], rtol=1e-4, atol=1e-5)


def test_a_norm_of_unknown_rank_stays_one():
    vector = {name: np.abs(RNG.standard_normal(3)).astype(np.float32) + 0.5 for name in "sbmv"}
    graph = parse("""graph @g(%x: f32[*]) -> f32[*] {
      %s = const @s : f32[3]
      %b = const @b : f32[3]
      %m = const @m : f32[3]
      %v = const @v : f32[3]
      %y = batch_norm(%x, %s, %b, %m, %v) {eps=1e-05} : f32[*]
      return %y
    }""", **vector)
    made, _ = optimise(graph, parse_target("x86", 1))
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(evaluate(made, [x])[0], evaluate(graph, [x])[0], rtol=1e-5)
