"""One measurement in a process of its own: `python -m bench.worker JOB`, where JOB is JSON; a line of JSON comes back, or one
for every turn that the process is told to take.

The process is what makes measurements honest: threads, memory and compiled code of one cannot touch another's.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.machine import ROOT

TIMEOUT = 600  # seconds for one job


def command(job: Mapping[str, Any]) -> list[str]:
    return [sys.executable, "-m", "bench.worker", json.dumps(job)]


def ended(status: int | None, said: str) -> str:
    """Why a process that gave no result did not."""
    return f"its process ended with {status}: {(said.strip().splitlines() or ['and said nothing'])[-1][:300]}"


def run(job: Mapping[str, Any], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The job's result, or {"error": the reason}: a side that fails, crashes or hangs is a row, not the end."""
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(command(job), capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {TIMEOUT} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"error": ended(done.returncode, done.stderr)}
    return json.loads(lines[-1])


def side(job: Mapping[str, Any]) -> dict[str, Any]:
    """One side, in turns: says whether its outputs are right, then takes a turn for each line that it is told, and answers with
    the seconds of its calls; until nothing more is said. See turns.py."""
    from bench.cases import Case
    from bench.measure import Turn
    from bench.sides import check, load_packages, open_side

    case = Case.from_json(job["case"])
    try:
        load_packages(job["side"], compiling=False)
        opened = open_side(job["side"], case, job["threads"], None)
        equal, error = check(case, opened)
        turn = Turn(opened.call)
    except Exception as e:
        return {"error": _reason(e)}
    say({"equal": equal, "error": error})
    for _ in sys.stdin:
        say({"seconds": turn()})
    return {}


def alone(job: Mapping[str, Any]) -> dict[str, Any]:
    """One side by itself: seconds from its file (or module) to its first result, and resident bytes in a later call."""
    from bench.cases import Case
    from bench.sides import check, load_packages, open_side

    case = Case.from_json(job["case"])
    name, cache = job["side"], Path(job["cache"])
    load_packages(name, compiling=job["cold"])
    imports = resident()["VmRSS"]
    try:
        start = time.perf_counter()
        side = open_side(name, case, job["threads"], cache if name == "openvino" else None)
        side.call()
        seconds = time.perf_counter() - start
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        side.call()
        peak = resident()["VmHWM"]
        equal, error = check(case, side)
    except Exception as e:
        return {"error": _reason(e)}
    return {"seconds": seconds, "peak": peak, "imports": imports, "equal": equal, "error_size": error}


def profile(job: Mapping[str, Any]) -> dict[str, Any]:
    """graphopt's kernels in the order of their time."""
    from bench.cases import Case
    from bench.sides import OURS, open_side

    case = Case.from_json(job["case"])
    model = open_side(OURS, case, job["threads"], None).model
    given = case.inputs()
    rows = model.profile(*[given[s.name] for s in model.inputs], repeats=7)
    return {"kernels": sorted(rows, key=lambda r: -r["seconds"])}


def prepare(job: Mapping[str, Any]) -> dict[str, Any]:
    """Make a case."""
    from bench import cases

    case = cases.Case.from_json(job["case"])
    try:
        cases.prepare(case, Path(job["source"]) if job["source"] else None, job["dims"])
    except Exception as e:
        return {"error": _reason(e)}
    return {}


def kernels(job: Mapping[str, Any]) -> dict[str, Any]:
    """The distinct contraction kernels of one model."""
    from bench.cases import Case
    from bench.kernels import sweep

    return {"kernels": [asdict(k) for k in sweep(Case.from_json(job["case"]), job["threads"])]}


def calibrate(job: Mapping[str, Any]) -> dict[str, Any]:
    """Costs that graphopt's own kernels tell; on one core, but for those that are of several."""
    from bench.calibrate import of_kernels

    names, clock = job["names"], job["clock"]
    found = of_kernels([n for n in names if n == "wait"], clock)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rest = of_kernels([n for n in names if n != "wait"], clock)
    return {key: found[key] | rest[key] for key in rest}


def resident() -> dict[str, int]:
    """Bytes of memory of this process: VmRSS now, VmHWM at most."""
    found = re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return {name: int(kib) << 10 for name, kib in found}


def _reason(e: Exception) -> str:
    """An error in one line, with its place."""
    where = traceback.extract_tb(e.__traceback__)[-1]
    said = " ".join(str(e).split())[:300]
    return f"{type(e).__name__}: {said} ({Path(where.filename).name}:{where.lineno})"


JOBS = {"side": side, "alone": alone, "profile": profile, "prepare": prepare, "kernels": kernels,
        "calibrate": calibrate}


def say(result: Mapping[str, Any]) -> None:
    """A line of JSON to who started this process; what libraries print goes elsewhere."""
    assert sys.__stdout__ is not None
    print(json.dumps(result), file=sys.__stdout__, flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    job = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not the result
        result = JOBS[job["kind"]](job)
    say(result)
    os._exit(0)  # without the libraries' own ends, which wait for their threads


if __name__ == "__main__":
    main()
