"""graphopt-build: a model to an artifact, ahead of time."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.cli.completion import add_completion
from graphopt.cli.entries import HELP, parse
from graphopt.cli.models import FORMS, UsageError, parse_value
from graphopt.cli.running import CODES, run
from graphopt.errors import ArtifactError, TargetError
from graphopt.measure.records import MODES

EXAMPLES = """examples:
  graphopt-build net.onnx                                    for this machine, as net.gopt
  graphopt-build net.onnx --target x86:haswell --target x86:skylake-avx512 --target x86:znver4
  graphopt-build net.onnx --shape images=1x3x224x224 --shape images=8x3x224x224 -o net.gopt
  graphopt-build text.onnx --shape ids=1x16..128:16 --threads 4
  graphopt-build speech.onnx --shape x=1x576 --value rate=16000
  graphopt-build mypackage.nets:small --tune fast --json
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphopt-build", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compile a model into a folder that graphopt.load and C programs run without the compiler.",
        epilog=f"{FORMS}\n\n{HELP}\n\n{EXAMPLES}\n{CODES}")
    parser.add_argument("model", metavar="MODEL", help="an .onnx, .pt2, .gir or .ir file, or module:function (see below)")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path,
                        help="the folder (default: the model's name with .gopt, here)")
    parser.add_argument("--target", action="append", default=[], metavar="x86[:CPU]",
                        help="what to compile for: x86 (this machine), x86:haswell, x86:skylake-avx512, x86:znver4, ...; given "
                             "several times, each machine takes the code that uses most of it")
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=DxDx...",
                        help="a shape, or range of them, to make programs for (see below)")
    parser.add_argument("--value", action="append", default=[], metavar="INPUT=N,...",
                        help="a value to make programs for, of an input whose value shapes them (see below)")
    parser.add_argument("--threads", type=int, metavar="N", help="of a call (default: the cores that this process may use)")
    parser.add_argument("--tune", choices=MODES, help="measure candidates for the parameters of kernels on this machine first")
    parser.add_argument("--tuning", metavar="FILE", help="the records of what was measured, in place of $GRAPHOPT_TUNING")
    parser.add_argument("--no-winograd", action="store_true",
                        help="no convolutions by Winograd's algorithm: they round otherwise and spread NaN and infinities")
    parser.add_argument("--force", action="store_true",
                        help="replace OUT whatever files are in it; without, only a folder whose files graphopt has written all")
    parser.add_argument("--json", action="store_true", help="write what was made to stdout as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the passes and the code generator do")
    add_completion(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run("graphopt-build", build_parser().parse_args(argv), _main)


def _main(args: argparse.Namespace) -> None:
    summary = _build(args)
    print(json.dumps(summary, indent=1) if args.json else _text(summary), flush=True)


def _build(args: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    shapes = [s for text in args.shape for s in parse(text)]
    try:
        values = [parse_value(text) for text in args.value]
    except ValueError as e:
        raise UsageError(f"--value {e}: write INPUT=3 or INPUT=3,4") from None
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads {args.threads}: at least 1")
    output = args.output or Path(f"{Path(args.model.partition(':')[2] or args.model).stem}.gopt")
    _check_output(output, args.force)
    targets = _targets(args)

    from graphopt.backends.x86.bundle import Bundle, build
    from graphopt.cli.entries import cases
    from graphopt.cli.models import capture_model
    from graphopt.codegen.program.interface import specs
    from graphopt.measure.records import Records
    from graphopt.runtime.artifact.saved import model_interface

    records = Records.load(args.tuning, to_write=args.tune is not None)
    graph = capture_model(args.model, {})
    inputs, outputs = specs(graph)
    wanted = cases(graph, inputs, shapes, values)
    control = graph.metadata.get("control_inputs", ())
    bundle = Bundle(model_interface(inputs, outputs, control, graph.metadata.get("dim_ranges", {}), graph.metadata.get("call")),
                    Path(args.model).name)

    from tqdm import tqdm

    with tqdm(total=len(targets) * len(wanted), unit="program", delay=1, disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        for target in targets:
            bar.set_description(target.name)
            build(graph, inputs, bundle, target, wanted, tune=args.tune, records=records, done=lambda said: bar.update())
    bundle.save(output, args.force)
    return _summary(output, bundle, wanted, time.perf_counter() - start)


def _check_output(path: Path, force: bool) -> None:
    """Refuse what cannot be written before anything slow begins."""
    from graphopt.ship.saving import check_replaceable

    if not path.absolute().parent.is_dir():
        raise ArtifactError("there is no such folder to write in", where=f"-o {path}")
    check_replaceable(path, force)


def _targets(args: argparse.Namespace) -> list[Any]:
    from graphopt.backends.base import backend_of
    from graphopt.targets import parse_target, without_winograd

    found: dict[str, Any] = {}
    for text in args.target or ["x86"]:
        try:
            target: Any = (without_winograd if args.no_winograd else parse_target)(text, args.threads)
        except TargetError as e:
            raise UsageError(f"--target {text}: {e}") from None
        if not backend_of(target).artifacts:
            raise UsageError(f"--target {text}: artifacts are for x86. graphopt.compile(..., target={text!r}).save writes the "
                             "sources of others")
        if target.name in found:
            raise UsageError(f"--target {text}: {target.name} is given twice")
        found[target.name] = target
    return list(found.values())


def _summary(path: Path, bundle: Any, cases: Sequence[Any], seconds: float) -> dict[str, Any]:
    from graphopt.runtime.artifact.reading import MANIFEST

    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    sizes = {name: f["bytes"] for name, f in manifest["files"].items()}
    programs = [{"target": p["target"], "inputs": {name: list(shape) for name, shape in case.shapes.items()},
                 **({"values": {name: x.tolist() for name, x in case.values.items()}} if case.values else {}),
                 "threads": p["threads"], "code": p["code"], "code_bytes": sizes[p["code"]], "weights": p["weights"],
                 **{k: p["stats"][k] for k in ("kernels", "calls", "operations", "arena_bytes", "from_cache", "seconds")}}
                for p, case in zip(bundle.programs, itertools.cycle(cases))]  # the same cases for every target
    return {"path": str(path), "format": manifest["format"], "bytes": sum(sizes.values()), "files": sizes, "programs": programs,
            "seconds": seconds}


def _text(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    programs, sizes = summary["programs"], summary["files"]
    weights = sum(sizes[name] for name in {p["weights"] for p in programs})
    rows = [(p["target"], _case(p), f"{p['kernels']} kernels",
             f"arena {_size(p['arena_bytes'])}", f"code {_size(p['code_bytes'])}", f"{sum(p['seconds'].values()):.1f} s")
            for p in programs]
    widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
    lines = [f"{summary['path']}: {len(programs)} program{'s' * (len(programs) > 1)}, {_size(summary['bytes'])} "
             f"(weights {_size(weights)}), {summary['seconds']:.1f} s"]
    return "\n".join([*lines, *("  " + "  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows)])


def _case(program: Mapping[str, Any]) -> str:
    """As --shape and --value take it."""
    values = program.get("values", {})
    shapes = ",".join(f"{n}={'x'.join(map(str, s))}" for n, s in program["inputs"].items() if n not in values)
    numbers = {n: ",".join(map(str, x if isinstance(x, list) else [x])) for n, x in values.items()}
    return " ".join([shapes, *(f"{n}={text}" for n, text in numbers.items())]).lstrip()


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
