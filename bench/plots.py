"""The pictures: ratio to the best peer by model, and the roofline with what was measured under it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.tables import best

OPERATIONS_PER_BYTE = [2.0**k for k in range(-4, 11)]


def _pyplot() -> Any | None:
    """matplotlib without a display, None (and said) where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (pip install 'graphopt[bench]')", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def ratios(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar a model for each batch and number of threads: above 1, graphopt is ahead of the fastest peer."""
    plt = _pyplot()
    if plt is None:
        return
    models = list(dict.fromkeys(r["model"] for r in rows))
    kinds = list(dict.fromkeys((r["batch"], r["threads"]) for r in rows))
    figure, axes = plt.subplots(figsize=(max(6, 1.2 * len(models)), 4.5), layout="constrained")
    width = 0.8 / len(kinds)
    for k, (batch, threads) in enumerate(kinds):
        found = {r["model"]: best(r) for r in rows if (r["batch"], r["threads"]) == (batch, threads)}
        places = [models.index(m) + (k - (len(kinds) - 1) / 2) * width for m in found]
        label = f"{f'batch {batch}' if batch else 'file'}, {threads} thread{'s' * (threads > 1)}"
        axes.bar(places, [b[1] if b else 0 for b in found.values()], width * 0.9, label=label)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(models)), models, rotation=30, ha="right")
    axes.set_ylabel("time of the best peer / time of graphopt")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def roofline(peaks: Mapping[str, Any], points: Sequence[tuple[str, float, float]], path: Path) -> None:
    """One panel a number of threads; `points` are (threads, operations per byte, operations a second)."""
    plt = _pyplot()
    if plt is None:
        return
    figure, panels = plt.subplots(1, len(peaks), figsize=(6.5 * len(peaks), 4.5), layout="constrained", squeeze=False,
                                  sharey=True)
    for axes, (threads, p) in zip(panels[0], peaks.items()):
        top = p["rates"]["fma"]
        for level, bandwidth in p["bandwidths"].items():
            axes.plot(OPERATIONS_PER_BYTE, [min(top, bandwidth * x) / 1e9 for x in OPERATIONS_PER_BYTE],
                      label=f"{level.upper()} {bandwidth / 1e9:.0f} GB/s")
        for rate, style in (("fma", "-"), ("fma_l1", "--"), ("bf16", ":"), ("vnni", "-.")):
            if rate in p["rates"]:
                axes.axhline(p["rates"][rate] / 1e9, color="black", linewidth=1, linestyle=style,
                             label=f"{rate} {p['rates'][rate] / 1e9:.0f} G(FL)OP/s")
        dots = [(x, y / 1e9) for t, x, y in points if t == threads]
        if dots:
            axes.scatter(*zip(*dots), s=9, alpha=0.6, label="contraction kernels")
        axes.set(xscale="log", yscale="log", xlabel="operations per byte", title=f"{threads} thread{'s' * (threads != '1')}")
        axes.legend(fontsize=7)
    panels[0][0].set_ylabel("G(FL)OP/s")
    figure.savefig(path, dpi=120)
    plt.close(figure)
