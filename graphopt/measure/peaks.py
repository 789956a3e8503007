"""What this machine can reach at most, by kernels of our own (peaks.c, built with the C compiler for this CPU), and the
roofline's arithmetic: the least time that work takes on it (Williams, Waterman and Patterson: Roofline, CACM 52(4), 2009).

Multiply-adds on registers alone (`fma`) and with both operands from L1 (`fma_l1`, what a contraction's inner loop does: the
best of several register tiles), dot products of BF16 and of bytes (VNNI) where the CPU has them, and the bandwidth of reading
from L1, L2, L3 and memory. C and not graphopt's own code: a compiler must not move or simplify what is measured, which takes
barriers that loops of ours have no word for.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.cache import store
from graphopt.errors import CodegenError
from graphopt.runtime.host.machine import caches, identity

LEVELS = ("l1", "l2", "l3", "dram")
SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-pthread")
TRIES = 7  # of each kernel, of which the best stands
WHERE = "measuring this machine's peaks"
KEPT_RUNS = 3  # after so many measurements that are kept, no more are made


@dataclass(frozen=True)
class Work:
    """`count` equal kernels: operations, and the bytes of constants and of other operands and results, of one."""

    operations: int
    weights: int
    activations: int
    count: int = 1


@dataclass(frozen=True)
class Peaks:
    """What `threads` cores reach together: `rates` in operations a second, `bandwidths` in bytes a second by level.

    `sizes` are bytes of all their caches of a level together. A level that could not be measured is missing.
    """

    threads: int
    rates: Mapping[str, float]
    bandwidths: Mapping[str, float]
    sizes: Mapping[str, int]

    def reading(self, nbytes: int) -> float:
        """Least seconds to read so many bytes again: what fits each level comes from there, only the rest from further out."""
        levels = [level for level in LEVELS if level in self.bandwidths]
        seconds, inner = 0.0, 0
        for level in levels:
            held = nbytes if level == levels[-1] else min(nbytes, self.sizes[level])
            seconds += max(held - inner, 0) / self.bandwidths[level]
            inner = max(inner, held)
        return seconds

    def arithmetic(self, w: Work, rate: str = "fma") -> float:
        """Least seconds for the operations of one of the kernels."""
        return w.operations / self.rates[rate]

    def memory(self, w: Work, all_weights: int) -> float:
        """Least seconds for the bytes of one of the kernels.

        Weights are read as part of all weights of the model, since each is read once a call (`all_weights` bytes); operands
        and results as those of the one kernel.
        """
        weight = self.reading(all_weights) / all_weights if all_weights else 0.0  # seconds a byte
        return w.weights * weight + self.reading(w.activations)

    def floor(self, work: Iterable[Work], rate: str = "fma", all_weights: int | None = None) -> float:
        """Least seconds: the sum over kernels of max(operations / peak, bytes / bandwidth). `all_weights` are the bytes of all
        weights of the model; by default those of this work."""
        work = list(work)
        total = sum(w.weights * w.count for w in work) if all_weights is None else all_weights
        return sum(w.count * max(self.arithmetic(w, rate), self.memory(w, total)) for w in work)


# Measuring --------------------------------------------------------------------------------------
def build(folder: Path, source: Path = SOURCE, headers: Path | None = None) -> Path:
    """The measuring program, built for this machine. CodegenError where there is no C compiler, or it refuses."""
    from graphopt.codegen.x86.native import compiler

    cc = compiler()
    if cc is None:
        raise CodegenError("there is no C compiler (cc)", where=WHERE, hint="Install gcc")
    program = folder / source.stem
    given = [*FLAGS, *([f"-I{headers}"] if headers is not None else []), str(source), "-o", str(program)]
    built = subprocess.run([cc, *given], capture_output=True, text=True, check=False)
    if built.returncode:
        raise CodegenError(f"{cc} could not build {source}: {built.stderr.strip()[:2000]}", where=WHERE)
    return program


def measure(program: Path, threads: int, tries: int = TRIES) -> dict[str, Any]:
    """The peaks of so many threads together, as JSON: what `from_json` reads."""
    held = caches()
    buffers = buffer_sizes(held, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), threads)
    command = [str(program), str(tries), str(threads), *(str(buffers.get(level, 0)) for level in LEVELS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CodegenError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}",
                           where=WHERE)
    values = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    lanes = int(values.pop("lanes"))
    bandwidths = {k: v for k, v in values.items() if k in LEVELS}
    sizes = {level: held[level] * (1 if level == "l3" else threads) for level in bandwidths if level in held}
    return {"lanes": lanes, "rates": {k: v for k, v in values.items() if k not in LEVELS}, "bandwidths": bandwidths,
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


def from_json(data: Mapping[str, Any], threads: int) -> Peaks:
    """What `measure` found."""
    return Peaks(threads, data["rates"], data["bandwidths"], data["sizes"])


# This machine's, kept ---------------------------------------------------------------------------
def here(threads: int) -> Peaks:
    """The peaks of so many threads of this machine. CodegenError where they cannot be measured.

    Measured in some two seconds and kept in the cache folder. What else runs can only make a measurement smaller: so the
    first few processes that ask measure again, and the largest of every number is kept.
    """
    root, where = store.folder(), store.place("peaks")
    given = f"{identity()} | {caches()} | {threads}".encode() + SOURCE.read_bytes()
    path = None if where is None else where / f"{hashlib.sha256(given).hexdigest()}.json"
    kept: dict[str, Any] = (path and store.read_json(path)) or {"runs": 0}
    if kept["runs"] < KEPT_RUNS:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            kept = _larger(kept, measure(build(Path(folder)), threads, tries=3))
        if path is not None and root is not None:
            try:
                store.room("peaks")
                store.write_json(path, kept)
            except OSError as e:
                store.cannot_keep(root, e)
    return from_json(kept, threads)


def _larger(kept: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Both measurements in one: of every rate and bandwidth the larger."""
    best = {kind: {k: max(v, kept.get(kind, {}).get(k, 0.0)) for k, v in found[kind].items()} for kind in ("rates", "bandwidths")}
    best["rates"]["fma"] = max(best["rates"]["fma"], best["rates"]["fma_l1"])  # loads beside them only take more
    return {**found, **best, "runs": kept["runs"] + 1}


__all__ = ["FLAGS", "LEVELS", "SOURCE", "Peaks", "Work", "buffer_sizes", "build", "from_json", "here", "measure"]
