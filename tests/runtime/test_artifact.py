"""Saved models: the same answers without the compiler, whole or not at all, and plain words about what is wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import inputs, linear, scale, symbolic

import graphopt
from graphopt.errors import ArtifactError
from graphopt.ir import Builder, Graph, tensor

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    linear().save(tmp_path / "net.gopt")
    return tmp_path / "net.gopt"


def test_a_saved_model_gives_the_same_answers(saved: Path) -> None:
    x, offset = inputs()
    model = graphopt.load(saved)
    assert [str(s) for s in model.inputs] == [str(s) for s in linear().inputs]
    for got, want in zip(model(x, offset), linear()(x, offset)):
        np.testing.assert_array_equal(got, want)
    assert list(model.run({"offset": offset, "x": x})) == ["scores", "total"]
    with pytest.raises(graphopt.InputError, match="input x"):
        model(x[:2], offset)


def test_it_is_loaded_without_the_compiler(saved: Path) -> None:
    code = f"""
import sys, numpy as np, graphopt
scores, total = graphopt.load({str(saved)!r})(np.ones((3, 6), np.float32), np.ones(5, np.float32))
assert total == 18
print(*{{"torch", "onnx", "tvm", "networkx", "graphopt.ir", "graphopt.codegen", "graphopt.compiler"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"GRAPHOPT_CACHE": "0", "PATH": ""})
    assert done.stdout.split() == []


def test_dtypes_of_ml_dtypes(tmp_path: Path) -> None:
    import ml_dtypes

    scale("bf16").save(tmp_path / "m")
    x = np.arange(40).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(graphopt.load(tmp_path / "m")(x), x + x)


def test_weights_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.runtime import artifact

    graph = Graph()
    b = Builder(graph)
    w = np.random.default_rng(3).standard_normal((50, 60)).astype(np.float32)
    graph.outputs = [b.add(graph.add_input(tensor("f32", 50, 60), "x"), b.const(w))]
    graphopt.compile(graph).save(tmp_path / "m")
    x = np.ones((50, 60), np.float32)
    for limit in (1, 1 << 30):  # mapped, and copied
        monkeypatch.setattr(artifact, "MAPPED_FROM", limit)
        np.testing.assert_array_equal(graphopt.load(tmp_path / "m")(x), x + w)


@pytest.mark.parametrize("name", ["manifest.json", "model.so", "libgraphopt.so"])
def test_a_truncated_file_is_named(saved: Path, name: str) -> None:
    data = (saved / name).read_bytes()
    (saved / name).unlink()
    (saved / name).write_bytes(data[:-7])
    with pytest.raises(ArtifactError, match=name) as e:
        graphopt.load(saved)
    assert str(saved) in str(e.value)


@pytest.mark.parametrize("change,says", [({"format": [2, 0]}, "format 2.0"), ({"features": ["avx1024"]}, "lacks: avx1024"),
                                         ({"files": {"/etc/passwd": {}}}, "list all files")], ids=["newer", "machine", "escape"])
def test_what_does_not_fit_is_refused(saved: Path, change, says: str) -> None:
    file = saved / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtifactError, match=says):
        graphopt.load(saved)


def test_paths_out_of_the_folder_are_refused(saved: Path) -> None:
    file = saved / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["../other"] = manifest["files"]["model.so"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="outside of the folder"):
        graphopt.load(saved)


def test_a_newer_minor_format_is_read(saved: Path) -> None:
    file = saved / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": [1, 9], "unknown": 1}))
    assert graphopt.load(saved).inputs


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        graphopt.load(tmp_path / "none")


def test_a_full_disk_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as m:
        m.setattr(shutil, "copyfile", full)
        m.setattr(os, "rename", full)
        with pytest.raises(ArtifactError, match="No space left"):
            scale().save(saved)
    assert len(graphopt.load(saved).inputs) == 2
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    scale().save(saved)
    assert len(graphopt.load(saved).inputs) == 1 and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_replacement_that_fails_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, calls = os.rename, []

    def third(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(*args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(os, "rename", third)
        with pytest.raises(ArtifactError):
            scale().save(saved)
    assert len(graphopt.load(saved).inputs) == 2 and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_what_cannot_stand_alone_says_why(tmp_path: Path) -> None:
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.nonzero(graph.add_input(tensor("f32", 4), "x"))]
    with pytest.raises(ArtifactError, match="nonzero runs on the reference evaluator"):
        graphopt.compile(graph).save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="symbolic"):
        symbolic().save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
