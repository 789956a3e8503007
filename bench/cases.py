"""What is measured: an ONNX file of static shapes, its inputs, the outputs that every side must give, and its arithmetic.

A case is made once, by a process of its own, and kept in the bench's cache: a model of the zoo is exported and its
reference computed in float64 by PyTorch; for a file of the user's the reference is onnxruntime without optimisations.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.coverage import compare
from bench.machine import ROOT, cache_folder, digest, write_json
from bench.peaks import Work


@dataclass(frozen=True)
class Case:
    """`model` is empty for a file of the user's, `batch` then 0."""

    name: str
    batch: int
    model: str
    onnx: Path
    folder: Path

    def inputs(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "inputs.npz") as f:
            return {k: f[k] for k in f.files}

    def check(self, outputs: Sequence[np.ndarray]) -> tuple[bool, str]:
        """Whether the outputs are the reference within coverage's tolerance, and the largest error of an element of the
        largest magnitude. The reference is wider than the outputs; it is rounded to their dtypes."""
        with np.load(self.folder / "reference.npz") as f:
            expected = [f[k] for k in f.files]
        rounded = [e.astype(o.dtype) if o.dtype.kind == "f" == e.dtype.kind else e for o, e in zip(outputs, expected)]
        equal, error = compare(outputs, rounded + expected[len(rounded):])
        return equal == "yes", error

    @property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "meta.json").read_text())

    @property
    def work(self) -> list[Work]:
        """The arithmetic and the bytes of every contraction."""
        return [Work(*w) for w in self.meta["work"]]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "batch": self.batch, "model": self.model, "onnx": str(self.onnx), "folder": str(self.folder)}

    @staticmethod
    def from_json(d: Mapping[str, Any]) -> Case:
        return Case(d["name"], d["batch"], d["model"], Path(d["onnx"]), Path(d["folder"]))


def of_model(name: str, batch: int) -> Case:
    """The case of a model of the zoo; `prepare` makes it."""
    import importlib.metadata

    made_by = [ROOT / "bench" / f for f in ("zoo.py", "models.py", "cases.py")]
    versions = [importlib.metadata.version(p) for p in ("torch", "torchvision", "transformers", "onnxscript")]
    folder = cache_folder() / "cases" / f"{name}-b{batch}-{digest(*made_by, text=' '.join(versions))}"
    return Case(name, batch, name, folder / "model.onnx", folder)


def of_file(path: Path, dims: Mapping[str, int]) -> Case:
    """The case of an ONNX file, its free dims fixed (to 1 where `dims` does not say)."""
    text = " ".join(f"{k}={v}" for k, v in sorted(dims.items()))
    named = digest(path, ROOT / "bench" / "cases.py", text=f"{path.resolve()} {text}")
    folder = cache_folder() / "cases" / f"{path.stem}-file-{named}"
    return Case(path.stem, 0, "", folder / "model.onnx", folder)


def prepare(case: Case, source: Path | None = None, dims: Mapping[str, int] | None = None) -> None:
    """Make the case's files where they are not there yet; `source` is the user's file."""
    if case.folder.exists():
        return
    case.folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=case.folder.parent, prefix="making-"))
    try:
        meta = _from_torch(case, scratch) if source is None else _from_file(source, dims or {}, scratch)
        meta["work"] = [[w.operations, w.weights, w.activations, w.count] for w in work_of(scratch / "model.onnx")]
        write_json(scratch / "meta.json", meta)
        scratch.rename(case.folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _from_torch(case: Case, folder: Path) -> dict[str, Any]:
    import torch
    from torch.utils import _pytree as pytree

    from bench.models import build

    module, args, kwargs = build(case.model, case.batch)
    with torch.no_grad():
        torch.onnx.export(module, args, folder / "model.onnx", kwargs=kwargs, dynamo=True, external_data=True, verbose=False)
        given = [t.numpy() for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        np.savez(folder / "inputs.npz", **dict(zip(_input_names(folder / "model.onnx"), given, strict=True)))
        wide = [t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t
                for t in pytree.tree_leaves((args, kwargs))]
        args, kwargs = pytree.tree_unflatten(wide, pytree.tree_structure((args, kwargs)))
        try:
            result, kind = module.double()(*args, **kwargs), "PyTorch eager in float64"
        except RuntimeError as e:  # a model that names float32 within itself
            module, args, kwargs = build(case.model, case.batch)
            result, kind = module(*args, **kwargs), f"PyTorch eager in float32 (in float64: {str(e).splitlines()[0]})"
    np.savez(folder / "reference.npz", **{f"o{k:03d}": t.numpy() for k, t in enumerate(tensors(result))})
    return {"reference": kind}


def tensors(result: Any) -> list[Any]:
    """The tensors of a nested result, in order."""
    import torch
    from torch.utils import _pytree as pytree

    return [t.detach() for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]


def _input_names(path: Path) -> list[str]:
    import onnx

    return [i.name for i in onnx.load(path, load_external_data=False).graph.input]


def _from_file(source: Path, dims: Mapping[str, int], folder: Path) -> dict[str, Any]:
    import onnx
    import onnxruntime

    model = onnx.load(source)
    fix_dims(model, dims)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    initialised = {t.name for t in model.graph.initializer}
    inputs = {i.name: _random(i.type.tensor_type, rng) for i in model.graph.input if i.name not in initialised}
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "reference.npz", **{f"o{k:03d}": np.asarray(y) for k, y in enumerate(session.run(None, inputs))})
    return {"reference": "onnxruntime without optimisations"}


def free_dims(model: Any) -> list[str]:
    """Names of the free dims of an ONNX model's inputs, in order; those without a name count as `?`."""
    found: dict[str, None] = {}
    for i in model.graph.input:
        for d in i.type.tensor_type.shape.dim:
            if not d.HasField("dim_value"):
                found[d.dim_param or "?"] = None
    return list(found)


def fix_dims(model: Any, dims: Mapping[str, int]) -> None:
    """Fix the free dims of the inputs (to 1 where `dims` does not say); what is known of inner shapes is inferred anew."""
    free = free_dims(model)
    if wrong := [d for d in dims if d not in free]:
        raise ValueError(f"no input has a free dim {', '.join(wrong)}; there are: {', '.join(free) or 'none'}")
    if not free:
        return
    for i in model.graph.input:
        for d in i.type.tensor_type.shape.dim:
            if not d.HasField("dim_value"):
                d.dim_value = dims.get(d.dim_param, 1)
    del model.graph.value_info[:]
    for o in model.graph.output:
        for d in o.type.tensor_type.shape.dim:
            if d.HasField("dim_param"):
                d.Clear()


def _random(t: Any, rng: np.random.Generator) -> np.ndarray:
    """Normal for floats, zeros and ones for integers, which may be indices or masks."""
    import onnx

    shape = [d.dim_value for d in t.shape.dim]
    kind = onnx.helper.tensor_dtype_to_np_dtype(t.elem_type)
    if np.issubdtype(kind, np.floating):
        return rng.standard_normal(shape).astype(kind)
    return rng.integers(0, 2, shape).astype(kind)


def work_of(path: Path) -> list[Work]:
    """The contractions of a model as it was captured, equal ones counted. All else is taken to be fused into them."""
    from graphopt.capture import capture
    from graphopt.ir.table import Trait
    from graphopt.ir.types import TensorType

    graph = capture(str(path))
    constant: set[Any] = set()
    found: dict[tuple[int, int, int], int] = {}
    for op in graph.ops:
        operands = [v for v in op.operands if v is not None]
        if op.name == "const" or (operands and all(v in constant for v in operands)):
            constant.update(op.results)
            continue
        types = {v: v.type for v in (*operands, *op.results) if isinstance(v.type, TensorType) and v.type.is_static}
        if not op.definition.has(Trait.CONTRACTION) or any(v not in types for v in (*operands, *op.results)):
            continue
        operations, moved = op.definition.cost(op.view(), [r.type for r in op.results])
        assert isinstance(operations, int) and isinstance(moved, int)
        weights = sum(nbytes for v in operands if v in constant and isinstance(nbytes := types[v].nbytes, int))
        key = operations, weights, moved - weights
        found[key] = found.get(key, 0) + 1
    return [Work(*key, count) for key, count in found.items()]
