"""Artifacts that are damaged, too new, in the wrong place or cannot be written: plain words, and the old one stays."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.errors import ArtifactError
from graphopt.ship import replacing, saving
from tests.runtime.small_models import inputs, linear, scale

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")
EVERY = ["manifest.json", "*/0.so", "*/weights.bin", "libgraphopt.so"]
FILES = EVERY[1:]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A copy of a saved model: code that was loaded must not change under this process."""
    linear().save(tmp_path / "made")
    shutil.copytree(tmp_path / "made", tmp_path / "net.gopt")
    shutil.rmtree(tmp_path / "made")
    return tmp_path / "net.gopt"


def change(folder: Path, edit: Callable[[dict[str, Any]], Any], digests: bool = False) -> None:
    """Edit the manifest, and its digest with it; the digests of programs are left out, unless they shall stay."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    for p in manifest.get("programs", ()):
        if isinstance(p, dict) and not digests:
            p.pop("digest", None)
    file.write_text(json.dumps(manifest))
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  manifest.json\n")


def refused(folder: Path, says: str) -> None:
    with pytest.raises(ArtifactError, match=says) as e:
        graphopt.load(folder)
    assert str(folder) in str(e.value)


# Files -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("left", [0, 1, -7])
def test_a_truncated_file_is_named(saved: Path, name: str, left: int) -> None:
    file, = saved.glob(name)
    file.write_bytes(file.read_bytes()[:left])
    refused(saved, file.name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 0.5, -1])
def test_an_altered_file_is_named(saved: Path, name: str, at: float) -> None:
    file, = saved.glob(name)
    data = bytearray(file.read_bytes())
    data[int(at * len(data)) if at >= 0 else -1] ^= 16
    file.write_bytes(data)
    refused(saved, f"{file.name} is not as it was written: its digest is wrong")


def test_an_altered_manifest_is_refused(saved: Path) -> None:
    """A digit of a size, say, which would be as good a size."""
    file = saved / "manifest.json"
    text = file.read_bytes()
    file.write_bytes(text.replace(b'"arena": ', b'"arena": 1'))
    assert file.read_bytes() != text
    refused(saved, r"manifest\.json is not as it was written: its digest is wrong")
    file.write_bytes(text)
    assert subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=saved, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    file, = saved.glob(name)
    file.unlink()
    refused(saved, f"{file.name} cannot be read: No such file")


def test_swapped_files(saved: Path, tmp_path: Path) -> None:
    code, = saved.glob("*/0.so")
    code.rename(tmp_path / "aside")
    (saved / "libgraphopt.so").rename(code)
    (tmp_path / "aside").rename(saved / "libgraphopt.so")
    refused(saved, "is not as it was written")


def test_files_of_another_artifact(saved: Path, tmp_path: Path) -> None:
    scale().save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "manifest.json", saved / "manifest.json")
    refused(saved, "is not as it was written")


@pytest.mark.parametrize("name", FILES)
def test_links_are_refused(saved: Path, tmp_path: Path, name: str) -> None:
    file, = saved.glob(name)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    refused(saved, f"{file.name} is not as it was written: it is no plain file")


def test_linked_folders_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = next(saved.glob("*/0.so")).parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    refused(saved, f"{folder.name} is no folder of its own")


def test_the_artifact_itself_may_be_a_link(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    assert len(graphopt.load(tmp_path / "link").inputs) == 2
    scale().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and len(graphopt.load(saved).inputs) == 1


@pytest.mark.parametrize("name", ["../other", "a/../../other", "/etc/passwd", "a/b/c", "", "a/", "/a", ".", "..", "a/..",
                                  "manifest.json", "a\0b"])
def test_paths_out_of_the_folder_are_refused(saved: Path, name: str) -> None:
    def edit(m: dict[str, Any]) -> None:
        m["files"][name] = m["files"]["libgraphopt.so"]

    shutil.copy(saved / "libgraphopt.so", saved.parent / "other")
    change(saved, edit)
    refused(saved, "outside of the folder")


def test_a_folder_or_a_device_is_no_file(saved: Path) -> None:
    file, = saved.glob("*/weights.bin")
    file.unlink()
    file.mkdir()
    refused(saved, "it is no plain file")
    file.rmdir()
    os.mkfifo(file)
    refused(saved, "it is no plain file")


# The manifest ----------------------------------------------------------------------------------
@pytest.mark.parametrize("form", [[2, 0], [1, 3], [0, 9]], ids=str)
def test_another_format_is_refused_by_name(saved: Path, form: list[int]) -> None:
    change(saved, lambda m: m.update(format=form, made_by={"graphopt": "7.8.9"}, programs="of another form"))
    number = ".".join(map(str, form))
    refused(saved, f"has format {number}, and this graphopt reads 1.0 to 1.2. Use graphopt 7.8.9, or compile it again")


@pytest.mark.parametrize("edit", [
    lambda m: m.pop("format"), lambda m: m.update(format="new"), lambda m: m.update(format=[1]), lambda m: m.pop("files"),
    lambda m: m.update(files=[]), lambda m: m.pop("programs"), lambda m: m.update(programs=[]), lambda m: m.update(programs=[3]),
    lambda m: m["programs"][0].pop("entry"), lambda m: m["programs"][0].update(threads="2"),
    lambda m: m["programs"][0].update(arena=-1), lambda m: m["programs"][0].update(inputs=[[3, 6]]),
    lambda m: m["programs"][0].update(inputs=[[3, 7], [5]]), lambda m: m["programs"][0].update(outputs=[]),
    lambda m: m["programs"][0].update(features=[1]), lambda m: m["programs"][0]["outputs"][0].update(numpy="float33"),
    lambda m: m["inputs"][0].pop("name"), lambda m: m.pop("runtime"), lambda m: m["files"]["libgraphopt.so"].pop("sha256")],
    ids=range(19))
def test_a_manifest_of_another_form_is_damaged(saved: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    change(saved, edit)
    refused(saved, r"manifest\.json is damaged")


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "\xff", "[" * 100_000],
                         ids=["empty", "list", "number", "open", "bytes", "deep"])
def test_what_is_no_manifest(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(saved, r"manifest\.json is damaged")


def test_files_that_are_not_listed(saved: Path) -> None:
    change(saved, lambda m: m["files"].pop("libgraphopt.so"))
    refused(saved, r"does not list all files: libgraphopt\.so")


def test_another_machine(saved: Path) -> None:
    change(saved, lambda m: m["programs"][0]["features"].append("avx1024"))
    refused(saved, r"its code needs what this machine's processor lacks: x86:\S+ needs avx1024")


def test_an_entry_that_is_not_there(saved: Path) -> None:
    change(saved, lambda m: m["programs"][0].update(entry="not_main"))
    refused(saved, "cannot be loaded: .*not_main")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        graphopt.load(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot be read"):
        graphopt.load(tmp_path / "file")


# Permissions -----------------------------------------------------------------------------------
def as_nobody(code: str, path: Path) -> str:
    """What code prints that becomes a user who may write nothing of ours, once it has imported what it needs."""
    begin = """
import os, sys, pathlib, graphopt
from graphopt.ship import replacing
from graphopt.runtime import saving
path = pathlib.Path(sys.argv[1])
def leave():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""
    done = subprocess.run([sys.executable, "-c", begin + code, str(path)], capture_output=True, text=True,
                          env=os.environ | {"GRAPHOPT_CACHE": "0"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def for_all(saved: Path) -> Iterator[Path]:
    """A copy of the artifact that every user may read."""
    folder = Path(tempfile.mkdtemp(prefix="graphopt-test-"))
    folder.chmod(0o755)
    yield shutil.copytree(saved, folder / "net.gopt")
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", EVERY)
def test_files_that_may_not_be_read(for_all: Path, name: str) -> None:
    file, = for_all.glob(name)
    said = as_nobody("""
graphopt.load(path)
leave()
graphopt.load(path)
print("loaded")
""", for_all)
    assert said == "loaded\n"
    said = as_nobody(f"""
graphopt.load(path)
(path / {str(file.relative_to(for_all))!r}).chmod(0)
leave()
try:
    graphopt.load(path)
except graphopt.ArtifactError as e:
    print(e)
""", for_all)
    assert f"{file.name} cannot be read: Permission denied" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_not_be_written(for_all: Path) -> None:
    said = as_nobody("""
leave()
try:
    saving.write(path, {}, {})
except OSError as e:
    print(e.strerror)
""", for_all)
    assert said == "Permission denied\n"
    assert len(graphopt.load(for_all).inputs) == 2


# Writing ---------------------------------------------------------------------------------------
def whole(folder: Path) -> bool:
    """The artifact of `linear` is there, and nothing beside it."""
    x, offset = inputs()
    return graphopt.load(folder)(x, offset)[0].shape == (3, 5) and [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_one_that_is_there_is_replaced(saved: Path) -> None:
    scale().save(saved)
    assert len(graphopt.load(saved).inputs) == 1 and [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("pages", [0, 1, 3, 8])
def test_a_full_disk_leaves_the_old_one(saved: Path, pages: int) -> None:
    """A process that may write no more than some pages to a file (RLIMIT_FSIZE, an OSError as ENOSPC is)."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
import graphopt
from tests.runtime.small_models import scale
model = scale()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({pages} * 1024, {pages} * 1024))
try:
    model.save({str(saved)!r})
    print("saved")
except graphopt.ArtifactError as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{saved}: cannot be written: File too large" in done.stdout
    assert whole(saved)


def test_no_space_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place, name in ((tempfile, "mkdtemp"), (replacing, "renameat2"), (saving, "_created"), (saving.store, "digest")):
        with monkeypatch.context() as m:
            m.setattr(place, name, full)
            with pytest.raises(ArtifactError, match="No space left"):
                scale().save(saved)
        assert whole(saved)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_replacement_that_fails_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """The exchange, or where there is none, one of the steps in its place; the last of them only tidies up."""
    rename, calls = os.rename, []

    def failing(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == max(which, 1):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(*args, **kwargs)

    def lacking(*args: Any) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with monkeypatch.context() as m:
        m.setattr(os, "rename", failing)
        m.setattr(replacing, "renameat2", lacking if which else failing)
        if which == 3:
            scale().save(saved)
        else:
            with pytest.raises(ArtifactError, match="cannot be written: Input/output error"):
                scale().save(saved)
    if which == 3:
        assert len(graphopt.load(saved).inputs) == 1 and [p.name for p in saved.parent.iterdir()] == [saved.name]
    else:
        assert whole(saved)


def test_a_file_system_that_cannot_exchange_is_named_once(saved: Path, monkeypatch: pytest.MonkeyPatch,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    def lacking(*args: Any) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(replacing, "renameat2", lacking)
    for make in (scale, linear, scale):
        make().save(saved)
    assert len(graphopt.load(saved).inputs) == 1 and [p.name for p in saved.parent.iterdir()] == [saved.name]
    assert caplog.text.count("cannot exchange folders") == 1 and str(saved.parent) in caplog.text


def test_what_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("text")
    for path in (work, tmp_path / "file"):
        with pytest.raises(ArtifactError, match="is not a saved model stands there, and is left alone"):
            scale().save(path)
    assert (work / "thesis.tex").read_text() == "years" and (tmp_path / "file").read_text() == "text"
    (tmp_path / "empty").mkdir()
    scale().save(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="there is no such folder"):
        scale().save(tmp_path / "file" / "below")


def test_a_model_that_is_replaced_while_it_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process saves between the reading of the manifest and that of the files."""
    from graphopt.runtime.artifact import reading as artifact

    check, calls = artifact._check_file, []

    def late(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            scale().save(saved)
        check(*args)

    monkeypatch.setattr(artifact, "_check_file", late)
    assert len(graphopt.load(saved).inputs) == 1
