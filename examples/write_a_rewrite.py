"""Look at a graph, write a rule, apply it, and let the manager prove that the results did not change."""

import numpy as np

from graphopt.ir import evaluate, parse_graph
from graphopt.rewrite import PassManager, Snapshots
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.rules import Rule

TEXT = """
graph @example(%x: f32[3, 5], %w: f32[5, 7]) -> f32[3, 7] {
  %half = const 0.5 : f32[]
  %scaled = mul(%x, %half) : f32[3, 5]        # loc("scale")
  %y = matmul(%scaled, %w) : f32[3, 7]        # loc("project")
  %z = neg(%y) : f32[3, 7]
  %back = neg(%z) : f32[3, 7]
  return %back
}
"""


class ScaleLater(RulePass):
    """After it, no matmul reads an operand that was only scaled by a number: the result is scaled instead."""

    name = "scale-later"
    rules = (
        Rule("negations cancel", "neg(neg(%x))", "%x"),
        Rule("scale the product, not the factor", "matmul(mul(%x, #c), %w)", "mul(matmul(%x, %w), #c)",
             when=lambda m: m.c.rank == 0, ulps=4),
    )


def main() -> None:
    graph = parse_graph(TEXT)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((3, 5), np.float32), rng.standard_normal((5, 7), np.float32)]
    (before,) = evaluate(graph, inputs)

    seen = Snapshots()
    results = PassManager([ScaleLater()], validate=True, before=[seen.before], after=[seen.after]).run(graph)

    print(results)
    print(seen.diff("scale-later"))
    for reason in results.context.reasons:
        print(reason)
    (after,) = evaluate(graph, inputs)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main()
