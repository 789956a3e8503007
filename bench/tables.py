"""Tables for the terminal and for the results, from the rows that compare writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.measure import geometric_mean

OURS = "graphopt"
Row = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads: the first to the left, the others to the right."""
    widths = [max(len(r[k]) for r in (header, *rows)) for k in range(len(header))]
    return "\n".join("  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths))).rstrip()
                     for r in (header, *rows))


def ratios(row: Row) -> dict[str, float]:
    """Peer's median over ours where they took turns: above 1, graphopt is faster. Only of peers that are right."""
    return {peer: p[peer]["median"] / p[OURS]["median"] for peer, p in row["pairs"].items()
            if "error" not in p and p[peer]["equal"]}


def best(row: Row) -> tuple[str, float] | None:
    """The fastest peer, and the ratio to it."""
    found = ratios(row)
    return min(found.items(), key=lambda item: item[1]) if found else None


def ours(row: Row) -> Mapping[str, Any] | None:
    """Our times: those beside the fastest peer, else beside any."""
    strongest = best(row)
    if strongest is not None:
        return row["pairs"][strongest[0]][OURS]
    return next((p[OURS] for p in row["pairs"].values() if "error" not in p), None)


def wrong(row: Row) -> list[str]:
    """Sides whose outputs are not the reference's: `name (error)`."""
    found = {}
    for peer, p in row["pairs"].items():
        for side in (OURS, peer):
            if "error" not in p and not p[side]["equal"]:
                found[side] = p[side]["error"]
    return [f"{side} ({error})" for side, error in found.items()]


def failures(row: Row) -> list[str]:
    """Sides that gave nothing, and why."""
    if row.get("error"):
        return [row["error"]]
    return list(dict.fromkeys(f"{p.get('side', peer)}: {p['error']}" for peer, p in row["pairs"].items() if "error" in p))


def milliseconds(times: Mapping[str, Any]) -> str:
    """`42.1 ±1.3%`: median, and the interquartile range as a fraction of it."""
    ms = 1e3 * times["median"]
    digits = 3 if ms < 10 else 2 if ms < 100 else 1
    return f"{ms:.{digits}f} ±{100 * (times['q3'] - times['q1']) / times['median']:.1f}%"


def timing_header(peers: Sequence[str]) -> list[str]:
    theirs = [f"{p} ms (ratio)" for p in peers]
    return ["model", "batch", "threads", f"{OURS} ms", *theirs, "to best", "roofline", "of L1 peak", ""]


def timing_cells(row: Row, peers: Sequence[str]) -> list[str]:
    """One line of the table of times."""
    mine, strongest = ours(row), best(row)
    theirs = []
    for peer in peers:
        p = row["pairs"].get(peer)
        if p is None or "error" in p:
            theirs.append("-" if p is None else "failed")
        else:
            mark = f"({p[peer]['median'] / p[OURS]['median']:.2f})" if p[peer]["equal"] else "(WRONG)"
            theirs.append(f"{milliseconds(p[peer])} {mark}")
    floors = row.get("floor") or {}
    percent = [f"{100 * floors[k] / mine['median']:.0f}%" if mine and k in floors else "-" for k in ("fma", "fma_l1")]
    return [row["model"], str(row["batch"] or "file"), str(row["threads"]), milliseconds(mine) if mine else "failed", *theirs,
            f"{strongest[1]:.2f}" if strongest else "-", *percent, f"WRONG: {', '.join(wrong(row))}" if wrong(row) else ""]


def line(row: Row) -> str:
    """A row by itself, as soon as it is measured."""
    mine, strongest = ours(row), best(row)
    told = [f"{OURS} {milliseconds(mine)} ms" if mine else f"{OURS} failed"]
    told += [f"{peer} {milliseconds(p[peer])} ms" for peer, p in row["pairs"].items() if "error" not in p]
    told += [f"{strongest[1]:.2f} to the best"] if strongest else []
    told += [f"{100 * row['floor']['fma'] / mine['median']:.0f}% of the roofline"] if mine and row.get("floor") else []
    told += [f"WRONG: {', '.join(wrong(row))}"] if wrong(row) else []
    return f"{_label(row)}: {', '.join(told)}" + "".join(f"\n  {reason}" for reason in failures(row))


def costs_header(sides: Sequence[str]) -> list[str]:
    return ["model", "batch", "threads", *(f"{s} s" for s in sides), *(f"{s} MiB" for s in sides)]


def costs_cells(row: Row, sides: Sequence[str]) -> list[str]:
    """Compile time, cold and from the cache, and memory, one line."""
    cells = [row["model"], str(row["batch"] or "file"), str(row["threads"])]
    for side in sides:
        c = row["costs"].get(side, {})
        cells.append(" / ".join(f"{c[k]:.2f}" if c.get(k) is not None else "-" for k in ("cold", "cached")) if c else "-")
    for side in sides:
        c = row["costs"].get(side, {})
        cells.append(f"{c['peak'] / 2**20:.0f} ({(c['peak'] - c['imports']) / 2**20:.0f})" if c.get("peak") else "-")
    return cells


def means(rows: Sequence[Row], peers: Sequence[str]) -> Iterator[str]:
    """Geometric means of the ratios, for every batch and number of threads and for all together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"batch {row['batch']}" * bool(row["batch"]) + "files" * (not row["batch"])
                          + f", threads {row['threads']}", []).append(row)
    if len(groups) > 1:
        groups["all"] = list(rows)
    for name, members in groups.items():
        to_best = [b[1] for row in members if (b := best(row))]
        each = [f"{peer} {geometric_mean(found):.2f}" for peer in peers
                if (found := [r[peer] for row in members if peer in (r := ratios(row))])]
        if to_best:
            ahead = sum(r > 1 for r in to_best)
            yield (f"{name}: geometric mean {geometric_mean(to_best):.2f} to the best peer of each, "
                   f"{'; '.join(each)}; ahead in {ahead} of {len(members)}")


def report(data: Mapping[str, Any]) -> str:
    """Everything that compare has to say, as text."""
    rows, peers = data["rows"], data["peers"]
    parts = [table(timing_header(peers), [timing_cells(r, peers) for r in rows])]
    if told := [f"{_label(r)}: {reason}" for r in rows for reason in failures(r)]:
        parts.append("Failed:\n" + "\n".join(f"  {line}" for line in told))
    parts.append("\n".join(means(rows, peers)))
    if with_costs := [r for r in rows if r.get("costs")]:
        sides = [OURS, *peers]
        parts.append("Seconds from the ONNX file (Inductor: the module) to the first result, cold / from the cache;\n"
                     "resident memory at its peak in a call (above what it was before the model, the libraries loaded):\n"
                     + table(costs_header(sides), [costs_cells(r, sides) for r in with_costs]))
    return "\n\n".join(p for p in parts if p)


def _label(row: Row) -> str:
    return f"{row['model']} batch {row['batch'] or '-'} threads {row['threads']}"


def kernel_table(rows: Sequence[Mapping[str, Any]], limit: int) -> str:
    """The slowest kernels of a program."""
    total = sum(r["seconds"] for r in rows)
    lines = [[r["kernel"], f"{1e6 * r['seconds']:.1f}", f"{100 * r['seconds'] / total:.1f}%" if total else "-",
              f"{r['operations'] / r['seconds'] / 1e9:.1f}" if r["seconds"] else "-", ", ".join(r["loc"][:2])[:60]]
             for r in rows[:limit]]
    head = f"{len(rows)} kernel calls, {1e3 * total:.2f} ms together\n"
    return head + table(["kernel", "us", "share", "GFLOP/s", "from"], lines)
