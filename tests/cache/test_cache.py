"""The cache of compiled code on disk: used when it is there, never in the way when it is damaged, shared or not writable."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.cache import store
from graphopt.codegen.x86 import native
from graphopt.ir import Builder, Graph, tensor

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the cache needs a C linker")
X = np.arange(40, dtype=np.float32).reshape(4, 10)


def model(**options):
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.softmax(b.mul(graph.add_input(tensor("f32", 4, 10), "x"), 0.25), axis=1)]
    return graphopt.compile(graph, **options)


def right(compiled) -> bool:
    e = np.exp(X.astype(np.float64) / 4 - 8)
    return np.allclose(compiled(X), e / e.sum(1, keepdims=True), atol=1e-6)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "made" / "when needed"
    monkeypatch.setenv("GRAPHOPT_CACHE", str(where))
    return where


def test_the_second_compilation_comes_from_the_cache(folder: Path) -> None:
    first = model()
    assert right(first) and not first.stats["from_cache"]
    assert len(list((folder / "code").glob("*.so"))) == 1
    assert [p.suffix for p in (folder / "code").iterdir()] == [".so"], "nothing is left beside the entry"
    second = model()
    assert right(second) and second.stats["from_cache"]
    assert "cache" in second.explain()


def test_another_target_or_number_of_threads_is_another_entry(folder: Path) -> None:
    for options in ({"threads": 1}, {"threads": 2}, {"target": "x86:haswell", "threads": 1}):
        compiled = model(**options)
        assert right(compiled) and not compiled.stats["from_cache"]
    assert len(list((folder / "code").glob("*.so"))) == 3


def test_zero_turns_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", "0")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert right(model()) and right(model())
    assert not model().stats["from_cache"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"no shared object", lambda b: b[:len(b) // 2], lambda b: b[:-1],
                                    lambda b: b[:4096] + bytes(len(b) - 4096), lambda b: b + b"x"],
                         ids=["empty", "text", "half", "one byte short", "zeros", "longer"])
def test_a_damaged_entry_is_replaced(folder: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(parents=True)
    first = model()
    entry, = (folder / "code").glob("*.so")
    whole = entry.read_bytes()
    del first
    entry.unlink()  # a loaded library must not change under the process that runs it
    entry.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING, "graphopt"):
        again = model()
    assert right(again) and not again.stats["from_cache"]
    assert str(entry) in caplog.text
    assert model().stats["from_cache"], "a whole entry is back"


def test_processes_share_it(folder: Path) -> None:
    code = "from tests.cache.test_cache import model, right; assert right(model())"
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    for run in runs:
        errors = run.communicate()[1]
        assert run.returncode == 0, errors
    assert [p.suffix for p in (folder / "code").iterdir()] == [".so"], "one entry, whoever wrote it, and nothing beside it"


def test_a_folder_that_cannot_be_written_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    for where in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/graphopt")):
        monkeypatch.setenv("GRAPHOPT_CACHE", str(where))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "graphopt"):
            compiled = model()
        assert right(compiled) and not compiled.stats["from_cache"]
        assert str(where) in caplog.text


def test_a_folder_that_may_only_be_read_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model()

    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert model().stats["from_cache"]
    entry, = (folder / "code").glob("*.so")
    entry.rename(entry.with_suffix(".old"))
    entry.write_bytes(b"damaged")
    monkeypatch.setattr(os, "replace", refuse)
    assert right(model())


def test_without_a_compiler_programs_stay_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    compiled = model()
    assert right(compiled) and not compiled.stats["from_cache"] and compiled.stats["runtime"] == "tvm"
    assert "no C compiler" in compiled.explain()
    assert not folder.exists()


def test_the_least_recently_used_entries_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(threads=1)
    old, = (folder / "code").glob("*.so")
    os.utime(old, (1, 1))
    monkeypatch.setattr(store, "LIMIT_BYTES", old.stat().st_size * 3 // 2)
    model(threads=2)
    assert not old.exists() and len(list((folder / "code").glob("*.so"))) == 1
