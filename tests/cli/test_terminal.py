"""Colours, the pager and completion, with real shells and terminals."""

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graphopt.cli.colour import paint, wanted
from graphopt.cli.dump import main
from graphopt.cli.options import build_parser

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "demo" / "digits.onnx")
CODES = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(command, rows=1000, **environment):
    """What a command writes to a terminal of so many lines, and its exit code."""
    here, there = pty.openpty()
    subprocess.run(["stty", "rows", str(rows), "cols", "100"], stdin=there, check=True)
    given = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PAGER", "LESS", "LINES", "COLUMNS")}
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=subprocess.PIPE, cwd=ROOT,
                               env={**given, "TERM": "xterm", **environment})
    os.close(there)
    out = b""
    while True:
        try:
            piece = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        out += piece
    return process.wait(), out.decode().replace("\r\n", "\n")


DUMP = [sys.executable, "-m", "graphopt.cli.dump", DIGITS, "--after", "capture"]


def test_a_graph_is_coloured_on_a_terminal_and_nowhere_else(capsys):
    assert main([DIGITS, "--after", "capture"]) == 0
    plain = capsys.readouterr().out
    assert "\x1b" not in plain
    code, coloured = on_a_terminal(DUMP)
    assert code == 0 and "\x1b[" in coloured and CODES.sub("", coloured) == plain
    assert "\x1b[" not in on_a_terminal(DUMP, NO_COLOR="1")[1]
    assert "\x1b[" not in on_a_terminal([*DUMP, "--color", "never"])[1]
    assert main([DIGITS, "--after", "capture", "--color", "always"]) == 0
    assert capsys.readouterr().out == coloured


def test_a_file_is_never_coloured(tmp_path):
    assert main([DIGITS, "--after", "capture", "--color", "always", "-o", str(tmp_path / "out.ir")]) == 0
    assert "\x1b" not in (tmp_path / "out.ir").read_text()


def test_diffs_are_red_and_green(capsys):
    assert main([DIGITS, "--diff", "capture..fuse", "--color", "always"]) == 0
    for line in capsys.readouterr().out.splitlines():
        bare = CODES.sub("", line)
        if bare.startswith(("+", "-")) and not bare.startswith(("+++", "---")):
            assert line.startswith("\x1b[32m" if bare[0] == "+" else "\x1b[31m") and line.endswith("\x1b[0m")


@pytest.mark.parametrize("kind", ["ir", "diff", "table", "said", "asm"])
def test_colours_change_no_text(kind):
    text = 'graph @g(%a: f32[2, N]@NHWC+1) -> f32[] {\n  %b = conv(%a) {m="x(y", k=[1]} : f32[]  # loc("a(b", "c")\n}\n\n  x:\n'
    assert CODES.sub("", paint(text, kind)) == text


def test_the_setting_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert wanted("always") and not wanted("auto") and not wanted("never")


def test_what_is_longer_than_the_screen_is_paged():
    code, out = on_a_terminal(DUMP, rows=10, PAGER="head -n 2; echo PAGED")
    assert code == 0 and "PAGED" in out and len(out.splitlines()) == 3
    for options, pager in (([], "no-such-pager"), ([], ""), (["--no-pager"], "echo PAGED")):
        code, out = on_a_terminal([*DUMP, *options], rows=10, PAGER=pager)
        assert code == 0 and "PAGED" not in out and "return" in out
    assert "PAGED" not in on_a_terminal(DUMP, rows=1000, PAGER="echo PAGED")[1]


# Completion -------------------------------------------------------------------------------------
@pytest.fixture
def shell(tmp_path):
    """Runs a shell in a folder with models and other files, where both commands are found."""
    (tmp_path / "bin").mkdir()
    for name in ("dump", "build"):
        command = tmp_path / "bin" / f"graphopt-{name}"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m graphopt.cli.{name} "$@"\n')
        command.chmod(0o755)
    (tmp_path / "work" / "nets").mkdir(parents=True)
    for name in ("a.onnx", "my net.gir", "notes.txt", "nets/b.pt2", "nets/notes.txt"):
        (tmp_path / "work" / name).touch()

    def run(*command, **options):
        known = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "xterm"}
        return subprocess.run(command, cwd=tmp_path / "work", env={**known, **options.pop("env", {})}, text=True, **options)

    return run


@pytest.fixture
def complete(shell):
    """Completions that a real bash gives for a command line whose last word is being written."""
    def run(*words, command="graphopt-dump"):
        script = 'eval "$($1 --completion bash)"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "_${1/-/_}"; ' \
                 'complete -p $1 > /dev/null && printf "%s\\n" "${COMPREPLY[@]}"'
        done = shell("bash", "--norc", "-c", script, "bash", command, *words, capture_output=True)
        assert done.returncode == 0 and done.stderr == ""
        return {line for line in done.stdout.splitlines() if line}

    return run


@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
def test_bash_completes_options_choices_files_and_passes(complete):
    assert complete("--em") == {"--emit"}
    assert {"ir", "tir", "asm"} <= complete("--emit", "") and complete("a.onnx", "--emit", "as") == {"asm"}
    assert complete("--emit", "=", "j") == {"json"}
    assert complete("") == {"a.onnx", "my net.gir", "nets"}
    assert complete("a.onnx", "--inputs", "n") == {"nets", "notes.txt"}
    assert {"fold", "fold_norm"} <= complete("a.onnx", "--after", "fo") and complete("--diff", "cap") == {"capture"}
    assert complete("a.onnx", "--shape", "") == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
def test_bash_completes_the_other_command_too(complete):
    assert complete("--tun", command="graphopt-build") == {"--tune", "--tuning"}
    assert complete("", command="graphopt-build") == {"a.onnx", "my net.gir", "nets"}
    assert complete("a.onnx", "-o", "", command="graphopt-build") == {"nets"}
    assert complete("a.onnx", "--tune", "f", command="graphopt-build") == {"fast", "full"}


# A zsh that writes down what it adds to completions, then the line as it stands, and leaves.
ZSHRC = r"""
PS1='READY> '
autoload -Uz compinit && compinit -u -D
for name in dump build; do eval "$(graphopt-$name --completion zsh)"; done
compadd() {
  local -a found
  if (( ! ${@[(I)-[OAD]]} )); then  # those ask for a list and add nothing
    builtin compadd -O found "$@"
    (( $#found )) && print -rl -- ${(Q)found} >> $SEEN
  fi
  builtin compadd "$@"
}
leave() { print -r -- "LINE $BUFFER" >> $SEEN; exit }
zle -N leave
bindkey '^T' leave
"""


@pytest.fixture
def complete_zsh(shell, tmp_path):
    """Completions that a real zsh gives where tab is pressed at the end of a line, and what becomes of the line."""
    def run(line):
        (tmp_path / ".zshrc").write_text(ZSHRC)
        (tmp_path / "seen").write_text("")
        here, there = pty.openpty()
        reader = os.fdopen(os.dup(here), "rb", buffering=0)

        def type_it():
            shown = b""
            while b"READY> " not in shown:
                shown += reader.read(65536)
            os.write(here, line.encode() + b"\t\x14")
            with contextlib.suppress(OSError):  # the terminal is gone with the shell
                while reader.read(65536):
                    pass

        typing = threading.Thread(target=type_it, daemon=True)
        typing.start()
        shell("zsh", "-d", "-i", stdin=there, stdout=there, stderr=there, start_new_session=True, timeout=120,
              env={"ZDOTDIR": str(tmp_path), "SEEN": str(tmp_path / "seen")})
        os.close(there)
        typing.join()
        reader.close()
        os.close(here)
        *found, last = (tmp_path / "seen").read_text().splitlines()
        assert last.startswith("LINE ")
        return set(found), last.removeprefix("LINE ")

    return run


@pytest.mark.skipif(shutil.which("zsh") is None, reason="completes in zsh")
def test_zsh_completes_options_choices_files_and_passes(complete_zsh):
    assert complete_zsh("graphopt-dump --emi") == ({"--emit"}, "graphopt-dump --emit=")  # a space takes the place of =
    assert complete_zsh("graphopt-dump a.onnx --emit ")[0] == {"ir", "tir", "asm", "cuda", "hls", "dot", "json", "html"}
    assert complete_zsh("graphopt-dump --emit=as") == ({"asm"}, "graphopt-dump --emit=asm ")
    assert complete_zsh("graphopt-dump ")[0] == {"a.onnx", "my net.gir", "nets"}
    assert complete_zsh("graphopt-dump my")[1] == r"graphopt-dump my\ net.gir "
    assert complete_zsh("graphopt-dump a.onnx --inputs n")[0] == {"nets", "notes.txt"}
    assert complete_zsh("graphopt-dump a.onnx --after fol")[0] == {"fold", "fold_norm"}
    assert complete_zsh("graphopt-dump a.onnx --repro ")[1] == "graphopt-dump a.onnx --repro nets/"
    assert complete_zsh("graphopt-build a.onnx --tune fu")[1] == "graphopt-build a.onnx --tune full "
    assert complete_zsh("graphopt-build a.onnx --threads ") == (set(), "graphopt-build a.onnx --threads ")


@pytest.mark.skipif(shutil.which("fish") is None, reason="completes in fish")
def test_fish_completes_options_choices_files_and_passes(shell):
    def complete(line):
        script = "graphopt-dump --completion fish | source; graphopt-build --completion fish | source; complete -C $argv[1]"
        done = shell("fish", "--no-config", "-c", script, line, capture_output=True)
        assert done.returncode == 0 and done.stderr == ""
        return {said for said, *_ in (found.split("\t") for found in done.stdout.splitlines())}

    assert complete("graphopt-dump --emi") == {"--emit"}
    assert complete("graphopt-dump a.onnx --emit ") == {"ir", "tir", "asm", "cuda", "hls", "dot", "json", "html"}
    assert complete("graphopt-dump --emit=as") == {"--emit=asm"}
    assert complete("graphopt-dump ") == {"a.onnx", "my net.gir", "nets/"}
    assert complete("graphopt-dump nets/") == {"nets/b.pt2"}
    assert complete("graphopt-dump a.onnx --inputs n") >= {"nets/", "notes.txt"}
    assert complete("graphopt-dump a.onnx --after fol") == {"fold", "fold_norm"}
    assert complete("graphopt-dump a.onnx --repro ") == {"nets/"}
    assert complete("graphopt-build a.onnx --tune ") == {"fast", "full"}
    assert complete("graphopt-build a.onnx --threads ") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_is_in_the_script_of_every_shell(shell, capsys):
    with pytest.raises(SystemExit) as e:
        main(["--completion", shell])
    assert e.value.code == 0
    text = capsys.readouterr().out
    for action in build_parser()._actions:
        for option in action.option_strings:
            said = option if shell != "fish" else f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            assert said in text, option


def test_another_shell_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as e:
        main(["--completion", "tcsh"])
    assert e.value.code == 2 and "'tcsh' (choose from 'bash', 'zsh', 'fish')" in capsys.readouterr().err
    with pytest.raises(SystemExit) as e:  # what the scripts themselves ask for
        main(["--completion", "passes"])
    assert e.value.code == 0 and "\nfuse\n" in capsys.readouterr().out


@pytest.mark.parametrize("shell, check", [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"])])
def test_scripts_are_read_by_their_shells(shell, check, tmp_path, capsys):
    if shutil.which(check[0]) is None:
        pytest.skip(f"there is no {shell} here")
    with pytest.raises(SystemExit):
        main(["--completion", shell])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    subprocess.run([*check, str(tmp_path / "script")], check=True)


@pytest.mark.parametrize("command", ["dump", "build"])
def test_a_script_costs_no_heavy_import(command):
    code = f"import sys\nfrom graphopt.cli.{command} import main\n" \
           "try: main(['--completion', 'bash'])\nexcept SystemExit: pass\n" \
           "print([m for m in ('numpy', 'networkx', 'onnx', 'torch', 'tvm') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "[]"
