"""Code that comes and goes under one path: what a process has loaded stays what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.ir import Builder, Graph, tensor
from graphopt.runtime.library import open_library

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")
X = np.random.default_rng(5).standard_normal((3, 40)).astype(np.float32)
NETS = {"exp": lambda x: np.exp(x.astype(np.float64)) + 1, "tanh": lambda x: np.tanh(x.astype(np.float64)) + 2,
        "neg": lambda x: 3 - x.astype(np.float64)}


def test_nets_saved_in_turn_to_one_folder_stay_apart(tmp_path: Path) -> None:
    loaded = []
    for k, (op, function) in enumerate(NETS.items()):
        graph = Graph()
        b = Builder(graph)
        y = getattr(b, op)(graph.add_input(tensor("f32", 3, 40), "x"))
        graph.outputs = [b.add(y, b.const(np.full((3, 40), k + 1, np.float32)))]
        graphopt.compile(graph).save(tmp_path / "net")
        loaded.append((graphopt.load(tmp_path / "net"), function))
        for model, expected in loaded:
            np.testing.assert_allclose(model(X), expected(X), rtol=1e-5, atol=1e-6)


def test_a_file_is_loaded_once(tmp_path: Path) -> None:
    graph = Graph()
    graph.outputs = [Builder(graph).exp(graph.add_input(tensor("f32", 4), "x"))]
    graphopt.compile(graph).save(tmp_path / "net")
    code = next((tmp_path / "net").rglob("*.so"))
    (tmp_path / "other").symlink_to(code)
    first = open_library(code)
    assert open_library(code)._handle == first._handle == open_library(tmp_path / "other")._handle
    copy = shutil.copy(code, tmp_path / "copy.so")
    assert open_library(Path(copy))._handle != first._handle == open_library(code)._handle


def test_what_is_no_library_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_text("nothing")
    with pytest.raises(OSError):
        open_library(tmp_path / "x.so")
    with pytest.raises(FileNotFoundError):
        open_library(tmp_path / "y.so")
