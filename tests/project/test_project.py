"""The project around the compiler: what it declares is what it is."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted(p for folder in ("graphopt", "tests", "bench", "examples", "demo") for p in (ROOT / folder).rglob("*.py"))
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_console_scripts_exist():
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_what_must_not_move_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    assert "torch==2.13.0" in extras["torch"]
    assert any(d.startswith("apache-tvm==") for d in PROJECT["project"]["dependencies"])
    assert {"torch", "dev", "bench", "docs", "all"} <= set(extras)


def test_the_changelog_begins_with_this_version():
    version = PROJECT["project"]["version"]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first is not None and first[1] == version


def test_the_licence_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text()
    plan = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for tool in ("ruff check", "mypy", "pytest"):
        assert tool in plan


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"])
def test_nothing_is_left_for_later(word):
    found = [f"{p.relative_to(ROOT)}" for p in SOURCES if re.search(rf"\b{word}\b", p.read_text())]
    assert not found


def test_no_file_is_too_long():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if "graphopt" in p.parts
            if (n := p.read_text().count("\n")) > 700}
    assert not long, f"are there two rooms in them? {long}"


def test_files_of_tests_have_names_of_their_own():
    """Their folders are all on sys.path: of two of one name, each test would get the one that was imported first."""
    names = Counter(f.name for f in (ROOT / "tests").rglob("*.py") if f.name != "conftest.py")
    assert not [name for name, times in names.items() if times > 1]


def test_no_exception_is_swallowed():
    wrong = []
    for p in (ROOT / "graphopt").rglob("*.py"):
        for node in ast.walk(ast.parse(p.read_text())):
            if not isinstance(node, ast.ExceptHandler) or not all(isinstance(s, ast.Pass) for s in node.body):
                continue
            if node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"):
                wrong.append(f"{p.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


@pytest.mark.parametrize("command", ["dump", "build"])
def test_the_readmes_commands_are_commands(command):
    parser = importlib.import_module(f"graphopt.cli.{command}").build_parser()
    shown = [line.removeprefix("$ ").split("#")[0].split("|")[0] for block in blocks("console")
             for line in block.splitlines() if line.startswith(f"$ graphopt-{command}")]
    assert shown, f"the README shows no graphopt-{command}"
    for line in shown:
        arguments = shlex.split(line)[1:]
        if "--help" not in arguments:
            parser.parse_args(arguments)


def test_the_readmes_files_are_there():
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_git_ignores_what_the_readmes_commands_write():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    written = re.findall(r"""(?:\.save\(|tuning=)"([^"]+)"|(?: -o| --repro| >) ([\w./-]+)""", README)
    names = sorted({name for found in written for name in found if name and not name.startswith("example")})
    assert {"net.gopt", "digits-gpu", "digits.html", "records.json"} <= set(names)
    for name in names:
        for made in (name, f"{name}/file"):
            asked = subprocess.run(["git", "check-ignore", "-q", made], cwd=ROOT)
            if asked.returncode == 0:
                break
        assert asked.returncode == 0, f"{name} would stay in the clone, untracked"


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="the README's quick start compiles a PyTorch module")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
