"""Models of one operator of ai.onnx.ml, and random trees for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

F, I, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def one_node(op: str, x: np.ndarray, outputs: list[int], version: int = 3, free: bool = True, **attrs: Any) -> onnx.ModelProto:
    code = helper.np_dtype_to_tensor_dtype(x.dtype) if x.dtype != object else S
    names = [f"y{i}" for i in range(len(outputs))]
    shape = ["N" if free and len(x.shape) > 1 else x.shape[0], *x.shape[1:]]
    node = helper.make_node(op, ["x"], names, domain="ai.onnx.ml", **attrs)
    return helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", code, shape)],
        [helper.make_tensor_value_info(n, c, None) for n, c in zip(names, outputs)]),
        opset_imports=[helper.make_opsetid("ai.onnx.ml", version), helper.make_opsetid("", 18)], ir_version=10)


def random_trees(rng: np.random.Generator, prefix: str, columns: int, trees: int, depth: int, features: int = 3, *,
                 modes: tuple[str, ...] = ("BRANCH_LEQ",), missing: bool = False, sparse: bool = False, one_column: bool = False,
                 grid: bool = True, positive: bool = False) -> dict[str, Any]:
    """Attributes of TreeEnsembleRegressor (prefix target) or TreeEnsembleClassifier (class)."""
    a: dict[str, list[Any]] = {k: [] for k in (
        "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values", "nodes_truenodeids",
        "nodes_falsenodeids", "nodes_missing_value_tracks_true", f"{prefix}_treeids", f"{prefix}_nodeids", f"{prefix}_ids",
        f"{prefix}_weights")}

    def grow(tree: int, level: int, counter: list[int]) -> int:
        me = counter[0]
        counter[0] += 1
        leaf = level >= depth or (level and rng.random() < 0.25)
        place = len(a["nodes_treeids"])
        value = float(rng.integers(-4, 5)) / 2 if grid else float(np.float32(rng.standard_normal()))
        for k, v in (("treeids", tree), ("nodeids", me), ("featureids", int(rng.integers(features))),
                     ("modes", "LEAF" if leaf else str(rng.choice(modes))), ("values", 0.0 if leaf else value),
                     ("truenodeids", 0), ("falsenodeids", 0), ("missing_value_tracks_true", int(missing and rng.random() < 0.5))):
            a[f"nodes_{k}"].append(v)
        if leaf:
            of = [tree % columns] if one_column else [k for k in range(columns) if not sparse or rng.random() < 0.6] or [0]
            for k in of:
                weight = float(np.float32(abs(rng.standard_normal()) if positive else rng.standard_normal()))
                for name, v in (("treeids", tree), ("nodeids", me), ("ids", k), ("weights", weight)):
                    a[f"{prefix}_{name}"].append(v)
        else:
            a["nodes_truenodeids"][place] = grow(tree, level + 1, counter)
            a["nodes_falsenodeids"][place] = grow(tree, level + 1, counter)
        return me

    for t in range(trees):
        grow(t, 0, [0])
    if not missing:
        del a["nodes_missing_value_tracks_true"]
    return a


def rows(rng: np.random.Generator, n: int, features: int = 3, special: bool = True) -> np.ndarray:
    """Halves, so that thresholds are met exactly, with NaN and infinities."""
    x = (rng.integers(-5, 6, (n, features)) / 2).astype(np.float32)
    if special and n > 3:
        x[1, 0], x[2, 1], x[3, 2], x[3, 0] = np.nan, np.inf, -np.inf, np.nan
    return x
