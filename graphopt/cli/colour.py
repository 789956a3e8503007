"""Text on a terminal: colours where they are wanted, and a pager for what is longer than the screen."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

RESET = "\x1b[0m"
BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = (f"\x1b[{code}m" for code in (1, 2, 31, 32, 33, 34, 35, 36))

_IR = re.compile(r"""(?P<loc>\#\ loc\(.*$)|(?P<value>%[A-Za-z0-9_.$/-]+)|(?P<constant>@[A-Za-z0-9_.$/-]+)
    |(?P<type>\b(?:f|bf|i|u|bool|str)[0-9a-z]*\[[^\]]*\](?:@[A-Z]+[+\d/]*)?)|(?P<string>"(?:\\.|[^"\\])*")
    |(?P<word>\b[a-z_][a-z0-9_]*\b(?=[ ]?\(|[ ]@|[ ]%|$))""", re.X)
_KEYWORDS = ("graph", "return", "const")


def wanted(setting: str, stream: object = None) -> bool:
    """Is output to be coloured, by --color (auto, always, never), NO_COLOR and what it goes to (default: stdout)?"""
    if setting != "auto":
        return setting == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return getattr(sys.stdout if stream is None else stream, "isatty", lambda: False)()


def paint(text: str, kind: str) -> str:
    """The text coloured as what it is: `ir`, `diff`, `table` (titles first), `said` (headings end in a colon); others stay."""
    painter = {"ir": _ir, "diff": _diff, "table": _table, "said": _said}.get(kind)
    return text if painter is None else painter(text)


def _lines(text: str, change: Callable[[str], str]) -> str:
    return "\n".join(change(line) if line else line for line in text.split("\n"))


def _ir(text: str) -> str:
    return _lines(text, lambda line: _IR.sub(_token, line))


def _token(match: re.Match[str]) -> str:
    kind, text = match.lastgroup, match.group()
    if kind == "word":
        return f"{BOLD if text in _KEYWORDS else _op(text)}{text}{RESET}"
    colour = {"loc": DIM, "type": DIM, "constant": MAGENTA, "string": GREEN}.get(kind or "")
    return f"{colour}{text}{RESET}" if colour else text


def _op(name: str) -> str:
    """By what an op does: contractions stand out, movement steps back."""
    from graphopt.ir import Trait
    from graphopt.ir.table import TABLE

    definition = TABLE.get(name)
    if definition is None:
        return ""
    colours = ((Trait.CONTRACTION, BOLD + YELLOW), (Trait.REDUCTION, BLUE), (Trait.MOVEMENT | Trait.VIEW, DIM),
               (Trait.ELEMENTWISE, GREEN), (Trait.CONTROL, MAGENTA))
    return next((colour for trait, colour in colours if definition.has(trait)), CYAN)


def _diff(text: str) -> str:
    def line(s: str) -> str:
        if s.startswith(("--- ", "+++ ")):
            return f"{BOLD}{s}{RESET}"
        colour = {"-": RED, "+": GREEN}.get(s[0]) or (CYAN if s.startswith("@@") else "")
        return f"{colour}{s}{RESET}" if colour else _IR.sub(lambda m: f"{DIM}{m.group()}{RESET}" if m.lastgroup in ("loc", "type")
                                                            else m.group(), s)

    return _lines(text, line)


def _table(text: str) -> str:
    """The first line of every paragraph is of titles where a line of numbers follows it."""
    lines = text.split("\n")
    for k, line in enumerate(lines[:-1]):
        first = k == 0 or not lines[k - 1]
        if first and line and not re.search(r"\d", line) and re.match(r"\s*\S*.*\d", lines[k + 1]):
            lines[k] = f"{BOLD}{line}{RESET}"
    return "\n".join(lines)


def _said(text: str) -> str:
    return _lines(text, lambda s: f"{BOLD}{s}{RESET}" if s.endswith(":") and not s.startswith(" ") else _IR.sub(_token, s))


def show(text: str, pager: bool = True) -> None:
    """To stdout; where that is a terminal that cannot hold the text, through $PAGER (default: less). A pager that is left
    early is no error."""
    lines = text.count("\n")
    command = os.environ.get("PAGER", "less") if pager and sys.stdout.isatty() else ""
    if command and lines >= shutil.get_terminal_size().lines and _exists(command):
        # as git: F leaves at once what fits the screen, R passes colours on, X leaves the text on the screen
        environment = {"LESS": "FRX", **os.environ}
        sys.stdout.flush()
        process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environment)
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            process.communicate(text.encode())
        process.wait()
        return
    sys.stdout.write(text)
    sys.stdout.flush()


def _exists(command: str) -> bool:
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return bool(words) and shutil.which(words[0]) is not None


__all__ = ["paint", "show", "wanted"]
