"""Assembly for reading: what a kernel is without what surrounds it, and the loop in it that matters."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^([.\w$]+):")
_JUMP = re.compile(r"^\s+j\w+\s+([.\w$]+)\s*$")
_DIRECTIVE = re.compile(r"^\s+\.(?!p2align|long|quad|zero|short|byte)")
_VECTOR = re.compile(r"^\s+v\w*(?:add|sub|mul|div|max|min|sqrt|dp|rcp|rsqrt)\w*\s.*%[xyz]mm")
_HELPERS = ("__truncsfhf2", "__extendhfsf2", "__truncdfhf2", "__gnu_h2f_ieee", "__gnu_f2h_ieee", "__truncsfbf2")
# Nothing is known of trip counts: a loop is taken to run so many times in each run of the one around it, as compilers do
# without a profile (Wu and Larus, Static branch frequency and program profile analysis, MICRO-27, 1994).
TRIPS = 8


@dataclass(frozen=True)
class Loop:
    """Lines `first` to `last` (from 0) of a listing, within `depth` other loops; `arithmetic` of them compute with vectors."""

    first: int
    last: int
    depth: int
    arithmetic: int
    multiply_adds: int


def listing(text: str) -> list[str]:
    """The lines of LLVM's assembly that are code and the constants it reads, without directives, conversions and debug data."""
    kept: list[str] = []
    for block in _blocks(text):
        name = next((m[1] for line in block if (m := _LABEL.match(line)) and not m[1].startswith((".L", "L"))), "")
        if name.startswith(_HELPERS) or (name == "" and not any(_LABEL.match(line) for line in block)):
            continue
        kept += [_indented(line.split("\t#", 1)[0].rstrip()) for line in block
                 if line.strip() and not _DIRECTIVE.match(line) and not re.match(r"^\.L(?:tmp|func_)", line)
                 and not line.startswith("\t.p2align")]
    return _only_used_labels(kept)


def _indented(line: str) -> str:
    mnemonic, _, operands = line.removeprefix("\t").partition("\t")
    return f"    {mnemonic:<13}{operands}".rstrip() if line.startswith("\t") else line


def _blocks(text: str) -> list[list[str]]:
    """The text cut where a function or a section begins, without sections that hold neither code nor constants."""
    blocks: list[list[str]] = [[]]
    code = True
    for line in text.splitlines():
        word = line.split()
        if word and (word[0] in (".section", ".text", ".type")):
            blocks.append([])
            code = word[0] != ".section" or word[1].startswith((".text", ".rodata"))
        if code:
            blocks[-1].append(line)
    return blocks


def _only_used_labels(lines: list[str]) -> list[str]:
    used = {word for line in lines if not _LABEL.match(line) for word in re.findall(r"\.L[\w$]+", line)}
    return [line for line in lines if not line.startswith(".LBB") or line.rstrip(":") in used]


def loops(lines: list[str]) -> list[Loop]:
    """The loops of a listing: from a label to the last jump back to it."""
    at = {m[1]: k for k, line in enumerate(lines) if (m := _LABEL.match(line))}
    ends: dict[int, int] = {}
    for k, line in enumerate(lines):
        if (m := _JUMP.match(line)) and at.get(m[1], k) < k:
            ends[at[m[1]]] = k
    spans = sorted(ends.items())
    found = []
    for first, last in spans:
        depth = sum(a <= first and last <= b and (a, b) != (first, last) for a, b in spans)
        body = lines[first:last + 1]
        found.append(Loop(first, last, depth, sum(bool(_VECTOR.match(line)) for line in body),
                          sum("vfma" in line or "vfnma" in line or "vdp" in line for line in body)))
    return found


def hot_loop(lines: list[str]) -> Loop | None:
    """The innermost loop with the most vector arithmetic, each nest around it taken for `TRIPS` runs. None without any."""
    every = loops(lines)
    inner = [p for p in every if p.arithmetic and not any(p.first <= q.first and q.last <= p.last and q is not p for q in every)]
    return max(inner or [p for p in every if p.arithmetic], key=lambda p: p.arithmetic * TRIPS ** p.depth, default=None)


def counts(lines: list[str]) -> dict[str, int]:
    """Instructions of a loop by what they do: arithmetic, multiply-adds, loads and stores of vectors, spills among them."""
    code = [line.strip() for line in lines if line.startswith(" ") and not line.strip().startswith(".")]
    memory = [line for line in code if line.startswith("v") and "(" in line]
    stores = [line for line in memory if line.rstrip().endswith(")") or re.search(r"\)\s*(\{%k\d\})?$", line)]
    return {"instructions": len(code), "arithmetic": sum(bool(_VECTOR.match(" " + line)) for line in code),
            "multiply_adds": sum("vfma" in line or "vfnma" in line or "vdp" in line for line in code),
            "loads": len(memory) - len(stores), "stores": len(stores), "spills": sum("(%rsp" in line for line in memory)}


__all__ = ["Loop", "counts", "hot_loop", "listing", "loops"]
