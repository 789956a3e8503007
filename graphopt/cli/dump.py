"""graphopt-dump: what the compiler makes of a model, at every step."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli.colour import paint, show, wanted
from graphopt.cli.models import UsageError, is_crash
from graphopt.cli.options import CAPTURE, CODE, build_parser, check
from graphopt.cli.points import Snapshots, position, spans
from graphopt.cli.running import run
from graphopt.errors import RewriteError, TargetError

if TYPE_CHECKING:  # everything heavy is imported once the command line has been understood
    from graphopt.codegen.program.plan import Program
    from graphopt.ir import Graph
    from graphopt.rewrite import Results
    from graphopt.targets import Target


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run("graphopt-dump", build_parser().parse_args(argv), _main)


def _main(args: argparse.Namespace) -> int:
    check(args)
    what = _dump(args)
    _write(what, args)
    return 1 if isinstance(what, list) and any(kind == "wrong" for kind, _ in what) else 0


Section = tuple[str, str]  # what a text is, for colours, and the text


def _dump(args: argparse.Namespace) -> list[Section] | Graph:
    """What was asked for: texts, or the graph that is to be saved."""
    from graphopt.backends.base import backend_of
    from graphopt.backends.pipeline import optimise
    from graphopt.cli.bisect import kernels, right_passes, wrong_pass
    from graphopt.cli.models import bind_values, capture_model, read_inputs
    from graphopt.cli.repro import repro
    from graphopt.rewrite import WrongResult
    from graphopt.rewrite.engine.validate import random_inputs
    from graphopt.ship.crash import guarded
    from graphopt.targets import parse_target, without_winograd

    kept, recorded = _recorded(args)
    try:
        target = (without_winograd if args.no_winograd or not recorded["winograd"] else parse_target)(
            args.target or recorded["target"], args.threads or recorded["threads"])
    except TargetError as e:
        raise UsageError(f"--target {args.target}: {e}") from None
    backend = backend_of(target)
    runs = backend.runs and not backend.missing(target)
    if args.profile and not runs:
        raise UsageError(f"--profile runs the program, and one for {target.name} does not run here")
    if args.emit in CODE and args.emit not in backend.forms:
        raise UsageError(f"--emit {args.emit} is for --target {CODE[args.emit]}, not {target.name}")
    passes = backend.passes(target)
    names = [p.name for p in passes]
    last = position(names, args.after, "--after") if args.after else len(passes)
    passes, around = passes[:last], Snapshots(names, spans(names, args.diff, last) if args.diff else [])
    captured = bind_values(capture_model(args.model, args.shape), args.shape, args.value)
    free = _free(captured)
    if free and args.after != CAPTURE:
        if args.tune:
            raise UsageError(f"--tune: kernels are of fixed shapes; {free}")
        if args.emit in CODE:
            raise UsageError(f"--emit {args.emit}: code is made for fixed shapes; {free}")
        if args.profile:
            raise UsageError(f"--profile: a program of fixed shapes is run; {free}")
        if args.emit == "html":
            raise UsageError(f"--emit html: the page is of a program of fixed shapes; {free}")
        print(f"graphopt-dump: a program is compiled for each size when it occurs; to see one: {free}", file=sys.stderr)
    inputs = read_inputs(args.inputs, captured) if args.inputs else kept
    if args.repro:
        return [("text", repro(captured, target, inputs, Path(args.repro)))]
    if args.emit == "html":
        from graphopt.cli.page import page

        title = args.model if ":" in args.model else Path(args.model).name
        return [("html", page(title, captured, target, passes, inputs))]
    try:
        with contextlib.nullcontext() if args.bisect else guarded(captured, target):  # it looks for failures itself
            graph, results = optimise(captured, target, args.validate or args.bisect, passes, inputs=inputs,
                                      before=[around.before], after=[around.after])
    except WrongResult as e:
        if not args.bisect:
            raise
        return [("wrong", wrong_pass(e, random_inputs(captured) if inputs is None else inputs))]
    except RewriteError as e:
        if e.where != "validation":  # the model as captured could not be evaluated
            raise
        raise RewriteError(e.what, where=e.where, hint="Give --inputs FILE.npz that it accepts, and --shape for free dims") from e
    if args.output and args.output.endswith(".gir"):
        return graph

    sections: list[Section] = []
    if args.passes:
        sections.append(("table", f"{results}\n"))
    if args.diff:
        sections.append(("diff", around.diff(args.diff)))
    parameters, planned = "", None
    if (args.why or args.tune) and not args.after and not free:
        parameters, planned = _parameters(graph, results, target, args.tune)
    if args.why:
        from graphopt.cli.why import why

        sections.append(("said", why(args.why, captured, graph, results.context.reasons, planned)))
    if args.validate:
        changed = sum(p.changed for p in results.passes)
        sections.append(("text", f"validated: {changed} of {len(results.passes)} passes changed the graph, "
                                 "none of them its results\n"))
    given = inputs if inputs is not None or not (args.profile or args.bisect) else random_inputs(captured)
    program = None
    if args.emit in CODE or args.profile or (args.bisect and runs and not free) or (args.stats and not args.after and not free):
        from graphopt.compiler import compile as compile_graph

        program = compile_graph(captured, target=target)
    if args.stats:
        sections.append(("text", _statistics(graph, program)))
    if args.profile:
        sections.append(("text" if args.json else "table", _profile(program, given or (), args)))
    if args.bisect:
        sections.append(("text", right_passes(results)))
        if program is None:
            why_not = f"code for {target.name} does not run here" if not runs else "its shapes are free"
            sections.append(("text", f"the compiled code was not looked at: {why_not}\n"))
        else:
            text, right = kernels(program, given or ())
            sections.append(("text" if right else "wrong", text))
    if args.tune and not args.emit and not sections:
        sections.append(("text", parameters))
    if args.emit or not sections:
        form = args.emit or "ir"
        sections.append((form, _form(graph, program, form)))
    return sections


def _recorded(args: argparse.Namespace) -> tuple[list[Any] | None, dict[str, Any]]:
    """The inputs, and the target and its options, that a folder of a failure records; the defaults of other models."""
    if is_crash(Path(args.model)):
        from graphopt.ship.crash import load

        _, inputs, about = load(Path(args.model))
        return inputs, about
    return None, {"target": "x86", "threads": None, "winograd": True}


def _profile(program: Any, inputs: Sequence[Any], args: argparse.Namespace) -> str:
    from graphopt.cli.profile import table, to_json
    from graphopt.codegen.x86 import native
    from graphopt.measure import peaks

    measured = program._profile(inputs)
    limits = peaks.here(measured.threads) if native.compiler() is not None else None
    if args.json:
        return to_json(measured, limits)
    width = shutil.get_terminal_size().columns if args.output is None and sys.stdout.isatty() else None
    return table(measured, limits, args.sort or "time", width)


def _parameters(graph: Graph, results: Results, target: Target, tune: str | None) -> tuple[str, Program | None]:
    """How the parameters of the program's kernels are chosen, after measuring where that is wanted, and the program (None for
    targets whose kernels have none). The choices are also kept as reasons."""
    from graphopt.targets.x86 import X86

    if not isinstance(target, X86):
        if tune:
            raise UsageError(f"--tune: kernels for {target.name} have no parameters to tune")
        return "", None
    from graphopt.backends.x86 import static
    from graphopt.measure.records import Records

    records = Records.load(to_write=tune is not None)
    if tune:
        static.measure(graph, target, tune, records)
    program = static.plan_static(graph, results, target, records)
    texts = zip(program.calls, static.parameters(program, records, target))
    return "".join(f"{line}\n" for line in dict.fromkeys(f"{c.kernel.name}: {text}" for c, text in texts if text)), program


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


def _write(what: list[Section] | Graph, args: argparse.Namespace) -> None:
    """To stdout, or into a file that is never seen half written."""
    if not isinstance(what, list):
        from graphopt.ir import serial

        serial.save(what, args.output)
    elif args.output is None:
        coloured = wanted(args.colour)
        show("\n".join(paint(text, kind) if coloured else text for kind, text in what), pager=not args.no_pager)
    else:
        temporary = Path(args.output).with_name(f".{Path(args.output).name}.{os.getpid()}.tmp")
        try:
            temporary.write_text("\n".join(text for _, text in what), encoding="utf-8")
            os.replace(temporary, args.output)
        finally:
            temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
