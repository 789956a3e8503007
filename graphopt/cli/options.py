"""The command line of graphopt-dump, and what contradicts itself in it. Imports nothing heavy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from graphopt.cli.completion import add_completion
from graphopt.cli.models import FORMS, UsageError, parse_shape, parse_value
from graphopt.cli.running import CODES
from graphopt.errors import InputError
from graphopt.measure.records import MODES

EMIT = ("ir", "tir", "asm", "cuda", "hls", "dot", "json", "html")
CODE = {"tir": "x86", "asm": "x86", "cuda": "cuda", "hls": "fpga"}  # what programs for that target have; the rest show graphs
SORTS = ("time", "order")  # of the kernels of a profile
COLOURS = ("auto", "always", "never")
CAPTURE = "capture"  # the name under which --after and --diff know the graph before any pass

EXAMPLES = """examples:
  graphopt-dump net.onnx                              the graph after every pass for this machine's x86
  graphopt-dump net.onnx --after capture              as it came in
  graphopt-dump net.onnx --passes                     which passes ran, how long, what they changed
  graphopt-dump net.onnx --diff fold                  what one pass did
  graphopt-dump net.onnx --diff capture..fuse         what all passes up to one did together (also A.. and ..B)
  graphopt-dump net.onnx --why conv1_output           where a value comes from and what was decided about it
  graphopt-dump net.onnx --stats --shape images=1x3x224x224
  graphopt-dump net.onnx --profile                    the time of every kernel, and how near it is to the machine's peaks
  graphopt-dump net.onnx --tune fast                  measure what suits this machine's kernels, for all later programs
  graphopt-dump net.onnx --emit asm -o net.s          also tir; cuda and hls with their --target
  graphopt-dump net.onnx --emit html -o net.html      all of that as a page: graphs, reasons, code, times, memory
  graphopt-dump net.onnx --emit dot | dot -Tsvg -o net.svg
  graphopt-dump net.onnx --validate --inputs in.npz   evaluate around every pass and compare
  graphopt-dump net.onnx --bisect                     where results go wrong first: pass and op, or kernel
  graphopt-dump net.onnx --repro folder               make a failure of the compiler small enough for a report
  graphopt-dump mypackage.nets:small --after capture -o small.gir
  eval "$(graphopt-dump --completion bash)"           complete options, files and passes in this shell
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphopt-dump", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show what the compiler makes of a model: its graph after any pass, its code, its numbers, its reasons.",
        epilog=f"{FORMS}\n\n{EXAMPLES}\n{CODES},\n3 --repro found nothing that fails; --bisect gives 1 where results are wrong")
    parser.add_argument("model", metavar="MODEL", help="an .onnx, .pt2, .gir or .ir file, or module:function (see below)")
    parser.add_argument("--target", metavar="TARGET",
                        help="what to compile for: x86 (this machine), cuda:sm_90, fpga:xc7z020, ... (default: x86)")
    parser.add_argument("--threads", type=int, metavar="N", help="how many a call may use (default: this process's cores)")
    parser.add_argument("--no-winograd", action="store_true",
                        help="no convolutions by Winograd's algorithm: they round otherwise and spread NaN and infinities")
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=DxDx...",
                        help="fix the shape of an input with free dims; may be given several times")
    parser.add_argument("--value", action="append", default=[], metavar="INPUT=N,...",
                        help="bind an input whose value shapes the program (axes, sizes, a sampling rate)")
    parser.add_argument("--inputs", metavar="FILE.npz",
                        help="arrays by name, for --profile, --validate, --bisect, --repro and --emit html (default: random)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of to stdout; a .gir file saves the graph")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the passes and the code generator do")
    parser.add_argument("--color", "--colour", choices=COLOURS, default="auto", dest="colour",
                        help="colours: auto (on a terminal, unless NO_COLOR is set), always, never")
    parser.add_argument("--no-pager", action="store_true",
                        help="print long texts as they are (on a terminal they go through $PAGER, or less)")
    parser.add_argument("--tune", choices=MODES, help="measure candidates for the parameters of kernels on this machine, and "
                                                      "record what wins; shows them where nothing else is asked for")
    add_completion(parser)
    shown = parser.add_argument_group("what to show (several may be given; the graph where none is)")
    shown.add_argument("--emit", choices=EMIT, help="a form of the program: the graph as ir, json or dot, generated code, "
                                                    "or a page (html) with everything")
    shown.add_argument("--after", metavar="PASS", help=f"stop after this pass (PASS:2: its second run), or after the {CAPTURE}")
    shown.add_argument("--diff", metavar="PASS", help="what every run of this pass changed (PASS:2: its second run), or A..B: "
                                                      f"what all after A up to B did; A.. to the end, ..B from the {CAPTURE} on")
    shown.add_argument("--passes", action="store_true", help="the passes in order, with times and numbers of ops")
    shown.add_argument("--stats", action="store_true", help="ops, parameters, operations, bytes, arena")
    shown.add_argument("--profile", action="store_true", help="run the program and show the time of every kernel: share, "
                                                              "GFLOP/s, percentage of this machine's roofline, source")
    shown.add_argument("--sort", choices=SORTS, help="the kernels of --profile by their time (the default), or in order")
    shown.add_argument("--json", action="store_true", help="the numbers of --profile as JSON")
    shown.add_argument("--why", metavar="VALUE", help="a value (%%name as printed, or a source location) and the reasons "
                                                      "for what became of it")
    shown.add_argument("--validate", action="store_true", help="evaluate the graph around every pass and compare the results")
    shown.add_argument("--bisect", action="store_true", help="the first pass, then the first op, that changes results; where all "
                                                             "passes are right, the first kernel whose code is wrong")
    shown.add_argument("--repro", metavar="DIR", help="where the compiler fails, its code crashes or results are wrong: write a "
                                                      "folder that shows it, with the smallest graph that does, found by cutting")
    return parser


def check(args: argparse.Namespace) -> None:
    """Refuse contradictions before anything slow begins, and read --shape and --value."""
    if args.emit in CODE and args.after:
        raise UsageError(f"--after shows the graph, --emit {args.emit} the finished program: give one of them")
    if args.emit == "html" and (args.after or args.tune or reports(args)):
        raise UsageError("the page of --emit html has every pass, number and reason in it: give -o FILE.html alone")
    if args.emit == "html" and not args.output and sys.stdout.isatty():
        raise UsageError("--emit html writes a page for a browser: give -o FILE.html")
    if args.output and args.output.endswith(".gir") and (args.emit not in (None, "ir") or reports(args)):
        raise UsageError("a .gir file holds a graph and nothing else: give -o FILE.gir alone or with --after")
    if args.tune and args.after:
        raise UsageError("--tune is for the kernels of the finished program: leave out --after")
    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise InputError("there is no such folder", where=f"-o {args.output}")
    if args.output and Path(args.output).is_dir():
        raise InputError("that is a folder; give the name of a file", where=f"-o {args.output}")
    if args.inputs and not (args.validate or args.profile or args.bisect or args.repro or args.emit == "html"):
        raise UsageError("--inputs are for --profile, --validate, --bisect, --repro and --emit html")
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads {args.threads}: give at least 1")
    if args.profile and args.after:
        raise UsageError("--profile runs the finished program: leave out --after")
    if args.repro and (args.after or args.output or args.emit or args.tune or reports(args)):
        raise UsageError("--repro DIR writes a folder and shows nothing else: give it alone, or with --inputs")
    if args.bisect and args.after:
        raise UsageError("--bisect looks at all passes and at the code: leave out --after (--validate takes it)")
    if args.sort and not args.profile:
        raise UsageError("--sort is for --profile")
    if args.json and not args.profile:
        raise UsageError("--json is for --profile (a graph is JSON with --emit json)")
    if args.json and (args.emit or args.diff or args.passes or args.stats or args.why or args.validate or args.bisect):
        raise UsageError("--json is for one thing at a time: give --profile --json alone")
    try:
        args.shape = dict(parse_shape(text) for text in args.shape)
    except ValueError as e:
        raise UsageError(f"--shape {e}: write INPUT=1x3x224x224") from None
    try:
        args.value = dict(parse_value(text) for text in args.value)
    except ValueError as e:
        raise UsageError(f"--value {e}: write INPUT=3 or INPUT=3,4") from None


def reports(args: argparse.Namespace) -> bool:
    """Is anything to be shown besides a form of the program?"""
    return bool(args.diff or args.passes or args.stats or args.why or args.validate or args.profile or args.bisect)


__all__ = ["CAPTURE", "CODE", "build_parser", "check", "reports"]
