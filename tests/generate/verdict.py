"""What graphopt makes of a case: right, refused, or wrong, and where on its way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphopt
from graphopt.backends.pipeline import optimise
from graphopt.capture import capture
from graphopt.codegen.program.interface import specialise
from graphopt.errors import GraphOptError
from graphopt.ir.dims import substitute
from graphopt.ir.evaluate import bind_symbols, evaluate
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType
from graphopt.targets import parse_target, without_winograd

KINDS = ("right", "skipped", "refused", "wrong", "failed")


@dataclass(frozen=True)
class Verdict:
    """`kind` is one of KINDS ("failed": any exception but a refusal at capture), `stage` where it was reached."""

    kind: str
    stage: str = ""
    text: str = ""

    @property
    def is_right(self) -> bool:
        return self.kind == "right"

    @property
    def sort(self) -> str:
        """The same for all failures that read alike: without names and numbers."""
        text = re.sub(r"'[^']*'|\"[^\"]*\"|%\S+", "~", " ".join(self.text.splitlines()[:3]))
        return f"{self.kind} {self.stage}: {re.sub(r'-?[0-9][0-9.e+-]*', '#', text)[:150]}"


class Stop(Exception):
    """A verdict that was reached on the way."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.text)
        self.verdict = verdict


def target_for(finite: bool) -> Any:
    """This machine's CPU, one thread; without Winograd where a NaN or infinity would spread in a tile."""
    return parse_target("x86", 1) if finite else without_winograd("x86", 1)


def difference(got: Any, want: np.ndarray, err: float) -> str | None:
    """What is wrong with a result; None where it is right within its bound on rounding errors."""
    got = np.asarray(got)
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"expected {want.dtype}{list(want.shape)}, got {got.dtype}{list(got.shape)}"
    if want.dtype.kind != "f":
        wrong = int(np.sum(got != want))
        return f"{wrong} of {want.size} elements differ" if wrong else None
    a, b = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    same = np.array_equal(np.where(finite, 0, a), np.where(np.isfinite(b), 0, b), equal_nan=True)
    if not same:
        at = ~finite | ~np.isfinite(b)
        return f"NaN or infinity in other places: {a[at][:4].tolist()} became {b[at][:4].tolist()}"
    with np.errstate(all="ignore"):
        off = np.where(finite, np.abs(a - b), 0)
    largest = float(np.max(np.abs(a), where=finite, initial=0.0))
    eps = max(float(np.finfo(want.dtype).eps), 1e-12)  # attributes are f32: their defaults have no more digits in f64
    limit = 6 * err + 32 * eps * largest + 1e-30
    if off.size == 0 or off.max() <= limit:
        return None
    return f"{int((off > limit).sum())} of {off.size} elements are off by up to {off.max():.3g}, where {limit:.3g} is rounding"


def compared(got: Sequence[Any], case: Any, stage: str) -> None:
    if len(got) != len(case.expected):
        raise Stop(Verdict("wrong", stage, f"{len(case.expected)} outputs became {len(got)}"))
    for result, (name, want) in zip(got, case.expected.items()):
        text = difference(result, want, case.err[name])
        if text is not None:
            raise Stop(Verdict("wrong", stage, f"{text} (output {name})"))


class Staged:
    """Names the stage for exceptions within: a refusal is a GraphOptError where `may_refuse`."""

    def __init__(self, stage: str, may_refuse: bool = False) -> None:
        self.stage, self.may_refuse = stage, may_refuse

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, e: BaseException | None, trace: Any) -> None:
        if not isinstance(e, Exception) or isinstance(e, Stop):
            return
        refused = self.may_refuse and isinstance(e, GraphOptError)
        raise Stop(Verdict("refused" if refused else "failed", self.stage, f"{type(e).__name__}: {e}")) from e


def judge(case: Any, compiled: bool) -> Verdict:
    """Capture and evaluate; all passes and evaluate; where `compiled`, compile and call; evaluation and passes with free dims."""
    try:
        given = list(case.inputs.values())
        with Staged("capture", may_refuse=True):
            graph = capture(case.model)
        fixed = graph
        if graph.metadata.get("recapture"):
            with Staged("specialisation"):
                control = graph.metadata.get("control_inputs") or ()
                fixed = specialise(graph, list(case.inputs), {k: a.shape for k, a in case.inputs.items()},
                                   {k: case.inputs[k] for k in control})
        with Staged("evaluator"):
            compared(evaluate(fixed, given, observe=Types(fixed, given)), case, "evaluator")
        target = target_for(case.finite)
        optimised(fixed, given, case, target, "passes")
        if compiled:
            called(case.model, case.inputs, case)
        if fixed is not graph and not graph.metadata.get("control_inputs"):
            with Staged("evaluator, symbolic"):
                compared(evaluate(graph, given, observe=Types(graph, given)), case, "evaluator, symbolic")
            optimised(graph, given, case, target, "passes, symbolic")
    except Stop as stop:
        return stop.verdict
    return Verdict("right", "compiled" if compiled else "passes")


class Types:
    """An observer of an evaluation that raises Stop where a value has not the shape that its type says, for these sizes."""

    def __init__(self, graph: Graph, given: Sequence[Any]) -> None:
        self.sizes: dict[str, int] = {}
        for v, a in zip(graph.inputs, given):
            bind_symbols(v.type, a, self.sizes, v.name or "input")

    def __call__(self, v: Value, result: Any) -> None:
        if not isinstance(v.type, TensorType) or v.type.shape is None or not isinstance(result, np.ndarray):
            return
        bind_symbols(v.type, result, self.sizes, v.name or "result", check=False)
        said = [substitute(d, self.sizes) for d in v.type.shape]
        if said != list(result.shape) and v.op is not None:
            raise Stop(Verdict("wrong", "types", f"{v.op.name} gave {list(result.shape)} for {v.type}, which is {said}"))


def optimised(graph: Graph, given: Sequence[Any], case: Any, target: Any, stage: str) -> None:
    with Staged(stage):
        made = optimise(graph, target)[0]
        compared(evaluate(made, given, observe=Types(made, given)), case, stage)


def called(model: Any, inputs: Mapping[str, np.ndarray], case: Any) -> None:
    with Staged("compilation"):
        made = graphopt.compile(model, threads=1, winograd=case.finite)
    with Staged("call"):
        got = list(made.run(dict(inputs)).values())
    compared(got, case, "compiled")
