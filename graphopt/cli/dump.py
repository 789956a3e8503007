"""graphopt-dump: what the compiler makes of a model, at every step."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli.models import FORMS, UsageError, parse_shape, parse_value
from graphopt.errors import GraphOptError, InputError, RewriteError, TargetError
from graphopt.records import MODES

if TYPE_CHECKING:  # everything heavy is imported once the command line has been understood
    from graphopt.ir import Graph
    from graphopt.rewrite import Pass

EMIT = ("ir", "tir", "asm", "cuda", "hls", "dot", "json")
CODE = {"tir": "x86", "asm": "x86", "cuda": "cuda", "hls": "fpga"}  # what programs for that target have; the rest show graphs
SORTS = ("time", "order")  # of the kernels of a profile
CAPTURE = "capture"  # the name under which --after shows the graph before any pass

EXAMPLES = """examples:
  graphopt-dump net.onnx                              the graph after every pass for this machine's x86
  graphopt-dump net.onnx --after capture              as it came in
  graphopt-dump net.onnx --passes                     which passes ran, how long, what they changed
  graphopt-dump net.onnx --diff fold | less           what one pass did
  graphopt-dump net.onnx --why conv1_output           where a value comes from and what was decided about it
  graphopt-dump net.onnx --stats --shape images=1x3x224x224
  graphopt-dump net.onnx --profile                    the time of every kernel, and how near it is to the machine's peaks
  graphopt-dump net.onnx --tune fast                  measure what suits this machine's kernels, for all later programs
  graphopt-dump net.onnx --emit asm -o net.s          also tir; cuda and hls with their --target
  graphopt-dump net.onnx --emit dot | dot -Tsvg -o net.svg
  graphopt-dump net.onnx --validate --inputs in.npz   evaluate around every pass and compare
  graphopt-dump mypackage.nets:small --after capture -o small.gir
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphopt-dump", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show what the compiler makes of a model: its graph after any pass, its code, its numbers, its reasons.",
        epilog=f"{FORMS}\n\n{EXAMPLES}\nexit codes: 0 done, 1 the model or its compilation failed, 2 a wrong command line")
    parser.add_argument("model", metavar="MODEL", help="an .onnx, .pt2, .gir or .ir file, or module:function (see below)")
    parser.add_argument("--target", default="x86", metavar="TARGET",
                        help="what to compile for: x86 (this machine), cuda:sm_90, fpga:xc7z020, ... (default: x86)")
    parser.add_argument("--threads", type=int, metavar="N", help="how many a call may use (default: this process's cores)")
    parser.add_argument("--no-winograd", action="store_true",
                        help="no convolutions by Winograd's algorithm: they round otherwise and spread NaN and infinities")
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=DxDx...",
                        help="fix the shape of an input with free dims; may be given several times")
    parser.add_argument("--value", action="append", default=[], metavar="INPUT=N,...",
                        help="bind an input whose value shapes the program (axes, sizes, a sampling rate)")
    parser.add_argument("--inputs", metavar="FILE.npz",
                        help="arrays by input name, for --profile and --validate (default: random ones)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of to stdout; a .gir file saves the graph")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the passes and the code generator do")
    parser.add_argument("--tune", choices=MODES, help="measure candidates for the parameters of kernels on this machine, and "
                                                      "record what wins; shows them where nothing else is asked for")
    shown = parser.add_argument_group("what to show (several may be given; the graph where none is)")
    shown.add_argument("--emit", choices=EMIT, help="a form of the program: the graph as ir, json or dot, or generated code")
    shown.add_argument("--after", metavar="PASS", help=f"stop after this pass (PASS:2: its second run), or after the {CAPTURE}")
    shown.add_argument("--diff", metavar="PASS", help="what this pass changed, as a unified diff")
    shown.add_argument("--passes", action="store_true", help="the passes in order, with times and numbers of ops")
    shown.add_argument("--stats", action="store_true", help="ops, parameters, operations, bytes, arena")
    shown.add_argument("--profile", action="store_true", help="run the program and show the time of every kernel: share, "
                                                              "GFLOP/s, percentage of this machine's roofline, source")
    shown.add_argument("--sort", choices=SORTS, default="time", help="the kernels of --profile by their time, or in order")
    shown.add_argument("--json", action="store_true", help="the numbers of --profile as JSON")
    shown.add_argument("--why", metavar="VALUE", help="a value (%%name as printed, or a source location) and the reasons "
                                                      "for what became of it")
    shown.add_argument("--validate", action="store_true", help="evaluate the graph around every pass and compare the results")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s")
    if args.verbose:
        logging.getLogger("graphopt").setLevel(logging.DEBUG)
    try:
        _check(args)
        _write(_dump(args), args.output)
    except UsageError as e:
        print(f"graphopt-dump: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has had enough; the interpreter would complain once more when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (GraphOptError, OSError) as e:
        print(f"graphopt-dump: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow begins."""
    if args.emit in CODE and args.after:
        raise UsageError(f"--after shows the graph, --emit {args.emit} the finished program: give one of them")
    if args.output and args.output.endswith(".gir") and (args.emit not in (None, "ir") or _reports(args)):
        raise UsageError("a .gir file holds a graph and nothing else: give -o FILE.gir alone or with --after")
    if args.tune and args.after:
        raise UsageError("--tune is for the kernels of the finished program: leave out --after")
    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise InputError("there is no such folder", where=f"-o {args.output}")
    if args.inputs and not (args.validate or args.profile):
        raise UsageError("--inputs are for --profile and --validate")
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads {args.threads}: give at least 1")
    if args.profile and args.after:
        raise UsageError("--profile runs the finished program: leave out --after")
    if args.json and not args.profile:
        raise UsageError("--json is for --profile (a graph is JSON with --emit json)")
    if args.json and (args.emit or args.diff or args.passes or args.stats or args.why or args.validate):
        raise UsageError("--json is for one thing at a time: give --profile --json alone")
    try:
        args.shape = dict(parse_shape(text) for text in args.shape)
    except ValueError as e:
        raise UsageError(f"--shape {e}: write INPUT=1x3x224x224") from None
    try:
        args.value = dict(parse_value(text) for text in args.value)
    except ValueError as e:
        raise UsageError(f"--value {e}: write INPUT=3 or INPUT=3,4") from None


def _reports(args: argparse.Namespace) -> bool:
    return bool(args.diff or args.passes or args.stats or args.why or args.validate or args.profile)


def _dump(args: argparse.Namespace) -> str | Graph:
    """What was asked for: text, or the graph that is to be saved."""
    from graphopt.cli.models import bind_values, capture_model, read_inputs
    from graphopt.pipeline import asked, optimise
    from graphopt.rewrite import default_passes
    from graphopt.rewrite.validate import random_inputs
    from graphopt.runtime.machine import missing
    from graphopt.targets import parse_target, without_winograd
    from graphopt.targets.x86 import X86

    try:
        target = (without_winograd if args.no_winograd else parse_target)(args.target, args.threads)
    except TargetError as e:
        raise UsageError(f"--target {args.target}: {e}") from None
    if args.profile and (not isinstance(target, X86) or missing(target.instructions)):
        raise UsageError(f"--profile runs the program, and one for {target.name} does not run here")
    if args.emit in CODE and target.kind != CODE[args.emit]:
        raise UsageError(f"--emit {args.emit} is for --target {CODE[args.emit]}, not {target.name}")
    keeps = asked(target)
    passes = _until(default_passes(keeps), args.after, args.diff)
    captured = bind_values(capture_model(args.model, args.shape), args.shape, args.value)
    free = _free(captured)
    if free and args.after != CAPTURE:
        if args.tune:
            raise UsageError(f"--tune: kernels are of fixed shapes; {free}")
        if args.emit in CODE:
            raise UsageError(f"--emit {args.emit}: code is made for fixed shapes; {free}")
        if args.profile:
            raise UsageError(f"--profile: a program of fixed shapes is run; {free}")
        print(f"graphopt-dump: a program is compiled for each size when it occurs; to see one: {free}", file=sys.stderr)
    diffs = _Diffs(args.diff)
    inputs = read_inputs(args.inputs, captured) if args.inputs else None
    try:
        graph, results = optimise(captured, args.validate, keeps, passes=passes, inputs=inputs,
                                  before=[diffs.before], after=[diffs.after])
    except RewriteError as e:
        if e.where != "validation":  # the model as captured could not be evaluated
            raise
        raise RewriteError(e.what, where=e.where, hint="Give --inputs FILE.npz that it accepts, and --shape for free dims") from e
    if args.output and args.output.endswith(".gir"):
        return graph

    sections = []
    if args.passes:
        sections.append(f"{results}\n")
    if args.diff:
        sections.append(str(diffs))
    parameters = _parameters(graph, results, target, args.tune) if (args.why or args.tune) and not args.after and not free else ""
    if args.why:
        from graphopt.cli.why import why

        sections.append(why(args.why, captured, graph, results.context.reasons))
    if args.validate:
        changed = sum(p.changed for p in results.passes)
        sections.append(f"validated: {changed} of {len(results.passes)} passes changed the graph, none of them its results\n")
    program = None
    if args.emit in CODE or args.profile or (args.stats and not args.after and not free):
        from graphopt.compiler import compile as compile_graph

        program = compile_graph(captured, target=target)
    if args.stats:
        sections.append(_statistics(graph, program))
    if args.profile:
        sections.append(_profile(program, inputs if inputs is not None else random_inputs(captured), args))
    if args.tune and not args.emit and not sections:
        sections.append(parameters)
    if args.emit or not sections:
        sections.append(_form(graph, program, args.emit or "ir"))
    return "\n".join(sections)


def _profile(program: Any, inputs: Sequence[Any], args: argparse.Namespace) -> str:
    from graphopt import peaks
    from graphopt.cli.profile import table, to_json
    from graphopt.codegen import native

    measured = program._profile(inputs)
    limits = peaks.here(measured.threads) if native.compiler() is not None else None
    if args.json:
        return to_json(measured, limits)
    width = shutil.get_terminal_size().columns if args.output is None and sys.stdout.isatty() else None
    return table(measured, limits, args.sort, width)


def _parameters(graph: Graph, results: Any, target: Any, tune: str | None) -> str:
    """How the parameters of the program's kernels are chosen, after measuring where that is wanted; also kept as reasons."""
    if target.kind != "x86":
        if tune:
            raise UsageError(f"--tune: kernels for {target.name} have no parameters to tune")
        return ""
    from graphopt import static
    from graphopt.records import Records

    records = Records.load(to_write=tune is not None)
    if tune:
        static.measure(graph, target, tune, records)
    program = static.plan_static(graph, results, target, records)
    texts = zip(program.calls, static.parameters(program, records, target))
    return "".join(f"{line}\n" for line in dict.fromkeys(f"{c.kernel.name}: {text}" for c, text in texts if text))


def _free(graph: Graph) -> str:
    """What the shapes of the graph still depend on, and how to settle it; empty where nothing is open."""
    from graphopt.cli.models import input_names
    from graphopt.ir.types import TensorType, type_symbols

    said = []
    for name, v in zip(input_names(graph), graph.inputs):
        if symbols := sorted(type_symbols(v.type)):
            shape = v.type.shape if isinstance(v.type, TensorType) and v.type.shape is not None else ()
            sizes = "x".join(str(d) if isinstance(d, int) else "1" for d in shape)
            said.append(f"{', '.join(symbols)} is free, give --shape {name}={sizes} or the like")
    said += [f"the value of {name} shapes it, give --value {name}=..." for name in graph.metadata.get("control_inputs", ())]
    return "; ".join(said)


class _Diffs:
    """Hooks that keep what the runs of one pass changed; a pass may stand in the list several times."""

    def __init__(self, name: str | None) -> None:
        self.name, self.runs = name, 0
        self.text = ""
        self.found: list[str] = []

    def before(self, name: str, graph: Graph) -> None:
        if name == self.name:
            self.text = str(graph)

    def after(self, name: str, graph: Graph) -> None:
        if name == self.name:
            self.runs += 1
            run = f"{name} (run {self.runs})"
            before, after = self.text.splitlines(True), str(graph).splitlines(True)
            self.found += difflib.unified_diff(before, after, f"before {run}", f"after {run}")

    def __str__(self) -> str:
        return "".join(self.found) or f"{self.name} changed nothing\n"


def _until(passes: Sequence[Pass], after: str | None, diff: str | None) -> list[Pass]:
    """The passes up to `after` (none of them for the capture), all where it is not given.

    Of a pass that runs several times `after` means the last run, `after:2` the second.
    """
    names = [p.name for p in passes]
    wanted_run: tuple[str, str] = ("", "")
    if after is not None and after != CAPTURE:
        name, _, run = after.partition(":")
        wanted_run = (name, run)
    for option, wanted, known in (("--after", wanted_run[0] or after, [CAPTURE, *names]), ("--diff", diff, names)):
        if wanted is not None and wanted not in known:
            near = difflib.get_close_matches(wanted, known, 1, 0.4)
            raise UsageError(f"{option} {wanted}: there is no such pass. {f'Did you mean {near[0]!r}? ' if near else ''}"
                             f"In order: {', '.join(dict.fromkeys(known))}")
    if after is None:
        return list(passes)
    kept = 0 if after == CAPTURE else _position(names, *wanted_run) + 1
    if diff is not None and diff not in names[:kept]:
        raise UsageError(f"--diff {diff}: that pass comes later than --after {after}")
    return list(passes[:kept])


def _position(names: Sequence[str], name: str, run: str) -> int:
    places = [i for i, n in enumerate(names) if n == name]
    if not run:
        return places[-1]
    if not run.isdigit() or not 1 <= int(run) <= len(places):
        raise UsageError(f"--after {name}:{run}: that pass runs {len(places)} time(s)")
    return places[int(run) - 1]


def _statistics(graph: Graph, program: Any) -> str:
    from graphopt.cli.show import format_statistics, statistics

    numbers = statistics(graph)
    if program is not None:
        numbers |= {k: v for k, v in program.stats.items() if k not in {*numbers, "ops_after", "from_cache"}}
    return format_statistics(numbers)


def _form(graph: Graph, program: Any, form: str) -> str:
    if program is not None and form in CODE:
        return program.source(form).rstrip("\n") + "\n"
    from graphopt.cli.show import to_dot, to_json

    return to_dot(graph) if form == "dot" else to_json(graph) if form == "json" else str(graph)


def _write(what: str | Graph, output: str | None) -> None:
    """To stdout, or into a file that is never seen half written."""
    if not isinstance(what, str):
        from graphopt.ir import serial

        assert output is not None
        serial.save(what, output)
    elif output is None:
        sys.stdout.write(what)
        sys.stdout.flush()
    else:
        temporary = Path(output).with_name(f".{Path(output).name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(what, encoding="utf-8")
            os.replace(temporary, output)
        finally:
            temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
