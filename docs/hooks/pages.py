"""Pages made from the code when the site is built, so that they cannot go stale: operators, commands, errors.

mkdocs calls the `on_*` functions; the others return Markdown and are tested without mkdocs.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
OPS = "reference/ops"


# For mkdocs ------------------------------------------------------------------------------------------------------
def on_config(config: Any) -> Any:
    """The section of operators gets a page for each file of the table."""
    from graphopt.ir.table import Trait  # noqa: F401  (says early that graphopt cannot be imported)

    families = [f"{OPS}/{m}.md" for m in op_modules()]
    for section in config.nav:
        for items in section.values():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and item.get("Operators") == f"{OPS}/index.md":
                    item["Operators"] = [f"{OPS}/index.md", *families]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    for name in ("compare", "roofline"):
        picture = (ROOT / "bench" / "results" / f"{name}.png").read_bytes()
        files.append(File.generated(config, f"pictures/{name}.png", content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the parts that come from the code, and show what blocks print as text."""
    return rendered(markdown)


def rendered(markdown: str) -> str:
    made = re.sub(r"<!-- generated: (\w+) -->", lambda m: PARTS[m[1]](), markdown)
    return made.replace("\n```output\n", "\n```text\n")


def pages() -> dict[str, str]:
    """Every generated page by its path."""
    made = {f"{OPS}/index.md": ops_index(), "reference/commands.md": commands(),
            "changelog.md": included("CHANGELOG.md"), "contributing.md": included("CONTRIBUTING.md")}
    for name in op_modules():
        made[f"{OPS}/{name}.md"] = ops_page(name)
    return made


def included(name: str) -> str:
    """A file of the repository's root as a page: links into docs/ stay links, those to other files become their text."""

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        if re.match(r"https?:|#", target):
            return found[0]
        return f"[{text}]({target.removeprefix('docs/')})" if target.startswith("docs/") else text

    return re.sub(r"\[([^]]+)\]\(([^)\s]+)\)", link, (ROOT / name).read_text())


# Operators -------------------------------------------------------------------------------------------------------
@cache
def op_modules() -> dict[str, ModuleType]:
    """Files of the op table that define operators, by short name."""
    from graphopt.ir.table import TABLE
    importlib.import_module("graphopt.ir.ops")
    defined = {module_of(d): None for d in TABLE.values()}
    package = "graphopt.ir.ops."
    return {n.removeprefix(package): importlib.import_module(n) for n in sorted(defined) if n.startswith(package)}


def module_of(definition: Any) -> str:
    return definition.evaluate.__module__


def ops_of(module: str) -> list[Any]:
    from graphopt.ir.table import TABLE

    return [d for d in TABLE.values() if module_of(d) == f"graphopt.ir.ops.{module}"]


def ops_index() -> str:
    """All operators, a line each, by file."""
    from graphopt.ir.table import TABLE

    lines = ["# Operators", "",
             f"The {len(TABLE)} operators of the IR, made from the table that the compiler itself reads "
             "(`graphopt/ir/ops`). An entry says everything that is known of an operator: signature, typed attributes, "
             "how result types follow, what it costs, its traits, and the reference semantics in numpy.", "",
             "In a signature operands come before `;`, attributes after. `name?` may be absent, `name*` takes any number. "
             "A type is a dtype, a variable (one dtype wherever it stands; what it may be is said), `seq`, `opt` or `any`.", ""]
    for name, module in op_modules().items():
        lines += [f"## {name}", "", f"{first_sentence(module.__doc__)}", "", "| operator | what it is |", "|---|---|"]
        lines += [f"| [`{d.name}`]({name}.md#{d.name}) | {cell(first_sentence(d.doc))} |" for d in ops_of(name)]
        lines.append("")
    return "\n".join([*lines, *traits(), ""])


def traits() -> Iterator[str]:
    """What the traits mean, from the comments beside them."""
    from graphopt.ir.table import Trait

    yield from ["## Traits", "", "Passes ask for traits, never for names.", "", "| trait | meaning |", "|---|---|"]
    said = dict(re.findall(r"^\s+([A-Z_]+) = enum\.auto\(\)  # (.*)$", inspect.getsource(Trait), re.M))
    for t in Trait:
        yield f"| `{t.name}` | {cell(said[str(t.name)])} |"


def ops_page(name: str) -> str:
    """The operators of one file."""
    module = op_modules()[name]
    lines = [f"# {name}", "", textwrap.dedent(module.__doc__ or "").strip(), ""]
    for d in ops_of(name):
        lines += [*op_entry(d), ""]
    return "\n".join(lines)


def op_entry(d: Any) -> Iterator[str]:
    from graphopt.ir.table import DECOMPOSITIONS, Trait

    rules = decorator_of(d)
    yield from [f"## {d.name}", "", "```text", re.sub(r"\s+", " ", d.signature), "```", "", prose(d.doc), ""]
    facts = []
    if d.constraints:
        facts.append(("types", "; ".join(f"`{v}` is {dtype_class(names)}" for v, names in d.constraints.items())))
    if d.traits is not Trait.NONE:
        facts.append(("traits", ", ".join(f"`{t.name}`" for t in Trait if t in d.traits)))
    facts += [("result types", inference(d, rules)), ("operations", operations(d, rules)), ("bytes", moved(d)),
              ("computed by", kernel(d))]
    if d.region_names:
        facts.insert(0, ("regions", ", ".join(f"`{r}`" for r in d.region_names)))
    yield from ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts), ""]
    if d.attrs:
        yield from ["| attribute | kind | default |", "|---|---|---|"]
        for a in d.attrs:
            yield f"| `{a.name}` | `{a.kind}` | {'required' if a.default is ... else code(show(a.default))} |"
        yield ""
    named = {kind: rules.get(kind, "").isidentifier() for kind in ("shape", "types", "operations")}
    for title, f in (("Reference semantics", d.evaluate), ("Decomposition", DECOMPOSITIONS.get(d.name)),
                     ("Shape rule", d.shape if named["shape"] else None), ("Type rule", d.types if named["types"] else None),
                     ("Operations", d.operations if named["operations"] else None)):
        source = source_of(f) if f is not None else None
        if source:
            yield from [f'??? note "{title}"', "", *(f"    {line}".rstrip() for line in
                                                     ["```python", *source.splitlines(), "```"]), ""]


def decorator_of(d: Any) -> dict[str, str]:
    """The keywords of an entry's `@op(...)` as source text; empty where the entry is made in a loop."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(d.evaluate)))
    except (OSError, SyntaxError):
        return {}
    node = tree.body[0]
    calls = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return {k.arg: ast.unparse(k.value) for c in calls if isinstance(c, ast.Call) for k in c.keywords if k.arg}


def source_of(f: Callable[..., Any]) -> str | None:
    """A function's text without decorators and docstring; None for one that is made in a loop."""
    if getattr(f, "__name__", "") in ("<lambda>", "run"):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(f)))
    except (OSError, SyntaxError, TypeError):
        return None
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef):
        return None
    lines = textwrap.dedent(inspect.getsource(f)).splitlines()
    start = node.lineno - 1  # of `def`, past the decorators
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return None
    return "\n".join([*lines[start:node.body[0].lineno - 1], *lines[body[0].lineno - 1:]])


def inference(d: Any, rules: dict[str, str]) -> str:
    rule, text = d.shape or d.types, rules.get("shape" if d.shape else "types", "")
    doc = (rule.__doc__ or "").strip()
    if doc.startswith("Shape rule: "):
        doc = doc.removeprefix("Shape rule: ")
        found = f"{doc[0].lower()}{doc[1:]}"
    elif text.startswith("lambda o: "):
        found = code(text.removeprefix("lambda o: "))
    elif text.isidentifier():
        found = "by the rule below"
    else:
        found = code(text) if text else "by a rule of its family"
    return f"dtypes as in the signature, the shape {found}" if d.shape is not None else found


def operations(d: Any, rules: dict[str, str]) -> str:
    from graphopt.ir.table import Trait

    if d.operations is not None:
        text = re.sub(r"^lambda o(, \w+)?: ", "", rules.get("operations", ""))
        return "by the rule below" if text.isidentifier() else code(text) if text else "by a rule of its family"
    if d.has(Trait.MOVEMENT | Trait.VIEW):
        return "none"
    return "one for each element of the first operand" if d.has(Trait.REDUCTION) else "one for each element of the results"


def moved(d: Any) -> str:
    from graphopt.ir.table import Trait

    return "none: the result lies where the operand lies" if d.has(Trait.VIEW) else "operands and results, once"


def kernel(d: Any) -> str:
    """How the op becomes code."""
    import graphopt.codegen.lower  # noqa: F401  (fills the lowering tables)
    from graphopt.codegen.lower.registry import COMPUTE, LOOPS
    from graphopt.codegen.x86.templates import TEMPLATED
    from graphopt.ir.table import Trait

    if d.name in COMPUTE and d.has(Trait.CONTRACTION):
        return "kernels: on x86 a template, elsewhere a sum for each element"
    if d.name in COMPUTE:
        return "kernels: an expression for each element, fused with what is around it"
    if d.name in LOOPS:
        return "kernels: a loop nest of its own"
    if d.name in TEMPLATED:
        return "kernels: on x86 a template; elsewhere its decomposition"
    if d.name in ("const", "fused", "join", "return", "relayout"):
        return "the compiler itself"
    if d.has(Trait.COMPOSITE):
        return "its decomposition"
    if d.has(Trait.CONTROL):
        return "steps of the program around the kernels of its bodies where shapes are fixed (x86); else a host op"
    return "the reference evaluator, as a host op (x86 only)"


def dtype_class(names: frozenset[str]) -> str:
    from graphopt.ir.table import CLASSES
    from graphopt.ir.types import DTYPES

    for name, members in CLASSES.items():
        if members == names:
            return "any dtype" if name == "any" else f"`{name}`"
    return ", ".join(f"`{n}`" for n in DTYPES if n in names)


# Commands --------------------------------------------------------------------------------------------------------
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command that the project declares."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    return {name: importlib.import_module(target.partition(":")[0]).build_parser() for name, target in sorted(scripts.items())}


def commands() -> str:
    """Every command with all its options."""
    lines = ["# Commands", "", "Made from the commands' own `--help`.", ""]
    for name, parser in parsers().items():
        formatter = parser._get_formatter()
        formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
        usage = re.sub(r"\x1b\[[0-9;]*m", "", formatter.format_help()).strip()
        lines += [f"## {name}", "", (parser.description or "").strip(), "", "```text", usage, "```", ""]
        for group in parser._action_groups:
            shown = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
            if not shown:
                continue
            title = (group.title or "options").split("(")[0].strip()
            lines += [f"### {title} {{ #{anchor(name, title)} }}", ""]
            if group.description:
                lines += [group.description, ""]
            for a in shown:
                lines += [f"{option(a)}", f":   {sentence(a, parser)}", ""]
        if parser.epilog:
            epilog = parser.epilog % {"prog": parser.prog} if "%(prog)" in parser.epilog else parser.epilog
            lines += ["```text", epilog.strip(), "```", ""]
    return "\n".join(lines)


def anchor(name: str, title: str) -> str:
    return re.sub(r"\W+", "-", f"{name} {title}".lower()).strip("-")


def option(a: argparse.Action) -> str:
    value = a.metavar if isinstance(a.metavar, str) else "{" + ",".join(map(str, a.choices)) + "}" if a.choices else \
        a.dest.upper() if a.nargs != 0 else ""
    if not a.option_strings:
        return f"`{value or a.dest}`"
    many = f"[{value}]" if a.nargs == "?" else f"{value} ..." if a.nargs in ("+", "*") else value
    return ", ".join(f"`{o}{f' {many}' if value and a.nargs != 0 else ''}`" for o in a.option_strings)


def sentence(a: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (a.help or "") % {**vars(a), "prog": parser.prog} if a.help else ""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[") or "—"


# Parts of pages --------------------------------------------------------------------------------------------------
def errors() -> str:
    """The tree of errors, as a table."""
    from graphopt import errors as module

    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, module.GraphOptError)]
    lines = ["## The tree", "", "| error | when | also a |", "|---|---|---|"]
    for c in classes:
        bases = ", ".join(f"`{b.__name__}`" for b in c.__bases__ if b not in (module.GraphOptError, Exception))
        lines.append(f"| `graphopt.{c.__name__}` | {cell(first_sentence(c.__doc__))} | {bases} |")
    return "\n".join(lines)


def bench() -> str:
    """The last committed results, with the machine that they are of."""
    text = (ROOT / "bench" / "results" / "compare.md").read_text()
    title, _, rest = text.partition("\n")
    picture = "![Ratios to the peers, by model](pictures/compare.png)"
    return f"## Last results: {title.removeprefix('# ')}\n\n{picture}\n\n{machine(rest)}"


def machine(text: str) -> str:
    """The lines about the machine as a list; what follows as it is."""
    about, fence, rest = text.partition("```")
    return "\n".join(f"- {line}" for line in about.strip().splitlines()) + f"\n\n{fence}{'text' if fence else ''}\n{rest.strip()}"


def contrib() -> str:
    """onnxruntime's operators that are known, with their attributes."""
    from graphopt.capture.onnx import contrib  # noqa: F401  (fills the list)
    from graphopt.capture.onnx.contrib.common import KNOWN

    lines = ["## The operators", "", "| operator | attributes | |", "|---|---|---|"]
    for (domain, name), form in sorted(KNOWN.items(), key=lambda item: item[0][1]):
        attributes = ", ".join(f"`{a}`" for a in form.attrs)
        said = first_sentence(form.doc)
        lines.append(f"| `{name}`{'' if domain else ' (of ONNX)'} | {attributes} | {cell(said)} |")
    return "\n".join(lines)


PARTS = {"errors": errors, "bench": bench, "contrib": contrib}


# Text ------------------------------------------------------------------------------------------------------------
def first_sentence(text: str | None) -> str:
    """Up to the first full stop that ends a sentence, on one line."""
    joined = re.sub(r"\s+", " ", text or "").strip()
    found = re.match(r"(.*?[.])(?:\s+[A-Z`]|$)", joined)
    return found[1] if found else joined


def prose(text: str) -> str:
    """A docstring as Markdown: what looks like emphasis or tags is meant as it stands, but in code."""
    return "`".join(part if k % 2 else re.sub(r"([*<\[])", r"\\\1", part) for k, part in enumerate(text.split("`")))


def cell(text: str) -> str:
    """Text that stands in a table's cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`" if "`" not in text else text


def show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return f'"{value}"' if isinstance(value, str) else str(list(value)) if isinstance(value, tuple) else str(value)
