"""Linear models and support vector machines of ai.onnx.ml.

Where ONNX's document is silent, what onnxruntime does holds: how the score of one column becomes two, and which label it wins.
"""

from __future__ import annotations

import logging
from itertools import combinations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.ops.scores import batched, binary_scores, labelled, labels_of, post_transformed
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, F64, I64

ML = "ai.onnx.ml"
log = logging.getLogger(__name__)
KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")


def _f32(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def _columns(n: Node, x: Value, coefficients: np.ndarray, columns: int, what: str) -> np.ndarray:
    """The coefficients as [features, columns]. CaptureError where they do not fit to x [N, features]; of more than there are
    places for onnxruntime takes the first, and so it is done and said here."""
    width = rank_of(x)[1]
    if isinstance(width, int) and coefficients.size > width * columns:
        log.warning("%s: %s has %d coefficients for %d %s of %d features: the first %d are taken", n.place, n.kind,
                    coefficients.size, columns, what, width, width * columns)
        coefficients = coefficients[:width * columns]
    if not columns or coefficients.size % columns or (isinstance(width, int) and coefficients.size != width * columns):
        raise n.error(f"has {coefficients.size} coefficients for {columns} {what} of {width} features")
    return np.ascontiguousarray(coefficients.reshape(columns, -1).T)


# Linear models ------------------------------------------------------------------------------
def _linear(b: Context, n: Node, x: Value, columns: int, what: str) -> Value:
    y = b.matmul(x, b.const(_columns(n, x, _f32(n.attr("coefficients")), columns, what)))
    intercepts = _f32(n.attr("intercepts", None) or [])
    if intercepts.size not in (0, 1, columns):
        raise n.error(f"has {intercepts.size} intercepts for {columns} {what}")
    return b.add(y, b.const(intercepts)) if intercepts.size else y


@entry("LinearRegressor", domain=ML)
def linear_regressor(b: Context, n: Node) -> Results:
    y = _linear(b, n, batched(b, b.to(n[0], F32)), n.attr("targets", 1), "targets")
    return post_transformed(b, n, y, n.attr("post_transform", "NONE"))


@entry("LinearClassifier", domain=ML)
def linear_classifier(b: Context, n: Node) -> Results:
    """The label of the largest score, and the scores; a row of coefficients for each class, or one for the second of two."""
    labels, post = labels_of(n, "classlabels_ints"), n.attr("post_transform", "NONE")
    x = batched(b, b.to(n[0], F32))
    width, count = rank_of(x)[1], len(n.attr("coefficients"))
    columns = len(n.attr("intercepts", None) or []) or (count // width if isinstance(width, int) and width else labels.size)
    scores = _linear(b, n, x, columns, "classes")
    if columns > 1:
        if columns > labels.size:
            raise n.error(f"has {labels.size} labels for {columns} classes")
        best = b.argmax(scores, axis=1, keepdims=False)
        return [labelled(b, labels, best), post_transformed(b, n, scores, post)]
    wins = b.cast(b.reshaped(b.greater(scores, 0.0), rank_of(scores)[:1]), to=I64)
    if labels.size == 2:
        return [labelled(b, labels, wins), binary_scores(b, n, scores, True, post)]
    named = np.array(["0", "1"], dtype=object) if labels.dtype == object else np.array([0, 1], np.int64)
    return [labelled(b, named, wins), post_transformed(b, n, scores, post if post == "PROBIT" else "NONE")]


# Support vector machines --------------------------------------------------------------------
def _kernel(b: Context, n: Node, x: Value, support: np.ndarray) -> Value:
    """Each row of x with each support vector: [N, vectors]."""
    kind = n.attr("kernel_type", "LINEAR")
    if kind not in KERNELS:
        raise n.error(f"kernel_type={kind!r}", f"Known: {', '.join(KERNELS)}")
    gamma, coef, degree = (float(v) for v in (list(n.attr("kernel_params", None) or []) + [0.0] * 3)[:3])
    if kind == "RBF":
        difference = b.sub(b.unsqueezed(x, [1]), b.const(support[None]))
        return b.exp(b.mul(b.reduce_sum(b.mul(difference, difference), axes=(2,)), -gamma))
    product = b.matmul(x, b.const(np.ascontiguousarray(support.T)))
    if kind == "LINEAR":
        return product
    product = b.add(b.mul(product, gamma), coef)
    if kind == "SIGMOID":
        return b.tanh(product)
    if degree in (2.0, 3.0):
        square = b.mul(product, product)
        return square if degree == 2.0 else b.mul(square, product)
    return b.pow(product, degree)


def _support(n: Node, x: Value, vectors: int) -> np.ndarray:
    """[vectors, features]"""
    support = _f32(n.attr("support_vectors"))
    return _columns(n, x, support, vectors, "support vectors").T


@entry("SVMRegressor", domain=ML)
def svm_regressor(b: Context, n: Node) -> Results:
    """sum_i c_i k(x, v_i) + rho over the support vectors, or the linear form where there are none; of one class, its sign."""
    x = batched(b, b.to(n[0], F32))
    vectors, coefficients, rho = n.attr("n_supports", 0), _f32(n.attr("coefficients")), _f32(n.attr("rho"))
    if not rho.size or (vectors and coefficients.size != vectors):
        raise n.error(f"has {coefficients.size} coefficients and {rho.size} rho for {vectors} support vectors")
    if vectors:
        y = b.matmul(_kernel(b, n, x, _support(n, x, vectors)), b.const(coefficients.reshape(vectors, 1)))
    else:
        y = b.matmul(x, b.const(_columns(n, x, coefficients, 1, "target")))
    y = b.add(y, float(rho[0]))
    if n.attr("one_class", 0):
        y = b.where(b.greater(y, 0.0), b.const(1, F32), b.const(-1, F32))
    return post_transformed(b, n, y, n.attr("post_transform", "NONE"))


@entry("SVMClassifier", domain=ML)
def svm_classifier(b: Context, n: Node) -> Results:
    labels, post = labels_of(n, "classlabels_ints"), n.attr("post_transform", "NONE")
    x = batched(b, b.to(n[0], F32))
    per_class = [int(v) for v in n.attr("vectors_per_class", None) or []]
    if not sum(per_class):
        return _without_vectors(b, n, x, labels, post)
    if len(per_class) != labels.size or labels.size < 2:
        raise n.error(f"has {len(per_class)} vectors_per_class for {labels.size} labels")
    scores, votes = _pairwise(b, n, x, per_class)
    label = labelled(b, labels, b.argmax(votes, axis=1, keepdims=False))
    a, c = (_f32(n.attr(name, None) or []) for name in ("prob_a", "prob_b"))
    pairs = labels.size * (labels.size - 1) // 2
    if a.size or c.size:
        if a.size != pairs or c.size != pairs:
            raise n.error(f"has {a.size} prob_a and {c.size} prob_b for {pairs} pairs of classes")
        return [label, post_transformed(b, n, _probabilities(b, scores, a, c, labels.size), post)]
    if labels.size == 2:
        return [label, binary_scores(b, n, scores, post != "NONE", post)]
    return [label, post_transformed(b, n, scores, post)]


def _without_vectors(b: Context, n: Node, x: Value, labels: np.ndarray, post: str) -> Results:
    """The linear form: a row of coefficients for each class. Of two, the second wins with any positive score (or, where no
    coefficient is negative, from a half on): so onnxruntime has it."""
    coefficients, rho = _f32(n.attr("coefficients")), _f32(n.attr("rho"))
    if not rho.size:
        raise n.error("has no rho")
    scores = b.add(b.matmul(x, b.const(_columns(n, x, coefficients, labels.size, "classes"))), float(rho[0]))
    best = b.argmax(scores, axis=1, keepdims=False)
    if labels.size == 2:
        top = b.reduce_max(scores, axes=(1,), keepdims=False)
        wins = b.greater_equal(top, 0.5) if (coefficients >= 0).all() else b.greater(top, 0.0)
        best = b.where(wins, b.const(1, I64), best)
    return [labelled(b, labels, best), post_transformed(b, n, scores, post)]


def _pairwise(b: Context, n: Node, x: Value, per_class: list[int]) -> tuple[Value, Value]:
    """The decision between each two classes [N, pairs], positive for the first of them, and how many each class has won.

    libsvm's layout: vectors class by class, coefficients [classes - 1, vectors], of which a class's vectors have a row for each
    other class. Sums are taken in f64, as their signs decide.
    """
    classes, vectors = len(per_class), sum(per_class)
    pairs = list(combinations(range(classes), 2))
    coefficients, rho = _f32(n.attr("coefficients")), _f32(n.attr("rho"))
    if coefficients.size != (classes - 1) * vectors or rho.size < len(pairs):
        raise n.error(f"has {coefficients.size} coefficients and {rho.size} rho for {classes} classes, {vectors} support vectors")
    rows = coefficients.reshape(classes - 1, vectors)
    starts = np.concatenate([[0], np.cumsum(per_class)])
    weights, wins, losses = np.zeros((vectors, len(pairs))), np.zeros((len(pairs), classes)), np.zeros(classes)
    for p, (i, j) in enumerate(pairs):
        of_i, of_j = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        weights[of_i, p], weights[of_j, p] = rows[j - 1, of_i], rows[i, of_j]
        wins[p, i], wins[p, j] = 1, -1
        losses[j] += 1
    kernel = b.to(_kernel(b, n, x, _support(n, x, vectors)), F64)
    sums = b.add(b.matmul(kernel, b.const(weights)), b.const(rho[:len(pairs)].astype(np.float64)))
    won = b.to(b.greater(sums, 0.0), F32)
    votes = b.add(b.matmul(won, b.const(_f32(wins))), b.const(_f32(losses)))
    return b.to(sums, F32), votes


def _probabilities(b: Context, scores: Value, a: np.ndarray, c: np.ndarray, classes: int) -> Value:
    """Platt's probability of each pair, coupled."""
    of_first = b.sigmoid(b.neg(b.add(b.mul(scores, b.const(a)), b.const(c))))
    least = float(np.float32(1e-7))
    of_first = b.minimum(b.maximum(of_first, least), float(np.float32(1) - np.float32(1e-7)))
    both = b.concat(of_first, b.sub(1.0, of_first), axis=1)
    pairs = list(combinations(range(classes), 2))
    place = np.zeros((classes, classes), np.int64)
    for p, (i, j) in enumerate(pairs):
        place[i, j], place[j, i] = p, p + len(pairs)
    square = b.gather(both, b.const(place), axis=1)
    return b.couple_pairs(square)
