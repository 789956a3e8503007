"""Symbolic dims: a program for each concrete shape, bounded, built once, and refused where sizes contradict each other."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

import graphopt
from graphopt.errors import InputError
from graphopt.ir import Builder, Dim, Graph, TensorType, dtype, tensor
from tests.runtime.small_models import symbolic, symbolic_inputs


def wanted(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0].astype(np.float64) @ arrays[1] + arrays[2]


@pytest.fixture(scope="module")
def model():
    return symbolic()


def test_every_shape_gets_its_program(model) -> None:
    assert [s.shape for s in model.inputs] == [("N", 4), (4, "M"), ("N", 1)] and model.outputs[0].shape == ("N", "M")
    for n, m in [(1, 1), (3, 17), (16, 33), (0, 5), (3, 17)]:
        arrays = symbolic_inputs(n, m)
        got = model(*arrays)
        assert got.shape == (n, m)
        np.testing.assert_allclose(got, wanted(arrays), atol=1e-5)


def test_contradicting_sizes_are_refused(model) -> None:
    rows, columns, _ = symbolic_inputs(3, 2)
    with pytest.raises(InputError) as e:
        model(rows, columns, np.ones((4, 1), np.float32))
    assert "input extra" in str(e.value) and "N is 4" in str(e.value) and "3 in input rows" in str(e.value)
    with pytest.raises(InputError, match=r"input columns: expected shape \[4, M\], got \[5, 2\]"):
        model(rows, np.ones((5, 2), np.float32), rows)


def test_declared_ranges_are_kept() -> None:
    model = symbolic(ranges={"N": (2, 5), "M": (None, 8)})
    for n, m in [(2, 8), (5, 1)]:
        arrays = symbolic_inputs(n, m)
        np.testing.assert_allclose(model(*arrays), wanted(arrays), atol=1e-5)
    for n, m, dim in [(1, 3, "N is 1"), (6, 3, "N is 6"), (3, 9, "M is 9")]:
        with pytest.raises(InputError, match=f"{dim}, outside of its declared range"):
            model(*symbolic_inputs(n, m))


def test_the_least_recently_used_program_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = symbolic(limit=2)
    built: list[int] = []
    build = model._programs.build

    def counting(shapes, values):
        built.append(shapes["rows"][0])
        return build(shapes, values)

    monkeypatch.setattr(model._programs, "build", counting)
    for n in (1, 2, 1, 3, 1, 2):
        arrays = symbolic_inputs(n, 3)
        np.testing.assert_allclose(model(*arrays), wanted(arrays), atol=1e-5)
        assert len(model._programs) <= 2
    assert built == [1, 2, 3, 2]


def test_threads_that_race_on_first_calls_share_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    model = symbolic()
    built: list[tuple[int, ...]] = []
    build = model._programs.build

    def counting(shapes, values):
        built.append(shapes["rows"])
        return build(shapes, values)

    monkeypatch.setattr(model._programs, "build", counting)
    gate = threading.Barrier(4)
    wrong: list[str] = []

    def work() -> None:
        gate.wait()
        for n in (7, 2):
            rng = np.random.default_rng(n)
            arrays = [rng.standard_normal(s).astype(np.float32) for s in ((n, 4), (4, 9), (n, 1))]
            if not np.allclose(model(*arrays), wanted(arrays), atol=1e-5):
                wrong.append(str(n))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and sorted(built) == [(2, 4), (7, 4)]


def test_a_failed_build_does_not_block_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    model = symbolic()
    build = model._programs.build

    def fail(shapes, values):
        raise MemoryError

    monkeypatch.setattr(model._programs, "build", fail)
    arrays = symbolic_inputs(3, 3)
    with pytest.raises(MemoryError):
        model(*arrays)
    monkeypatch.setattr(model._programs, "build", build)
    np.testing.assert_allclose(model(*arrays), wanted(arrays), atol=1e-5)


def test_what_was_compiled_is_known_after_the_first_call() -> None:
    model = symbolic()
    with pytest.raises(InputError, match="has not been called yet"):
        model.explain()
    assert model.graph.symbols() == ["N", "M"]
    model(*symbolic_inputs(3, 5))
    assert model.graph.symbols() == [] and model.graph.inputs[0].shape == (3, 4)
    assert model.stats["calls"] >= 1 and "kernel calls" in model.explain()


# Ops without kernels
def data_dependent() -> Graph:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 4, 5), "x")
    found = b.transpose(b.nonzero(b.relu(x)), perm=[1, 0])
    picked = b.mul(b.gather_nd(x, found), 2.0)
    count = found.shape[0]
    graph.outputs = [found, picked, b.reshape(found, shape=[count * 2]), b.reduce_sum(picked, axes=[0]), b.exp(x)]
    return graph


def test_host_ops_are_announced_once_and_right(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "graphopt"):
        model = graphopt.compile(data_dependent())
        for seed in range(3):
            x = np.random.default_rng(seed).standard_normal((4, 5)).astype(np.float32)
            found, picked, flat, total, e = model(x)
            np.testing.assert_array_equal(found, np.argwhere(x > 0))
            np.testing.assert_array_equal(picked, 2 * x[x > 0])
            np.testing.assert_array_equal(flat, np.argwhere(x > 0).ravel())
            np.testing.assert_allclose(total, 2 * x[x > 0].sum(), rtol=1e-5)
            np.testing.assert_allclose(e, np.exp(x), rtol=1e-5)
        assert len(model(np.full((4, 5), -1, np.float32))[1]) == 0
    announced = [r for r in caplog.records if "reference evaluator" in r.getMessage()]
    assert len(announced) == 1 and "nonzero" in announced[0].getMessage()
    assert {"nonzero", "gather_nd"} <= {name for name, _, _ in model.host_ops}
    assert "host op nonzero" in model.explain() and model.stats["host_ops"] == len(model.host_ops)


def test_kept_values_outlive_the_arena() -> None:
    """A sequence holds what it was given, though the kernels after it need the memory."""
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 64), "x")
    kept = b.seq_construct(b.relu(x))
    y = b.reduce_sum(b.mul(b.exp(x), b.reduce_max(b.exp(x), axes=[0])), axes=[0])
    graph.outputs = [b.add(b.seq_at(kept, b.const(np.int64(0))), b.mul(y, 0.0)), kept]
    model = graphopt.compile(graph)
    given = np.linspace(-1, 1, 64).astype(np.float32)
    first = model(given)
    model(given * -5)
    np.testing.assert_array_equal(first[0], np.maximum(given, 0))
    np.testing.assert_array_equal(first[1][0], np.maximum(given, 0))


def control_flow() -> Graph:
    """y = x + 1 five times where the flag holds, else -x; the loop collects its steps."""
    graph = Graph()
    b = Builder(graph)
    x, flag = graph.add_input(tensor("f32", 3), "x"), graph.add_input(tensor("bool"), "flag")
    then, otherwise, body = graph.nested("then"), graph.nested("else"), graph.nested("body")
    for branch, f in ((then, lambda b, v: b.relu(v)), (otherwise, lambda b, v: b.neg(v))):
        v = branch.add_input(tensor("f32", 3), "v")
        branch.outputs = [f(Builder(branch), v)]
    chosen = graph.add("if", [flag, x], regions=[then, otherwise]).result
    body.add_input(tensor("i64"), "i")
    go = body.add_input(tensor("bool"), "go")
    v = body.add_input(tensor("f32", 3), "v")
    inner = Builder(body)
    following = inner.add(v, 1.0)
    body.outputs = [inner.identity(go), following, inner.mul(following, 2.0)]
    loop = graph.add("loop", [b.const(np.int64(5)), None, chosen], {"carried": 1}, regions=[body])
    graph.outputs = [b.exp(loop.results[0]), *loop.results]
    return graph


def test_control_flow_runs_on_the_host() -> None:
    model = graphopt.compile(control_flow())
    x = np.array([-1.0, 0.5, 2.0], np.float32)
    for flag in (True, False):
        e, last, steps = model(x, np.asarray(flag))
        start = np.maximum(x, 0) if flag else -x
        np.testing.assert_allclose(last, start + 5, rtol=1e-6)
        np.testing.assert_allclose(e, np.exp(start + 5), rtol=1e-5)
        np.testing.assert_allclose(steps, 2 * (start + np.arange(1, 6)[:, None]), rtol=1e-6)


def test_an_input_of_unknown_rank_still_has_a_dtype() -> None:
    graph = Graph()
    x = graph.add_input(TensorType(dtype("f32"), None), "x")
    graph.outputs = [Builder(graph).identity(x)]
    model = graphopt.compile(graph)
    for shape in ((), (3,), (2, 3)):
        given = np.ones(shape, np.float32)
        np.testing.assert_array_equal(model(given), given)
    with pytest.raises(InputError, match="input x: expected dtype f32"):
        model(np.ones(3, np.int64))


def test_dims_of_one_input_may_depend_on_each_other() -> None:
    graph = Graph()
    n = Dim.symbol("N")
    x, y = graph.add_input(TensorType(dtype("f32"), (n,)), "x"), graph.add_input(TensorType(dtype("f32"), (n * 2,)), "y")
    b = Builder(graph)
    graph.outputs = [b.concat(x, y, axis=0)]
    model = graphopt.compile(graph)
    got = model(np.ones(3, np.float32), np.zeros(6, np.float32))
    np.testing.assert_array_equal(got, [1] * 3 + [0] * 6)
    with pytest.raises(InputError, match=r"input y: expected shape \[2\*N\], here \[6\], got \[7\]"):
        model(np.ones(3, np.float32), np.zeros(7, np.float32))
