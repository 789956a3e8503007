"""A kernel template from outside of graphopt: running sums along an axis that is not the last one, on vectors in registers.

`cumsum` has a lowering rule, which walks every line by itself and so reads memory against the grain when the lines are
columns. The template takes a strip of columns at a time: one row of the strip is a few vectors, and the sums so far stay in
registers on the way down.
"""

import math

import numpy as np

import graphopt
from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, const, minimum
from graphopt.codegen.kernel.index import split_index
from graphopt.codegen.kernel.loops import Alloc, For, Kernel, Stmt, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.x86 import template
from graphopt.ir import Builder, Graph, tensor
from graphopt.targets.x86 import X86

LATENCY = 4  # cycles of an addition: a sum can take the next element no sooner


def strips(rows: int, columns: int, lanes: int) -> list[tuple[float, int]]:
    """(cycles, vectors in a strip) for every width worth looking at. A strip's vectors are loaded and stored one a cycle, and
    no row takes less than an addition's latency; a last strip overlaps its neighbour, which costs it all the same."""
    return [(-(-columns // (v * lanes)) * rows * max(v, LATENCY), v) for v in (1, 2, 4, 8) if v * lanes <= columns]


@template
def columns_template(target: X86):
    """Called once for a target; what it returns is asked for every op, and returns None for those that it has no kernel for."""

    def match(op, name, style):
        if op.name != "cumsum" or op.result.dtype.name != "f32" or op.result.type.layout is not None:
            return None
        shape = op.result.static_shape
        axis = op.attrs["axis"] % len(shape)
        outer, rows, columns = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1:])
        if 0 in shape or columns < style.lanes:
            return None  # the lowering rule takes it
        # Which strip: the model's best here, unless `tune=` has measured and recorded another.
        vectors = style.pick("strip", strips(rows, columns, style.lanes))
        parallel = style.threads > 1 and outer * rows * columns >= style.parallel_work

        # Buffers for what the op reads and writes, flat, in the order of the kernel's parameters.
        sources = Sources(op)
        (x,), (y,) = sources.buffers.values(), sources.outputs
        wide, zero = vectors * style.lanes, const(0, "f32")
        sums = Buffer("sums", "f32", (wide,), Space.LOCAL)  # indices into it are constant, so it lives in registers

        def each(body) -> Stmt:
            """`body(place in the strip)` for all of it, written out vector by vector."""
            lane = Var("lane", INDEX, 0, style.lanes - 1)
            lanes = const(style.lanes, INDEX)
            return seq(*(For(lane, lanes, body(lane + v * style.lanes), Scope.VECTOR) for v in range(vectors)))

        def strip(unit: Expr) -> Stmt:
            block, number = split_index(unit, (outer, -(-columns // wide)))
            first = minimum(number * wide, columns - wide)

            def row(r: Expr) -> Stmt:
                down = (rows - 1) - r if op.attrs["reverse"] else r
                at = (block * rows + down) * columns + first
                add = each(lambda i: store(sums, i, sums[i] + x[at + i]))
                put = each(lambda i: store(y, at + i, sums[i]))
                return seq(put, add) if op.attrs["exclusive"] else seq(add, put)

            return Alloc(sums, seq(each(lambda i: store(sums, i, zero)), loop(rows, row, name="row")))

        body = loop(outer * -(-columns // wide), strip, Scope.PARALLEL if parallel else Scope.SERIAL, "strip")
        return Lowered(Kernel(name, (x, y), body, inputs=1, outputs=1), tuple(sources.operands))

    return match


def model_of(shape: tuple[int, ...], axis: int, **options: bool) -> Graph:
    graph = Graph("running")
    x = graph.add_input(tensor("f32", *shape), "x")
    graph.outputs = [Builder(graph).cumsum(x, axis=axis, **options)]
    return graph


def main() -> None:
    rng = np.random.default_rng(0)
    cases = [((300, 1000), 0, {}), ((300, 1000), 0, {"reverse": True}), ((5, 31, 17), 1, {"exclusive": True}),
             ((1, 16), 0, {}), ((3, 0, 64), 1, {}), ((64, 3), 0, {}), ((20, 5), 1, {})]  # the last two are the rule's
    for shape, axis, options in cases:
        x = rng.standard_normal(shape).astype(np.float32)
        model = graphopt.compile(model_of(shape, axis, **options))
        exact = np.flip(x.astype(np.float64), axis) if options.get("reverse") else x.astype(np.float64)
        exact = np.cumsum(exact, axis) - (exact if options.get("exclusive") else 0)
        exact = np.flip(exact, axis) if options.get("reverse") else exact
        np.testing.assert_allclose(model(x), exact, rtol=1e-4, atol=1e-4)
        chosen = [line for line in model.explain().splitlines() if "strip " in line]
        print(f"{list(shape)} along {axis}: right; {chosen[0] if chosen else 'no choice was open'}")

    nan = np.ones((4, 64), np.float32)
    nan[1, 5] = np.nan
    got = graphopt.compile(model_of((4, 64), 0))(nan)
    assert np.isnan(got[1:, 5]).all() and np.isfinite(np.delete(got, 5, axis=1)).all()
    print("a NaN stays in its column")


if __name__ == "__main__":
    main()
