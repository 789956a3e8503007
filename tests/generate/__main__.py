"""The long run: `python -m tests.generate onnx --seeds 0:10000 --compile-every 5 --keep /tmp/found`.

Every failure is kept as a small model with its inputs and what is right, and the counts are printed. A seed that ends the
process (or takes more than two minutes of CPU time) is a failure too: cases run in a process of their own, which is started
again after it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.tracing import hasten_export

SECONDS = 120  # of CPU time, for one seed
BATCH = 1000  # seeds in one process


def results(kind: str, seeds: list[int], compile_every: int, keep: Path, **options: Any) -> Iterator[dict[str, Any]]:
    """One record for each seed, made in child processes."""
    seeds = list(seeds)
    while seeds:
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(here)
            with os.fdopen(there, "w") as out:
                try:
                    for seed in seeds[:BATCH]:
                        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of CPU time: other work may hold it up
                        compiled = bool(compile_every) and seed % compile_every == 0
                        print(json.dumps(one(kind, seed, compiled, keep, **options)), file=out, flush=True)
                except BaseException:
                    traceback.print_exc()
            os._exit(0)
        os.close(there)
        batch = seeds[:BATCH]
        done = 0
        with os.fdopen(here) as pipe:
            for line in pipe:
                yield json.loads(line)
                done += 1
        _, status = os.waitpid(child, 0)
        if done < len(batch):
            code = os.waitstatus_to_exitcode(status)
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            yield {"seed": batch[done], "kind": "failed", "sort": f"failed: the process ended with {ended}", "text": ended}
            done += 1
        seeds = seeds[done:]


def one(kind: str, seed: int, compiled: bool, keep: Path, **options: Any) -> dict[str, Any]:
    return {"seed": seed, **_way(kind).one(random.Random(seed), seed, compiled, keep, **options)}


def _way(kind: str) -> Any:
    return importlib.import_module(f"tests.generate.{kind}_run")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.generate", description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("onnx", "torch"))
    parser.add_argument("--seeds", default="0:1000", help="FIRST:END")
    parser.add_argument("--compile-every", type=int, default=5, help="compile and call every so many (0: none)")
    parser.add_argument("--keep", type=Path, default=Path("found"), help="folder for what fails")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--free", type=float, help="share of ONNX graphs with free dims (0.35); 1: dims of 0 are free too")
    given = parser.parse_args()
    options = {} if given.free is None else {"free": given.free}
    first, end = map(int, given.seeds.split(":"))
    given.keep.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GRAPHOPT_CACHE", "0")
    os.environ.setdefault("GRAPHOPT_CRASH_DIR", "0")
    _way(given.kind)  # imported once, before the processes are forked
    if given.kind == "torch":
        hasten_export()
    gc.freeze()  # what is imported stays, and need not be looked at again
    gc.set_threshold(50_000, 20, 100)
    counts: Counter[str] = Counter()
    sorts: dict[str, list[int]] = {}
    skipped: Counter[str] = Counter()
    start = time.monotonic()
    with open(given.keep / "log.jsonl", "a") as log:
        for record in results(given.kind, list(range(first, end)), given.compile_every, given.keep, **options):
            counts[record["kind"]] += 1
            counts["compiled"] += record.get("stage") == "compiled"
            skipped.update(record.pop("skipped", {}))
            if record["kind"] not in ("right", "skipped"):
                sorts.setdefault(record["sort"], []).append(record["seed"])
                print(record["seed"], record["sort"], flush=True)
            log.write(json.dumps(record) + "\n")
            log.flush()
            if time.monotonic() - start > given.seconds:
                break
    print(f"\nseeds {first} to {record['seed']}, {time.monotonic() - start:.0f} s: {dict(counts)}")
    for sort, seeds in sorted(sorts.items(), key=lambda item: -len(item[1])):
        print(f"{len(seeds):5}  {sort}  seeds {', '.join(map(str, seeds[:6]))}")
    print(f"left out while drawing: {dict(skipped.most_common(40))}")
    return bool(sorts)


if __name__ == "__main__":
    sys.exit(main())
