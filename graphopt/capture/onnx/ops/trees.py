"""Tree ensembles of ai.onnx.ml: their nodes as the tables of the op `tree_ensemble`, what comes after as other ops.

Where ONNX's document (Operators-ml) is silent, what onnxruntime does holds: which class a single column of weights is for, when
it wins, and how its score becomes two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.ops.scores import batched, binary_scores, labelled, labels_of, post_transformed, probit
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, F64, I64, DType

ML = "ai.onnx.ml"
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)  # as TreeEnsemble numbers them
OLD_MODES = {"BRANCH_LEQ": LEQ, "BRANCH_LT": LT, "BRANCH_GTE": GTE, "BRANCH_GT": GT, "BRANCH_EQ": EQ, "BRANCH_NEQ": NEQ}
START = {"SUM": 0.0, "AVERAGE": 0.0, "MIN": np.inf, "MAX": -np.inf}
POST = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclass
class Forest:
    """Inner nodes, numbered from 0; children below 0 are leaves, -1 - i the i-th. Of the leaves, who holds what."""

    feature: np.ndarray
    split: np.ndarray
    mode: np.ndarray
    missing: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    roots: np.ndarray
    leaves: int
    holder: np.ndarray  # the leaf, column and weight of every entry
    target: np.ndarray
    weight: np.ndarray
    columns: int

    def depths(self, n: Node) -> np.ndarray:
        """The number of levels of each tree."""
        deep = np.zeros(len(self.roots), np.int64)
        tree, at = np.arange(len(self.roots)), self.roots
        level = 0
        while (inner := at >= 0).any():
            tree, at, level = tree[inner], at[inner], level + 1
            if level > len(self.feature):
                raise n.error("the trees have a cycle")
            deep[tree] = level
            tree, at = self.below(tree, at)
        return deep

    def below(self, tree: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The children of inner nodes, with their trees; each once, where chains lead to some by several ways."""
        tree, at = np.tile(tree, 2), np.concatenate([self.yes[at], self.no[at]])
        size = len(self.feature) + self.leaves
        if len(at) > size:
            tree, at = np.divmod(np.unique(tree * size + (at + self.leaves)), size)
            at = at - self.leaves
        return tree, at

    def tables(self, n: Node, d: DType) -> dict[str, np.ndarray | None]:
        """Each branch as an interval that its answer is yes or no within, and a node for each leaf behind the inner ones."""
        count, mode = len(self.feature), self.mode
        split = self.split.astype(d.numpy)
        mode = np.where(np.isnan(split) & (mode < EQ), LEQ, mode)  # nothing compares with NaN
        turned = (mode == LT) | (mode == GT) | (mode == NEQ)  # yes is outside
        below, above = (mode == GTE) | (mode == LT) | (mode >= EQ), (mode == LEQ) | (mode == GT) | (mode >= EQ)
        nan = (self.missing | (mode == NEQ)) ^ turned
        inner = lambda a: np.where(a < 0, count - 1 - a, a)
        yes, no = inner(self.yes), inner(self.no)
        self_led = count + np.arange(self.leaves)
        child = np.stack([np.concatenate([np.where(turned, yes, no), self_led]),
                          np.concatenate([np.where(turned, no, yes), self_led])], axis=1)
        leafy = lambda a, fill: np.concatenate([a, np.full(self.leaves, fill, a.dtype)])
        return {
            "feature": leafy(self.feature, 0).astype(np.int32),
            "low": leafy(np.where(below, split, -np.inf).astype(d.numpy), 0) if below.any() else None,
            "high": leafy(np.where(above, split, np.inf).astype(d.numpy), 0),
            "nan": leafy(nan, False) if nan.any() else None,
            "child": child.astype(np.int32),
            "leaf": np.concatenate([np.zeros(count, np.int32), np.arange(self.leaves, dtype=np.int32)]),
            "root": inner(self.roots).astype(np.int32),
            "depth": self.depths(n).astype(np.int32),
        }

    def column_of_tree(self) -> np.ndarray | None:
        """The one column that each tree has weights for, None where a tree has several."""
        tree = np.full(self.leaves, -1)
        seen, at = np.arange(len(self.roots)), self.roots
        for _ in range(len(self.feature) + 1):
            tree[-1 - at[at < 0]] = seen[at < 0]
            seen, at = seen[at >= 0], at[at >= 0]
            if not at.size:
                break
            seen, at = self.below(seen, at)
        column = np.full(len(self.roots), -1)
        owner, used = tree[self.holder], self.target
        column[owner[owner >= 0]] = used[owner >= 0]
        if (column[owner[owner >= 0]] != used[owner >= 0]).any():
            return None
        return np.maximum(column, 0).astype(np.int32)

    def scores(self, b: Context, n: Node, x: Value, how: str) -> Value:
        """What the leaves that the rows of x [rows, features] reach hold, put together over the trees: [rows, columns], 0 where
        none of them has a weight for a column."""
        return self.counted(b, n, x, how, False)[0]

    def counted(self, b: Context, n: Node, x: Value, how: str, wanted: bool = True) -> tuple[Value, Value | None]:
        """The scores, and (where `wanted`) for which of them a reached leaf has a weight; None where one has for all."""
        none = START[how] if how in ("MIN", "MAX") else None
        present = self.with_presence() if wanted or (self.weight == none).any() else None
        if present is not None:
            scores, count = b.parts(present._total(b, n, x, how), 1, [self.columns, self.columns])
            if none is None:
                return scores, b.greater(count, 0.0)
            there = b.less(b.abs(count), np.inf)
            return b.where(there, scores, b.const(0, x.dtype)), there
        y = self._total(b, n, x, how)
        return y if none is None else b.where(b.equal(y, none), b.const(0, y.dtype), y), None

    def with_presence(self) -> Forest | None:
        """The forest with a second set of columns that count which ones the reached leaves have weights for; None where all rows
        have one for every column."""
        # A column is sure to have a weight where all leaves have one; the usual case of one tree a class is seen by its column.
        leaves = [np.unique(self.holder[self.target == k]).size for k in range(self.columns)]
        everywhere = np.array([c == self.leaves for c in leaves], bool)
        column = self.column_of_tree()
        if column is not None and np.unique(self.holder).size == self.leaves:
            everywhere[np.unique(column)] = True
        if everywhere.all():
            return None
        return replace(self, holder=np.tile(self.holder, 2), columns=2 * self.columns,
                       target=np.concatenate([self.target, self.target + self.columns]),
                       weight=np.concatenate([self.weight, np.ones_like(self.weight)]))

    def _total(self, b: Context, n: Node, x: Value, how: str) -> Value:
        """The scores, START[how] where no reached leaf has a weight for a column."""
        d = x.dtype
        width = rank_of(x)[1]
        for name, of, end in (("feature", self.feature, width), ("target", self.target, self.columns)):
            if of.size and (of.min() < 0 or (isinstance(end, int) and of.max() >= end)):
                raise n.error(f"{name} {of[(of < 0) | (of >= end)][0]} is out of range: there are {end}")
        if not len(self.roots):
            raise n.error("has no trees")
        tables = self.tables(n, d)
        column = self.column_of_tree() if self.columns > 1 else None
        weights = np.full((self.leaves, 1 if column is not None else self.columns), START[how], d.numpy)
        combine = {"MIN": np.minimum, "MAX": np.maximum}.get(how, np.add)
        place = self.target if column is None else np.zeros_like(self.target)
        combine.at(weights, (self.holder, place), self.weight.astype(d.numpy))
        operands = [x, *(None if t is None else b.const(t) for t in tables.values()),
                    None if column is None else b.const(column), b.const(weights)]
        aggregate = "sum" if how == "AVERAGE" else how.lower()
        y = b.op("tree_ensemble", operands, {"columns": self.columns, "aggregate": aggregate}).result
        if how == "AVERAGE":
            return b.div(y, float(len(self.roots)))
        return y


def _numbers(n: Node, name: str, default: Any = ()) -> np.ndarray:
    """Floats from the attribute of that name, or from the tensor that may stand for it."""
    given = n.attrs.get(f"{name}_as_tensor")
    return np.asarray(n.attrs.get(name, default) if given is None or not np.size(given) else given).reshape(-1)


def _ints(n: Node, name: str, default: Any = ...) -> np.ndarray:
    return np.asarray(n.attr(name, default), np.int64).reshape(-1)


def _same_length(n: Node, **parts: np.ndarray) -> None:
    if len({len(p) for p in parts.values()}) > 1:
        raise n.error("attributes differ in length: " + ", ".join(f"{k} {len(p)}" for k, p in parts.items()))


# Version 5 ----------------------------------------------------------------------------------
@entry("TreeEnsemble", domain=ML)
def tree_ensemble(b: Context, n: Node) -> Results:
    forest = _new_forest(n)
    how = n.attr("aggregate_function", 1)
    post = n.attr("post_transform", 0)
    if not 0 <= how < 4 or not 0 <= post < len(POST):
        raise n.error(f"aggregate_function={how}, post_transform={post}: the document knows 0 to 3 and 0 to 4")
    x = n[0] if n[0].dtype is F64 else b.to(n[0], F32)
    total = forest.scores(b, n, batched(b, x), ("AVERAGE", "SUM", "MIN", "MAX")[how])
    return b.to(post_transformed(b, n, total, POST[post]), n[0].dtype)


def _new_forest(n: Node) -> Forest:
    feature, mode = _ints(n, "nodes_featureids"), np.asarray(n.attr("nodes_modes"), np.int64).reshape(-1)
    split = np.array(n.attr("nodes_splits"), np.float64).reshape(-1)
    missing = _ints(n, "nodes_missing_value_tracks_true", [0] * len(mode)) != 0
    sides = []
    for side in ("true", "false"):
        to, leaf = _ints(n, f"nodes_{side}nodeids"), _ints(n, f"nodes_{side}leafs") != 0
        _same_length(n, nodes_modes=mode, nodes_featureids=feature, nodes_splits=split, nodes_missing_value_tracks_true=missing,
                     **{f"nodes_{side}nodeids": to, f"nodes_{side}leafs": leaf})
        sides.append((to, leaf))
    target, weight = _ints(n, "leaf_targetids"), np.asarray(n.attr("leaf_weights"), np.float64).reshape(-1)
    _same_length(n, leaf_targetids=target, leaf_weights=weight)
    roots = _ints(n, "tree_roots")
    for what, at, end in (("leaf", np.concatenate([t[l] for t, l in sides]), len(target)),
                          ("node", np.concatenate([roots, *(t[~l] for t, l in sides)]), len(mode))):
        if at.size and (at.min() < 0 or at.max() >= end):
            raise n.error(f"a branch leads to {what} {at[(at < 0) | (at >= end)][0]}, but there are {end}")
    if mode.size and (mode.min() < 0 or mode.max() > MEMBER):
        raise n.error(f"nodes_modes has {mode.max()}; 0 to {MEMBER} are known")
    yes, no = (np.where(leaf, -1 - to, to) for to, leaf in sides)
    parts = [feature, split, np.where(mode == MEMBER, EQ, mode), missing, yes, no]
    # A set becomes a chain of nodes, one a member: the first in the set's place, the others behind all nodes.
    members = iter(np.asarray(n.attr("membership_values", np.zeros(0)), np.float64).reshape(-1).tolist())
    more: list[list[Any]] = [[] for _ in parts]
    for i in np.flatnonzero(mode == MEMBER).tolist():
        first, *others = _members(members)
        split[i] = first
        last, otherwise = i, no[i]
        for v in others:
            new = len(mode) + len(more[0])
            for of, value in zip(more, (feature[i], v, EQ, missing[i], yes[i], otherwise)):
                of.append(value)
            if last == i:
                no[i] = new
            else:
                more[5][last - len(mode)] = new
            last = new
    feature, split, mode, missing, yes, no = (np.concatenate([p, np.asarray(m, p.dtype)]) for p, m in zip(parts, more))
    return Forest(feature, split, mode, missing, yes, no, roots, len(target), np.arange(len(target)), target, weight,
                  n.attr("n_targets"))


def _members(values: Any) -> list[float]:
    """The next set: numbers up to a NaN."""
    out = []
    for v in values:
        if np.isnan(v):
            break
        out.append(v)
    return out or [np.nan]


# Before version 5 ---------------------------------------------------------------------------
def _old_forest(n: Node, prefix: str, columns: int) -> Forest:
    """Nodes named by tree and number, of mode LEAF those without branches; weights listed apart."""
    tree, number = _ints(n, "nodes_treeids"), _ints(n, "nodes_nodeids")
    feature, names = _ints(n, "nodes_featureids"), n.attr("nodes_modes")
    split = _numbers(n, "nodes_values", np.zeros(len(names))).astype(np.float64)
    missing = _ints(n, "nodes_missing_value_tracks_true", [0] * len(names))
    missing = (missing if missing.size else np.zeros(len(names), np.int64)) == 1
    to = {side: _ints(n, f"nodes_{side}nodeids") for side in ("true", "false")}
    leaf = np.array([m == "LEAF" for m in names], bool)
    _same_length(n, nodes_modes=leaf, nodes_treeids=tree, nodes_nodeids=number, nodes_featureids=feature, nodes_values=split,
                 nodes_missing_value_tracks_true=missing, nodes_truenodeids=to["true"], nodes_falsenodeids=to["false"])
    if unknown := sorted({m for m in names if m not in OLD_MODES} - {"LEAF"}):
        raise n.error(f"nodes_modes has {', '.join(map(repr, unknown))}", f"Known: LEAF, {', '.join(OLD_MODES)}")
    places = _Places(n, tree, number)
    place = np.cumsum(~leaf) - 1  # of the inner nodes among themselves, and of the leaves below 0
    place = np.where(leaf, -np.cumsum(leaf), place)
    inner = ~leaf
    yes, no = (place[places.find(tree[inner], to[side][inner], "branch")] for side in ("true", "false"))
    ids, weight = _ints(n, f"{prefix}_ids"), _numbers(n, f"{prefix}_weights").astype(np.float64)
    of_tree, of_node = _ints(n, f"{prefix}_treeids"), _ints(n, f"{prefix}_nodeids")
    _same_length(n, **{f"{prefix}_ids": ids, f"{prefix}_weights": weight, f"{prefix}_treeids": of_tree,
                       f"{prefix}_nodeids": of_node})
    held = places.find(of_tree, of_node, "weight")
    kept = leaf[held]  # weights of inner nodes, which old converters wrote, count for nothing
    modes = np.array([OLD_MODES.get(m, LEQ) for m in names], np.int64)
    _, first = np.unique(tree, return_index=True)  # a tree's first node is its root
    return Forest(feature[inner], split[inner], modes[inner], missing[inner], yes, no, place[np.sort(first)], int(leaf.sum()),
                  -1 - place[held[kept]], ids[kept], weight[kept], columns)


class _Places:
    """Where the node of a number stands among all."""

    def __init__(self, n: Node, tree: np.ndarray, number: np.ndarray) -> None:
        self.node, self.tree, self.number = n, tree, number
        self.order = np.lexsort((number, tree))
        pairs = np.stack([tree, number])[:, self.order]
        twice = (pairs[:, 1:] == pairs[:, :-1]).all(axis=0)
        if twice.any():
            t, k = pairs[:, 1:][:, twice][:, 0]
            raise n.error(f"node {k} of tree {t} is there twice")
        self.trees, self.first = np.unique(pairs[0], return_index=True)
        self.sorted = pairs

    def find(self, tree: np.ndarray, number: np.ndarray, what: str) -> np.ndarray:
        """Positions of these nodes. CaptureError where one is not there."""
        if not tree.size:
            return np.zeros(0, np.int64)
        least, span = int(self.number.min(initial=0)), int(self.number.max(initial=0)) - int(self.number.min(initial=0)) + 1
        rank = lambda t, k: np.searchsorted(self.trees, t) * span + (k - least)
        keys, wanted = rank(self.sorted[0], self.sorted[1]), rank(tree, number)
        at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        found = len(keys) > 0 and (self.sorted[:, at] == np.stack([tree, number])).all(axis=0)
        if not np.all(found):
            k = int(np.argmin(found)) if len(keys) else 0
            raise self.node.error(f"a {what} names node {number[k]} of tree {tree[k]}, which is not there")
        return self.order[at]


def _threshold_dtype(x: Value) -> DType:
    """Doubles are compared as they are; integers, as onnxruntime does, as floats."""
    return F64 if x.dtype is F64 else F32


@entry("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(b: Context, n: Node) -> Results:
    columns, how = n.attr("n_targets", 1), n.attr("aggregate_function", "SUM")
    if how not in START:
        raise n.error(f"aggregate_function={how!r}", f"Known: {', '.join(START)}")
    x = batched(b, b.to(n[0], _threshold_dtype(n[0])))
    forest, base = _old_forest(n, "target", columns), _numbers(n, "base_values")
    if base.size not in (0, 1, columns):
        raise n.error(f"has {base.size} base_values for {columns} targets")
    total, there = forest.counted(b, n, x, how, base.size > 0 and columns > 1)
    if base.size:  # as in onnxruntime, it is added to what leaves gave
        based = b.add(total, b.const(base, total.dtype))
        total = based if there is None else b.where(there, based, total)
    return post_transformed(b, n, b.to(total, F32), n.attr("post_transform", "NONE"))


@entry("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(b: Context, n: Node) -> Results:
    """The class of the greatest score, and the scores. Of two classes of which only one has weights, the sign (or, where no
    weight is negative, a half) decides, and the other's score follows."""
    labels = labels_of(n, "classlabels_int64s")
    post = n.attr("post_transform", "NONE")
    forest = _old_forest(n, "class", labels.size)
    x = batched(b, b.to(n[0], _threshold_dtype(n[0])))
    base = _numbers(n, "base_values")
    if base.size not in (0, labels.size) and not (base.size == 1 and labels.size == 2):
        raise n.error(f"has {base.size} base_values for {labels.size} classes")
    used = np.unique(forest.target)
    if labels.size == 1 or (labels.size == 2 and used.size == 1 and base.size < 2):
        return _of_one_column(b, n, forest, x, labels, base, post)
    scores, there = forest.counted(b, n, x, "SUM", not base.size and labels.size > 2 and bool((forest.weight < 0).any()))
    ranked = scores
    if there is not None:  # a class that no reached leaf has a weight for does not win
        ranked = b.where(there, scores, b.const(-np.inf, scores.dtype))
    elif base.size == labels.size:
        ranked = scores = b.add(scores, b.const(base, scores.dtype))
    elif base.size:
        ranked = scores = b.add(scores, b.const(np.array([base[0], 0.0]), scores.dtype))
    best = b.argmax(ranked, axis=1, keepdims=False)
    return [labelled(b, labels, best), post_transformed(b, n, b.to(scores, F32), post)]


def _of_one_column(b: Context, n: Node, forest: Forest, x: Value, labels: np.ndarray, base: np.ndarray,
                   post: str) -> Sequence[Value]:
    second = labels.size == 2 and bool(forest.target.size) and forest.target[0] == 1
    forest.target, forest.columns = np.zeros_like(forest.target), 1
    score = forest.scores(b, n, x, "SUM")
    if base.size and not second:
        score = b.add(score, b.const(base[:1], score.dtype))
    sure = labels.size == 2 and not (forest.weight < 0).any()
    wins = b.reshaped(b.greater(score, 0.5 if sure else 0.0), rank_of(score)[:1])
    if labels.size == 1:
        named = np.array([0, 1], np.int64) if labels.dtype != object else np.repeat(labels, 2)
        score = b.to(score, F32)
        return [labelled(b, named, b.cast(wins, to=I64)), probit(b, score) if post == "PROBIT" else score]
    if second:
        zero = b.mul(score, 0.0)
        scores = post_transformed(b, n, b.to(b.concat(zero, score, axis=1), F32), post)
    else:
        scores = binary_scores(b, n, score, sure, post)
    return [labelled(b, labels, b.cast(wins, to=I64)), scores]
