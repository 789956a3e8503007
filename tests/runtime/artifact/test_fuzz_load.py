"""`load` of folders that were changed in any place: a model, or an error of ours; no crash, no hang, nothing else.

    python tests/runtime/artifact/test_fuzz_load.py [CASES] [SEED]     the long run
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import GraphOptError
from graphopt.ir import Builder, Graph, tensor
from tests.runtime.small_models import linear, named, symbolic, symbolic_inputs

SHORT = 400  # cases of the test
WORDS = ["", "x", "N", "main", "manifest.json", "../x", "/", "a/b", "\0", "\ud800", "tensor", "float32", "int4", "0" * 64, "ff",
         "__class__", "__TVMBackendParallelLaunch", "x86", "avx2", "1", "é" * 300]
NUMBERS: list[Any] = [-1, 0, 1, 2, 3, 7, 64, 4096, 2**31, 2**46, 2**63, 2**64, 10**400, -2**63, 0.5, 1e400,
                     float("nan"), True, None]


def values(rng: random.Random) -> Any:
    return rng.choice([lambda: rng.choice(WORDS), lambda: rng.choice(NUMBERS), list, dict, lambda: [rng.choice(NUMBERS)] * 3,
                       lambda: {rng.choice(WORDS): rng.choice(NUMBERS)}, lambda: [[[[]]]]])()


def places(x: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [above] if above else []
    for k, inner in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ():
        found += places(inner, (*above, k))
    return found


def edited(manifest: dict[str, Any], rng: random.Random) -> Any:
    """The manifest with some values changed, dropped, doubled, exchanged or renamed."""
    made = copy.deepcopy(manifest)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        every = [p for p in places(made) if rng.random() < 0.3 or p[0] not in ("stats", "tuning", "decisions")] or [()]
        *way, last = rng.choice(every) or ("format",)
        at = made
        for k in way:
            at = at[k]
        how = rng.randrange(6)
        if how == 0:
            del at[last]
        elif how == 1 and isinstance(at, list):
            at.append(copy.deepcopy(at[last]))
        elif how == 2 and isinstance(at, dict):
            at[rng.choice(WORDS)] = at.pop(last)
        elif how == 3 and isinstance(at[last], int):
            at[last] += rng.choice([-1, 1, 2, 64, -64, 2**20])
        elif how == 4:
            other = made
            for k in rng.choice(places(made)):
                other = other[k]
            at[last] = copy.deepcopy(other)
        else:
            at[last] = values(rng)
    return made


def spoiled(folder: Path, rng: random.Random) -> str:
    """Change one thing of a folder; what it was."""
    file = folder / "manifest.json"
    what = rng.randrange(12)
    if what < 8:
        made = edited(json.loads(file.read_bytes()), rng)
        text = json.dumps(made, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
        file.write_bytes(text)
        if what < 7:
            (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
        return "manifest"
    victim = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    data = bytearray(victim.read_bytes())
    if what == 8 and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif what == 9:
        del data[rng.randrange(len(data) + 1):]
    elif what == 10:
        data += rng.randbytes(rng.randrange(64))
    victim.unlink()
    if what == 11:
        rng.choice([lambda: os.mkfifo(victim), victim.mkdir, lambda: victim.symlink_to("/dev/zero"), lambda: None])()
    else:
        victim.write_bytes(data)
    return str(victim.relative_to(folder))


def call(model: Any, light: bool) -> None:
    """With zeros for every case, and with what does not fit."""
    for case, deciding in zip(model.shapes, model.values):
        if any(np.prod(s, dtype=float) > 1e6 for s in case.values()):
            continue
        dtypes = {s.name: s.dtype if light else s.numpy for s in model.inputs}
        given = {n: np.zeros(s, dtypes[n]) for n, s in case.items()}
        given |= {n: np.frombuffer(bytes(v), dtypes[n]).reshape(case[n]) for n, v in deciding.items()}
        try:
            model.run({n: memoryview(x) for n, x in given.items()} if light else given)
        except (GraphOptError, MemoryError):
            pass


def run(made: Path, cases: int, seed: int) -> list[str]:
    """What went wrong in so many cases."""
    whole, wrong = sorted(made.iterdir()), []
    work = Path(tempfile.mkdtemp(prefix="graphopt-fuzz-"))
    for k in range(seed, seed + cases):
        rng = random.Random(k)
        source = rng.choice(whole)
        folder = work / f"{k}.gopt"
        shutil.copytree(source, folder)
        at = spoiled(folder, rng)
        print(k, source.name, at, flush=True)
        try:
            model, light = graphopt.load(folder), graphopt.load(folder, numpy=False)
            if all("digest" in p.said for p in model._found):  # else only hands know what they wrote there
                call(model, False)
                call(light, True)
        except GraphOptError as e:
            if str(folder) not in str(e):
                wrong.append(f"{k}: {source.name}, {at}: does not say where: {e}")
        except Exception as e:
            wrong.append(f"{k}: {source.name}, {at}: {type(e).__name__}: {e}")
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(work)
    return wrong


def models(where: Path) -> None:
    """One of every form of manifest."""
    linear().save(where / "linear")
    free = symbolic()
    for n, m in ((2, 3), (4, 5)):
        free(*symbolic_inputs(n, m))
    free.save(where / "symbolic")
    graph = Graph()
    b = Builder(graph)
    x, shift = graph.add_input(tensor("f32", 3, 4), "x"), graph.add_input(tensor("i64", 1), "shift")
    graph.outputs = [b.add(x, b.cast(shift, to="f32"))]
    graph.metadata["control_inputs"] = ["shift"]
    chosen = graphopt.compile(named(graph, ["x", "shift"], ["y"]))
    chosen(np.zeros((3, 4), np.float32), np.array([1]))
    chosen.save(where / "chosen")
    shutil.copytree(Path(__file__).parents[2] / "data" / "format-1.0" / "net", where / "old")


def child(made: Path, cases: int, seed: int, seconds: int) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with little memory and time."""
    code = f"""
import faulthandler, sys
from pathlib import Path
faulthandler.enable()
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.runtime.artifact import test_fuzz_load
wrong = test_fuzz_load.run(Path({str(made)!r}), {cases}, {seed})
print(*wrong, sep=chr(10), file=sys.stderr)
sys.exit(bool(wrong))
"""
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, preexec_fn=limit,
                          env=os.environ | {"GRAPHOPT_CACHE": "0"}, check=False)


@pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")
def test_changed_folders_are_loaded_or_refused(tmp_path: Path) -> None:
    models(tmp_path)
    done = child(tmp_path, SHORT, 0, 300)
    assert done.returncode == 0, done.stderr + "\n".join(done.stdout.splitlines()[-1:])


if __name__ == "__main__":
    CASES, SEED = (int(n) for n in (*sys.argv[1:], *("20000", "1000")[len(sys.argv) - 1:]))
    with tempfile.TemporaryDirectory() as folder:
        models(Path(folder))
        for start in range(SEED, SEED + CASES, 1000):
            found = child(Path(folder), min(1000, SEED + CASES - start), start, 3000)
            print(start, found.returncode, found.stderr, *found.stdout.splitlines()[-1:], flush=True)
