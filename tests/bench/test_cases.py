"""Cases: free dims fixed, outputs compared, the work of a model counted, and one small comparison from end to end."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bench's models are PyTorch modules")
onnxruntime = pytest.importorskip("onnxruntime", reason="the reference of a file is onnxruntime's")

import onnx  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from bench import cases, machine, turns  # noqa: E402
from bench.__main__ import main  # noqa: E402
from bench.cases import Case  # noqa: E402
from bench.peaks import Work  # noqa: E402

DIGITS = machine.ROOT / "demo" / "digits.onnx"


def product(path, rows="N"):
    """y = relu(x w) with w 5 by 7, in a file."""
    w = helper.make_tensor("w", TensorProto.FLOAT, [5, 7], np.linspace(-1, 1, 35, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 7])], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_free_dims_are_fixed_in_the_file_that_all_sides_get(tmp_path):
    model = onnx.load(product(tmp_path / "m.onnx"))
    assert cases.free_dims(model) == ["N"]
    cases.fix_dims(model, {"N": 3})
    assert cases.free_dims(model) == [] and [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [3, 5]
    with pytest.raises(ValueError, match="no input has a free dim N"):
        cases.fix_dims(model, {"N": 3})


def test_the_work_of_a_model_is_that_of_its_contractions(tmp_path):
    assert cases.work_of(product(tmp_path / "m.onnx", 3)) == [Work(2 * 3 * 5 * 7, 4 * 35, 4 * (15 + 21))]


@pytest.fixture
def case(tmp_path):
    np.savez(tmp_path / "reference.npz", o000=np.array([1.0, -2.0, 1000.0]), o001=np.array([3]))
    return Case("c", 1, "", tmp_path / "model.onnx", tmp_path)


def test_outputs_are_compared_with_the_reference(case):
    good = [np.array([1, -2, 1000], np.float32), np.array([3])]
    assert case.check(good)[0]
    assert case.check([good[0] + np.float32(0.01), good[1]])[0]
    assert not case.check([good[0] + np.float32(3), good[1]])[0]
    assert not case.check([good[0], np.array([4])])[0]
    assert not case.check([np.array([1, np.nan, 1000], np.float32), good[1]])[0]
    assert not case.check(good[:1])[0]
    assert not case.check([good[0].reshape(3, 1), good[1]])[0]


def test_a_case_survives_its_way_to_another_process(case):
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_a_job_that_fails_is_an_answer(case):
    said = turns.pair(case, ["onnxruntime"], 1, 1, 1.0, {})
    assert said["side"] == "onnxruntime" and "model.onnx" in said["error"]


def test_a_file_is_compared_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRAPHOPT_BENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out.json"
    given = ["compare", "--onnx", str(DIGITS), "--dim", "batch=3", "--threads", "1", "--peers", "onnxruntime,inductor",
             "--rounds", "1", "--costs", "none", "--profile", "3", "--json", str(out)]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "digits" in said and "kernel calls" in said and "inductor: takes PyTorch modules" in said
    row = json.loads(out.read_text())["rows"][0]
    pair = row["pairs"]["onnxruntime"]
    assert pair["graphopt"]["equal"] and pair["onnxruntime"]["equal"] and row["reference"].startswith("onnxruntime")
    assert "geometric mean" in out.with_suffix(".md").read_text()
    measured = row["date"], pair["graphopt"]["median"]
    given[given.index("onnxruntime,inductor")] = "onnxruntime"
    assert main([*given, "--resume"]) == 0  # nothing is measured again
    row = json.loads(out.read_text())["rows"][0]
    assert (row["date"], row["pairs"]["onnxruntime"]["graphopt"]["median"]) == measured
