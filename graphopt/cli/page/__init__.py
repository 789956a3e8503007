"""graphopt-dump --emit html: what the compiler made of a model, as one page that needs nothing else.

`gather` collects the data; `write` puts it into the template beside this file. Nothing of a model becomes markup: it stands in
the page as compressed JSON, and the scripts make text nodes of it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
import zlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from graphopt.ir import Graph
from graphopt.rewrite import Pass
from graphopt.targets import Target

# In the order in which they are read.
SCRIPTS = ("base.js", "model.js", "lanes.js", "graph.js", "code.js", "details.js", "passes.js", "table.js", "charts.js",
           "timeline.js", "memory.js", "roofline.js", "search.js", "main.js")


def page(model: str, captured: Graph, target: Target, passes: Sequence[Pass],
         inputs: Sequence[Any] | None = None) -> str:
    """The page of a model of static shapes for `target`: HTML. It is run on `inputs`, random ones where they are None."""
    return write(model, *gather(model, captured, target, passes, inputs))


def gather(model: str, captured: Graph, target: Target, passes: Sequence[Pass],
           inputs: Sequence[Any] | None = None) -> tuple[dict[str, Any], list[Any]]:
    """What the page shows, as JSON: everything but the texts of kernels, and those."""
    from graphopt.backends.base import backend_of
    from graphopt.backends.pipeline import optimise
    from graphopt.cli.models import input_names
    from graphopt.cli.page.modules import Modules
    from graphopt.cli.page.program import build_emitted, build_program, memory, steps
    from graphopt.cli.page.snapshots import Snapshots
    from graphopt.cli.show import statistics
    from graphopt.ir.text import value_names
    from graphopt.rewrite.engine.validate import random_inputs
    from graphopt.targets.x86 import X86
    from graphopt.version import __version__

    snapshots = Snapshots(Modules(captured))
    graph, results = optimise(captured, target, False, passes, before=[snapshots.before], after=[snapshots.after])
    backend = backend_of(target)
    if isinstance(target, X86):  # the kind whose programs can be gone through kernel by kernel
        arrays = list(inputs) if inputs is not None else random_inputs(captured)
        built = build_program(graph, captured, results, target, arrays, not backend.missing(target))
        number = snapshots.number
    else:
        built = build_emitted(captured, target)
        twins = dict(zip(built.plan.graph.ops, graph.ops, strict=True))  # the same passes, on another copy
        number = lambda op: snapshots.number(twins.get(op, op))
    names = value_names(built.plan.graph)
    data = snapshots.data()
    for entry, done in zip(data["passes"], results.passes, strict=True):
        entry |= {"seconds": done.seconds, "before": done.ops_before, "after": done.ops_after}
    data |= {
        "model": model, "target": target.name, "kind": target.kind, "version": __version__,
        "written": time.strftime("%Y-%m-%d %H:%M"), "threads": getattr(target, "threads", None), "notes": built.notes,
        "inputs": [[n, str(v.type)] for n, v in zip(input_names(captured), captured.inputs)],
        "outputs": [[n, str(v.type)] for n, v in zip(snapshots.snapshots[0]["outputs"], captured.outputs)],
        "numbers": {k: v for k, v in statistics(captured).items() if k != "ops_by_kind"},
        "reasons": [[r.pass_name, r.op, list(r.names), list(r.loc), r.text] for r in dict.fromkeys(results.context.reasons)],
        "steps": steps(built.plan, number), "memory": memory(built.plan, names, number), "profile": built.profile,
        "kernels": [{"name": k["name"]} for k in built.kernels]}
    return data, [k["texts"] for k in built.kernels]


def write(title: str, data: dict[str, Any], code: list[Any]) -> str:
    """The page: template, style, scripts and data in one text."""
    assets = resources.files(__package__) / "assets"
    script = "\n".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    # The browser runs this script and no other, whatever else might get into the page.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (assets / "page.css").read_text(encoding="utf-8")
    parts = {"TITLE": html.escape(title), "ALLOWED": f"'sha256-{allowed}'", "STYLE": style, "SCRIPT": script,
             "DATA": _packed(data), "CODE": _packed(code)}
    text = (assets / "page.html").read_text(encoding="utf-8")
    pieces = text.split("@@")  # names between pairs of signs
    return "".join(parts[piece] if k % 2 else piece for k, piece in enumerate(pieces))


def _packed(data: Any) -> str:
    """JSON, compressed with zlib, in base64: what DecompressionStream('deflate') reads."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9)).decode()


__all__ = ["gather", "page", "write"]
