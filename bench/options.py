"""Arguments that several commands share; what is wrong with one ends the command with status 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.machine import RESULTS, cores


def counts(text: str) -> list[int]:
    """`1,8`: whole numbers from 1, without repetitions."""
    found = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise argparse.ArgumentTypeError(f"{part!r} is not a whole number from 1 on (as in 1,8)")
        found.append(int(part))
    return list(dict.fromkeys(found))


def count(text: str) -> int:
    return one(counts(text), text)


def one(values: Sequence[int], text: str) -> int:
    if len(values) != 1:
        raise argparse.ArgumentTypeError(f"one number, not {text!r}")
    return values[0]


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of `a,b` over known names."""
    def parse(text: str) -> list[str]:
        found = [part.strip() for part in text.split(",") if part.strip()]
        if wrong := [n for n in found if n not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(wrong)} (choose from {', '.join(known)})")
        if not found:
            raise argparse.ArgumentTypeError(f"no name given (choose from {', '.join(known)})")
        return list(dict.fromkeys(found))

    return parse


def words(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def dim(text: str) -> tuple[str, int]:
    """`NAME=N`."""
    name, equals, n = text.partition("=")
    if not name or not equals or not n.isdecimal() or int(n) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N with N from 1 on")
    return name, int(n)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def target(text: str) -> str:
    """A target, or `evaluator`."""
    from graphopt import GraphOptError
    from graphopt.targets import parse_target

    try:
        if text != "evaluator":
            parse_target(text)
    except GraphOptError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return text


def onnx_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def add_threads(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--threads", type=counts, default=default, metavar="N,…", help="threads of a call (default: %(default)s)")


def check_threads(parser: argparse.ArgumentParser, threads: Sequence[int]) -> None:
    """More threads than cores would measure the scheduler."""
    if max(threads) > cores():
        parser.error(f"argument --threads: {max(threads)} threads, but this process may use {cores()} cores")


def add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=words, metavar="NAME,…",
                        help="models at their real sizes, any other model of the zoo at its own (default: the ten of the issue)")
    parser.add_argument("--batch", type=counts, default="1", metavar="N,…", help="batch sizes of the models (default: 1)")


def check_models(parser: argparse.ArgumentParser, models: Sequence[str], batches: Sequence[int]) -> None:
    """Every name is known, and takes every batch size."""
    if not models:
        return
    try:
        from bench.models import has_batch, unknown
    except ImportError as e:
        parser.error(f"models need {e.name}: pip install 'graphopt[torch,bench]' and torchvision, or give --onnx FILE")
    if wrong := unknown(models):
        parser.error(f"argument --models: {wrong}")
    if fixed := [n for n in models if not has_batch(n)]:
        if batches != [1]:
            parser.error(f"argument --batch: {', '.join(fixed)} come with the zoo's own example; leave --batch at 1")


def add_roofline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--roofline", type=Path, default=RESULTS / "roofline.json", metavar="FILE",
                        help="what `python -m bench roofline` wrote (default: that of bench/results)")
