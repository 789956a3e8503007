"""ONNX's official backend suite (2024 cases) through graphopt: how many pass, which fail, and what runs on the host.

    python -m bench onnx_suite --target evaluator --jobs 2 [--filter resize] [--list]
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import sys
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench import options

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass
class Outcome:
    """`error` is empty where the case passed; `host` names the ops that no kernel ran, and why."""

    name: str
    kind: str
    error: str = ""
    host: dict[str, str] = field(default_factory=dict)


def cases() -> list[tuple[str, Any]]:
    """(kind, case) of all cases, those that ship with onnx as files included."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(kind, c) for kind in KINDS for c in load_model_tests(kind=kind)]


def model_and_data(case: Any) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    """The case's model with its pairs of inputs and expected outputs."""
    import onnx
    from onnx import numpy_helper

    if case.model is not None:
        return case.model, [([_array(x) for x in ins], [_array(x) for x in outs]) for ins, outs in case.data_sets]
    model = onnx.load(Path(case.model_dir) / "model.onnx")
    sets = []
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        def read(prefix: str, infos: Any, folder: Path = folder) -> list[Any]:
            out: list[Any] = []
            for i, info in enumerate(infos):
                path = folder / f"{prefix}_{i}.pb"
                if not path.exists():
                    break
                data = path.read_bytes()
                kind = info.type.WhichOneof("value")
                if kind == "sequence_type":
                    out.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
                elif kind == "optional_type":
                    out.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
                else:
                    out.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
            return out

        sets.append((read("input", model.graph.input), read("output", model.graph.output)))
    return model, sets


def _array(x: Any) -> Any:
    import onnx
    from onnx import numpy_helper

    if isinstance(x, onnx.TensorProto):
        return numpy_helper.to_array(x)
    if isinstance(x, onnx.SequenceProto):
        return numpy_helper.to_list(x)
    if isinstance(x, onnx.OptionalProto):
        return numpy_helper.to_optional(x)
    return x


def run_case(kind: str, case: Any, target: str, check: bool = False) -> Outcome:
    """Run one case as onnx's own runner does, tolerances included; with `check`, the captured graphs are verified."""
    from onnx.backend.test.runner import Runner

    from graphopt.interop.onnx_backend import GraphOptBackend
    from graphopt.ir.verify import verify

    outcome = Outcome(case.name, kind)
    try:
        model, sets = model_and_data(case)
        rep = GraphOptBackend.prepare(model, "CPU", target=target)
        for inputs, expected in sets:
            got = rep.run(inputs)
            Runner.assert_similar_outputs(expected, list(got), rtol=case.rtol, atol=case.atol)
            if check:
                verify(rep.graph)
                verify(rep.specialised)
        if rep.compiled is None:
            outcome.host = host_ops(rep.specialised)
        else:
            outcome.host = {name: why for name, _, why in rep.compiled.host_ops}
    except Exception as e:  # a report of every case is the purpose
        where = traceback.extract_tb(e.__traceback__)[-1]
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        outcome.error = f"{type(e).__name__}: {' '.join(lines)[:300]} ({Path(where.filename).name}:{where.lineno})"
    return outcome


def host_ops(graph: Any) -> dict[str, str]:
    """Ops of a graph that no target has kernels for, as far as the op table tells, and why."""
    from graphopt.ir.table import Trait
    from graphopt.ir.types import TensorType

    found = {}
    for op in graph.ops:
        narrow = any(not isinstance(v.type, TensorType) or v.type.dtype.kind == "str" or v.type.dtype.bits < 8
                     or v.type.dtype.name.startswith("f8") for v in (*op.results, *(o for o in op.operands if o is not None)))
        if narrow or op.definition.has(Trait.CONTROL | Trait.DATA_DEPENDENT | Trait.RANDOM):
            name = op.attrs["what"] + " (deferred)" if op.name == "deferred" else op.name
            found[name] = "its types have no kernels" if narrow else "depends on run-time values"
    return found


_cases: list[tuple[str, Any]] = []
_target = "evaluator"


def _run_index(index: int) -> Outcome:
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    return run_case(*_cases[index], _target)


def main(argv: list[str] | None = None) -> int:
    global _cases, _target
    parser = argparse.ArgumentParser(prog="python -m bench onnx_suite", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=options.target, default="evaluator", help="evaluator (default), x86, …")
    parser.add_argument("--jobs", type=options.count, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--filter", default="", help="only cases whose name has this text")
    parser.add_argument("--list", action="store_true",
                        help="name every failure and every case with host ops; otherwise they are grouped")
    args = parser.parse_args(argv)
    _cases = [(kind, c) for kind, c in cases() if args.filter in c.name]
    _target = args.target
    if args.jobs > 1 and len(_cases) > 8:
        with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
            outcomes = list(tqdm(pool.imap(_run_index, range(len(_cases)), chunksize=4), total=len(_cases), disable=None))
    else:
        outcomes = [_run_index(i) for i in tqdm(range(len(_cases)), disable=None)]
    failed = [o for o in outcomes if o.error]
    host = [o for o in outcomes if not o.error and o.host]
    if args.list:
        for o in failed:
            print(f"FAIL {o.name}: {o.error}")
        for o in host:
            print(f"HOST {o.name}: {'; '.join(f'{name} ({why})' for name, why in o.host.items())}")
    else:
        groups: dict[str, list[str]] = collections.defaultdict(list)
        for o in failed:
            groups[o.error[:120]].append(o.name)
        for message, names in sorted(groups.items(), key=lambda item: -len(item[1])):
            print(f"{len(names):4d}  {message}\n        {', '.join(names[:4])}{' …' if len(names) > 4 else ''}")
    passed = len(outcomes) - len(failed)
    print(f"\ntarget {args.target}: {passed} of {len(outcomes)} pass, {passed - len(host)} of them on kernels only and "
          f"{len(host)} with host ops; {len(failed)} fail")
    for kind in KINDS:
        of_kind = [o for o in outcomes if o.kind == kind]
        print(f"  {kind}: {sum(not o.error for o in of_kind)} of {len(of_kind)}")
    counts = collections.Counter(f"{name}: {why}" for o in host for name, why in o.host.items())
    for line, n in counts.most_common():
        print(f"  {n:4d} cases have the host op {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
