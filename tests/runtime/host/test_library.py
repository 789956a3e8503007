"""Code that comes and goes under one path: what a process has loaded stays what it is."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.ir import Builder, Dim, Graph, TensorType, dtype, tensor
from graphopt.runtime.host.library import open_library

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


# Letting go -----------------------------------------------------------------------------------------
def mapped() -> int:
    """Mappings of files that are no longer there by that name, or of code of ours."""
    return sum(".so" in line and ("graphopt" in line or "/net" in line or "(deleted)" in line)
               for line in Path("/proc/self/maps").read_text().splitlines())


def exp_of(n: int) -> Graph:
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.add(b.exp(graph.add_input(tensor("f32", n), "x")), b.const(np.ones(n, np.float32)))]
    return graph


def test_programs_that_were_let_go_are_unmapped(tmp_path: Path) -> None:
    """However they were made and called; nothing is left to the garbage collector, which comes when it comes."""
    x = np.zeros(5, np.float32)
    graphopt.compile(exp_of(5)).save(tmp_path / "net")
    gc.collect()
    before, counts = mapped(), []
    gc.disable()
    try:
        for k in range(6):
            loaded, light = graphopt.load(tmp_path / "net"), graphopt.load(tmp_path / "net", numpy=False)
            assert loaded(x)[0] == 2 and light(x.data)[0] == 2
            one = graphopt.compile(exp_of(k + 6))
            assert one(np.zeros(k + 6, np.float32))[0] == 2
            assert mapped() > before
            del loaded, light, one
            counts.append(mapped())
    finally:
        gc.enable()
    assert counts == [before] * 6


def test_a_call_that_is_kept_keeps_its_code(tmp_path: Path) -> None:
    graphopt.compile(exp_of(5)).save(tmp_path / "net")
    x = np.zeros(5, np.float32)
    before = mapped()
    model = graphopt.load(tmp_path / "net")
    model(x)
    call = model._by_arguments
    del model
    gc.collect()
    assert call(x)[0] == 2 and mapped() > before
    del call
    gc.collect()
    assert mapped() == before


def test_specialisations_that_are_dropped_are_unmapped() -> None:
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.exp(graph.add_input(TensorType(dtype("f32"), (Dim.symbol("N"),)), "x"))]
    model = graphopt.compile(graph, max_specialisations=2)
    counts = []
    for n in range(3, 9):
        assert model(np.zeros(n, np.float32))[0] == 1
        gc.collect()
        counts.append(mapped())
    assert counts[-1] == counts[2]


def test_calls_go_on_while_their_model_is_let_go(tmp_path: Path) -> None:
    graphopt.compile(exp_of(400)).save(tmp_path / "net")
    x, wrong = np.zeros(400, np.float32), []

    def work() -> None:
        for _ in range(60):
            model = graphopt.load(tmp_path / "net")
            wrong.extend(y for y in (model(x), model(x)) if y[0] != 2)
            del model

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
