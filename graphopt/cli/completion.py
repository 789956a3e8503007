"""Completion in bash, zsh and fish, made from a command's own parser, so that it knows every option that there is.

    eval "$(graphopt-dump --completion bash)"           in ~/.bashrc, or the like for zsh
    graphopt-dump --completion fish | source

What an argument is, its metavar says: FILE and MODEL are files, DIR and OUT folders, PASS a pass (asked of the command when it is
needed); choices are completed as words.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

SHELLS = ("bash", "zsh", "fish")
PASSES = "passes"  # what --completion also takes, for the scripts
MODELS = ("onnx", "pt2", "gir", "ir")  # endings of files that are models


def add_completion(parser: argparse.ArgumentParser) -> None:
    """The option --completion SHELL, which prints a script and leaves."""
    parser.add_argument("--completion", choices=_Shells(SHELLS), action=_Print, metavar="SHELL",
                        help=f"print a script that completes this command in {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, and leave")


class _Shells(tuple[str, ...]):
    """The shells; the scripts themselves also ask for `passes`, which errors need not offer."""

    def __contains__(self, word: object) -> bool:
        return word == PASSES or super().__contains__(word)


class _Print(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        sys.stdout.write("".join(f"{name}\n" for name in _passes()) if values == PASSES else script(parser, values))
        parser.exit()


def _passes() -> list[str]:
    from graphopt.rewrite import default_passes

    return ["capture", *dict.fromkeys(p.name for p in default_passes())]


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser)


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (a for a in parser._actions if a.option_strings and a.help != argparse.SUPPRESS)


def _kind(action: argparse.Action) -> str:
    """What an action takes: `none`, `words`, `model`, `file`, `folder`, `pass`, or `text` for what cannot be known."""
    if action.nargs == 0:
        return "none"
    if action.choices is not None:
        return "words"
    metavar = action.metavar if isinstance(action.metavar, str) else (action.dest or "").upper()
    word = re.split(r"[^A-Z]", metavar)[0]
    return {"MODEL": "model", "FILE": "file", "DIR": "folder", "OUT": "folder", "PASS": "pass"}.get(word, "text")


def _words(action: argparse.Action) -> list[str]:
    return [str(c) for c in action.choices or ()]


def _positional(parser: argparse.ArgumentParser) -> str:
    return next((_kind(a) for a in parser._actions if not a.option_strings), "none")


def _help(action: argparse.Action) -> str:
    return " ".join((action.help or "").replace("%%", "%").split())


# bash ---------------------------------------------------------------------------------------
def _bash(parser: argparse.ArgumentParser) -> str:
    function = f"_{re.sub(r'[^a-zA-Z0-9]', '_', parser.prog)}"
    cases = []
    for action in _options(parser):
        answer = _bash_answer(_kind(action), _words(action), parser.prog)
        if answer:
            cases.append(f"    {'|'.join(action.option_strings)}) {answer}; return ;;")
    every = shlex.quote(" ".join(o for a in _options(parser) for o in a.option_strings))
    return "\n".join([
        f"# completion of {parser.prog} in bash", f"{function}() {{", "  local IFS=$' \\t\\n' cur prev",
        '  cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}', "  compopt +o nospace 2> /dev/null",
        '  [[ $cur == = ]] && cur=  # --option=value stands there as three words',
        '  [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD-2]}', "  case $prev in", *cases, "  esac",
        f'  if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W {every} -- "$cur")); return; fi',
        f"  {_bash_answer(_positional(parser), [], parser.prog) or ':'}", "}",
        f"complete -F {function} {parser.prog}", ""])


def _bash_answer(kind: str, words: Sequence[str], prog: str) -> str:
    if kind == "words":
        return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(words))} -- "$cur"))'
    if kind == "pass":
        return f'COMPREPLY=($(compgen -W "$({prog} --completion {PASSES} 2> /dev/null)" -- "$cur"))'
    if kind == "model":
        endings = "|".join(MODELS)
        return ("compopt -o filenames 2> /dev/null; local IFS=$'\\n'; shopt -q extglob || { shopt -s extglob; local off=1; }; "
                f"COMPREPLY=($(compgen -d -- \"$cur\"; compgen -f -X '!*.@({endings})' -- \"$cur\")); "
                "[[ -z $off ]] || shopt -u extglob")
    if kind in ("file", "folder"):
        return f"compopt -o filenames 2> /dev/null; local IFS=$'\\n'; COMPREPLY=($(compgen -{'f' if kind == 'file' else 'd'} " \
               '-- "$cur"))'
    return "COMPREPLY=()" if kind == "text" else ""


# zsh ----------------------------------------------------------------------------------------
def _zsh(parser: argparse.ArgumentParser) -> str:
    function = f"_{re.sub(r'[^a-zA-Z0-9]', '_', parser.prog)}"
    lines = []
    for action in _options(parser):
        said = re.sub(r"([\[\]:\\'])", r"\\\1", _help(action)).replace("'", "''").replace("\\''", "'\\''")
        value = _zsh_answer(_kind(action), _words(action), parser.prog)
        repeated = "*" if isinstance(action, argparse._AppendAction) else ""
        # with a value, a long option also takes it behind "="
        names = [f"{o}=" if value and o.startswith("--") else o for o in action.option_strings]
        if len(names) == 1:
            lines.append(f"    '{repeated}{names[0]}[{said}]{value}'")
        else:
            head = f"'({' '.join(action.option_strings)})'" if not repeated else "'*'"
            lines.append(f"    {head}{{{','.join(names)}}}'[{said}]{value}'")
    positional = _zsh_answer(_positional(parser), [], parser.prog)
    if positional:
        lines.append(f"    '1{positional}'")
    return "\n".join([f"#compdef {parser.prog}", f"{function}() {{", "  _arguments -s -S \\",
                      " \\\n".join(lines), "}",
                      "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }",
                      f"compdef {function} {parser.prog}", ""])


def _zsh_answer(kind: str, words: Sequence[str], prog: str) -> str:
    if kind == "words":
        return f":value:({' '.join(words)})"
    if kind == "pass":
        return f':pass:($({prog} --completion {PASSES} 2> /dev/null))'
    if kind == "model":
        return f':model:_files -g "*.({"|".join(MODELS)})"'
    return {"file": ":file:_files", "folder": ":folder:_files -/", "text": ":value: "}.get(kind, "")


# fish ---------------------------------------------------------------------------------------
def _fish(parser: argparse.ArgumentParser) -> str:
    lines = [f"# completion of {parser.prog} in fish", f"complete -c {parser.prog} -f"]
    if _positional(parser) == "model":
        for ending in MODELS:  # of some versions of fish, __fish_complete_suffix only puts such files first; folders end in /
            wanted = rf"string match -er \'(?:/|\\.{ending})(?:\\t.*)?$\'"
            lines.append(f"complete -c {parser.prog} -a '(__fish_complete_suffix .{ending} | {wanted})'")
    elif _positional(parser) in ("file", "folder"):
        lines.append(f"complete -c {parser.prog} -F")
    for action in _options(parser):
        names = [f"-l {o[2:]}" if o.startswith("--") else f"-s {o[1:]}" for o in action.option_strings]
        said = _help(action).replace("\\", "\\\\").replace("'", "\\'")
        bare = r"\t"  # behind a value's tab stands what it means; where nothing does, fish would say what the option does
        values = {"words": " ".join(word + bare for word in _words(action)), "folder": "(__fish_complete_directories)",
                  "pass": f"({parser.prog} --completion {PASSES}){bare}"}
        kind = _kind(action)
        answer = f" -x -a '{values[kind]}'" if kind in values else {"none": "", "text": " -x"}.get(kind, " -r -F")
        lines.append(f"complete -c {parser.prog} {' '.join(names)}{answer} -d '{said}'")
    return "\n".join([*lines, ""])


__all__ = ["SHELLS", "add_completion", "script"]
