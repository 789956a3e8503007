"""Tree ensembles of ai.onnx.ml: all trees walked at once by gathers, as many steps as the deepest has levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value

ML = "ai.onnx.ml"
MODES = ("less_equal", "less", "greater_equal", "greater", "equal", "not_equal")
MEMBER = 6
OLD_MODES = {"BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4, "BRANCH_NEQ": 5}


@dataclass
class Forest:
    """Nodes of all trees in one table; a leaf leads to itself. `weights` is [nodes, targets], zero at inner nodes."""

    targets: int
    feature: list[int] = field(default_factory=list)
    split: list[float] = field(default_factory=list)
    mode: list[int] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    yes: list[int] = field(default_factory=list)
    no: list[int] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def add(self, feature: int = 0, split: float = 0.0, mode: int = 0, missing: bool = False) -> int:
        """A node; until it is given branches it is a leaf."""
        at = len(self.feature)
        self.feature.append(feature)
        self.split.append(split)
        self.mode.append(mode)
        self.missing.append(missing)
        self.yes.append(at)
        self.no.append(at)
        self.weights.append(np.zeros(self.targets))
        return at

    def depth(self) -> int:
        deepest, stack = 0, [(r, 0) for r in self.roots]
        while stack:
            at, level = stack.pop()
            deepest = max(deepest, level)
            if self.yes[at] != at or self.no[at] != at:
                if level > len(self.feature):
                    raise ValueError("the trees have a cycle")
                stack += [(self.yes[at], level + 1), (self.no[at], level + 1)]
        return deepest

    def leaves(self, b: Context, x: Value) -> Value:
        """Weights of the leaves that x [N, features] reaches: [N, trees, targets]."""
        at = b.expand(b.const(np.array(self.roots, np.int64)[None]), shape=(rank_of(x)[0], len(self.roots)))
        feature, yes, no = (b.const(np.array(v, np.int64)) for v in (self.feature, self.yes, self.no))
        split, mode = b.const(np.array(self.split), x.dtype), b.const(np.array(self.mode, np.int64))
        missing = b.const(np.array(self.missing, bool))
        for _ in range(self.depth()):
            value = b.gather_elements(x, b.gather(feature, at, axis=0), axis=1)
            border = b.gather(split, at, axis=0)
            answer = self._compare(b, value, border, mode, at)
            if any(self.missing):
                answer = b.or_(answer, b.and_(b.gather(missing, at, axis=0), b.isnan(value)))
            at = b.where(answer, b.gather(yes, at, axis=0), b.gather(no, at, axis=0))
        return b.gather(b.const(np.array(self.weights), x.dtype), at, axis=0)

    def _compare(self, b: Context, value: Value, border: Value, mode: Value, at: Value) -> Value:
        used = sorted(set(self.mode))
        answer = b.op(MODES[used[0]], [value, border]).result
        for m in used[1:]:
            here = b.equal(b.gather(mode, at, axis=0), m)
            answer = b.where(here, b.op(MODES[m], [value, border]).result, answer)
        return answer


def _aggregated(b: Context, leaves: Value, how: str) -> Value:
    return b.op({"SUM": "reduce_sum", "AVERAGE": "reduce_mean", "MIN": "reduce_min", "MAX": "reduce_max"}[how],
                [leaves], {"axes": (1,)}).result


@entry("TreeEnsemble", domain=ML)
def tree_ensemble(b: Context, n: Node) -> Results:
    forest = Forest(n.attr("n_targets"))
    splits, modes = n.attr("nodes_splits"), n.attr("nodes_modes")
    members = iter(n.attr("membership_values", np.zeros(0)).reshape(-1).tolist())
    missing = n.attr("nodes_missing_value_tracks_true", [0] * len(modes))
    features, inner, tails = n.attr("nodes_featureids"), [], []
    for i, mode in enumerate(modes):  # a set becomes a chain of nodes, one a member
        chain = _members(members) if mode == MEMBER else [float(splits[i])]
        nodes = [forest.add(features[i], v, 4 if mode == MEMBER else int(mode), bool(missing[i])) for v in chain]
        for a, c in pairwise(nodes):
            forest.no[a] = c
        inner.append(nodes[0])
        tails.append(nodes)
    leaves = [forest.add() for _ in n.attr("leaf_targetids")]
    for at, target, weight in zip(leaves, n.attr("leaf_targetids"), n.attr("leaf_weights").reshape(-1)):
        forest.weights[at][target] = weight
    for i, nodes in enumerate(tails):
        yes, no = n.attr("nodes_truenodeids")[i], n.attr("nodes_falsenodeids")[i]
        for at in nodes:
            forest.yes[at] = leaves[yes] if n.attr("nodes_trueleafs")[i] else inner[yes]
        forest.no[nodes[-1]] = leaves[no] if n.attr("nodes_falseleafs")[i] else inner[no]
    forest.roots = [inner[r] for r in n.attr("tree_roots")]
    total = _aggregated(b, forest.leaves(b, n[0]), ("AVERAGE", "SUM", "MIN", "MAX")[n.attr("aggregate_function", 1)])
    return post_transformed(b, n, total, ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[n.attr("post_transform", 0)])


def _members(values: object) -> list[float]:
    """The next set: numbers up to a NaN."""
    out = []
    for v in values:  # type: ignore[attr-defined]
        if np.isnan(v):
            break
        out.append(v)
    return out or [np.nan]


@entry("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(b: Context, n: Node) -> Results:
    forest = _old_forest(n, "target", n.attr("n_targets", 1))
    total = _aggregated(b, forest.leaves(b, b.to(n[0], "f32")), n.attr("aggregate_function", "SUM"))
    base = n.attr("base_values", None)
    total = total if base is None else b.add(total, b.const(np.array(base), total.dtype))
    return post_transformed(b, n, total, n.attr("post_transform", "NONE"))


def _old_forest(n: Node, prefix: str, targets: int) -> Forest:
    """The form before version 5: nodes named by tree and number, leaves listed apart."""
    forest = Forest(targets)
    trees, ids, modes = n.attr("nodes_treeids"), n.attr("nodes_nodeids"), n.attr("nodes_modes")
    values = n.attrs.get("nodes_values_as_tensor", n.attrs.get("nodes_values", [0.0] * len(ids)))
    missing = n.attr("nodes_missing_value_tracks_true", [0] * len(ids))
    places: dict[tuple[int, int], int] = {}
    seen: set[int] = set()
    for t, i, feature, value, mode, track in zip(trees, ids, n.attr("nodes_featureids"), values, modes, missing):
        places[t, i] = forest.add(feature, float(value), OLD_MODES.get(mode, 0), bool(track))
        if t not in seen:  # a tree's first node is its root
            seen.add(t)
            forest.roots.append(places[t, i])
    for t, i, mode, yes, no in zip(trees, ids, modes, n.attr("nodes_truenodeids"), n.attr("nodes_falsenodeids")):
        if mode != "LEAF":
            forest.yes[places[t, i]], forest.no[places[t, i]] = places[t, yes], places[t, no]
    weights: Sequence[float] = n.attrs.get(f"{prefix}_weights_as_tensor", n.attrs.get(f"{prefix}_weights", []))
    for t, i, target, weight in zip(n.attr(f"{prefix}_treeids"), n.attr(f"{prefix}_nodeids"), n.attr(f"{prefix}_ids"), weights):
        forest.weights[places[t, i]][target] += float(weight)
    return forest


def post_transformed(b: Context, n: Node, scores: Value, how: str) -> Value:
    if how in ("NONE", ""):
        return scores
    if how == "LOGISTIC":
        return b.sigmoid(scores)
    if how == "SOFTMAX":
        return b.softmax(scores, axis=1)
    raise n.error(f"post_transform={how} is not supported", "NONE, LOGISTIC and SOFTMAX are")
