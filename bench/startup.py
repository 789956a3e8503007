"""From process start to the first result: graphopt with an artifact beside onnxruntime with the .onnx file.

Every start is a fresh process, timed from outside until it says that it has its result; the sides take turns. Memory is
measured in processes of its own: resident before the first call and at its peak, and the proportional set size of each of
four processes that run at once and share what can be shared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench import machine, options, tables, worker
from bench.cases import Case, of_file, of_model
from bench.measure import Times, quantile

# What a process runs: it says on stdout that it has its result, and waits until it is told to end.
_FIRST = """
import sys, json
job = json.loads(sys.argv[1])
{open}
before = open("/proc/self/status").read() if job["memory"] else ""
results = {call}
sys.stdout.write("\\n")
sys.stdout.flush()
if job["memory"]:
    print(json.dumps([before, open("/proc/self/status").read()]), flush=True)
import numpy
numpy.savez(job["results"], *map(numpy.asarray, results))
sys.stdin.read()
"""
_ARRAYS = """
inputs = {name: numpy.fromfile(file, dtype).reshape(shape) for name, file, dtype, shape in job["inputs"]}
"""
_GRAPHOPT = _FIRST.format(call="list(model.run(inputs).values())", open=f"""
import graphopt
import numpy
{_ARRAYS}
model = graphopt.load(job["model"])
""")
_BUFFERS = _FIRST.format(call="list(model.run(inputs).values())", open="""
import graphopt
inputs = {name: open(file, "rb").read() for name, file, dtype, shape in job["inputs"]}
model = graphopt.load(job["model"], numpy=False)
""")
_ONNXRUNTIME = _FIRST.format(call="session.run(None, inputs)", open=f"""
import onnxruntime
import numpy
{_ARRAYS}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = job["threads"]
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
""")
PEER = "onnxruntime"
# What each side runs, and whether it finds the digests of the artifact's files in the cache, as every start does but the first.
SIDES = {"graphopt": (_GRAPHOPT, True), "graphopt, no digests": (_GRAPHOPT, False), "graphopt, no numpy": (_BUFFERS, True),
         PEER: (_ONNXRUNTIME, True)}
PROCESSES = 4  # that share weights
ENCODER = "text_encoder"  # six layers of 384, as sentence embeddings use
MODELS = ("resnet50", ENCODER)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=options.words, metavar="NAME,…",
                        help=f"{ENCODER} (six layers, 384 wide), and what compare knows (default: {','.join(MODELS)})")
    parser.add_argument("--onnx", type=options.onnx_file, action="append", default=[], metavar="FILE",
                        help="an ONNX file beside the models, or instead of them (repeatable)")
    parser.add_argument("--dim", type=options.dim, action="append", default=[], metavar="NAME=N",
                        help="the size of a free dim of the files (default: 1)")
    options.add_threads(parser, str(machine.cores()))
    parser.add_argument("--rounds", type=options.count, default=15, help="starts of each side (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there, and a table (.md) beside it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 where all sides gave the reference's results, 1 where one did not, 2 for wrong arguments."""
    parser = build_parser()
    args = parser.parse_args(argv)
    models = args.models if args.models is not None else [] if args.onnx else list(MODELS)
    options.check_models(parser, [m for m in models if m != ENCODER], [1])
    options.check_threads(parser, args.threads)
    from bench.compare import check_dims
    from bench.sides import missing

    if args.dim and not args.onnx:
        parser.error("argument --dim: is for the free dims of --onnx FILE")
    check_dims(parser, args.onnx, dict(args.dim))
    if reason := missing(PEER):
        parser.error(f"there is nothing to compare with: {reason}")
    here = machine.describe()
    print(machine.summary(here), flush=True)
    work = [(encoder() if m == ENCODER else of_model(m, 1), None) for m in models]
    work += [(of_file(f, dict(args.dim)), f) for f in args.onnx]
    rows = []
    for case, source in work:
        for threads in args.threads:
            prepare(case, source, dict(args.dim))
            rows.append(measure(case, threads, args.rounds))
            print(f"\n{report(rows[-1:])}", flush=True)
    data = {"machine": here, "rows": rows}
    if args.json:
        machine.write_json(args.json, data)
        title = f"# From process start to the first result\n\n{machine.summary(here)}"
        machine.write_text(args.json.with_suffix(".md"), f"{title}\n\n```\n{report(rows)}\n```\n")
    return 0 if all(side["right"] for row in rows for side in row["sides"].values()) else 1


# Cases -----------------------------------------------------------------------------------------
def encoder() -> Case:
    """A sentence encoder of the usual small size: six layers, 384 wide, 30,522 words; one text of 128 tokens."""
    import importlib.metadata

    versions = [importlib.metadata.version(p) for p in ("torch", "transformers", "onnxscript")]
    name = f"{ENCODER}-b1-{machine.digest(Path(__file__), machine.ROOT / 'bench' / 'cases.py', text=' '.join(versions))}"
    folder = machine.cache_folder() / "cases" / name
    return Case(ENCODER, 1, "", folder / "model.onnx", folder)


def prepare(case: Case, source: Path | None, dims: Mapping[str, int]) -> None:
    """Make a case's files in a process of its own."""
    if case.folder.exists():
        return
    if case.name == ENCODER and source is None:
        code = "import sys; from bench.startup import make_encoder; make_encoder(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(case.folder)], cwd=machine.ROOT, check=True, stdout=subprocess.DEVNULL)
        return
    made = worker.run({"kind": "prepare", "case": case.to_json(), "source": str(source or ""), "dims": dict(dims)})
    if "error" in made:
        raise SystemExit(f"{case.name} could not be made: {made['error']}")


def make_encoder(folder: str) -> None:
    """The encoder's ONNX file, its input, and PyTorch's result in float64."""
    import torch

    from bench.models import TOKENS
    from bench.zoo import settle, transformers

    t = transformers()
    torch.manual_seed(0)
    config = t.BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    net = settle(t.BertModel(config, add_pooling_layer=False).eval())
    tokens = torch.randint(3, 1000, (1, TOKENS))
    path = Path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as scratch, torch.no_grad():
        made = Path(scratch) / "case"
        made.mkdir()
        torch.onnx.export(net, (tokens,), made / "model.onnx", dynamo=True, external_data=True, verbose=False)
        np.savez(made / "inputs.npz", input_ids=tokens.numpy())
        np.savez(made / "reference.npz", o000=net.double()(tokens).last_hidden_state.numpy())
        machine.write_json(made / "meta.json", {"reference": "PyTorch eager in float64", "work": []})
        made.rename(path)


# Measuring -------------------------------------------------------------------------------------
def measure(case: Case, threads: int, rounds: int) -> dict[str, Any]:
    """One row: the sides in turns, then their memory."""
    with tempfile.TemporaryDirectory(prefix="graphopt-startup-") as work:
        artifact, known = Path(work) / "model.gopt", Path(work) / "cache"
        built = subprocess.run([sys.executable, "-m", "graphopt.cli.build", str(case.onnx), "-o", str(artifact), "--json",
                                "--threads", str(threads)], cwd=machine.ROOT, capture_output=True, text=True)
        if built.returncode:
            raise SystemExit(f"{case.name}: {built.stderr}")
        described = []
        for name, x in case.inputs().items():
            x.tofile(Path(work) / f"{len(described)}.bin")
            described.append((name, str(Path(work) / f"{len(described)}.bin"), x.dtype.str, x.shape))
        jobs: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {}
        for side, (code, remembered) in SIDES.items():
            job = {"inputs": described, "threads": threads, "memory": False, "results": str(Path(work) / "results.npz"),
                   "model": str(case.onnx if side == PEER else artifact)}
            jobs[side] = (code, job, {"GRAPHOPT_CACHE": str(known) if remembered else "0"})
        time.sleep(2.5)  # digests are remembered of files that changed some seconds ago
        row: dict[str, Any] = {"model": case.name, "threads": threads, "artifact": json.loads(built.stdout)["bytes"], "sides": {}}
        for side, job in jobs.items():  # also fills the caches of files and digests
            start(job).end()
            with np.load(Path(work) / "results.npz") as f:
                right, error = case.check([f[k] for k in f.files])
            row["sides"][side] = {"right": right, "error": error}
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for done in tqdm(range(rounds), case.name, disable=None, unit="round"):
            for side in SIDES if done % 2 == 0 else reversed(list(SIDES)):
                seconds[side].append(start(jobs[side]).end())
        for side, job in jobs.items():
            t = Times.of(seconds[side])
            row["sides"][side] |= {"median": t.median, "q1": t.q1, "q3": t.q3, "starts": t.calls, **memory(job)}
        return row


class start:
    """A process from its start until it has its first result; `seconds` is how long that took."""

    def __init__(self, job: tuple[str, Mapping[str, Any], Mapping[str, str]]) -> None:
        code, arguments, env = job
        command = [sys.executable, "-c", code, json.dumps(arguments)]
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=machine.ROOT,
                                        env={**os.environ, **env})
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        self.seconds = time.perf_counter() - began
        if said != b"\n":
            raise SystemExit(f"a process ended with {self.process.wait()} before its first result")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def end(self) -> float:
        self.process.communicate(b"")
        return self.seconds


def memory(job: tuple[str, Mapping[str, Any], Mapping[str, str]]) -> dict[str, Any]:
    """Bytes: resident before the first call, at its peak with it, and proportional in each of several processes at once."""
    code, arguments, env = job
    asked = (code, {**arguments, "memory": True}, env)
    before, after = [], []
    for _ in range(3):
        process = start(asked)
        texts = json.loads(process.line())
        process.end()
        before.append(_status(texts[0], "VmRSS"))
        after.append(_status(texts[1], "VmHWM"))
    together = [start(job) for _ in range(PROCESSES)]
    time.sleep(0.5)
    shared = [_status(Path(f"/proc/{p.process.pid}/smaps_rollup").read_text(), "Pss") for p in together]
    for p in together:
        p.end()
    return {"before": quantile(before, 0.5), "peak": quantile(after, 0.5), "proportional": sum(shared) / PROCESSES}


def _status(text: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
    assert found is not None, f"no {field}"
    return int(found[1]) << 10


# Telling ---------------------------------------------------------------------------------------
def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table: a line for each side, with onnxruntime's time over its own and its memory over onnxruntime's."""
    mib = lambda n: f"{n / 2**20:.0f}"
    lines = []
    for row in rows:
        peer = row["sides"][PEER]
        for side, s in row["sides"].items():
            spread = (s["q3"] - s["q1"]) / s["median"]
            lines.append((f"{row['model']}, {row['threads']} threads: {side}" + ("" if s["right"] else f" WRONG ({s['error']})"),
                          f"{1e3 * s['median']:.0f} ±{100 * spread:.0f}%", f"{peer['median'] / s['median']:.2f}x",
                          mib(s["before"]), f"{s['before'] / peer['before']:.2f}", mib(s["peak"]), mib(s["proportional"]),
                          f"{s['proportional'] / peer['proportional']:.2f}"))
    head = ("", "first result ms", "faster", "MiB before", "of ort's", "MiB peak", f"MiB each of {PROCESSES}", "of ort's")
    return tables.table(head, lines)
