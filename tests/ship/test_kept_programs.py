"""Programs of ONNX files on disk: found again without the compiler, never stale, never trusted when damaged."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.cache import store
from graphopt.errors import InputError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing is kept")
RNG = np.random.default_rng(8)
W = RNG.standard_normal((40, 70)).astype(np.float32)
X = RNG.standard_normal((3, 40)).astype(np.float32)


def save(path: Path, w: np.ndarray = W, rows: int | str = 3, operator: str = "Tanh", external: bool = False) -> Path:
    """tanh(x @ w)."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node(operator, ["p"], ["y"])]
    value = lambda name, *dims: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "g", [value("x", rows, 40)], [value("y", rows, 70)], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location="w.bin", size_threshold=0)
    return path


def right(model, w: np.ndarray = W, x: np.ndarray = X) -> bool:
    return np.allclose(model(x), np.tanh(x.astype(np.float64) @ w), atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "programs"


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir())


def test_a_second_process_needs_no_compiler(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    first = graphopt.compile(path)
    assert right(first) and not first.stats["loaded"]
    np.savez(tmp_path / "x.npz", x=X)
    code = f"""
import sys, numpy as np, graphopt
model = graphopt.compile({str(path)!r})
assert model.stats["loaded"] and [str(s) for s in model.inputs] == ["x: f32[3, 40]"]
np.save({str(tmp_path / "y.npy")!r}, model(np.load({str(tmp_path / "x.npz")!r})["x"]))
print(*[m for m in ("torch", "onnx", "tvm", "networkx", "graphopt.ir", "graphopt.codegen") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), first(X))


def test_what_it_was_made_from_is_in_its_name(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    for options in ({"threads": 1}, {"threads": 2}, {"target": "x86:haswell", "threads": 1}):
        assert right(graphopt.compile(path, **options))
    assert len(entries(folder)) == 3
    save(path, W * 2)
    model = graphopt.compile(path, threads=1)
    assert right(model, W * 2) and not model.stats["loaded"]
    assert right(graphopt.compile(path.read_bytes(), threads=1), W * 2)
    again = graphopt.compile(path.read_bytes(), threads=1)
    assert right(again, W * 2) and again.stats["loaded"]


def test_external_data_counts(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", external=True)
    assert right(graphopt.compile(path)) and graphopt.compile(path).stats["loaded"]
    save(tmp_path / "m.onnx", W + 1, external=True)
    model = graphopt.compile(path)
    assert right(model, W + 1) and not model.stats["loaded"]


def half(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:len(data) // 2])


def altered(file: Path) -> None:
    """One bit, the times as they were."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def linked(file: Path) -> None:
    file.rename(file.with_name("other"))
    file.symlink_to("other")


@pytest.mark.parametrize("damage", [half, altered, Path.unlink, linked], ids=["half", "altered", "gone", "link"])
@pytest.mark.parametrize("name", ["manifest.json", "*/0.so", "*/weights.bin", "libgraphopt.so"])
def test_a_damaged_entry_is_made_anew(folder: Path, tmp_path: Path, name: str, damage, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "m.onnx")
    graphopt.compile(path)
    entry, = entries(folder)
    whole = tmp_path / "copy"
    shutil.copytree(entry, whole)  # loaded code must not change under this process
    shutil.rmtree(entry)
    whole.rename(entry)
    damage(next(entry.glob(name)))
    if name == "manifest.json" and damage is linked:
        return  # links are for what is mapped
    with caplog.at_level(logging.WARNING, "graphopt"):
        model = graphopt.compile(path)
    assert right(model) and not model.stats["loaded"] and str(entry) in caplog.text
    assert graphopt.compile(path).stats["loaded"]


@pytest.mark.parametrize("change", [{"format": [2, 0]}, {"programs": []}, {"files": {"../../m.onnx": {}}}, {"files": {}},
                                    {"format": None}], ids=lambda c: next(iter(c)))
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, tmp_path: Path, change, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "m.onnx")
    graphopt.compile(path)
    file = entries(folder)[0] / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with caplog.at_level(logging.WARNING, "graphopt"):
        assert right(graphopt.compile(path))
    assert "removing" in caplog.text


def test_zero_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", "0")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = save(tmp_path / "m.onnx")
    assert right(graphopt.compile(path)) and not graphopt.compile(path).stats["loaded"]
    assert not (tmp_path / "home").exists()


def test_a_folder_that_cannot_be_written_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "graphopt"):
        assert right(graphopt.compile(save(tmp_path / "m.onnx")))
    said, = (r.getMessage() for r in caplog.records)
    assert "could not be cached" in said and str(tmp_path / "file") in said and "damaged" not in said, "said once, and truly"


def test_what_the_compiler_did_can_still_be_asked(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    first = graphopt.compile(path)
    model = graphopt.compile(path)
    for key in ("kernels", "operations", "weights_bytes", "arena_bytes"):
        assert model.stats[key] == first.stats[key]
    assert "cache" in model.explain() and "threads" in model.explain() and model.host_ops == []
    assert [op.name for op in model.graph.ops] == [op.name for op in first.graph.ops]
    assert "prim_func" in model.source("tir") and model.profile(X, repeats=1)[0]["seconds"] > 0
    assert model.target.name.startswith("x86:") and "x: f32[3, 40]" in repr(model)


def test_a_file_that_changed_is_not_taken_for_what_it_was(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    for model in (graphopt.compile(path), graphopt.compile(path)):
        save(path, W * 3)
        assert right(model)
        with pytest.raises(InputError, match="has changed since"):
            _ = model.graph
        save(path)


def test_symbolic_models_are_found_shape_by_shape(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", rows="N")
    inputs = [RNG.standard_normal((n, 40)).astype(np.float32) for n in (1, 5)]
    model = graphopt.compile(path)
    assert all(right(model, x=x) for x in inputs) and len(entries(folder)) == 2
    again = graphopt.compile(path)
    assert [s.shape for s in again.inputs] == [("N", 40)]
    for x in inputs:
        assert right(again, x=x) and again.stats["loaded"]
    more = RNG.standard_normal((7, 40)).astype(np.float32)
    assert right(again, x=more) and not again.stats["loaded"]


def test_models_with_host_ops_are_compiled_each_time(folder: Path, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    value = lambda name, kind, *dims: helper.make_tensor_value_info(name, kind, dims)
    graph = helper.make_graph([node], "g", [value("x", onnx.TensorProto.FLOAT, 3, 40)],
                              [value("y", onnx.TensorProto.INT64, 2, None)])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    for _ in range(2):
        np.testing.assert_array_equal(graphopt.compile(path)(X), np.array(np.nonzero(X)))
    assert not folder.exists()


def test_the_least_recently_used_go_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = graphopt.compile(save(tmp_path / "a.onnx"))
    old, = entries(folder)
    for path in (tmp_path / "cache").rglob("*"):
        os.utime(path, (1, 1))
    size = sum(f.stat().st_size for f in (tmp_path / "cache").rglob("*") if f.is_file())
    monkeypatch.setattr(store, "LIMIT_BYTES", size + 100)  # another program of the same code has no room beside it
    second = graphopt.compile(save(tmp_path / "b.onnx", W + 1))
    assert not old.exists() and len(entries(folder)) == 1
    assert right(first) and right(second, W + 1), "what is loaded stays"


def test_processes_share_it(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    code = f"from tests.ship.test_kept_programs import graphopt, right; assert right(graphopt.compile({str(path)!r}))"
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    for run in runs:
        errors = run.communicate()[1]
        assert run.returncode == 0, errors
    assert [p.name for p in folder.iterdir()] == [entries(folder)[0].name], "one entry, and nothing beside it"
    assert graphopt.compile(path).stats["loaded"]
