"""The command line: what is wrong is said, with status 2, before anything is measured."""

import argparse
import importlib.util

import pytest

from bench import options
from bench.__main__ import COMMANDS, main

torch = pytest.importorskip("torch", reason="the bench's models are PyTorch modules")


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and f"python -m bench {name}" in capsys.readouterr().out


@pytest.mark.parametrize("given, said", [
    ([], "give a command"),
    (["campare"], "no command 'campare'"),
])
def test_unknown_commands(given, said, capsys):
    assert main(given) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("given, said", [
    ("compare --models resnet5", "did you mean"),
    ("compare --peers tensorrt", "unknown: tensorrt"),
    ("compare --peers ,", "no name given"),
    ("compare --precision fp31", "invalid choice: 'fp31'"),
    ("compare --batch 0", "'0' is not a whole number"),
    ("compare --batch 1;8", "is not a whole number"),
    ("compare --threads 4096", "4096 threads, but this process may use"),
    ("compare --rounds 1,2", "one number"),
    ("compare --seconds 0", "not a number of seconds"),
    ("compare --onnx no.onnx", "there is no file no.onnx"),
    ("compare --dim N=2", "is for the free dims of --onnx"),
    ("compare --models lstm --batch 8", "come with the zoo's own example"),
    ("compare --resume", "needs --json"),
    ("compare --jsn x", "unrecognized arguments: --jsn"),
    ("compare --onnx demo/digits.onnx --dim btch=2", "no input has a free dim btch; there are: batch"),
    ("compare --onnx README.md", "README.md is no ONNX file"),
    ("startup --models nothing", "unknown model nothing"),
    ("startup --dim N=2", "is for the free dims of --onnx"),
    ("startup --threads 4096", "4096 threads, but this process may use"),
    ("kernels --models nothing", "unknown model nothing"),
    ("kernels --models mlp --roofline none.json", "run python -m bench roofline"),
    ("roofline --threads x", "'x' is not a whole number"),
    ("coverage --models nothing", "unknown models nothing"),
    ("coverage --target x87", "unknown target 'x87'"),
    ("onnx_suite --jobs 0", "'0' is not a whole number"),
    ("onnx_suite --target x87", "unknown target 'x87'"),
    ("ir_scale --ops -3", "'-3' is not a whole number"),
])
def test_wrong_arguments_end_with_status_2(given, said, capsys, monkeypatch):
    monkeypatch.chdir(options.RESULTS.parents[1])
    with pytest.raises(SystemExit) as end:
        main(given.split(" "))
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_missing_peers_are_named_with_what_to_install(monkeypatch):
    from bench.sides import PEERS, missing

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for peer in PEERS:
        assert "pip install" in missing(peer)


def test_inductor_wants_a_compiler(monkeypatch):
    from bench import sides

    monkeypatch.setattr(sides.shutil, "which", lambda name: None)
    assert "g++" in sides.missing("inductor")


def test_lists_have_no_repetitions():
    assert options.counts("8,1,8") == [8, 1]
    assert options.names(["a", "b"])("b, a,b") == ["b", "a"]
    assert options.dim("batch=4") == ("batch", 4)
    for text in ("batch", "=4", "batch=", "batch=0", "batch=x"):
        with pytest.raises(argparse.ArgumentTypeError):
            options.dim(text)


def test_the_ten_are_known_and_have_batches():
    from bench.models import TEN, has_batch, known, unknown

    assert len(TEN) == 10 and set(TEN) <= set(known()) and all(map(has_batch, TEN)) and not unknown(TEN)
