"""graphopt beside onnxruntime, OpenVINO and TorchInductor.

For every model, batch size and number of threads, and for every peer, both sides take turns, each in a process of its own that
is stopped while the other's turn lasts, so that no thread of one is on a core that the other uses. Before that their
outputs are compared with a reference in float64. Compile times (cold and from each side's cache) and memory are measured
with each side alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import machine, options, peaks, tables, turns, worker
from bench.cases import Case, of_file, of_model
from bench.sides import OURS, PEERS, missing

PRECISIONS = ("fp32",)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_models(parser)
    parser.add_argument("--onnx", type=options.onnx_file, action="append", default=[], metavar="FILE",
                        help="an ONNX file beside the models, or instead of them (repeatable)")
    parser.add_argument("--dim", type=options.dim, action="append", default=[], metavar="NAME=N",
                        help="the size of a free dim of the files (default: 1)")
    options.add_threads(parser, str(machine.cores()))
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="what all sides compute in (default: fp32)")
    parser.add_argument("--peers", type=options.names(PEERS), default=",".join(PEERS), metavar="NAME,…",
                        help="which of %(default)s (default: all)")
    parser.add_argument("--rounds", type=options.count, default=20, help="turns of each side (default: %(default)s)")
    parser.add_argument("--seconds", type=options.seconds, default=2.0,
                        help="of measuring after which a pair ends before its rounds do, five at least (default: %(default)s)")
    parser.add_argument("--costs", choices=("first", "all", "none"), default="first",
                        help="compile times and memory: at the first batch and last number of threads given, at all, or at none")
    parser.add_argument("--profile", type=options.count, nargs="?", const=12, metavar="N",
                        help="print the N slowest kernels of graphopt's program (12)")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="write all measurements there after every row, and a table (.md) and a plot (.png) beside it")
    parser.add_argument("--resume", action="store_true",
                        help="keep the rows that --json FILE has of this machine and this compiler; measure what it lacks")
    options.add_roofline(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 where graphopt ran and was right everywhere, 1 where it was not, 2 for wrong arguments."""
    parser = build_parser()
    args = parser.parse_args(argv)
    models = args.models if args.models is not None else [] if args.onnx else list(_ten())
    options.check_models(parser, models, args.batch)
    options.check_threads(parser, args.threads)
    if args.resume and not args.json:
        parser.error("argument --resume: needs --json FILE, whose rows it keeps")
    if args.dim and not args.onnx:
        parser.error("argument --dim: is for the free dims of --onnx FILE")
    dims = dict(args.dim)
    check_dims(parser, args.onnx, dims)
    absent = {p: reason for p in args.peers if (reason := missing(p))}
    for peer, reason in absent.items():
        print(f"{peer} is left out: {reason}", file=sys.stderr)
    if len(absent) == len(args.peers):
        parser.error("argument --peers: none of them can run here")

    here = machine.describe()
    data: dict[str, Any] = {"machine": here, "precision": args.precision, "peers": args.peers, "rows": []}
    old = resumable(args.json, here) if args.resume else []
    roofline, reason = peaks.read(args.roofline, here["cpu"])
    if reason:
        print(f"no percentages of the roofline: {reason}", file=sys.stderr)
    print(machine.summary(here), flush=True)
    work = [(of_model(m, b), None, t) for m in models for b in args.batch for t in args.threads]
    work += [(of_file(f, dims), f, t) for f in args.onnx for t in args.threads]
    progress = tqdm(work, disable=None, unit="row")
    for case, source, threads in progress:
        progress.set_description(f"{case.name} batch {case.batch or '-'} threads {threads}")
        row = find(old, case, threads, args.peers)
        if row is None:
            first = case.batch in (0, args.batch[0]) and threads == args.threads[-1]
            row = measure(case, source, threads, args, dims, absent, args.costs == "all" or (args.costs == "first" and first))
        row["floor"] = floors(row, roofline)
        data["rows"].append(row)
        if args.json:
            rest = [r for r in old if find(data["rows"], _as_case(r), r["threads"], []) is None]
            save(args.json, {**data, "rows": data["rows"] + rest})
        with progress.external_write_mode():
            print(tables.line(row), flush=True)
            if row.get("kernels"):
                print(tables.kernel_table(row["kernels"], args.profile or 12), flush=True)
    print("\n" + tables.report(data))
    if args.json:
        plot(args.json)
    return 0 if all(right(r) for r in data["rows"]) else 1


def _ten() -> Sequence[str]:
    from bench.models import TEN

    return TEN


def _as_case(row: Mapping[str, Any]) -> Case:
    return Case(row["model"], row["batch"], "", Path(), Path(row["case"]))


def check_dims(parser: argparse.ArgumentParser, files: Sequence[Path], dims: Mapping[str, int]) -> None:
    """Every dim given is a free dim of some file, and every file is ONNX."""
    import onnx

    from bench.cases import free_dims

    free: list[str] = []
    for path in files:
        try:
            free += free_dims(onnx.load(path, load_external_data=False))
        except Exception as e:
            parser.error(f"argument --onnx: {path} is no ONNX file ({type(e).__name__})")
    if wrong := [d for d in dims if d not in free]:
        parser.error(f"argument --dim: no input has a free dim {', '.join(wrong)}; there are: {', '.join(free) or 'none'}")


def measure(case: Case, source: Path | None, threads: int, args: argparse.Namespace, dims: Mapping[str, int],
            absent: Mapping[str, str], costs: bool) -> dict[str, Any]:
    """One row. What fails is in it by name."""
    row: dict[str, Any] = {"model": case.name, "batch": case.batch, "threads": threads, "case": case.folder.name, "pairs": {},
                           "compiler": machine.compiler_digest(), "date": machine.now()}
    if not case.folder.exists():
        made = worker.run({"kind": "prepare", "case": case.to_json(), "source": str(source or ""), "dims": dict(dims)})
        if "error" in made:
            return {**row, "error": f"the case could not be made: {made['error']}"}
    row["reference"] = case.meta["reference"]
    row["work"] = case.meta["work"]
    folder = machine.cache_folder() / "code"
    env = caches(folder)
    present = [p for p in args.peers if p not in absent and not (p == "inductor" and not case.model)]
    if costs:
        with tempfile.TemporaryDirectory(dir=folder, prefix="cold-") as fresh:
            row["costs"] = {side: cost(case, side, threads, Path(fresh)) for side in (OURS, *present)}
    for peer in args.peers:
        if peer in present:
            row["pairs"][peer] = turns.pair(case, (OURS, peer), threads, args.rounds, args.seconds, env)
        else:
            row["pairs"][peer] = {"error": absent.get(peer, "takes PyTorch modules, not ONNX files")}
    if args.profile:
        found = worker.run({"kind": "profile", "case": case.to_json(), "threads": threads}, env)
        row["kernels"] = found.get("kernels", [])
    return row


def caches(folder: Path) -> dict[str, str]:
    """The environment in which sides keep their compiled code under a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"GRAPHOPT_CACHE": str(folder / OURS), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def cost(case: Case, side: str, threads: int, fresh: Path) -> dict[str, Any]:
    """Compile seconds, with an empty cache and with what that run left in it, and memory of the second run.

    onnxruntime keeps nothing between processes, so it has one run. Inductor keeps its precompiled C++ headers outside of
    its cache: a machine's first compile takes some ten seconds longer, once."""
    job = {"kind": "alone", "case": case.to_json(), "side": side, "threads": threads, "cache": str(fresh / "openvino")}
    cold = worker.run(job | {"cold": True}, caches(fresh))
    again = cold if side == "onnxruntime" or "error" in cold else worker.run(job | {"cold": False}, caches(fresh))
    if "error" in again:
        return {"error": again["error"]}
    return {"cold": cold["seconds"], "cached": None if again is cold else again["seconds"], "peak": again["peak"],
            "imports": again["imports"]}


def floors(row: Mapping[str, Any], roofline: Mapping[str, Any] | None) -> dict[str, float]:
    """Least seconds of the row's work by the peak of multiply-adds, and by the one with operands from L1."""
    found = peaks.parse(roofline, row["threads"]) if roofline else None
    if found is None or "work" not in row:
        return {}
    work = [peaks.Work(*w) for w in row["work"]]
    return {rate: seconds for rate in ("fma", "fma_l1") if (seconds := found.floor(work, rate)) > 0}


def right(row: Mapping[str, Any]) -> bool:
    """Whether graphopt ran, and its outputs were the reference's, beside every peer that ran."""
    ran = [p[OURS]["equal"] for p in row["pairs"].values() if "error" not in p]
    failed = any(p.get("side") == OURS for p in row["pairs"].values())
    return bool(ran) and all(ran) and not failed


def find(rows: Sequence[dict[str, Any]], case: Case, threads: int, peers: Sequence[str]) -> dict[str, Any] | None:
    """The row of a case that holds these peers without errors."""
    for row in rows:
        if (row["case"], row["threads"]) == (case.folder.name, threads) and all("error" not in row["pairs"].get(p, {"error": ""})
                                                                               for p in peers):
            return row
    return None


def resumable(path: Path, here: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier run that this run may keep: of the same machine, versions and compiler."""
    if not path.exists():
        return []
    old = json.loads(path.read_text())
    if any(old["machine"][k] != here[k] for k in ("cpu", "cores", "versions")):
        print(f"{path} is of another machine or other versions: nothing of it is kept", file=sys.stderr)
        return []
    rows = [r for r in old["rows"] if r["compiler"] == here["compiler"]]
    if len(rows) < len(old["rows"]):
        print(f"{len(old['rows']) - len(rows)} rows of {path} are of another state of graphopt and not kept", file=sys.stderr)
    return rows


def save(path: Path, data: Mapping[str, Any]) -> None:
    """The measurements, and the tables beside them."""
    machine.write_json(path, data)
    title = f"# graphopt beside {', '.join(data['peers'])}, {data['precision']}"
    text = f"{title}\n\n{machine.summary(data['machine'])}\n\n```\n{tables.report(data)}\n```\n"
    machine.write_text(path.with_suffix(".md"), text)


def plot(path: Path) -> None:
    """The ratios of a results file as a picture beside it."""
    from bench import plots

    rows = [r for r in json.loads(path.read_text())["rows"] if tables.best(r) is not None]
    if rows:
        plots.ratios(rows, path.with_suffix(".png"))
