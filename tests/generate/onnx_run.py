"""One seed of the long run over ONNX graphs."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.generate.onnx_draft import Case, Skip
from tests.generate.onnx_graphs import draw
from tests.generate.small import made_small
from tests.generate.verdict import judge

SEEN: Counter[str] = Counter()


def one(source: random.Random, seed: int, compiled: bool, keep: Path, free: float = 0.35) -> dict[str, Any]:
    try:
        case = draw(source, free=free)
    except Skip as e:
        return {"kind": "skipped", "sort": f"skipped: {e}"}
    verdict = judge(case, compiled)
    record: dict[str, Any] = {"kind": verdict.kind, "stage": verdict.stage, "sort": verdict.sort, "text": verdict.text[:400],
                              "skipped": dict(case.skipped)}
    SEEN[verdict.sort] += 1
    if not verdict.is_right and SEEN[verdict.sort] <= 3:  # making small takes longer than all else
        def fails(smaller: Case) -> bool:
            again = judge(smaller, verdict.stage in ("compilation", "call", "compiled"))
            return (again.kind, again.stage, again.sort) == (verdict.kind, verdict.stage, verdict.sort) or (
                verdict.kind == "wrong" and (again.kind, again.stage) == ("wrong", verdict.stage))

        small = made_small(case, fails)
        record["ops"] = [n.op_type for n in small.model.graph.node]
        record["sort"] += f" [{' '.join(record['ops'][:8])}]"
        record["text"] = judge(small, verdict.stage in ("compilation", "call", "compiled")).text[:600]
        onnx.save(small.model, keep / f"{seed}.onnx")
        np.savez(keep / f"{seed}.npz", **{f"in_{k}": a for k, a in small.inputs.items()},
                 **{f"out_{k}": a for k, a in small.expected.items()})
        text = onnx.printer.to_text(small.model)
        (keep / f"{seed}.txt").write_text("\n\n".join(map(str, (verdict, text, small.inputs, small.expected, small.err))))
    return record
