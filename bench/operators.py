"""PyTorch's own operator database through capture and compile: `python -m bench coverage --ops`.

Every operator of `torch.testing._internal.common_methods_invocations.op_db`, on its own float32 samples (an operator that
takes no float32: int64, then bool, …), as a module around `op(input, *args, **kwargs)`: tensors are the inputs, all else is
constant. A few samples are taken evenly from all of an operator's. Each result is held against eager PyTorch's.

An operator is *covered* where every sample is equal and computed by kernels, *on the evaluator* where every sample is equal
but an op runs on the numpy evaluator (results whose shape depends on the data, mostly), *refused* where graphopt refuses a
sample with its own error, and *wrong* where a result differs, or anything else happens: another error, a crash, a hang.

What makes no sense in inference is left out by rule (`left_out`), and counted by reason.
"""

from __future__ import annotations

import fnmatch
import json
import os
import select
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.tracing import hasten_export

RTOL, ATOL = 2e-4, 2e-5  # of each element, of the largest element
SAMPLES = 6
TIMEOUT = 240  # seconds for one operator
STATES = ("covered", "evaluator", "refused", "wrong", "left out")


# What is measured ------------------------------------------------------------------------------
def database(patterns: Sequence[str] = ("*",)) -> list[Any]:
    """Entries of op_db whose name is matched by any pattern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    for module in list(sys.modules.values()):  # random operators are seeded by their entries, and would not be seen to be random
        if getattr(module, "wrapper_set_seed", None) is not None:
            module.wrapper_set_seed = lambda f, *args, **kwargs: f(*args, **kwargs)  # type: ignore[attr-defined]
    return [o for o in op_db if any(fnmatch.fnmatchcase(title(o), p) for p in patterns)]


def title(entry: Any) -> str:
    """The name of an entry, with that of its variant."""
    return entry.name + (f".{entry.variant_test_name}" if entry.variant_test_name else "")


def left_out(entry: Any) -> str | None:
    """Why an operator makes no sense in inference, by what its entry and name say of it; None where it does."""
    if dtype_of(entry) is None:
        return "no real dtype on a CPU"
    words = title(entry).replace(".", "_").split("_")
    if entry.name.endswith("_") and not entry.name.endswith("__"):
        return "works in place"
    if "backward" in words:
        return "a gradient"
    if "sparse" in words or "jagged" in words:
        return "sparse or jagged tensors"
    if FACTORISATIONS & set(words):
        return "a matrix factorisation, or what is computed by one (LAPACK's)"
    if "update" in words:
        return "training mode"
    if "empty" in words or entry.name in ("new_empty_strided",):
        return "the result is not defined"
    return None


# Eigenvalues, singular values, QR, LU and LDL: their results are those of LAPACK up to signs and order, and ranks, condition
# numbers, pseudoinverses and nuclear norms are made of them. Words of an operator's name.
FACTORISATIONS = frozenset(("svd", "svdvals", "eig", "eigh", "eigvals", "eigvalsh", "qr", "geqrf", "ormqr", "lu", "ldl", "lstsq",
                            "pinv", "pinverse", "lowrank", "householder", "cond", "rank", "nuc"))


def dtype_of(entry: Any) -> Any:
    """The dtype whose samples are taken: float32 where the operator has it."""
    import torch

    takes = entry.supported_dtypes("cpu")
    order = (torch.float32, torch.int64, torch.bool, torch.int32, torch.uint8, torch.float16, torch.bfloat16,
             torch.complex64)
    return next((d for d in order if d in takes), None)


def samples(entry: Any, most: int) -> Iterator[tuple[str, Any, list[Any]]]:
    """(description, module, its inputs) for up to `most` samples, evenly from all."""
    import torch

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = list(entry.sample_inputs("cpu", dtype_of(entry), requires_grad=False))
    for k in sorted({round(i * (len(given) - 1) / max(most - 1, 1)) for i in range(min(most, len(given)))}):
        s = given[k]
        yield (str(k), *wrapped(entry, (s.input, *s.args), s.kwargs))


def wrapped(entry: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A module around one call of an operator, and the tensors that it takes."""
    import torch
    from torch.utils import _pytree as pytree

    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]

    class Call(torch.nn.Module):
        trains = _trains(entry, args, kwargs)

        def forward(self, *tensors: Any) -> Any:
            filled = list(leaves)
            for i, t in zip(places, tensors):
                filled[i] = t
            a, k = pytree.tree_unflatten(filled, spec)
            return entry.op(*a, **k)

    return Call().eval(), [leaves[i] for i in places]


def _trains(entry: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Is it a call in training mode, as its arguments say?"""
    import torch

    packet = getattr(torch.ops.aten, entry.name, None)
    names = [a.name for a in packet.default._schema.arguments] if packet is not None and "default" in packet.overloads() else []
    given = dict(zip(names, args)) | kwargs
    return given.get("training") is True


def excused(module: Any, tensors: list[Any]) -> tuple[str | None, Any]:
    """(why one sample makes no sense in inference or None, eager's result), by what eager PyTorch does with it."""
    import torch
    from torch.utils import _pytree as pytree

    def run(seed: int) -> tuple[Any, list[Any]]:
        torch.manual_seed(seed)
        given = [t.detach().clone() if t.layout is torch.strided and not t.is_nested else t for t in tensors]
        with torch.no_grad():
            return module(*given), given

    if any(t.is_nested or t.layout is not torch.strided for t in tensors):
        return "sparse or jagged tensors", None
    if module.trains:
        return "training mode", None
    result, after = run(0)
    results = [r for r in pytree.tree_leaves(result) if isinstance(r, torch.Tensor)]
    if not results:
        return "the result is no tensor", None
    if any(r.is_nested or r.layout is not torch.strided for r in results):
        return "sparse or jagged tensors", None
    if not all(_same(a, b) for a, b in zip(tensors, after)):
        return "works in place", None
    for seed in range(1, 6):
        again = [r for r in pytree.tree_leaves(run(seed)[0]) if isinstance(r, torch.Tensor)]
        if not all(_same(a, b) for a, b in zip(results, again)):
            return "random, or not defined", None
    return None, results


def real(t: Any) -> Any:
    """A complex tensor as a real one with a last axis of two parts; others as they are."""
    import torch

    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def _same(a: Any, b: Any) -> bool:
    import torch

    if a.dtype != b.dtype:
        return False
    a, b = real(a), real(b)
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) if a.dtype.is_floating_point else \
        torch.equal(a, b)


# One operator ------------------------------------------------------------------------------------
def measure(entry: Any, most: int, target: str) -> dict[str, Any]:
    """{operator, dtype, state, note, samples, first}: see the module. All samples are one program where that is covered, since
    tracing costs more than running; else each is tried by itself."""
    dtype = str(dtype_of(entry)).removeprefix("torch.")
    row: dict[str, Any] = {"operator": title(entry), "dtype": dtype, "samples": 0, "first": ""}
    if reason := left_out(entry):
        return row | {"state": "left out", "note": reason}
    taken, excuses = [], []
    for where, module, tensors in samples(entry, most):
        try:
            reason, expected = excused(module, tensors)
        except Exception as e:  # what eager refuses is not ours to take
            reason, expected = f"eager PyTorch raises {type(e).__name__}", None
        if reason:
            excuses.append(reason)
        else:
            taken.append((where, module, tensors, expected))
    if not taken:
        return row | {"state": "left out", "note": Counter(excuses).most_common(1)[0][0] if excuses else "no samples"}
    row["samples"] = len(taken)
    if try_one(*_together(taken), target)[0] == "covered":
        return row | {"state": "covered", "note": ""}
    tried = [(where, *try_one(*sample, target)) for where, *sample in taken]
    state = next(s for s in ("wrong", "refused", "evaluator", "covered") if any(t[1] == s for t in tried))
    notes = Counter(note for _, s, note in tried if s == state and note)
    return row | {"state": state, "note": "; ".join(f"{n} ({k} of {len(taken)})" for n, k in notes.most_common(3)),
                  "first": next(where for where, s, _ in tried if s == state)}


def _together(taken: list[Any]) -> tuple[Any, list[Any], list[Any]]:
    """Samples as one: a module that makes all calls, all their tensors, all their results."""
    import torch

    class Calls(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            results, at = [], 0
            for _, module, own, _ in taken:
                results.append(module(*tensors[at:at + len(own)]))
                at += len(own)
            return results

    return Calls().eval(), [t for _, _, own, _ in taken for t in own], [r for *_, expected in taken for r in expected]


def try_one(module: Any, tensors: list[Any], expected: list[Any], target: str) -> tuple[str, str]:
    """(state, note) of one sample; on the target "evaluator" nothing is compiled."""
    import torch

    import graphopt
    from bench.coverage import compare
    from graphopt.capture.torch import capture_torch
    from graphopt.capture.torch.weights import array_of
    from graphopt.codegen.lower.registry import why_not
    from graphopt.ir.table import DECOMPOSITIONS

    try:
        if target == "evaluator":
            from graphopt.ir.evaluate import evaluate

            graph = capture_torch(module, tuple(tensors))
            given = graph.metadata["call"].flatten(tuple(tensors), {})
            got = [np.asarray(r) for r in evaluate(graph, [array_of(real(t)) for t in given])]
            late = sorted({f"{op.name}: {r}" for op in graph.ops if op.name not in DECOMPOSITIONS and (r := why_not(op))})
        else:
            model = graphopt.compile(module, tuple(tensors), target=target)
            with torch.no_grad():
                result = model(*tensors)
            from torch.utils import _pytree as pytree

            leaves = pytree.tree_leaves(result)
            tensors = [torch.as_tensor(r) for r in leaves if isinstance(r, (torch.Tensor, np.ndarray))]
            if [t.is_complex() for t in tensors] != [t.is_complex() for t in expected]:
                return "wrong", "complex where eager's results are real, or the other way round"
            got = [array_of(real(t)) for t in tensors]
            late = sorted({f"{name}: {reason}" for name, _, reason in model.host_ops})
    except graphopt.GraphOptError as e:
        kind = type(e).__name__
        refusal = kind in ("UnsupportedOperators", "CaptureError") and "Please report" not in str(e)
        named = ", ".join(sorted({n for n, _ in e.operators})) if isinstance(e, graphopt.UnsupportedOperators) else f"{kind}: {e}"
        return ("refused" if refusal else "wrong"), named.replace("\n", " ")[:300]
    except Exception as e:
        return "wrong", f"{type(e).__name__}: {e}".replace("\n", " ")[:300]
    wanted = [array_of(real(r.resolve_neg())) for r in expected]
    equal, error = compare(got, wanted, rtol=RTOL, atol=ATOL)
    if equal != "yes":
        return "wrong", f"differs by {error}" if error[0].isdigit() and "outputs" not in error else error
    return ("evaluator", ", ".join(late)[:200]) if late else ("covered", "")


# All of them, in processes -------------------------------------------------------------------------
def report(patterns: Sequence[str], target: str, most: int, as_json: bool) -> int:
    """Print a line an operator and the totals; the exit status is 1 where one is wrong or fewer than 95 % are covered."""
    names = [title(o) for o in database(patterns)]
    rows = []
    for row in in_processes(names, target, most):
        rows.append(row)
        if as_json:
            print(json.dumps(row), flush=True)
        elif row["state"] not in ("covered", "left out"):
            print(f"{row['operator']:<44}{row['state']:<11}{row['note']}", flush=True)
    totals = Counter(r["state"] for r in rows)
    if as_json:
        return 1 if totals["wrong"] else 0
    tried = len(rows) - totals["left out"]
    print("\nleft out, by reason")
    for reason, count in Counter(r["note"].split("; ")[0] for r in rows if r["state"] == "left out").most_common():
        print(f"  {count:>4}  {reason}")
    good = totals["covered"] + totals["evaluator"]
    print(f"\n{len(rows)} operators, of which {totals['left out']} are left out and {tried} tried:")
    print(f"  {totals['covered']:>4} covered, in kernels\n  {totals['evaluator']:>4} equal, on the evaluator")
    print(f"  {totals['refused']:>4} refused\n  {totals['wrong']:>4} wrong\n"
          f"{100 * totals['covered'] / max(tried, 1):.1f} % in kernels, {100 * good / max(tried, 1):.1f} % with the evaluator")
    return 0 if not totals["wrong"] and good >= 0.95 * tried else 1


def in_processes(names: Sequence[str], target: str, most: int) -> Iterator[dict[str, Any]]:
    """Rows of operators in order, measured in a process that is replaced where it dies or takes more than TIMEOUT."""
    rest = list(names)
    while rest:
        command = [sys.executable, "-m", "bench.operators", target, str(most)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as worker:
            assert worker.stdin is not None and worker.stdout is not None
            while rest:
                worker.stdin.write(rest[0] + "\n")
                worker.stdin.flush()
                line = _answer(worker)
                name = rest.pop(0)
                if line is None:
                    ended = worker.poll()
                    worker.kill()
                    yield {"operator": name, "state": "wrong", "samples": 0, "dtype": "", "first": "",
                           "note": f"more than {TIMEOUT} s" if ended is None else f"the process ended with {ended}"}
                    break
                yield json.loads(line)
            else:
                worker.stdin.close()


def _answer(worker: Any) -> str | None:
    """The next line that is an answer; None where none comes in time."""
    while True:
        ready, _, _ = select.select([worker.stdout], [], [], TIMEOUT)
        if not ready:
            return None
        line = worker.stdout.readline()
        if not line:
            worker.wait()
            return None
        if line.startswith("{"):
            return line


def _work(target: str, most: str) -> None:
    """A worker: names of operators in, one JSON object each out."""
    import torch

    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what operators print is no answer
    os.dup2(1, 2)
    warnings.simplefilter("ignore")
    entries = {title(o): o for o in database()}
    hasten_export()
    for line in sys.stdin:
        torch._dynamo.reset()
        print(json.dumps(measure(entries[line.strip()], int(most), target)), file=out, flush=True)


if __name__ == "__main__":
    _work(*sys.argv[1:])
