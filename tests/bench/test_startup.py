"""The start-up bench: every side starts, is right, and its figures are where they belong."""

import importlib.util
import json
import shutil

import pytest

from bench import options

torch = pytest.importorskip("torch", reason="the bench's models are PyTorch modules")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None or importlib.util.find_spec("onnxruntime") is None,
                                reason="needs a C compiler and onnxruntime")


def test_every_side_starts_and_is_right(tmp_path, monkeypatch, capsys):
    from bench.startup import PROCESSES, SIDES, main

    monkeypatch.setenv("GRAPHOPT_BENCH_CACHE", str(tmp_path / "cache"))
    demo = options.RESULTS.parents[1] / "demo" / "digits.onnx"
    file = tmp_path / "out.json"
    assert main(["--onnx", str(demo), "--dim", "batch=2", "--threads", "1", "--rounds", "1", "--json", str(file)]) == 0
    row, = json.loads(file.read_text())["rows"]
    assert row["model"] == "digits" and list(row["sides"]) == list(SIDES)
    for side in row["sides"].values():
        assert side["right"] and side["starts"] == 1 and 0 < side["q1"] <= side["median"] <= side["q3"]
        assert 0 < side["before"] <= side["peak"] and 0 < side["proportional"] <= side["peak"] * 1.5
    said = capsys.readouterr().out
    assert f"MiB each of {PROCESSES}" in said and said.count("digits, 1 threads") == len(SIDES)
    assert file.with_suffix(".md").read_text().count("digits, 1 threads") == len(SIDES)
