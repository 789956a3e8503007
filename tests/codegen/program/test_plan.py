"""The plan: memory is never shared by two tensors that live at once, views cost nothing, weights exist once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphopt.codegen.lower  # noqa: F401  (fills the lowering tables)
from graphopt.codegen.lower.kernels import kernel_key
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.program.plan import ALIGN, Host, Program, Slot, arrange, largest_sum, nbytes, plan
from graphopt.codegen.x86.templates import style_of, templates_of
from graphopt.ir import Builder, Graph, Value, evaluate, tensor
from graphopt.runtime.host.executable import aligned
from graphopt.targets import parse_target
from tests.codegen.x86.compiling import Batch


def planned(graph: Graph, templates: bool = False) -> Program:
    target = parse_target("x86", 1)
    return plan(graph, style_of(target) if templates else Style(), templates_of(target) if templates else ())


def random_graph(seed: int, ops: int = 25) -> Graph:
    """Elementwise ops, contractions, views, slices and reductions over earlier values, a few of them returned."""
    rng = np.random.default_rng(seed)
    graph = Graph()
    b = Builder(graph)
    square = [graph.add_input(tensor("f32", 8, 8), f"x{k}") for k in range(2)]
    square.append(b.const(rng.standard_normal((8, 8)).astype(np.float32)))

    def one() -> Value:
        return square[max(0, len(square) - 1 - int(rng.integers(0, 8)))]

    for _ in range(ops):
        kind = int(rng.integers(0, 7))
        if kind == 0:
            square.append(b.matmul(one(), one()))
        elif kind == 1:
            square.append(b.tanh(one()))
        elif kind == 2:
            square.append(b.reshape(b.reshape(one(), shape=[64]), shape=[8, 8]))
        elif kind == 3:
            square.append(b.sub(one(), b.reduce_mean(one(), axes=[1], keepdims=True)))
        elif kind == 4:
            start = int(rng.integers(0, 5))
            part = b.slice(one(), axes=[0], starts=[start], ends=[start + 4], steps=[1])
            square.append(b.concat(part, part, axis=0))
        elif kind == 5:
            square.append(b.softmax(one(), axis=int(rng.integers(0, 2))))
        else:
            square.append(b.transpose(one(), perm=[1, 0]))
    graph.outputs = [one() for _ in range(3)]
    return graph


def lives(program: Program) -> dict[Value, tuple[int, int]]:
    """First and last step of every value that a step writes into the arena; reading a view of it is reading it."""
    writers = {r: step for step, s in enumerate(program.steps) for r in s.op.results}
    life = {r: (step, step) for r, step in writers.items() if program.slots.get(r, Slot("")).space == "arena"}
    for step, s in enumerate(program.steps):
        for v in s.op.operands:
            while v is not None and v not in writers and v.op is not None and v.op.operands:
                v = v.op.operands[0]
            if v in life:
                life[v] = (life[v][0], step)
    return life


@pytest.mark.parametrize("seed", range(12))
def test_no_two_live_tensors_overlap(seed: int) -> None:
    """By brute force over all pairs of values that steps write."""
    graph = random_graph(seed)
    program = planned(graph)
    life = lives(program)
    assert life
    for (a, (first, last)), (b, (start, end)) in itertools.combinations(life.items(), 2):
        if first <= end and start <= last:
            x, y = program.slots[a].offset, program.slots[b].offset
            assert x + nbytes(a) <= y or y + nbytes(b) <= x, f"%{a.name} and %{b.name} live at once"
    for (f1, l1, o1, n1), (f2, l2, o2, n2) in itertools.combinations(program.lifetimes, 2):
        assert l1 < f2 or l2 < f1 or o1 + n1 <= o2 or o2 + n2 <= o1
    assert all(offset % ALIGN == 0 and offset + size <= program.arena_size for _, _, offset, size in program.lifetimes)


@pytest.mark.parametrize("seed", range(30))
def test_the_arena_is_near_its_bound(seed: int) -> None:
    program = planned(random_graph(seed, 60))
    live = [sum(n for first, last, _, n in program.lifetimes if first <= step <= last) for step in range(len(program.steps) + 1)]
    assert program.arena_bound == max(live)
    assert program.arena_bound <= program.arena_size <= 1.5 * program.arena_bound


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_run_as_the_reference_does(seed: int) -> None:
    batch = Batch()
    graph = random_graph(seed)
    batch.graph, batch.b = graph, Builder(graph)
    batch.arrays = [np.random.default_rng(k).standard_normal((8, 8)).astype(np.float32) for k in range(2)]
    for v in graph.outputs:
        batch.give(v, tolerance=1e-3)
    batch.check()


def test_views_share_memory_and_are_no_steps() -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 4, 6), "x")
    y = b.exp(x)
    r = b.reshape(y, shape=[2, 12])
    row = b.slice(r, axes=[0], starts=[1], ends=[2], steps=[1])
    columns = b.slice(r, axes=[1], starts=[3], ends=[9], steps=[1])
    of_input = b.slice(x, axes=[0], starts=[-2], ends=[100], steps=[1])
    graph.outputs = [b.tanh(row), b.tanh(columns), b.sin(of_input)]
    program = planned(graph)
    assert [s.op.name for s in program.steps] == ["exp", "slice", "tanh", "tanh", "sin"]
    assert program.slots[r] == program.slots[y]
    assert program.slots[row] == program.slots[y].shifted(12 * 4)
    assert program.slots[of_input] == Slot("input", 0, 12 * 4)


def test_results_are_written_where_the_caller_gets_them() -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 4, 6), "x")
    y = b.exp(x)
    graph.outputs = [b.reshape(y, shape=[24]), b.tanh(y)]
    program = planned(graph)
    assert len(program.steps) == 2 and program.arena_size == 0
    assert program.slots[y] == Slot("output", 0)


def test_equal_ops_share_a_kernel() -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 5, 5), "x")
    y = x
    for k in range(4):
        w = b.const(np.full((5, 5), k, np.float32))
        y = b.relu(b.matmul(y, w))
    graph.outputs = [y]
    program = planned(graph, templates=True)
    assert len(program.steps) == 8 and len(program.kernels) == 2 and len(program.weights) == 4


def test_constants_of_one_element_are_written_into_the_kernel() -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 5), "x")
    graph.outputs = [b.add(x, 1.0), b.add(x, 2.0), b.add(x, b.const(np.float32(1)))]
    program = planned(graph)
    assert len(program.kernels) == 2 and not program.weights
    keys = {kernel_key(op) for op in graph.ops if op.name == "add"}
    assert len(keys) == 2


def test_tied_weights_are_packed_once() -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 7, 20), "x")
    table = np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32)
    shared = b.const(table)
    y = b.matmul(b.matmul(x, shared), shared)
    again = graph.constant(shared.op.attrs["value"])  # another op, the same tensor
    graph.outputs = [b.matmul(y, again)]
    program = planned(graph, templates=True)
    assert len(program.weights) == 1
    block = program.pack_weights(aligned)
    w = program.weights[0]
    assert w.packing is not None and block.nbytes == program.weights_size
    packed = block[w.offset:w.offset + w.nbytes].view(np.float32)
    np.testing.assert_array_equal(packed, w.packing.apply(table))
    assert set(packed.tolist()) <= {*table.ravel().tolist(), 0.0}


def test_weights_that_are_transposed_views_are_packed_right() -> None:
    batch = Batch()
    w = np.random.default_rng(0).standard_normal((33, 20)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((5, 20)).astype(np.float32)
    batch.give(batch.b.matmul(batch.input(x), batch.b.const(w.T)), x.astype(np.float64) @ w.T)
    batch.give(batch.b.add(batch.input(x), batch.b.const(w.T[:, :1].T)), x + w.T[:, :1].T)
    batch.check()


def test_what_has_no_kernel_is_a_host_step_with_its_reason() -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 6), "x")
    found = b.nonzero(b.relu(x))
    graph.outputs = [b.add(x, 1.0), found]
    program = planned(graph)
    assert [s.op.name for s in program.hosts] == ["nonzero"]
    host = program.hosts[0]
    assert isinstance(host, Host) and host.args[0] is not None and host.args[0].space == "arena"
    assert host.results[0].space == "host" and "not known before running" in host.why
    assert np.array_equal(evaluate(graph, [np.ones(6, np.float32)])[1], np.arange(6)[None])


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9), st.integers(0, 4)), max_size=14))
def test_lives_never_overlap_in_time_and_place(given_lives: list[tuple[int, int, int]]) -> None:
    lives = [(size, first, first + length) for size, first, length in given_lives]
    bound = largest_sum(lives)
    assert bound == max((sum(n for n, f, l in lives if f <= t <= l) for t in range(15)), default=0)
    places, size = arrange(lives, bound)
    assert bound <= size <= sum(n for n, _, _ in lives) and size == max((p + n for p, (n, _, _) in zip(places, lives)), default=0)
    for (p, (n, f, l)), (q, (m, g, h)) in itertools.combinations(zip(places, lives), 2):
        assert l < g or h < f or p + n <= q or q + m <= p


def test_an_arena_that_the_largest_first_would_make_too_large() -> None:
    lives = [(3, 0, 1), (2, 1, 2), (2, 2, 3), (3, 3, 4), (1, 0, 2), (1, 2, 4), (2, 4, 5), (3, 5, 6)]
    assert arrange(lives, largest_sum(lives))[1] <= 1.1 * largest_sum(lives)
