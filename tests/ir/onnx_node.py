"""What onnx's reference evaluator and onnxruntime say of one ONNX node: the independent side of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def model_of(kind: str, inputs: Sequence[np.ndarray | None], outputs: int = 1, *, opset: int = 22, to: int = TensorProto.FLOAT,
             domain: str = "", **attrs: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node and its feeds. None is an absent input, an empty list of attributes an absent attribute."""
    names = [f"i{i}" if a is not None else "" for i, a in enumerate(inputs)]
    feeds = {n: a for n, a in zip(names, inputs) if a is not None}
    results = [f"o{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, results, domain=domain, **{k: v for k, v in attrs.items() if v != []})
    given = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    graph = helper.make_graph([node], "one", given, [helper.make_tensor_value_info(n, to, None) for n in results])
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 4)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds


def reference(kind: str, *inputs: np.ndarray | None, **options: Any) -> Any:
    """onnx's reference evaluator: the output, or the list of them."""
    model, feeds = model_of(kind, inputs, **options)
    results = ReferenceEvaluator(model).run(None, feeds)
    return results[0] if len(results) == 1 else results


def runtime(kind: str, *inputs: np.ndarray | None, **options: Any) -> Any:
    """onnxruntime on the CPU: the output, or the list of them."""
    model, feeds = model_of(kind, inputs, **options)
    results = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    return results[0] if len(results) == 1 else results
