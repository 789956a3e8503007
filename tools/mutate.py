"""Do the tests notice? Every template and every pass is left out in turn, in a copy of the tree, and its tests are run.

    python tools/mutate.py                 # all of them: a line each, the tests that failed or SURVIVED
    python tools/mutate.py scan fuse       # these
    python tools/mutate.py --list          # what there is

A kernel that lacks its template is made by another or by the generic lowering, which computes the same: only a test that asks
what made it fails. The same goes for a pass. `--first` stops a mutant's tests at the first that fails. Exit code 1: one survived.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS, CONV, REWRITE = "tests/codegen/x86/kernels", "tests/codegen/x86/kernels/conv", "tests/rewrite"


@dataclass(frozen=True)
class Mutant:
    """Lines that are appended to a file, and the tests that should fail then."""

    name: str
    file: str
    lines: str
    tests: tuple[str, ...]


def template(name: str, *tests: str) -> Mutant:
    return Mutant(name, "graphopt/codegen/x86/templates.py", f"MAKERS[:] = [m for m in MAKERS if m[0] != {name!r}]\n", tests)


def way(name: str, function: str, nothing: str, *tests: str) -> Mutant:
    return Mutant(name, "graphopt/codegen/lower/schedule.py", f"{function} = {nothing}\n", tests)


def passes() -> list[Mutant]:
    """One for each class of the default passes; they are read from its text, so that none is forgotten."""
    text = (ROOT / "graphopt/rewrite/__init__.py").read_text()
    body = text[text.index("def default_passes"):text.index("def optimise")]
    lines = "_all_passes = default_passes\n\n\ndef default_passes(*, fuse: bool = True) -> list[Pass]:\n" \
            "    return [p for p in _all_passes(fuse=fuse) if type(p).__name__ != {!r}]\n"
    return [Mutant(name, "graphopt/rewrite/__init__.py", lines.format(name), (f"{REWRITE}/test_each_pass.py",))
            for name in dict.fromkeys(re.findall(r"\b([A-Z]\w+)\(\)", body))]


def mutants() -> list[Mutant]:
    return [
        template("attention", f"{KERNELS}/test_attention.py"), template("matmul", f"{KERNELS}/test_contraction.py"),
        template("conv.row_major", f"{KERNELS}/test_contraction.py"), template("conv.streamed", f"{CONV}/test_streamed.py"),
        template("conv.prologue", f"{CONV}/test_prologue.py"), template("conv.depthwise", f"{CONV}/test_depthwise.py"),
        template("conv.grouped", f"{CONV}/test_grouped.py"), template("conv.winograd", f"{CONV}/test_winograd.py"),
        template("conv.channels_last", f"{CONV}/test_channels_last.py"), template("recurrent", f"{KERNELS}/test_recurrent.py"),
        template("transpose", f"{KERNELS}/test_transposing.py"), template("scan", f"{KERNELS}/test_scan.py"),
        template("pool", f"{KERNELS}/test_pooling.py"), template("global_pool", f"{KERNELS}/test_global_pool.py"),
        way("columns", "judged", "lambda axes, values: None", "tests/codegen/lower/test_columns.py"),
        way("tiled", "tiled", "lambda axes, exprs, line: (axes, exprs)", "tests/codegen/lower/test_schedule.py"),
        *passes()]


def copied(folder: Path) -> None:
    """The files that git knows or would take, in `folder`."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "graphopt", "tests", "bench", "demo",
                            "pyproject.toml"],
                           cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run(mutant: Mutant, folder: Path, first: bool) -> list[str]:
    """The tests that fail."""
    path = folder / mutant.file
    text = path.read_text()
    path.write_text(f"{text}\n\n{mutant.lines}")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no",
             *(["-x"] if first else []), *mutant.tests],
            cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "GRAPHOPT_CACHE": "0"})
    finally:
        path.write_text(text)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    if done.returncode not in (0, 1) or (done.returncode == 1 and not failed):
        raise SystemExit(f"{mutant.name}: the tests did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return [name.split("/")[-1] for name in failed]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mutants; all where none is named")
    parser.add_argument("--list", action="store_true", help="name the mutants and their tests")
    parser.add_argument("--first", action="store_true", help="stop a mutant's tests at the first that fails")
    args = parser.parse_args()
    known = {m.name.lower(): m for m in mutants()}
    if unknown := [n for n in args.names if n.lower() not in known]:
        parser.error(f"unknown: {', '.join(unknown)}")
    chosen = [known[n.lower()] for n in args.names] or list(known.values())
    if args.list:
        print("\n".join(f"{m.name:24} {' '.join(m.tests)}" for m in chosen))
        return 0
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copied(Path(folder))
        for mutant in chosen:
            failed = run(mutant, Path(folder), args.first)
            survived += not failed
            shown = f"{failed[0]}{f' and {len(failed) - 1} more' if len(failed) > 1 else ''}" if failed else "SURVIVED"
            print(f"{mutant.name:24} {shown}", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
