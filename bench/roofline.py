"""This machine's peaks, by kernels of our own: bench/roofline.c, built with the C compiler for this CPU.

Multiply-adds on registers alone (`fma`) and with both operands from L1 (`fma_l1`, what a contraction's inner loop does:
the best of several register tiles), dot products of BF16 and of bytes (VNNI) where the CPU has them, and the bandwidth
of reading from L1, L2, L3 and memory. C and not graphopt's own code: a compiler must not move or simplify what is
measured, which takes barriers that loops of ours have no word for.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import machine, options, peaks, plots, tables

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-pthread")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench roofline", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_threads(parser, ",".join(map(str, sorted({1, machine.cores()}))))
    parser.add_argument("--json", type=Path, default=machine.RESULTS / "roofline.json", metavar="FILE",
                        help="where the peaks go, a plot (.png) beside (default: that of bench/results, which compare reads)")
    args = parser.parse_args(argv)
    options.check_threads(parser, args.threads)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        parser.error("there is no C compiler: install gcc")
    here = machine.describe()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "roofline"
        built = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(program)], capture_output=True, text=True)
        if built.returncode:
            print(f"{compiler} could not build {SOURCE}:\n{built.stderr.strip()}", file=sys.stderr)
            return 1
        for threads in tqdm(args.threads, disable=None, unit="number of threads"):
            found[str(threads)] = measure(program, threads, here)
    kernels = f"bench/roofline.c, {here['cc']}, {' '.join(FLAGS)}"
    machine.write_json(args.json, {"machine": here, "kernels": kernels, "peaks": found})
    plots.roofline(found, [], args.json.with_suffix(".png"))
    print(machine.summary(here))
    print(show(found))
    return 0


def measure(program: Path, threads: int, here: Mapping[str, Any]) -> dict[str, Any]:
    """The peaks of so many threads together."""
    buffers = buffer_sizes(here["caches"], here["memory"], threads)
    command = [str(program), str(threads), *(str(buffers.get(level, 0)) for level in peaks.LEVELS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    values = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    lanes = int(values.pop("lanes"))
    bandwidths = {k: v for k, v in values.items() if k in peaks.LEVELS}
    sizes = {level: here["caches"][level] * (1 if level == "l3" else threads) for level in bandwidths if level in here["caches"]}
    return {"lanes": lanes, "rates": {k: v for k, v in values.items() if k not in peaks.LEVELS}, "bandwidths": bandwidths,
            "sizes": sizes, "buffers": buffers}


def buffer_sizes(caches: Mapping[str, int], memory: int, threads: int) -> dict[str, int]:
    """Bytes that each thread reads to measure a level: half of a cache of its own; of the shared L3 a part that L2 cannot
    hold, where a thread's share is that large; of memory what L3 cannot hold, a quarter of all memory at most."""
    found = {level: caches[level] // 2 for level in ("l1", "l2") if level in caches}
    inner = caches.get("l2", caches.get("l1", 0))
    outer = caches.get("l3", inner)
    part = min(8 * inner, outer // 2 // threads)
    if "l3" in caches and part >= 2 * inner:
        found["l3"] = part
    found["dram"] = min(max(4 * outer, 64 << 20), memory // 4) // threads
    return {level: n // 4096 * 4096 for level, n in found.items()}


def show(found: Mapping[str, Any]) -> str:
    """Peaks in columns, a line a number of threads."""
    rates = list(dict.fromkeys(r for p in found.values() for r in p["rates"]))
    levels = [level for level in peaks.LEVELS if any(level in p["bandwidths"] for p in found.values())]
    header = ["threads", *(f"{r} G(FL)OP/s" for r in rates), *(f"{level.upper()} GB/s" for level in levels)]
    rows = [[t, *(f"{p['rates'][r] / 1e9:.1f}" if r in p["rates"] else "-" for r in rates),
             *(f"{p['bandwidths'][level] / 1e9:.1f}" if level in p["bandwidths"] else "-" for level in levels)]
            for t, p in found.items()]
    return tables.table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
