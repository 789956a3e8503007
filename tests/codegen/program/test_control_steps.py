"""Branches and loops in programs: random nests of them against the evaluator, in both kinds of code, and what the plan says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt.codegen.lower  # noqa: F401  (fills the lowering tables)
from graphopt import rewrite
from graphopt.backends.pipeline import optimise
from graphopt.backends.x86.static import compile_static
from graphopt.codegen.program.plan import Host, Program, plan
from graphopt.codegen.program.steps import Branch, Repeat, calls
from graphopt.codegen.x86 import native
from graphopt.codegen.x86.link import link
from graphopt.codegen.x86.templates import style_of, templates_of
from graphopt.ir import Builder, Graph, Value, evaluate, parse_graph, tensor, verify
from graphopt.rewrite import Unroll
from graphopt.targets import parse_target

TARGET: Any = parse_target("x86", 2)


class Nest:
    """A random graph over vectors of 6, with branches and loops in it up to a depth. Values stay within [-2, 2]."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("nest")
        inputs = [self.graph.add_input(tensor("f32", 6), f"x{k}") for k in range(3)]
        self.number = self.graph.add_input(tensor("i64"), "n")
        self.graph.outputs = self.ops(self.graph, inputs, self.number, 3, 8)
        self.graph.input_names = ["x0", "x1", "x2", "n"]
        self.graph.output_names = [f"y{k}" for k in range(len(self.graph.outputs))]

    def pick(self, values: list[Value]) -> Value:
        return values[int(self.rng.integers(0, len(values)))]

    def ops(self, graph: Graph, values: list[Value], number: Value, depth: int, count: int, outputs: int = 3) -> list[Value]:
        b, values = Builder(graph), list(values)
        for _ in range(count):
            kind = int(self.rng.integers(0, 9 if depth else 6))
            x, y = self.pick(values), self.pick(values)
            if kind == 0:
                values.append(b.tanh(b.add(x, y)))
            elif kind == 1:
                values.append(b.mul(x, b.const(np.float32(self.rng.uniform(-1, 1)))))
            elif kind == 2:
                w = b.const(self.rng.uniform(-.2, .2, (6, 6)).astype(np.float32))
                values.append(b.reshape(b.matmul(b.reshape(x, shape=[1, 6]), w), shape=[6]))
            elif kind == 3:
                cut = b.slice(x, axes=[0], starts=[2], ends=[6], steps=[1])
                values.append(b.concat(cut, b.slice(y, axes=[0], starts=[0], ends=[2], steps=[1]), axis=0))
            elif kind == 4:
                values.append(b.tanh(b.add(x, b.cast(number, to="f32", saturate=True))))
            elif kind == 5:
                values.append(b.const(self.rng.uniform(-1, 1, 6).astype(np.float32)))
            elif kind == 6:
                values += self.branch(graph, values, number, depth)
            else:
                values += self.loop(graph, values, number, depth, known=kind == 8)
        return [self.pick(values) for _ in range(outputs)]

    def condition(self, b: Builder, x: Value) -> Value:
        return b.greater(b.reduce_sum(x, axes=[0], keepdims=False), b.const(np.float32(self.rng.uniform(-.5, .5))))

    def branch(self, graph: Graph, values: list[Value], number: Value, depth: int) -> list[Value]:
        b = Builder(graph)
        captures = [self.pick(values) for _ in range(3)]
        regions = []
        for name in ("then", "else"):
            region = graph.nested(name)
            inside = [region.add_input(v.type) for v in (*captures, number)]
            region.outputs = self.ops(region, inside[:-1], inside[-1], depth - 1, int(self.rng.integers(0, 4)), 2)
            regions.append(region)
        condition = self.condition(b, self.pick(values))
        return list(graph.add("if", [condition, *captures, number], regions=regions).results)

    def loop(self, graph: Graph, values: list[Value], number: Value, depth: int, known: bool) -> list[Value]:
        """A loop with two carried values and two captures; where its length is known, also with a scan output, reduced."""
        b = Builder(graph)
        start, captures = ([self.pick(values) for _ in range(2)] for _ in range(2))
        table = b.const(self.rng.uniform(-1, 1, (5, 6)).astype(np.float32))
        body = graph.nested("body")
        at, going = body.add_input(tensor("i64"), "i"), body.add_input(tensor("bool"), "keep")
        inside = [body.add_input(v.type) for v in (*start, *captures, table)]
        row = Builder(body).gather(inside[-1], at, axis=0)
        made = self.ops(body, [*inside[:-1], row], at, depth - 1, int(self.rng.integers(0, 4)))
        after = going if known or self.rng.random() < .5 else self.condition(Builder(body), self.pick(made))
        body.outputs = [after, *(made if known else made[:2])]
        trip = b.const(np.int64(self.rng.integers(0, 6))) if known else b.minimum(number, b.const(np.int64(5)))
        results = list(graph.add("loop", [trip, None, *start, *captures, table], {"carried": 2}, regions=[body]).results)
        if known:
            results[-1] = b.reduce_sum(b.tanh(results[-1]), axes=[0], keepdims=False)
            results[-1] = b.tanh(results[-1])
        return results


@pytest.mark.parametrize("seed", range(10))
def test_random_nests_compute_what_the_evaluator_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Nest(seed).graph
    verify(graph)
    if seed % 2:  # loops of known length stay loops, too
        monkeypatch.setattr(rewrite, "Unroll", lambda: Unroll(0, 0))
    if seed % 4 == 3:  # code in memory, where kernels are inlined
        monkeypatch.setattr(native, "compiler", lambda: None)
    compiled = compile_static(graph, TARGET, announce=False)
    assert not compiled.program.hosts and compiled.code.in_memory == (seed % 4 == 3)
    executable = link(compiled.program, compiled.code, TARGET.threads)
    rng = np.random.default_rng(seed)
    for n in (0, 1, 3, 5):
        given = [*(rng.uniform(-1, 1, 6).astype(np.float32) for _ in range(3)), np.array(n)]
        for got, expected in zip(executable.run(given), evaluate(graph, given), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# The plan --------------------------------------------------------------------------------------------------------------
def planned(text: str, **constants: np.ndarray) -> Program:
    graph, _ = optimise(parse_graph(text, constants), TARGET)
    return plan(graph, style_of(TARGET), templates_of(TARGET))


def test_a_large_weight_in_several_bodies_is_packed_once() -> None:
    body = """graph @{0}(%v: f32[8, 64], %w: f32[64, 64]) -> f32[8, 64] {{
      %p = matmul(%v, %w) : f32[8, 64]
      %q = {1}(%p) : f32[8, 64]
      return %q
    }}"""
    program = planned(f"""graph @g(%c: bool[], %x: f32[8, 64]) -> f32[8, 64] {{
      %w = const @w : f32[64, 64]
      %y = if(%c, %x, %w) [
        {body.format("then", "exp")}
        {body.format("else", "sin")}
      ] : f32[8, 64]
      return %y
    }}""", w=np.ones((64, 64), np.float32))
    assert isinstance(program.steps[0], Branch) and len(program.calls) == 2
    assert program.weights_size < 2 * 64 * 64 * 4


def test_branches_share_memory() -> None:
    program = planned("""graph @g(%c: bool[], %x: f32[1024]) -> f32[1024] {
      %y = if(%c, %x) [
        graph @then(%v: f32[1024]) -> f32[1024] {
          %p, %i = top_k(%v) {k=1024, axis=0, largest=true} : f32[1024], i64[1024]
          %q = cumsum(%p) {axis=0, exclusive=false, reverse=false} : f32[1024]
          return %q
        }
        graph @else(%v: f32[1024]) -> f32[1024] {
          %p = cumsum(%v) {axis=0, exclusive=false, reverse=false} : f32[1024]
          %i = softmax(%p) {axis=0} : f32[1024]
          return %i
        }
      ] : f32[1024]
      return %y
    }""")
    alone = 1024 * 4 + 1024 * 8  # what the first branch needs, and top_k's scratch
    assert program.arena_size <= 2 * alone + 1024 * 8


def test_the_same_kernel_serves_inside_and_outside_of_a_loop() -> None:
    program = planned("""graph @g(%n: i64[], %x: f32[50]) -> f32[50] {
      %a = tanh(%x) : f32[50]
      %y = loop(%n, _, %a) {carried=1} [
        graph @body(%i: i64[], %k: bool[], %v: f32[50]) -> (bool[], f32[50]) {
          %t = tanh(%v) : f32[50]
          return %k, %t
        }
      ] : f32[50]
      return %y
    }""")
    assert len(program.kernels) == 2  # tanh and the copy
    (loop,) = (s for s in program.steps if isinstance(s, Repeat))
    assert len(loop.body) == len(loop.before) == len(loop.after) == 1
    assert sum(c.kernel.name.endswith("tanh") for c in calls(program.steps)) == 2


def test_a_row_that_an_iteration_takes_is_read_where_it_lies() -> None:
    program = planned("""graph @g(%x: f32[700, 64], %s: f32[64], %w: f32[64, 64]) -> f32[64] {
      %n = const 700 : i64[]
      %y = loop(%n, _, %s, %x, %w) {carried=1} [
        graph @body(%i: i64[], %k: bool[], %v: f32[64], %x: f32[700, 64], %w: f32[64, 64]) -> (bool[], f32[64]) {
          %row = gather(%x, %i) {axis=0} : f32[64]
          %two = reshape(%row) {shape=[1, 64]} : f32[1, 64]
          %p = matmul(%two, %w) : f32[1, 64]
          %q = reshape(%p) {shape=[64]} : f32[64]
          %r = add(%q, %v) : f32[64]
          return %k, %r
        }
      ] : f32[64]
      return %y
    }""")
    (loop,) = (s for s in program.steps if isinstance(s, Repeat))
    assert not any(op.name == "gather" for c in loop.body for op in [c.op]) and loop.trip == 700 and loop.again is None
    assert any(stride.nbytes == 256 and not stride.alternating for c in calls(loop.body) for a in c.args for stride in a.strides)


def test_a_body_with_an_op_for_the_evaluator_goes_there_whole() -> None:
    program = planned("""graph @g(%c: bool[], %x: f32[4]) -> f32[4] {
      %y = if(%c, %x) [
        graph @then(%v: f32[4]) -> f32[4] {
          %r = random_normal() {shape=[4], mean=0.0, scale=1.0, seed=none, dtype=f32} : f32[4]
          return %r
        }
        graph @else(%v: f32[4]) -> f32[4] {
          %e = exp(%v) : f32[4]
          return %e
        }
      ] : f32[4]
      return %y
    }""")
    (host,) = program.steps
    assert isinstance(host, Host) and "random_normal %r" in host.why and "draws random numbers" in host.why
