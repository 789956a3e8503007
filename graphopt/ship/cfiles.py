"""What lies beside a saved model for those who use it from C: the header, an example, CMake's files and a description."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.runtime.artifact.reading import values_text

NATIVE = Path(__file__).parents[1] / "runtime" / "native"


def companions(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The files by name; `manifest` is the artifact's (format 1.0 to 1.2). OSError where the package lacks one."""
    header = (NATIVE / "model.h").read_text(encoding="utf-8")
    number = re.search(r"^#define GRAPHOPT_MODEL_ABI (\d+)$", header, re.MULTILINE)
    assert number is not None
    filled = {"ABI": number[1], "TENSORS": "\n".join(_tensors(manifest)), "PROGRAMS": _programs(manifest)}
    files = {"model.h": header}
    for path in sorted((NATIVE / "companions").iterdir()):
        text = path.read_text(encoding="utf-8")
        files[path.name] = re.sub("@([A-Z]+)@", lambda m: filled[m[1]], text) if path.name != "example.c" else text
    return {name: text.encode() for name, text in files.items()}


def _tensors(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "| | name | dtype | shape |"
    yield "|---|---|---|---|"
    for kind in ("input", "output"):
        for t in manifest[f"{kind}s"]:
            yield f"| {kind} | {_shown(t['name'])} | {_shown(t['numpy'])} | {_shape(t['shape'])} |"


def _programs(manifest: Mapping[str, Any]) -> str:
    """The targets, and the input shapes that there is code for."""
    programs: Sequence[Mapping[str, Any]] = manifest.get("programs") or [
        {"target": manifest["target"], "inputs": [t["shape"] for t in manifest["inputs"]]}]
    targets = dict.fromkeys(_shown(p["target"]) for p in programs)
    dtypes = {t["name"]: t["numpy"] for t in manifest["inputs"]}
    cases = dict.fromkeys(", ".join(_shape(s) for s in p["inputs"]) + _values(p.get("values", {}), dtypes) for p in programs)
    lines = [f"Compiled for {', '.join(targets)}"]
    if len(cases) == 1 and not manifest.get("control_inputs"):
        return f"{lines[0]}."
    what = "shapes and values" if manifest.get("control_inputs") else "shapes"
    return "\n".join([f"{lines[0]}, for inputs of these {what}:", "", *(f"- {c}" for c in cases)])


def _values(values: Mapping[str, str], dtypes: Mapping[str, str]) -> str:
    return f" with {_shown(values_text({n: bytes.fromhex(data) for n, data in values.items()}, dtypes))}" if values else ""


def _shape(dims: Sequence[int | str] | None) -> str:
    return _shown("?" if dims is None else f"[{', '.join(map(str, dims))}]")


def _shown(text: object) -> str:
    """As code in a cell of a table, whatever is in it."""
    plain = "".join(c if c.isprintable() and c not in "`|" else "?" for c in str(text))
    return f"`{plain}`"


__all__ = ["NATIVE", "companions"]
