"""Programs whose kernels share arena bytes: what one wrote must be what the next one reads, also after LLVM inlined both."""

import numpy as np

import graphopt
from graphopt.ir.evaluate import evaluate
from graphopt.ir.parse import parse_graph


def test_a_kernel_that_runs_again_on_overwritten_memory_reads_the_new_values():
    steps = 6
    lines = ["%h0 = sin(%h) : f32[2, 64, 8]"]
    for i in range(steps):
        lines += [
            f"%a{i} = slice(%e) {{axes=[2], starts=[{i}], ends=[{i + 1}], steps=[1]}} : f32[2, 64, 1, 8]",
            f"%r{i} = reshape(%a{i}) {{shape=[2, 64, 8]}} : f32[2, 64, 8]",
            f"%h{i + 1} = mul(%h{i}, %r{i}) : f32[2, 64, 8]",
            f"%s{i} = slice(%b) {{axes=[1], starts=[{i}], ends=[{i + 1}], steps=[1]}} : f32[2, 1, 8]",
            f"%t{i} = reshape(%s{i}) {{shape=[2, 8, 1]}} : f32[2, 8, 1]",
            f"%m{i} = matmul(%h{i + 1}, %t{i}) : f32[2, 64, 1]",
        ]
    parts = ", ".join(f"%m{i}" for i in range(steps))
    body = "\n  ".join([*lines, f"%c = concat({parts}) {{axis=2}} : f32[2, 64, {steps}]", "return %c"])
    graph = parse_graph(f"graph @scan(%h: f32[2, 64, 8], %b: f32[2, {steps}, 8], %e: f32[2, 64, {steps}, 8]) "
                        f"-> f32[2, 64, {steps}] {{\n  {body}\n}}\n")
    random = np.random.default_rng(0)
    inputs = [random.standard_normal(v.type.static_shape, dtype=np.float32) for v in graph.inputs]
    (got,) = graphopt.compile(graph).run(dict(zip("hbe", inputs))).values()
    np.testing.assert_allclose(got, evaluate(graph, inputs)[0], rtol=1e-4, atol=1e-5)
