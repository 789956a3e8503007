"""What is saved where something stands: one exchange, nobody else's files, and nothing left of processes that were ended."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import graphopt
from graphopt.cli.build import main
from graphopt.errors import ArtifactError
from graphopt.ship import replacing, saving
from tests.runtime.small_models import linear, scale

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    linear().save(tmp_path / "net.gopt")
    return tmp_path / "net.gopt"


def is_linear(folder: Path) -> bool:
    return len(graphopt.load(folder).inputs) == 2


# Files of somebody ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["thesis.tex", "notes/thesis.tex", ".hidden"])
def test_files_that_graphopt_did_not_write_stay(saved: Path, name: str) -> None:
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_text("years")
    with pytest.raises(ArtifactError, match=rf"holds files that graphopt did not write: {name}; nothing is replaced.*force=True"):
        scale().save(saved)
    assert (saved / name).read_text() == "years" and is_linear(saved)
    scale().save(saved, force=True)
    assert not (saved / name).exists() and not is_linear(saved)


def test_a_link_is_not_what_graphopt_wrote(saved: Path, tmp_path: Path) -> None:
    code, = saved.glob("*/0.so")
    code.rename(tmp_path / "aside")
    code.symlink_to(tmp_path / "aside")
    with pytest.raises(ArtifactError, match=r"did not write: .*/0.so"):
        scale().save(saved)


def test_files_that_were_edited_stay(saved: Path) -> None:
    (saved / "example.c").write_text("int main(void) { return 42; }\n")
    with pytest.raises(ArtifactError, match=r"holds files that were changed since: example\.c"):
        scale().save(saved)
    assert "42" in (saved / "example.c").read_text()
    linear().save(saved, force=True)
    assert "42" not in (saved / "example.c").read_text()


@pytest.mark.parametrize("manifest", ['{"name": "a web page", "icons": []}', "{", '{"format": [1, 1]}', "[]", "[" * 5000])
def test_a_manifest_of_something_else(tmp_path: Path, manifest: str) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "manifest.json").write_text(manifest)
    (page / "index.html").write_text("<html>")
    with pytest.raises(ArtifactError, match="something that is not a saved model stands there, and is left alone"):
        scale().save(page)
    assert (page / "index.html").exists()
    scale().save(page, force=True)
    assert graphopt.load(page) and not (page / "index.html").exists()


def test_force_does_not_take_the_floor_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "work").mkdir(parents=True)
    (tmp_path / "home" / "letter").write_text("dear")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in (tmp_path / "home", tmp_path):
        with pytest.raises(ArtifactError, match="never replaced"):
            scale().save(path, force=True)
    monkeypatch.chdir(tmp_path / "home" / "work")
    with pytest.raises(ArtifactError, match="never replaced"):
        scale().save(".", force=True)
    assert (tmp_path / "home" / "letter").read_text() == "dear"


def test_projects_of_other_targets_are_kept_the_same_way(tmp_path: Path) -> None:
    from graphopt.ship.projects import write_project

    write_project(tmp_path / "p", {"top.cpp": "int a;"}, {"target": "fpga:x"})
    write_project(tmp_path / "p", {"top.cpp": "int b;"}, {"target": "fpga:x"})
    assert (tmp_path / "p" / "top.cpp").read_text() == "int b;"
    (tmp_path / "p" / "solution1").mkdir()
    (tmp_path / "p" / "solution1" / "report").write_text("slow")
    with pytest.raises(ArtifactError, match="did not write: solution1/report"):
        write_project(tmp_path / "p", {"top.cpp": "int c;"}, {"target": "fpga:x"})
    shutil.rmtree(tmp_path / "p" / "solution1")
    (tmp_path / "p" / "top.cpp").write_text("int mine;")
    with pytest.raises(ArtifactError, match=r"changed since: top\.cpp"):
        write_project(tmp_path / "p", {"top.cpp": "int c;"}, {"target": "fpga:x"})
    write_project(tmp_path / "p", {"top.cpp": "int c;"}, {"target": "fpga:x"}, force=True)
    assert (tmp_path / "p" / "top.cpp").read_text() == "int c;"
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


# The command ------------------------------------------------------------------------------------
def test_graphopt_build_says_whose_place_it_takes(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from graphopt.ir import Builder, Graph, serial, tensor

    monkeypatch.chdir(tmp_path)
    for name, n in (("a.gir", 7), ("b.gir", 7), ("c.gir", 9)):
        graph = Graph()
        graph.outputs = [Builder(graph).exp(graph.add_input(tensor("f32", n), "x"))]
        serial.save(graph, tmp_path / name)

    def said(name: str, *more: str) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "graphopt"):
            code = main([name, "-o", "net.gopt", *more])
        assert code == 0 or not caplog.text
        return caplog.text if code == 0 else capsys.readouterr().err

    assert "net.gopt held another model, which was replaced: x: float32[3, 6], offset: float32[5] -> " in said("a.gir")
    assert said("a.gir") == "", "the same model"
    assert "held another model, which was replaced: a.gir, x: float32[7]" in said("b.gir")
    assert "held another model, which was replaced: b.gir, x: float32[7]" in said("c.gir")
    (saved / "thesis.tex").write_text("years")
    before = (saved / "manifest.json").read_bytes()
    text = said("a.gir")
    assert "net.gopt: holds files that graphopt did not write: thesis.tex" in text and "--force" in text
    assert (saved / "manifest.json").read_bytes() == before
    assert "held another model" in said("a.gir", "--force") and not (saved / "thesis.tex").exists()


# One step ---------------------------------------------------------------------------------------
def test_there_is_never_none(saved: Path) -> None:
    gaps, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                os.stat(saved / "manifest.json")
            except OSError as e:
                gaps.append(e)
            time.sleep(0)  # or the one who saves would wait for the interpreter

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(5):
            for model in (scale(), linear()):
                model.save(saved)
    finally:
        done.set()
        watcher.join()
    assert not gaps and is_linear(saved) and os.listdir(saved.parent) == [saved.name]


def test_what_comes_in_between_is_put_back(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes into the folder after it was looked at."""
    exchange = replacing.renameat2

    def late(a: Path, b: Path, how: int) -> None:
        if how == replacing.EXCHANGE and not (saved / "thesis.tex").exists() and not (a / "thesis.tex").exists():
            (saved / "thesis.tex").write_text("years")
        exchange(a, b, how)

    monkeypatch.setattr(replacing, "renameat2", late)
    with pytest.raises(ArtifactError, match=r"did not write: thesis\.tex"):
        scale().save(saved)
    assert (saved / "thesis.tex").read_text() == "years" and is_linear(saved)


ENDED = """
import os, sys, time, pathlib
from graphopt.ship import replacing
with replacing.scratch(pathlib.Path(sys.argv[1])) as beside:
    (beside / "half").write_text("half")
    print("there", flush=True)
    time.sleep(60)
"""


def test_leavings_are_cleared_and_what_lives_is_not(saved: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDED, str(saved)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    scale().save(saved)
    left, = (p for p in saved.parent.iterdir() if p != saved)
    assert (left / "new" / "half").exists(), "its maker lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    mine = saved.parent / f".{saved.name}.graphopt-mine"
    mine.mkdir()  # whose name is not quite one of ours
    linear().save(saved)
    assert not left.exists() and mine.exists() and is_linear(saved)


def test_a_model_that_was_taken_out_of_its_place_is_put_back(saved: Path) -> None:
    """A process that was ended between the two steps that there are where nothing can be exchanged."""
    around = saved.parent / f".{saved.name}.graphopt-abcd0123"
    around.mkdir()
    saved.rename(around / "old")
    replacing.clear(saved.parent, saved.name)
    assert is_linear(saved) and not around.exists()


def test_a_save_that_is_killed_at_any_time_leaves_one_whole_model(saved: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.runtime.small_models import scale
model = scale()
print("there", flush=True)
while True:
    model.save({str(saved)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    for _ in range(20):
        assert len(graphopt.load(saved).inputs) in (1, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(graphopt.load(saved).inputs) in (1, 2)
    linear().save(saved)
    assert is_linear(saved) and sorted(os.listdir(tmp_path)) == [saved.name]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        scale().save(tmp_path / "net.gopt")
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "net.gopt", *(tmp_path / "net.gopt").iterdir())}
    assert modes["net.gopt"] == 0o750 and modes["manifest.json"] == modes["libgraphopt.so"] == 0o640
    assert json.loads((tmp_path / "net.gopt" / "manifest.json").read_text())["programs"][0]["digest"]
    assert saving.standing(tmp_path / "net.gopt") and saving.standing(tmp_path) is None
