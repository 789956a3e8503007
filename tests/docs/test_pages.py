"""The documentation says what is: its code runs and prints what it shows, its commands are commands, its pages are complete."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(python|output|console)\n(.*?)^```$", re.S | re.M)
NEEDS_TORCH = {"index.md", "quickstart.md", "torch.md"}
REGISTERS = {"extend/operator.md"}  # in the compiler's tables: in a process of its own


@cache
def hooks() -> ModuleType:
    """What makes pages when the site is built."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "hooks" / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def matches(shown: str, said: str) -> bool:
    """Is what is shown what was said, line by line? A line of dots stands for any lines."""
    parts = [re.escape(p.strip("\n")) for p in re.split(r"^ *\.\.\.$", shown.strip("\n"), flags=re.M)]
    return re.fullmatch(r"\s*" + r".*?".join(parts) + r"\s*", said, re.S) is not None


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, what is shown beneath it) of a console block."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        yield command.split("  #")[0].strip(), shown


def run_page(name: str) -> None:
    """Its blocks in order, in one scope and the current folder. AssertionError where something is not as shown."""
    scope: dict[str, object] = {"__name__": "page"}
    said: str | None = None
    for kind, text in BLOCK.findall((DOCS / name).read_text()):
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(text, name, "exec"), scope)
            said = printed.getvalue()
        elif kind == "output":
            assert said is not None and matches(text, said), f"{name} shows\n{text}\nbut this was printed:\n{said}"
        else:
            for command, shown in commands(text):
                check_command(name, command, shown)


def check_command(page: str, command: str, shown: str) -> None:
    """Run what is ours to run, and compare; of the rest, that it exists."""
    words = shlex.split(command.split(" | ")[0].split(" > ")[0])
    if words[0].startswith("graphopt-"):
        module = importlib.import_module(f"graphopt.cli.{words[0].removeprefix('graphopt-')}")
        arguments = words[1:]
        if not shown.strip():
            if not {"--help", "--version"} & set(arguments) and "--completion" not in arguments:
                module.build_parser().parse_args(arguments)
            return
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert module.main(arguments) == 0, command
        if page in ("dump.md", "page.md"):  # times and addresses are in what they show
            first, given = shown.strip("\n").splitlines()[0], out.getvalue().splitlines()
            assert first in (given[0] if given else "", "..."), f"{command} begins with {given[:1]}, not {first!r}"
        else:
            assert matches(shown, out.getvalue()), f"{command} printed\n{out.getvalue()[:2000]}"
    elif words[0] == "ls" or words[:2] == ["make", "-C"]:
        if words[0] == "make" and not any(map(shutil.which, ("g++", "c++"))):
            return
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        given = [w for w in done.stdout.split() if w]
        last = shown.strip().splitlines()[-1].split(",")[0] if shown.strip() else ""
        assert last in done.stdout or set(shown.split()) <= set(given), f"{command} printed\n{done.stdout}"
    elif words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert all(t in targets for t in words[1:] if "=" not in t), command
    elif words[:3] == ["python", "-m", "bench"]:
        assert (ROOT / "bench" / f"{words[3]}.py").exists(), command


@pytest.mark.parametrize("name", [p for p in PAGES if BLOCK.search((DOCS / p).read_text())])
def test_what_a_page_shows_is_what_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NEEDS_TORCH:
        pytest.importorskip("torch", reason="the page compiles a PyTorch module")
    for folder in ("demo", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    if name in REGISTERS:
        code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]; " \
               f"import test_pages; test_pages.run_page({name!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
    else:
        run_page(name)


def test_a_page_that_shows_something_else_is_found_out() -> None:
    assert matches("a\n...\nd\n", "a\nb\nc\nd\n") and matches("a\n", "a\n")
    assert not matches("a\n...\nc\n", "a\nb\nd\n") and not matches("b\n", "a\nb\n")


def test_examples_on_pages_are_whole_files() -> None:
    shown = {m for p in PAGES for m in re.findall(r'--8<-- "(.+?)"', (DOCS / p).read_text())}
    assert shown >= {f"examples/{n}.py" for n in ("add_an_operator", "write_a_rewrite", "add_a_kernel_template", "add_a_target")}
    assert all((ROOT / s).is_file() for s in shown)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    yaml = pytest.importorskip("yaml", reason="mkdocs.yml is YAML")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def paths(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for inner in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
            yield from paths(inner)

    listed, generated = set(paths(config["nav"])), set(hooks().pages())
    families = {p for p in generated if p.startswith("reference/ops/")}
    assert listed | families == {*PAGES, *generated}


def test_every_operator_has_its_entry() -> None:
    from graphopt.ir.table import TABLE

    pages, index = hooks().pages(), hooks().ops_index()
    own = [d for d in TABLE.values() if d.evaluate.__module__.startswith("graphopt.ir.ops.")]
    assert len(own) > 150
    for d in own:
        page = pages[f"reference/ops/{hooks().module_of(d).rpartition('.')[2]}.md"]
        entry = re.search(rf"^## {d.name}$(.*?)(?=^## |\Z)", page, re.S | re.M)
        assert entry is not None and f"[`{d.name}`]" in index, d.name
        for a in d.attrs:
            assert f"| `{a.name}` | `{a.kind}` |" in entry[1], f"{d.name} {a.name}"
        assert " ".join(d.signature.split()) in entry[1], d.name


def test_every_option_of_every_command_is_on_its_page() -> None:
    page = hooks().commands()
    for name, parser in hooks().parsers().items():
        assert f"## {name}" in page
        for action in parser._actions:
            for option in action.option_strings:
                assert f"`{option}" in page, f"{name} {option}"


def test_every_error_is_on_its_page() -> None:
    import graphopt

    page = hooks().rendered((DOCS / "errors.md").read_text())
    errors = [n for n in graphopt.__all__ if n.endswith("Error") or n == "UnsupportedOperators"]
    assert errors and all(f"`graphopt.{n}`" in page for n in errors)


def test_the_site_builds_and_asks_nothing_of_a_network(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="what builds the site is not installed (make docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(https?:[^\"' >]+)", page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"


def test_links_of_files_from_the_root_are_those_of_pages() -> None:
    pages = hooks().pages()
    for name in ("changelog.md", "contributing.md"):
        targets = re.findall(r"\]\(([^)\s]+)\)", pages[name])
        assert all(re.match(r"https?:|#", t) or t.partition("#")[0] in PAGES for t in targets), targets
