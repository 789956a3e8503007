"""What is kept between processes: never believed where it was changed, never final, and nobody else's."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt
from graphopt.cache import objects as cache
from graphopt.cache import ownership, store
from graphopt.codegen.x86 import build
from graphopt.measure import peaks
from graphopt.measure.records import Record, Records
from tests.runtime.small_models import inputs, linear

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing is kept")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
X = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "SETTLED_NS", 0)
    return tmp_path / "cache"


def model(tmp_path: Path) -> Path:
    """y = relu(x), for x[n, 3]."""
    value = lambda name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
    path = tmp_path / "m.onnx"
    if not path.exists():
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def used(tmp_path: Path) -> bool:
    """Compile, hold the result against what is right, and say whether the program came from the cache."""
    compiled = graphopt.compile(model(tmp_path))
    found = compiled.run({"x": X})
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"], np.maximum(X, 0))
    return compiled.stats["loaded"]


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def spoil(file: Path, change: Callable[[bytes], bytes]) -> None:
    """As a new file: the old one may be mapped."""
    new = file.with_name("new")
    new.write_bytes(change(file.read_bytes()))
    new.chmod(0o600)
    new.replace(file)


DAMAGES = {"a bit in the middle": lambda b: b[:len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1:],
           "a bit at the end": lambda b: b[:-1] + bytes([b[-1] ^ 4]), "half": lambda b: b[:len(b) // 2], "empty": lambda b: b"",
           "{}": lambda b: b"{}"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_of_every_kind_are_made_anew(folder: Path, tmp_path: Path, damage: str) -> None:
    assert not used(tmp_path) and used(tmp_path)
    kinds = {p.relative_to(folder).parts[0] for p in entries(folder)}
    assert kinds - {"runtime"} == {"code", "objects", "programs", "digests"}
    for file in entries(folder):
        spoil(file, lambda b: DAMAGES[damage](b) if b else b)
    assert not used(tmp_path)
    assert used(tmp_path), "whole entries are back"


def test_a_damaged_runtime_library_is_made_anew(folder: Path) -> None:
    build.runtime_library.cache_clear()
    path, key = build.runtime_library()
    whole = path.read_bytes()
    for change in DAMAGES.values():
        spoil(path, change)
        assert cache.load(key, "runtime") is None and not path.exists()
        assert cache.store(key, whole[:-store.SEAL_BYTES], "runtime").read_bytes() == whole
    build.runtime_library.cache_clear()


@pytest.mark.parametrize("name", ["programs/*.json", "programs/*/manifest.json", "programs/*/*/0.so", "digests/*", "objects/*"])
def test_an_entry_of_another_name_is_not_believed(folder: Path, tmp_path: Path, name: str) -> None:
    """The output's letter in the interface, say: every file has a digest, which its name is part of."""
    assert not used(tmp_path)
    for file in folder.glob(name):
        spoil(file, lambda b: b.replace(b'"y"', b'"z"').replace(b'"digest": "', b'"digest": "0'))
    first, *more = sorted(folder.glob(name))
    for other in more:
        shutil.copyfile(first, other)
    used(tmp_path)
    assert used(tmp_path)


def test_no_note_of_a_digest_is_final(folder: Path, tmp_path: Path) -> None:
    linear().save(tmp_path / "net.gopt")
    x, offset = inputs()
    graphopt.load(tmp_path / "net.gopt")
    notes = list((folder / "digests").iterdir())
    assert notes
    for note in notes:
        store.write_json(note, {"digest": "0" * 64})  # as a file system that lost what was written would have it
    assert graphopt.load(tmp_path / "net.gopt")(x, offset)[0].shape == (3, 5)
    for note in notes:
        spoil(note, DAMAGES["a bit in the middle"])
    assert graphopt.load(tmp_path / "net.gopt")(x, offset)[0].shape == (3, 5)


def test_records_and_peaks_carry_digests(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "tuning" / "records.json"
    records = Records.load()
    records.put("key", Record({"tile": "6x64"}, 1.0, 2.0, 4, "full"))
    records.save()
    assert Records.load().known["key"].choices == {"tile": "6x64"} and not caplog.text
    spoil(path, lambda b: b.replace(b"6x64", b"6x65"))
    assert not Records.load().known and "digest" in caplog.text and path.with_name("records.json.damaged").exists()
    made = {"lanes": 16, "rates": {"fma": 1.0, "fma_l1": 1.0}, "bandwidths": {"l1": 1.0}, "sizes": {"l1": 1}, "buffers": {}}
    monkeypatch.setattr(peaks, "build", lambda where: where)
    monkeypatch.setattr(peaks, "measure", lambda *args, **how: json.loads(json.dumps(made)))
    for change in (lambda b: b, *DAMAGES.values()):
        assert peaks.here(1).rates["fma"] == 1.0
        for file in (folder / "peaks").iterdir():
            spoil(file, change)


# Whose it is ---------------------------------------------------------------------------------
def refused(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, says: str) -> None:
    """Nothing is taken from there, nothing written, and that is said once."""
    store._not_used.cache_clear()
    caplog.clear()
    before = entries(folder)
    with caplog.at_level(logging.WARNING, "graphopt"):
        assert not used(tmp_path) and not used(tmp_path)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1 and "is not used" in said[0] and says in said[0], said
    assert entries(folder) == before


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o1777])
def test_a_folder_that_others_may_write_is_not_used(folder: Path, tmp_path: Path, mode: int,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    used(tmp_path)
    folder.chmod(mode)
    refused(folder, tmp_path, caplog, f"{folder} is not used: other users may write it")
    folder.chmod(0o755)
    assert used(tmp_path)


@ROOT
@pytest.mark.parametrize("owner", ["the folder", "the one above"])
def test_a_folder_of_another_user_is_not_used(folder: Path, tmp_path: Path, owner: str, caplog: pytest.LogCaptureFixture,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    above = tmp_path / "theirs"
    above.mkdir(mode=0o755)
    monkeypatch.setenv("GRAPHOPT_CACHE", str(above / "cache"))
    if owner == "the folder":
        used(tmp_path)
        os.chown(above / "cache", 12345, 12345)
    else:
        os.chown(above, 12345, 12345)
        above.chmod(0o1777)  # who owns a sticky folder may rename all in it
    refused(above / "cache", tmp_path, caplog, "belongs to user 12345, and this is user 0")


def test_what_lies_where_others_may_rename_it_is_not_used(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    used(tmp_path)
    tmp_path.chmod(0o777)
    refused(folder, tmp_path, caplog, f"it lies in {tmp_path}, and other users may write that")
    tmp_path.chmod(0o1777)
    assert used(tmp_path), "in a sticky folder, as /tmp is, they may not"
    tmp_path.chmod(0o755)


def test_a_link_to_a_folder_is_judged_by_the_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    used(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "link"))
    assert used(tmp_path)
    folder.chmod(0o777)
    refused(folder, tmp_path, caplog, "other users may write it")


@pytest.mark.parametrize("kind", ["code", "objects", "programs"])
@pytest.mark.parametrize("what", ["others may write it", "a link"])
def test_a_kind_of_entries_is_judged_too(folder: Path, tmp_path: Path, kind: str, what: str,
                                         caplog: pytest.LogCaptureFixture) -> None:
    used(tmp_path)
    store._not_used.cache_clear()
    if what == "a link":
        (folder / kind).rename(tmp_path / "elsewhere")
        (folder / kind).symlink_to(tmp_path / "elsewhere")
    else:
        (folder / kind).chmod(0o777)
    used(tmp_path)
    assert used(tmp_path) == (kind != "programs")
    assert caplog.text.count(f"{folder / kind} is not used") <= 1
    assert kind != "programs" or f"{folder / kind} is not used" in caplog.text


@pytest.mark.parametrize("name", ["programs/*.json", "programs/*/manifest.json", "programs/*/*/0.so", "programs/*[0-9a-f]"])
@pytest.mark.parametrize("what", ["mode", pytest.param("owner", marks=ROOT), "link"])
def test_an_entry_that_others_may_have_written_is_made_anew(folder: Path, tmp_path: Path, name: str, what: str,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    used(tmp_path)
    path = next(p for p in folder.glob(name) if name != "programs/*[0-9a-f]" or p.is_dir())
    if what == "mode":
        path.chmod(0o666 if path.is_file() else 0o777)
    elif what == "owner":
        os.chown(path, 12345, 12345)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    used(tmp_path)
    assert caplog.text.count("removing the damaged cache entry") == 1
    assert used(tmp_path) and ownership.why_not_all(folder) is None


def test_whatever_the_umask_nobody_else_may_write_what_is_kept(folder: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        used(tmp_path)
    finally:
        os.umask(before)
    assert used(tmp_path) and ownership.why_not_all(folder) is None
    assert {p.stat().st_mode & 0o077 for p in (folder, *folder.rglob("*"))} == {0}


def test_locks_are_neither_followed_nor_emptied(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "tuning").mkdir(parents=True, mode=0o700)
    (tmp_path / "thesis").write_text("years")
    lock = folder / "tuning" / ".records.json.lock"
    lock.symlink_to(tmp_path / "thesis")
    records = Records.load()
    records.put("key", Record({}, 1.0, 2.0, 4, "full"))
    records.save()
    assert "could not be kept" in caplog.text and (tmp_path / "thesis").read_text() == "years"
    lock.unlink()
    lock.write_text("what somebody noted")
    records.save()
    assert list(Records.load().known) == ["key"] and lock.read_text() == "what somebody noted"
    lock.unlink()
    os.mkfifo(lock)  # does not wait for who writes to it
    records.put("key", Record({}, 1.0, 2.0, 4, "full"))
    records.save()


def test_what_processes_left_that_were_ended_goes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used(tmp_path)
    left, fresh = folder / "objects" / ".new-abc", folder / "objects" / ".new-def"
    left.write_text("half")
    fresh.write_text("half")
    (folder / "code" / ".gone-x").mkdir()
    os.utime(left, (1, 1))
    os.utime(folder / "code" / ".gone-x", (1, 1))
    store.trim(folder)
    assert not left.exists() and not (folder / "code" / ".gone-x").exists() and fresh.exists()
