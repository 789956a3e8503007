"""`graphopt.compile` on whole graphs: outputs of every kind, targets that agree, what the compiler says of its work."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import graphopt
from graphopt.ir import Builder, Graph, evaluate, tensor
from graphopt.targets import parse_target
from graphopt.targets.x86 import X86

RNG = np.random.default_rng(13)
X = RNG.standard_normal((4, 6)).astype(np.float32)


def compiled(build, *shapes: tuple[int, ...], **options):
    """The model that `build(builder, *inputs)` returns the outputs of, and its graph."""
    graph = Graph()
    b = Builder(graph)
    graph.outputs = build(b, *(graph.add_input(tensor("f32", *s), f"x{k}") for k, s in enumerate(shapes)))
    return graphopt.compile(graph, **options), graph


# Outputs
@pytest.mark.parametrize("build", [
    lambda b, x: [x],
    lambda b, x: [x, x, b.neg(x)],
    lambda b, x: [b.const(np.arange(5.0)), b.exp(x)],
    lambda b, x: [b.const(np.float32(3))],
    lambda b, x: (lambda y: [y, y, b.reshape(y, shape=[24]), b.slice(y, axes=[0], starts=[1], ends=[3], steps=[1])])(b.exp(x)),
    lambda b, x: [b.reshape(x, shape=[2, 12]), b.slice(x, axes=[0], starts=[1], ends=[3], steps=[1])],
    lambda b, x: (lambda y: [b.tanh(y), b.slice(y, axes=[0], starts=[3], ends=[4], steps=[1])])(b.exp(x)),
    lambda b, x: (lambda parts: [parts[1], parts[0], b.add(parts[0], parts[1])])(b.split(b.exp(x), axis=0, sizes=[2, 2])),
    lambda b, x: [b.transpose(b.reshape(b.transpose(x, perm=[1, 0]), shape=[4, 6]), perm=[1, 0])],
    lambda b, x: (lambda y: [b.relu(y), y])(b.add(x, 1.0)),
    lambda b, x: [b.reduce_sum(x, axes=[0, 1]), b.identity(x)],
    lambda b, x: [b.slice(x, axes=[0], starts=[2], ends=[2], steps=[1])],
    lambda b, x: list(b.top_k(x, k=3, axis=1)),
], ids=["an input", "an input twice", "a constant", "only a constant", "a value twice and views of it", "views of an input",
        "a view of an internal value", "parts", "movement alone", "a value used inside too", "a scalar", "nothing",
        "several results"])
def test_outputs_of_every_kind(build) -> None:
    model, graph = compiled(build, (4, 6))
    got = model(X)
    got = got if isinstance(got, tuple) else (got,)
    for g, w in zip(got, evaluate(graph, [X]), strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
    for a in got:
        assert a.flags.writeable and a.flags.c_contiguous and not np.shares_memory(a, X)
        for other in got:
            assert a is other or not np.shares_memory(a, other)


def test_inputs_that_nothing_uses() -> None:
    model, _ = compiled(lambda b, x, y, z: [b.exp(y)], (4, 6), (2,), (0, 3))
    y = np.ones(2, np.float32)
    np.testing.assert_allclose(model(X, y, np.zeros((0, 3), np.float32)), np.exp(y), rtol=1e-6)
    assert len(model.inputs) == 3


def test_a_model_without_inputs_or_without_kernels() -> None:
    model, _ = compiled(lambda b: [b.iota(shape=[3, 4], axis=1, dtype="i64"), b.exp(b.const(np.ones(3)))])
    numbers, e = model()
    np.testing.assert_array_equal(numbers, [[0, 1, 2, 3]] * 3)
    np.testing.assert_allclose(e, np.exp(np.ones(3)))
    nothing, _ = compiled(lambda b, x: [], (3,))
    assert nothing(np.ones(3, np.float32)) == ()


def test_a_long_chain() -> None:
    def chain(b, x):
        for k in range(1000):
            x = b.add(b.mul(x, 0.5), float(k % 3)) if k % 50 else b.softmax(x, axis=1)
        return [x]

    model, graph = compiled(chain, (4, 6))
    np.testing.assert_allclose(model(X), evaluate(graph, [X])[0], rtol=1e-4)


# Targets
def small_network(b, x):
    """Convolutions, pooling, attention-like contractions and a head."""
    c = lambda *shape: b.const((np.random.default_rng(sum(shape)).standard_normal(shape) / 4).astype(np.float32))
    y = b.relu(b.conv(x, c(10, 3, 3, 3), c(10), stride=[2, 2], pad=[1] * 4, dilation=[1, 1], groups=1))
    y = b.add(y, b.conv(y, c(10, 1, 3, 3), None, stride=[1, 1], pad=[1] * 4, dilation=[1, 1], groups=10))
    y = b.max_pool(y, kernel=[2, 2], stride=[2, 2], pad=[0] * 4, dilation=[1, 1])
    t = b.transpose(b.reshape(y, shape=[2, 10, 25]), perm=[0, 2, 1])
    scores = b.softmax(b.mul(b.matmul(t, b.transpose(t, perm=[0, 2, 1])), 0.3), axis=2)
    t = b.layer_norm(b.add(t, b.gelu(b.matmul(b.matmul(scores, t), c(10, 10)))), c(10), c(10), axis=2, eps=1e-5)
    return [b.log_softmax(b.matmul(b.reduce_mean(t, axes=[1]), c(10, 7)), axis=1)]


def test_targets_and_numbers_of_threads_agree() -> None:
    x = RNG.standard_normal((2, 3, 20, 20)).astype(np.float32)
    results = {}
    for target in ("x86", "x86:haswell", "x86:x86-64"):
        for threads in (1, 2, 3):
            model, graph = compiled(small_network, x.shape, target=target, threads=threads)
            assert model.target.threads == threads
            results[target, threads] = model(x)
    want = evaluate(graph, [x])[0]
    for got in results.values():
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_validation_finds_nothing_wrong() -> None:
    x = RNG.standard_normal((2, 3, 20, 20)).astype(np.float32)
    model, graph = compiled(small_network, x.shape, validate=True)
    np.testing.assert_allclose(model(x), evaluate(graph, [x])[0], rtol=1e-4, atol=1e-5)


UNKNOWN = [("x87", "unknown target"), ("x86:znver44", "Did you mean"), ("", "unknown target"), ("cuda", "architecture"),
           ("cuda:sm_91", "Did you mean"), ("fpga:abc", "unknown FPGA part")]


@pytest.mark.parametrize("target,says", UNKNOWN)
def test_unknown_targets_are_refused(target: str, says: str) -> None:
    with pytest.raises(graphopt.TargetError, match=says):
        compiled(lambda b, x: [x], (3,), target=target)


def test_code_for_another_machine_is_shown_but_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(X86, "instructions", ["avx10.2", "sse2"])
    model, _ = compiled(lambda b, x: [b.exp(x)], (3,), target="x86:x86-64")
    assert "main" in model.source("asm")
    for attempt in (model, model.profile):
        with pytest.raises(graphopt.TargetError, match=r"x86:x86-64 may use what this machine lacks: avx10\.2"):
            attempt(np.ones(3, np.float32))


@pytest.mark.parametrize("target", ["x86", "cuda:sm_90"])
@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": -1}, {"threads": "2"}, {"threads": 1.5}, {"threads": True},
                                   {"max_specialisations": 0}], ids=str)
def test_counts_are_whole_numbers_from_one_on(wrong: dict, target: str) -> None:
    name, = wrong
    with pytest.raises(graphopt.InputError, match=f"{name}: must be a whole number of at least 1, got {wrong[name]!r}"):
        compiled(lambda b, x: [x], (3,), target=target, **wrong)


def test_threads_count_for_a_target_of_the_users() -> None:
    assert compiled(lambda b, x: [x], (3,), target=parse_target("x86", 2), threads=1)[0].target.threads == 1


@pytest.mark.parametrize("target", [None, 5, "x87"], ids=str)
def test_what_is_no_target_is_refused(target: object) -> None:
    with pytest.raises(graphopt.TargetError, match=f"{target!r}.*Use x86, x86:CPU"):
        compiled(lambda b, x: [x], (3,), target=target)


# What the compiler says
@pytest.fixture(scope="module")
def located():
    graph = Graph()
    b = Builder(graph, loc=("encoder.linear",))
    x = graph.add_input(tensor("f32", 64, 64), "x")
    y = b.matmul(x, b.const(RNG.standard_normal((64, 64)).astype(np.float32)))
    b = Builder(graph, loc=("encoder.act",))
    y = b.relu(y)
    b = Builder(graph, loc=("head",))
    found = b.nonzero(y)
    graph.outputs = [b.softmax(y, axis=1), found]
    return graphopt.compile(graph)


def test_profiles_map_to_source_locations(located) -> None:
    x = RNG.standard_normal((64, 64)).astype(np.float32)
    rows = located.profile(x, repeats=3)
    assert len(rows) == located.stats["calls"] + located.stats["host_ops"]
    assert {loc for r in rows for loc in r["loc"]} == {"encoder.linear", "encoder.act", "head"}
    assert all(r["seconds"] >= 0 and r["kernel"] and r["op"] for r in rows)
    contraction = next(r for r in rows if "encoder.linear" in r["loc"])
    assert contraction["operations"] >= 2 * 64**3 and contraction["bytes"] >= 3 * 64 * 64 * 4
    assert any(r["kernel"] == "host nonzero" for r in rows)


def test_stats_and_explanation(located) -> None:
    s = located.stats
    assert s["operations"] >= 2 * 64**3 and s["weights_bytes"] >= 64 * 64 * 4
    assert s["arena_bytes"] >= s["arena_lower_bound_bytes"] > 0
    assert s["host_ops"] == 1 and s["from_cache"] is False and {"passes", "plan", "code"} <= set(s["seconds"])
    text = located.explain()
    for part in ("x86", "kernel calls", "arena", "weights", "host op nonzero at head"):
        assert part in text, text


def test_the_optimised_graph_is_shown(located) -> None:
    from graphopt.ir import verify

    verify(located.graph)
    assert len(located.graph) == located.stats["ops_after"] and "matmul" in str(located.graph)


# Memory and imports
MEMORY = """
import resource
import numpy as np
import graphopt
from graphopt.ir import Builder, Graph, tensor

def model(n, kind):
    graph = Graph()
    b = Builder(graph)
    if kind == "conv":
        x = graph.add_input(tensor("f32", 1, n, 4, 4), "x")
        w = b.const(np.full((n // 2, n, 3, 3), 0.5, np.float32))
        graph.outputs = [b.conv(x, w, stride=[1, 1], pad=[1] * 4, dilation=[1, 1], groups=1)]
    else:
        x = graph.add_input(tensor("f32", 2, n), "x")
        w = b.const(np.full((n, n), 0.5, np.float32))
        w = b.transpose(w, perm=[1, 0]) if kind == "linear" else w
        graph.outputs = [b.relu(b.matmul(x, w))]
    return graph

graphopt.compile(model(32, KIND))
resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
compiled = graphopt.compile(model(SIZE, KIND))
# Not ru_maxrss: that counts what the process was before exec, a copy of the one that runs all tests.
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(compiled.stats["weights_bytes"], peak - resident)
"""


@pytest.mark.parametrize("kind,size", [("matmul", 8000), ("linear", 8000), ("conv", 3600)])
def test_large_weights_exist_twice_at_most(kind: str, size: int) -> None:
    """Once as they were given, once packed; measured as the process's peak."""
    code = MEMORY.replace("KIND", repr(kind)).replace("SIZE", str(size))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    weights, peak = map(int, done.stdout.split())
    assert weights >= 230e6 and peak < 2.25 * weights


@pytest.mark.parametrize("module", ["graphopt", "graphopt.runtime", "graphopt.runtime.model", "graphopt.runtime.host.executable"])
def test_imports_stay_cheap(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in ('torch', 'onnx', 'tvm', 'networkx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
