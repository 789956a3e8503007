"""docs/c.md and examples/c: every command there gives what the page shows, and every piece of C is C."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.ship.cfiles import NATIVE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "c.md").read_text()
VARIES = [(r"\d+(\.\d+)? ms", "T ms"), (r"x86:[\w-]+", "CPU"), (r"\d+ threads", "N threads")]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def expected(lines: list[str]) -> str:
    """A pattern: what varies from run to run may, and `...` stands for anything."""
    text = "\n".join(lines)
    for pattern, by in VARIES:
        text = re.sub(pattern, by, text)
    return re.escape(text).replace(r"\.\.\.", r"[\s\S]*")


def test_the_page_says_what_happens(tmp_path: Path) -> None:
    for name in ("demo", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    save, = blocks("python")
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{save}"], cwd=tmp_path, check=True)
    where = tmp_path
    for block in blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *output = step.rstrip().split("\n")
            if command.startswith("cmake") and shutil.which("cmake") is None:
                return  # the rest is built by it
            if command.startswith("cd "):
                where = (where / command[3:]).resolve()
                continue
            done = subprocess.run(["sh", "-c", command], cwd=where, capture_output=True, text=True, check=False)
            said = (done.stdout + done.stderr).rstrip()
            for pattern, by in VARIES:
                said = re.sub(pattern, by, said)
            assert re.fullmatch(expected(output), said), f"$ {command}\n{said}"


def test_pieces_of_c_are_in_the_example_or_compile(tmp_path: Path) -> None:
    example = (ROOT / "examples" / "c" / "digits.c").read_text()
    alone = [b for b in blocks("c") if b not in example]
    assert len(alone) == 1 and len(blocks("c")) == 4
    (tmp_path / "it.c").write_text('#include <stdio.h>\n#include "model.h"\nvoid f(graphopt_model *model);\n'
                                   f"void f(graphopt_model *model) {{\n{alone[0]}}}\n")
    for source in (tmp_path / "it.c", ROOT / "examples" / "c" / "digits.c"):
        subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{NATIVE}", source],
                       check=True)


def test_cmake_on_the_page_is_the_example() -> None:
    piece, = blocks("cmake")
    assert piece in (ROOT / "examples" / "c" / "CMakeLists.txt").read_text()


def test_every_status_is_explained() -> None:
    declared = re.findall(r"^    (GRAPHOPT_\w+) = \d+", (NATIVE / "model.h").read_text().split("} graphopt_dtype", 1)[0].split(
        "typedef int32_t graphopt_dtype")[0], re.MULTILINE)
    assert len(declared) == 9 and all(f"| `{name}` |" in PAGE for name in declared)
