"""This machine's peaks, by the kernels that graphopt itself brings (graphopt/measure/peaks.c): multiply-adds, dot products of
BF16 and of bytes where the CPU has them, and the bandwidth of reading from L1, L2, L3 and memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import machine, options, plots, tables
from graphopt.errors import CodegenError
from graphopt.measure.peaks import FLAGS, LEVELS, build, measure


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench roofline", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_threads(parser, ",".join(map(str, sorted({1, machine.cores()}))))
    parser.add_argument("--json", type=Path, default=machine.RESULTS / "roofline.json", metavar="FILE",
                        help="where the peaks go, a plot (.png) beside (default: that of bench/results, which compare reads)")
    args = parser.parse_args(argv)
    options.check_threads(parser, args.threads)
    here = machine.describe()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build(Path(folder))
        except CodegenError as e:
            print(e, file=sys.stderr)
            return 1
        for threads in tqdm(args.threads, disable=None, unit="number of threads"):
            found[str(threads)] = measure(program, threads)
    kernels = f"graphopt/measure/peaks.c, {here['cc']}, {' '.join(FLAGS)}"
    machine.write_json(args.json, {"machine": here, "kernels": kernels, "peaks": found})
    plots.roofline(found, [], args.json.with_suffix(".png"))
    print(machine.summary(here))
    print(show(found))
    return 0


def show(found: Mapping[str, Any]) -> str:
    """Peaks in columns, a line a number of threads."""
    rates = list(dict.fromkeys(r for p in found.values() for r in p["rates"]))
    levels = [level for level in LEVELS if any(level in p["bandwidths"] for p in found.values())]
    header = ["threads", *(f"{r} G(FL)OP/s" for r in rates), *(f"{level.upper()} GB/s" for level in levels)]
    rows = [[t, *(f"{p['rates'][r] / 1e9:.1f}" if r in p["rates"] else "-" for r in rates),
             *(f"{p['bandwidths'][level] / 1e9:.1f}" if level in p["bandwidths"] else "-" for level in levels)]
            for t, p in found.items()]
    return tables.table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
