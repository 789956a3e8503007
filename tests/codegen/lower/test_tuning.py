"""Choosing between candidates: by the model, by records, by measuring. Nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import GraphOptError
from graphopt.backends.pipeline import optimise
from graphopt.codegen.lower.kernels import kernel_key
from graphopt.codegen.lower.tuning import Picks, analytic, best_of, ranked
from graphopt.codegen.program.plan import plan
from graphopt.codegen.x86.templates import style_of, templates_of
from graphopt.ir import Builder, Graph, Op, tensor
from graphopt.measure import tuner
from graphopt.measure.records import Record, Records, check_mode, from_records, record_key
from graphopt.targets import parse_target

RNG = np.random.default_rng(12)
TARGET = parse_target("x86", 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRAPHOPT_TUNING", raising=False)
    return tmp_path / "cache"


def products() -> Graph:
    """relu(x w) v: two kernels with something to choose."""
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 37, 50), "x")
    w, v = (b.const(RNG.standard_normal(s).astype(np.float32)) for s in ((50, 70), (70, 33)))
    graph.outputs = [b.matmul(b.relu(b.matmul(x, w)), v)]
    return graph


def expected(graph: Graph, x: np.ndarray) -> np.ndarray:
    w, v = (op.result.constant.astype(np.float64) for op in graph.ops if op.name == "const")  # type: ignore[union-attr]
    return np.maximum(x @ w, 0) @ v


def kernels(graph: Graph) -> list[Op]:
    return [op for op in optimise(graph, TARGET)[0].ops if op.name in ("fused", "matmul", "conv")]


class Stopwatch:
    """Says that the candidate at `best` takes `factor` of what the model's takes, others longer; keeps what it was asked."""

    def __init__(self, best: int = 1, factor: float = 0.5, again: float | None = None) -> None:
        self.best, self.factors = best, [factor, factor if again is None else again]
        self.asked: list[list[dict[str, str]]] = []

    def __call__(self, op: Op, candidates: Sequence[tuner.Assignment], target: object) -> list[float]:
        confirms = bool(self.asked) and len(candidates) == 2 and candidates[0] == self.asked[-1][0]
        self.asked.append([dict(c) for c in candidates])
        times = [1.0] + [1.5] * (len(candidates) - 1)
        times[1 if confirms else min(self.best, len(candidates) - 1)] = self.factors[confirms]
        return times


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stopwatch]:
    def use(**options: float) -> Stopwatch:
        watch = Stopwatch(**options)  # type: ignore[arg-type]
        monkeypatch.setattr(tuner, "measure_kernel", watch)
        return watch

    return use


# Picking
def test_the_model_decides_without_a_record() -> None:
    candidates = [(3.0, "a"), (2.0, "b"), (2.0 - 1e-12, "c")]
    assert best_of(candidates) == (2.0, "b") and analytic("x", iter(candidates)) == "b"
    picks = Picks()
    assert picks("x", iter(candidates)) == "b"
    assert picks.answers == {"x": "b"} and not picks.changed and not picks.tag() and picks.open


def test_a_wanted_candidate_is_taken_and_shows_in_the_codes_key() -> None:
    picks = Picks({"x": "a", "y": "q"})
    assert picks("x", [(3.0, "a"), (2.0, "b")]) == "a" and picks.tag() == " x=a"
    assert picks("y", [(1.0, "p")]) == "p"  # unknown: ignored
    assert picks.answers == {"x": "a", "y": "p"} and picks.changed == {"x": "a"}


def test_candidates_are_tried_family_by_family() -> None:
    class Candidate(str):
        family = property(lambda self: self[0])

    found = [(float(c), Candidate(n)) for c, n in [(10, "a1"), (11, "a2"), (12, "b1"), (13, "b2"), (30, "c1")]]
    assert [c for _, c in ranked(found, 1.4)] == ["a1", "b1", "a2", "b2"]
    assert ranked(found, 1.4)[1][0] == 1.2


def test_every_assignment_is_another_kernel_and_the_first_is_the_models() -> None:
    for op in kernels(products()):
        found = tuner.assignments(op, TARGET, tuner.EFFORTS["full"])
        assert 2 < len(found) <= 16 and len({str(a) for a in found}) == len(found)
        assert found[0] == {"blocking": found[0]["blocking"]}
        keys = set()
        for choice in found:
            graph = Graph()
            operands = [graph.add_input(v.type) if v.constant is None else graph.constant(v.constant) for v in op.operands if v]
            copy = graph.add(op.name, operands, op.attrs, regions=op.regions)
            graph.outputs = [copy.result]
            program = plan(graph, style_of(TARGET), templates_of(TARGET), lambda o, key, choice=choice: choice)
            assert program.picks[program.kernels[0].name][1].answers == choice
            keys.add(program.keys[0])
        assert len(keys) == len(found)


# Records
def test_records_of_several_writers_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    writers = [Records.load(path, to_write=True) for _ in range(8)]
    for k, records in enumerate(writers):
        records.put(f"key{k}", Record({"x": str(k)}, 1.0, 2.0, 4, "fast"))
    threads = [threading.Thread(target=r.save) for r in writers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(Records.load(path).known) == [f"key{k}" for k in range(8)]
    assert Records.load(path).known["key3"].gain == 2.0


def test_what_was_measured_in_full_stands(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    for mode, choice in (("full", "a"), ("fast", "b")):
        records = Records(path)
        records.put("key", Record({"x": choice}, 1.0, 2.0, 4, mode))
        records.save()
    assert Records.load(path).known["key"].choices == {"x": "a"}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 99, "records": {}}',
                                  '{"format": 1, "records": {"k": {"choices": 3}}}',
                                  '{"format": 1, "records": {"k": {"choices": {}, "seconds": 1, "analytic_seconds": 1, '
                                  '"tried": 2, "mode": "later", "kernel": ""}}}'])
def test_damaged_records(cache: Path, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    ours = cache / "tuning" / "records.json"
    ours.parent.mkdir(parents=True)
    ours.write_text(text)
    records = Records.load()
    assert not records.known and "damaged" in caplog.text
    records.put("key", Record({}, 1.0, 1.0, 4, "fast"))
    records.save()
    assert list(Records.load().known) == ["key"]
    given = tmp_path / "given.json"
    given.write_text(text)
    with pytest.raises(GraphOptError, match=r"given.json.*compile\(\.\.\., tune="):
        graphopt.compile(products(), tuning=given)


def test_a_named_file_is_there_and_can_be_written(cache: Path, tmp_path: Path) -> None:
    dynamic = Path(__file__).parents[3] / "demo" / "digits.onnx"
    with pytest.raises(GraphOptError, match=r"none.json: there is no such file of tuning records.*tune='fast'"):
        graphopt.compile(dynamic, tuning=tmp_path / "none.json")
    (tmp_path / "file").write_text("in the way")
    records = Records.load(tmp_path / "file" / "records.json", to_write=True)
    records.put("key", Record({}, 1.0, 1.0, 4, "fast"))
    with pytest.raises(GraphOptError, match=r"records.json: cannot be written: "):
        records.save()


def test_records_are_of_a_target_its_threads_and_a_kernel() -> None:
    keys = {record_key(t, n, k) for t in ("x86:znver4", "x86:haswell") for n in (1, 2) for k in ("a", "b")}
    assert len(keys) == 8


def test_without_a_cache_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", "0")
    records = Records.load()
    records.put("key", Record({}, 1.0, 1.0, 4, "fast"))
    records.save()
    assert records.path is None and not Records.load().known


# Measuring and compiling
def test_the_best_is_recorded_and_later_compilations_take_it(measured: Callable[..., Stopwatch], cache: Path) -> None:
    watch = measured()
    graph, x = products(), RNG.standard_normal((37, 50)).astype(np.float32)
    before = graphopt.compile(graph, threads=2)
    tuned = graphopt.compile(graph, threads=2, tune="fast")
    assert len(watch.asked) == 4  # two kernels, the best of each measured again
    saved = json.loads((cache / "tuning" / "records.json").read_text())["records"].values()
    assert sorted(str(r["choices"]) for r in saved) == sorted(str(a[1]) for a in watch.asked[::2])
    later = graphopt.compile(graph, threads=2)
    assert len(watch.asked) == 4
    best = "the best of 4 measured (fast)"
    for model, said in ((before, "by the model"), (tuned, best), (later, best)):
        np.testing.assert_allclose(model(x), expected(graph, x), rtol=1e-4, atol=1e-4)
        assert model.explain().count(said) == 2
    assert "(2.00x)" in tuned.explain()
    assert any(r.pass_name == "tuning" and "2.00x" in r.text for r in tuned._details().results.context.reasons)
    kinds = [choices for _, p in tuned._details().program.picks.values() for choices in (p.changed,) if choices]
    assert kinds == [p.changed for _, p in later._details().program.picks.values() if p.changed] and len(kinds) == 2
    graphopt.compile(graph, threads=2, tune="fast")
    assert len(watch.asked) == 4  # there is nothing new to measure


@pytest.mark.parametrize(("factor", "again"), [(0.99, 0.99), (0.5, 0.99), (1.2, 1.2)])
def test_what_gains_nothing_is_not_taken(measured: Callable[..., Stopwatch], factor: float, again: float) -> None:
    measured(factor=factor, again=again)
    model = graphopt.compile(products(), threads=2, tune="fast")
    assert model.explain().count("by the model, and none of 4 measured (fast) is faster") == 2


def test_full_measures_what_fast_did_again(measured: Callable[..., Stopwatch]) -> None:
    watch = measured(factor=1.1)
    graph = products()
    graphopt.compile(graph, threads=2, tune="fast")
    graphopt.compile(graph, threads=2, tune="full")
    assert [len(a) for a in watch.asked[:2]] == [4, 4] and all(4 < len(a) <= 16 for a in watch.asked[2:])
    asked = len(watch.asked)
    graphopt.compile(graph, threads=2, tune="fast")
    assert len(watch.asked) == asked


def test_records_are_shipped(measured: Callable[..., Stopwatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             cache: Path) -> None:
    measured()
    path, graph = tmp_path / "shipped.json", products()
    graphopt.compile(graph, threads=2, tune="fast", tuning=path)
    assert not (cache / "tuning").exists()
    assert "measured" not in graphopt.compile(graph, threads=2).explain()
    assert graphopt.compile(graph, threads=2, tuning=path).explain().count("the best of") == 2
    monkeypatch.setenv("GRAPHOPT_TUNING", str(path))
    assert graphopt.compile(graph, threads=2).explain().count("the best of") == 2
    assert "the best of" not in graphopt.compile(graph, threads=1).explain()  # other threads, other records


def test_a_recorded_candidate_that_there_is_no_longer_decides_nothing(tmp_path: Path) -> None:
    graph, path = products(), tmp_path / "old.json"
    records = Records(path)
    for op in kernels(graph):
        records.put(record_key(TARGET.name, 2, kernel_key(op)), Record({"blocking": "Blocking(of old)"}, 1.0, 2.0, 4, "fast"))
    records.save()
    model = graphopt.compile(graph, threads=2, tuning=path)
    assert model.explain().count("what was recorded (Blocking(of old)) is no candidate here") == 2
    x = RNG.standard_normal((37, 50)).astype(np.float32)
    np.testing.assert_allclose(model(x), expected(graph, x), rtol=1e-4, atol=1e-4)


def test_programs_on_disk_hold_as_long_as_the_records_do(measured: Callable[..., Stopwatch], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    a, b, v = (onnx.numpy_helper.from_array(RNG.standard_normal(s).astype(np.float32), n)
               for n, s in (("a", (50, 70)), ("b", (70, 33)), ("v", (33,))))
    nodes = [onnx.helper.make_node("MatMul", ["x", "a"], ["h"]), onnx.helper.make_node("Relu", ["h"], ["r"]),
             onnx.helper.make_node("MatMul", ["r", "b"], ["m"]), onnx.helper.make_node("Add", ["m", "v"], ["y"])]
    kind = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(nodes, "g", [onnx.helper.make_tensor_value_info("x", kind, [37, 50])],
                                  [onnx.helper.make_tensor_value_info("y", kind, [37, 33])], [a, b, v])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    x = RNG.standard_normal((37, 50)).astype(np.float32)
    weights = [onnx.numpy_helper.to_array(t).astype(np.float64) for t in (a, b, v)]
    want = np.maximum(x @ weights[0], 0) @ weights[1] + weights[2]
    watch = measured()
    runs = []
    for tune, measurements, loaded in ((None, 0, False), (None, 0, True), ("fast", 4, False), (None, 4, True), ("fast", 4, True)):
        runs.append(model := graphopt.compile(path, threads=2, tune=tune))
        assert len(watch.asked) == measurements and model.stats["loaded"] == loaded
    for model in runs:  # all in one process, each with its own code and weights
        np.testing.assert_allclose(model.run({"x": x})["y"], want, rtol=1e-4, atol=1e-4)
    assert ["the best of" in m.explain() for m in runs] == [False, False, True, True, True]


def test_measuring_runs_every_candidate_of_every_template() -> None:
    """The real thing, with an image, weights, a residual and a depthwise convolution; only what it computes is of interest."""
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 1, 24, 19, 17), "x")
    w = [b.const(RNG.standard_normal(s).astype(np.float32) / 10) for s in ((40, 24, 3, 3), (40, 1, 3, 3), (24, 40, 1, 1))]
    same = {"stride": [1, 1], "pad": [1, 1, 1, 1], "dilation": [1, 1]}
    y = b.relu(b.conv(x, w[0], **same, groups=1))
    y = b.relu(b.conv(y, w[1], **same, groups=40))
    graph.outputs = [b.add(b.conv(y, w[2], stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], groups=1), x)]
    given = RNG.standard_normal((1, 24, 19, 17)).astype(np.float32)
    plain = graphopt.compile(graph, threads=2)(given)
    tuned = graphopt.compile(graph, threads=2, tune="fast")
    assert "measured (fast)" in tuned.explain()
    np.testing.assert_allclose(tuned(given), plain, rtol=1e-3, atol=1e-4)
    for record in Records.load().known.values():
        assert record.seconds > 0 and record.analytic_seconds > 0 and "conv" in record.kernel


def test_medians_are_taken_in_turns() -> None:
    now, order = [0.0], []
    durations = {"a": iter([9, 1, 2, 1, 50, 1, 1, 1]), "b": iter([9, 3, 3, 3, 3, 3, 3, 3])}

    def call(name: str) -> None:
        order.append(name)
        now[0] += next(durations[name])

    found = tuner.medians([lambda: call("a"), lambda: call("b")], lambda: order.append("-"), 1.0, lambda: now[0])
    assert found == [1.0, 3.0]
    assert order == ["-", "a", "-", "b"] * (1 + tuner.ROUNDS[0])


# What is refused
@pytest.mark.parametrize("tune", ["slow", "", True, 4])
def test_wrong_modes(tune: object) -> None:
    with pytest.raises(GraphOptError, match=r"'fast'.*'full'"):
        graphopt.compile(products(), tune=tune)  # type: ignore[arg-type]
    assert check_mode(None) is None


def test_what_cannot_be_tuned(tmp_path: Path) -> None:
    with pytest.raises(GraphOptError, match="no parameters to tune"):
        graphopt.compile(products(), target="cuda:sm_90", tune="fast")
    with pytest.raises(GraphOptError, match="no such file"):
        graphopt.compile(products(), tuning=tmp_path / "nothing.json")


def test_choices_for_another_machine_come_from_records_alone() -> None:
    target = parse_target("x86:haswell", 2)
    (op, *_) = kernels(products())
    records = Records(None)
    wanted = tuner.assignments(op, target, tuner.EFFORTS["fast"])[1]
    records.put(record_key(target.name, 2, kernel_key(op)), Record(dict(wanted), 1.0, 2.0, 4, "fast"))
    assert from_records(records, target.name, 2)(op, kernel_key(op)) == wanted
    assert from_records(records, target.name, 4)(op, kernel_key(op)) == {}
