"""One seed of the long run over PyTorch modules, and its verdict."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graphopt
from graphopt.backends.pipeline import optimise
from graphopt.capture import capture
from graphopt.capture.torch.weights import array_of
from graphopt.codegen.program.interface import specialise
from graphopt.errors import CaptureError
from graphopt.ir.evaluate import evaluate
from tests.generate.torch_draft import Skip, TorchCase
from tests.generate.torch_modules import draw
from tests.generate.verdict import Staged, Stop, Verdict, compared, target_for


def judge_torch(case: TorchCase, compiled: bool) -> Verdict:
    try:
        with Staged("capture", may_refuse=True):
            try:
                graph = capture(case.module, case.inputs, dynamic_shapes=case.dynamic)
            except CaptureError as e:
                if "torch.export could not trace" in str(e):
                    raise Stop(Verdict("skipped", "export", str(e))) from e
                raise
        call = graph.metadata["call"]
        given = [array_of(t) for t in call.flatten(case.inputs, {})]
        with Staged("specialisation"):
            names = graph.input_names or [v.name or "" for v in graph.inputs]
            graph = specialise(graph, names, {k: a.shape for k, a in zip(names, given)}, {})
        with Staged("evaluator"):
            compared(_arrays(call.unflatten(evaluate(graph, given))), case, "evaluator")
        with Staged("passes"):
            optimised, _ = optimise(graph, target_for(case.finite))
            compared(_arrays(call.unflatten(evaluate(optimised, given))), case, "passes")
        if compiled:
            with Staged("compilation"):
                made = graphopt.compile(case.module, case.inputs, dynamic_shapes=case.dynamic, threads=1, winograd=case.finite)
            with Staged("call"):
                got = made(*(t.clone() for t in case.inputs))
            compared(_arrays(got), case, "compiled")
    except Stop as stop:
        return stop.verdict
    return Verdict("right", "compiled" if compiled else "passes")


def _arrays(results: Any) -> list[np.ndarray]:
    return [array_of(t) if isinstance(t, torch.Tensor) else np.asarray(t) for t in results]


def one(source: random.Random, seed: int, compiled: bool, keep: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    try:
        case = draw(source)
    except Skip as e:
        return {"kind": "skipped", "sort": f"skipped: {e}"}
    verdict = judge_torch(case, compiled)
    record: dict[str, Any] = {"kind": verdict.kind, "stage": verdict.stage, "sort": verdict.sort, "text": verdict.text[:400],
                              "skipped": dict(case.skipped)}
    if verdict.kind not in ("right", "skipped"):
        kept = {"state": case.module.state_dict(), "inputs": case.inputs, "expected": case.expected, "err": case.err}
        torch.save(kept, keep / f"{seed}.pt")
        (keep / f"{seed}.py").write_text(f'"""{verdict}"""\n{case.source}')
    return record
