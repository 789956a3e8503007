"""The frame of every command: what goes wrong becomes a line on stderr and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable

from graphopt.cli.models import NothingFound, UsageError
from graphopt.errors import GraphOptError

CODES = "exit codes: 0 done, 1 the model or its compilation failed, 2 a wrong command line"  # of all commands


def run(prog: str, args: argparse.Namespace, body: Callable[[argparse.Namespace], int | None]) -> int:
    """The exit code of `body(args)`, which returns its own, or None for 0. `args.verbose` has it log what it does."""
    logging.basicConfig(format="%(name)s: %(message)s")
    if args.verbose:
        logging.getLogger("graphopt").setLevel(logging.DEBUG)
    try:
        return body(args) or 0
    except UsageError as e:
        return _said(prog, e, 2)
    except NothingFound as e:
        return _said(prog, e, 3)
    except BrokenPipeError:
        # The reader (head, less) has had enough; the interpreter would complain once more when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (GraphOptError, OSError) as e:
        return _said(prog, e, 1)
    except Exception as e:
        if args.verbose or not getattr(e, "__notes__", None):
            raise
        return _said(prog, f"{type(e).__name__}: {e}. {'. '.join(e.__notes__)}", 1)  # the notes name the folder of a failure
    except KeyboardInterrupt:
        return 130


def _said(prog: str, what: object, code: int) -> int:
    print(f"{prog}: {what}", file=sys.stderr)
    return code


__all__ = ["CODES", "run"]
