"""Tree ensembles against onnxruntime (and, where the document says otherwise, against numbers that follow from it)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.errors import CaptureError
from tests.capture.ml_models import MODES, F, I, S, one_node, random_trees, rows
from tests.capture.onnx_models import captured, check, op_names, run_ort

RNG = np.random.default_rng(17)
X = rows(RNG, 29)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Every test draws the same, whatever ran before it in its process."""
    RNG.bit_generator.state = START


TRANSFORMS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]
NEAR = {"rtol": 2e-5, "atol": 2e-6}


def regressor(x: np.ndarray = X, trees: dict[str, Any] | None = None, columns: int = 1, **attrs: Any) -> Any:
    return one_node("TreeEnsembleRegressor", x, [F], n_targets=columns, **(trees or {}), **attrs)


def classifier(labels: list[Any], trees: dict[str, Any], x: np.ndarray = X, **attrs: Any) -> Any:
    strings = isinstance(labels[0], str)
    attrs["classlabels_strings" if strings else "classlabels_int64s"] = labels
    return one_node("TreeEnsembleClassifier", x, [S if strings else I, F], **trees, **attrs)


@pytest.mark.parametrize("modes", [*((m,) for m in MODES), MODES], ids=lambda m: "-".join(s[7:] for s in m))
@pytest.mark.parametrize("missing", [False, True], ids=["", "missing"])
def test_every_comparison_as_onnxruntime_has_it(modes: tuple[str, ...], missing: bool) -> None:
    trees = random_trees(RNG, "target", 1, 5, 4, modes=modes, missing=missing)
    model = regressor(trees=trees)
    graph = captured(model)
    assert op_names(graph) == ["tree_ensemble"]
    check(graph, model, {"x": X}, **NEAR)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("base", [False, True], ids=["", "base"])
def test_aggregates(aggregate: str, columns: int, base: bool) -> None:
    for sparse, one_column in ((False, False), (columns > 1, False), (False, True)):
        trees = random_trees(RNG, "target", columns, 6, 3, sparse=sparse, one_column=one_column)
        more = {"base_values": [0.5, -1.0, 2.0][:columns]} if base else {}
        model = regressor(trees=trees, columns=columns, aggregate_function=aggregate, **more)
        check(captured(model), model, {"x": X}, **NEAR)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_a_target_without_votes_is_zero_whatever_its_base(aggregate: str) -> None:
    """Of a single tree whose leaves have weights for some of the targets; infinite weights are votes like others."""
    for weights in ([], [np.inf, -np.inf]):
        trees = random_trees(RNG, "target", 3, 1, 3, sparse=True)
        trees["target_weights"][:len(weights)] = weights
        for base in ({}, {"base_values": [0.5, -1.0, 2.0]}):
            model = regressor(trees=trees, columns=3, aggregate_function=aggregate, post_transform="LOGISTIC", **base)
            want = run_ort(model, {"x": X})[0]
            assert (want == 0.5).any()
            np.testing.assert_allclose(graphopt.compile(model).run({"x": X})["y0"], want, **NEAR)
            check(captured(model), model, {"x": X}, **NEAR)


@pytest.mark.parametrize("of", ["int32", "int64", "float64"])
def test_integers_are_compared_as_floats_and_doubles_as_they_are(of: str) -> None:
    x = (X if of == "float64" else np.nan_to_num(X * 4, nan=1, posinf=2**25 + 1, neginf=-(2**25) - 1)).astype(of)
    trees = random_trees(RNG, "target", 2, 5, 4)
    trees["nodes_values"] = [v + 2**25 if k % 5 == 0 else v for k, v in enumerate(trees["nodes_values"])]
    if of == "float64":  # of the regressor onnxruntime has no kernels for integers
        model = regressor(x, trees, 2)
        check(captured(model), model, {"x": x}, **NEAR)
    model = classifier([1, 2], {k.replace("target", "class"): v for k, v in trees.items()}, x)
    # onnxruntime names the classes of two columns 0 and 1, whatever their labels: only the scores are compared
    graph = captured(model)
    np.testing.assert_allclose(graphopt.ir.evaluate(graph, [x])[1], run_ort(model, {"x": x})[1], **NEAR)


def test_doubles_as_tensors() -> None:
    x = X.astype(np.float64)
    x[4] = [0.1, 0.1 + 1e-12, 0.1 - 1e-12]  # which as floats are all the same
    trees = random_trees(RNG, "target", 2, 4, 3)
    splits = np.where(np.array(trees.pop("nodes_values")) == 0, 0.1, 0.1 + 1e-13)
    trees["nodes_values_as_tensor"] = numpy_helper.from_array(splits)
    trees["target_weights_as_tensor"] = numpy_helper.from_array(np.array(trees.pop("target_weights"), np.float64))
    model = regressor(x, trees, 2, base_values_as_tensor=numpy_helper.from_array(np.array([0.25, 1 / 3])))
    check(captured(model), model, {"x": x}, **NEAR)


@pytest.mark.parametrize("how", TRANSFORMS)
def test_transforms(how: str) -> None:
    trees = random_trees(RNG, "target", 3, 4, 3, positive=how == "PROBIT")
    trees["target_weights"] = [w / 8 for w in trees["target_weights"]]
    model = regressor(trees=trees, columns=3, post_transform=how)
    near_transformed(captured(model), model, how)


def near_transformed(graph: Any, model: Any, how: str) -> None:
    """As onnxruntime has it; PROBIT, where it has few digits, as its formula in float64 makes it of onnxruntime's own scores."""
    if how != "PROBIT":
        check(graph, model, {"x": X}, rtol=1e-4, atol=1e-5)
        return
    want = run_ort(model, {"x": X})
    got = graphopt.ir.evaluate(graph, [X])
    for a in model.graph.node[0].attribute:
        if a.name == "post_transform":
            a.s = b"NONE"
    scores = run_ort(model, {"x": X})[-1]
    np.testing.assert_allclose(got[-1], probit(scores), rtol=2e-6, atol=1e-7)
    has_digits = (scores > 1e-3) & (abs(scores - 0.5) > 1e-2)
    np.testing.assert_allclose(got[-1][has_digits], want[-1][has_digits], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(got[-1]), np.isnan(want[-1]))
    np.testing.assert_array_equal(got[:-1], want[:-1])


def probit(p: np.ndarray) -> np.ndarray:
    """Winitzki's approximation as it is written, in float64, for float32 p; the constants are those of onnxruntime."""
    a, x = float(np.float32(0.147)), p.astype(np.float64) * 2 - 1
    with np.errstate(all="ignore"):
        log = np.log(4 * p.astype(np.float64) * (1 - p.astype(np.float64)))
        half = 2 / (float(np.float32(3.14159)) * a) + log / 2
        return np.where(x < 0, -1, 1) * np.sqrt(2 * (np.sqrt(half * half - log / a) - half))


def test_probit_to_the_last_digits() -> None:
    """Near a half and at both ends too, compiled and evaluated."""
    small = np.geomspace(1e-37, 0.4, 60)
    p = np.concatenate([small, 1 - small, 0.5 - small, 0.5 + small, [0, 0.25, 0.5, 0.75, 1, -0.1, 1.1, np.nan]])
    p = p.astype(np.float32)[:, None]
    model = one_node("LinearRegressor", p, [F], version=1, coefficients=[1.0], intercepts=[0.0], post_transform="PROBIT")
    want = probit(p)
    near = abs(p - 0.5) < 1e-5  # the formula as it is written loses digits there; its first term is right to 1e-9
    want[near] = np.sqrt(2 * float(np.float32(3.14159))) * (p.astype(np.float64) - 0.5)[near]
    for got in (graphopt.ir.evaluate(captured(model), [p])[0], graphopt.compile(model).run({"x": p})["y0"]):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=0)


def test_the_transform_is_applied_to_a_single_target_too() -> None:
    """As the document says; onnxruntime leaves it out there."""
    trees = random_trees(RNG, "target", 1, 4, 3)
    plain, logistic = regressor(trees=trees), regressor(trees=trees, post_transform="LOGISTIC")
    want = 1 / (1 + np.exp(-run_ort(plain, {"x": X})[0].astype(np.float64)))
    np.testing.assert_allclose(graphopt.ir.evaluate(captured(logistic), [X])[0], want, rtol=1e-5)


# Classifiers --------------------------------------------------------------------------------
@pytest.mark.parametrize("how", TRANSFORMS)
@pytest.mark.parametrize("labels", [[3, 5, 9], ["a", "b", "c"]], ids=["ints", "strings"])
@pytest.mark.parametrize("form", ["dense", "sparse", "one column a tree", "base"])
def test_three_classes(how: str, labels: list[Any], form: str) -> None:
    trees = random_trees(RNG, "class", 3, 6, 3, sparse=form == "sparse", one_column=form.startswith("one"))
    more = {"base_values": [0.5, -0.5, 0.25]} if form == "base" else {}
    model = classifier(labels, trees, post_transform=how, **more)
    near_transformed(captured(model), model, how)


@pytest.mark.parametrize("how", TRANSFORMS[:-1])  # onnxruntime leaves PROBIT's second column unwritten
@pytest.mark.parametrize("labels", [[3, 5], ["no", "yes"]], ids=["ints", "strings"])
@pytest.mark.parametrize("positive", [False, True], ids=["", "positive"])
@pytest.mark.parametrize("column", [0, 1])
def test_two_classes_of_one_column(how: str, labels: list[Any], positive: bool, column: int) -> None:
    trees = random_trees(RNG, "class", 1, 4, 3, positive=positive)
    trees["class_ids"] = [column] * len(trees["class_ids"])
    trees["class_weights"] = [0.5, 0.0, *trees["class_weights"][2:]]  # sums of a half and of zero: the borders
    for base in ([], [0.25] if column == 0 else []):
        model = classifier(labels, trees, post_transform=how, **({"base_values": base} if base else {}))
        check(captured(model), model, {"x": X}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score, label", [(0.5, 0), (np.nextafter(np.float32(0.5), np.float32(1)), 1), (0.0, 0), (-0.0, 0)])
def test_ties_of_one_column_go_to_the_first(score: float, label: int) -> None:
    trees = {"nodes_treeids": [0], "nodes_nodeids": [0], "nodes_featureids": [0], "nodes_modes": ["LEAF"], "nodes_values": [0.0],
             "nodes_truenodeids": [0], "nodes_falsenodeids": [0], "class_treeids": [0], "class_nodeids": [0], "class_ids": [0],
             "class_weights": [float(score)]}
    model = classifier([0, 1], trees)
    got, _ = check(captured(model), model, {"x": X})
    assert set(got.tolist()) == {label}


def test_two_classes_with_weights_each_go_by_the_greater() -> None:
    """The document's top class, of equals the first; onnxruntime goes by the second's sign alone."""
    trees = random_trees(RNG, "class", 2, 4, 3)
    model = classifier([3, 5], trees)
    label, scores = graphopt.ir.evaluate(captured(model), [X])
    np.testing.assert_allclose(scores, run_ort(model, {"x": X})[1], **NEAR)
    np.testing.assert_array_equal(label, np.where(scores[:, 1] > scores[:, 0], 5, 3))


# Version 5 ----------------------------------------------------------------------------------
def _version_5(x: np.ndarray, rng: np.random.Generator, how: int = 1, columns: int = 2, post: int = 0) -> Any:
    """Two trees with every comparison and two sets."""
    tensor = lambda v, of=x.dtype: numpy_helper.from_array(np.array(v, of))
    nodes = 9
    attrs: dict[str, Any] = {
        "nodes_featureids": rng.integers(0, 3, nodes).tolist(), "nodes_splits": tensor(rng.integers(-4, 5, nodes) / 2),
        "nodes_modes": tensor([0, 1, 2, 3, 6, 4, 5, 6, 0], np.uint8),
        "nodes_truenodeids": [1, 3, 0, 1, 2, 6, 8, 3, 4], "nodes_trueleafs": [0, 0, 1, 1, 1, 0, 0, 1, 1],
        "nodes_falsenodeids": [2, 4, 5, 6, 7, 7, 8, 9, 10], "nodes_falseleafs": [0, 0, 1, 1, 1, 0, 1, 1, 1],
        "nodes_missing_value_tracks_true": rng.integers(0, 2, nodes).tolist(),
        "membership_values": tensor([1.0, 2.0, 4.0, np.nan, 0.0, 3.0, np.nan]),
        "leaf_targetids": rng.integers(0, columns, 11).tolist(), "leaf_weights": tensor(rng.standard_normal(11)),
        "tree_roots": [0, 5], "n_targets": columns, "aggregate_function": how, "post_transform": post}
    code = helper.np_dtype_to_tensor_dtype(x.dtype)
    return one_node("TreeEnsemble", x, [code], version=5, **attrs)


@pytest.mark.parametrize("how", range(4))
@pytest.mark.parametrize("of", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 2])
def test_version_5_with_sets(how: int, of: str, columns: int) -> None:
    x = X.astype(of)
    model = _version_5(x, RNG, how, columns)
    graph = captured(model)
    check(graph, model, {"x": x}, **NEAR)


def test_version_5_numbers_the_transforms_as_the_document_does() -> None:
    """1 is the softmax and 2 the logistic function; onnxruntime has them the other way round."""
    plain, softmax, logistic = (_version_5(X, np.random.default_rng(1), post=post) for post in range(3))
    scores = run_ort(plain, {"x": X})[0].astype(np.float64)
    power = np.exp(scores - scores.max(axis=1, keepdims=True))
    for model, want in ((softmax, power / power.sum(axis=1, keepdims=True)), (logistic, 1 / (1 + np.exp(-scores)))):
        np.testing.assert_allclose(graphopt.ir.evaluate(captured(model), [X])[0], want, rtol=1e-5)
    for post in (3, 4):
        model = _version_5(X, np.random.default_rng(1), post=post)
        check(captured(model), model, {"x": X}, rtol=1e-3, atol=1e-3)


# Compiled -----------------------------------------------------------------------------------
def test_compiled_for_any_number_of_rows() -> None:
    """One program a size, no host ops; 8 rows and 16 trees go together, what is left over goes by itself."""
    trees = random_trees(RNG, "class", 3, 37, 6, modes=MODES, missing=True)
    model = classifier([3, 5, 9], trees)
    compiled = graphopt.compile(model)
    for n in (0, 1, 7, 8, 77):
        x = rows(RNG, n)
        label, scores = compiled.run({"x": x}).values()
        want = run_ort(model, {"x": x}) if n else [np.zeros(0, np.int64), np.zeros((0, 3), np.float32)]
        np.testing.assert_array_equal(label, want[0])
        np.testing.assert_allclose(scores, want[1], **NEAR)
    assert not compiled.host_ops


# What is wrong with a file ------------------------------------------------------------------
@pytest.mark.parametrize("change, said", [
    ({"nodes_truenodeids": lambda v: [99, *v[1:]]}, "node 99 of tree 0"),
    ({"nodes_truenodeids": lambda v: [0, *v[1:]]}, "cycle"),
    ({"nodes_nodeids": lambda v: [v[1], *v[1:]]}, "twice"),
    ({"nodes_modes": lambda v: ["BRANCH_MAYBE", *v[1:]]}, "BRANCH_MAYBE"),
    ({"nodes_values": lambda v: v[1:]}, "differ in length"),
    ({"target_ids": lambda v: [7, *v[1:]]}, "target 7"),
    ({"nodes_featureids": lambda v: [7, *v[1:]]}, "feature 7"),
    ({"post_transform": lambda v: "CUBE"}, "CUBE"),
    ({"aggregate_function": lambda v: "MEDIAN"}, "MEDIAN"),
], ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_a_broken_forest_says_what_is_wrong(change: dict[str, Any], said: str) -> None:
    attrs = random_trees(np.random.default_rng(3), "target", 1, 2, 3)
    for name, f in change.items():
        attrs[name] = f(attrs.get(name))
    with pytest.raises(CaptureError, match=said):
        captured(regressor(trees=attrs))


