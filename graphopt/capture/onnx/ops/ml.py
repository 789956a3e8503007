"""Linear models, kernels and feature preparation of ai.onnx.ml."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.ops.trees import ML, post_transformed
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, I64


def _f32(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def _batched(b: Context, x: Value) -> Value:
    """[N, features] in f32; a vector is one row."""
    x = b.to(x, F32)
    return b.unsqueezed(x, [0]) if len(rank_of(x)) == 1 else x


@entry("Scaler", domain=ML)
def scaler(b: Context, n: Node) -> Results:
    return b.mul(b.sub(b.to(n[0], F32), b.const(_f32(n.attr("offset", [0.0])))), b.const(_f32(n.attr("scale", [1.0]))))


@entry("Imputer", domain=ML)
def imputer(b: Context, n: Node) -> Results:
    """Elements equal to the one to be replaced (NaN included) become the value of their column."""
    x = n[0]
    if x.dtype.is_float:
        old, new = n.attr("replaced_value_float", 0.0), n.attr("imputed_value_floats")
    else:
        old, new = n.attr("replaced_value_int64", 0), n.attr("imputed_value_int64s")
    gone = b.isnan(x) if old != old else b.equal(x, old)
    return b.where(gone, b.const(np.array(new), x.dtype), x)


@entry("FeatureVectorizer", domain=ML)
def feature_vectorizer(b: Context, n: Node) -> Results:
    """All operands side by side, each cut to its stated width."""
    parts = []
    for v, width in zip((v for v in n.inputs if v is not None), n.attr("inputdimensions")):
        v = _batched(b, v)
        parts.append(v if rank_of(v)[1] == width else b.cut(v, 1, 0, width))
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=1)


@entry("OneHotEncoder", domain=ML)
def one_hot_encoder(b: Context, n: Node) -> Results:
    """A new last axis with one place for each category; unknown ones give zeros (or, by attribute, should be refused)."""
    x = n[0]
    if "cats_strings" in n.attrs:
        categories = np.array(n.attrs["cats_strings"], dtype=object)
    else:
        categories = np.array(n.attr("cats_int64s"), dtype=np.int64)
        x = b.to(x, I64)
    if not n.attr("zeros", 1):
        raise n.error("zeros=0, an error for unknown categories, is not supported", "Set zeros=1")
    return b.cast(b.equal(b.unsqueezed(x, [len(rank_of(x))]), b.const(categories)), to=F32)


@entry("CategoryMapper", domain=ML)
def category_mapper(b: Context, n: Node) -> Results:
    names, numbers = np.array(n.attr("cats_strings"), dtype=object), np.array(n.attr("cats_int64s"), dtype=np.int64)
    if n[0].dtype.kind == "str":
        return b.label_encode(n[0], b.const(names), b.const(numbers), b.const(np.array(n.attr("default_int64", -1), np.int64)))
    default = np.array(n.attr("default_string", "_Unused"), dtype=object)
    return b.label_encode(n[0], b.const(numbers), b.const(names), b.const(default))


@entry("LinearRegressor", domain=ML)
def linear_regressor(b: Context, n: Node) -> Results:
    targets = n.attr("targets", 1)
    y = _linear(b, n, _batched(b, n[0]), targets)
    return post_transformed(b, n, y, n.attr("post_transform", "NONE"))


def _linear(b: Context, n: Node, x: Value, rows: int) -> Value:
    y = b.matmul(x, b.const(_f32(n.attr("coefficients")).reshape(rows, -1).T))
    intercepts = n.attr("intercepts", None)
    return b.add(y, b.const(_f32(intercepts))) if intercepts else y


@entry("LinearClassifier", domain=ML)
def linear_classifier(b: Context, n: Node) -> Results:
    """The label of the largest score, and the scores; a row of coefficients for each class."""
    labels = np.array(n.attr("classlabels_strings", None) or [], dtype=object)
    labels = labels if labels.size else np.array(n.attr("classlabels_ints"), dtype=np.int64)
    features, count = rank_of(_batched(b, n[0]))[1], len(n.attr("coefficients"))
    if not isinstance(features, int) or count != features * labels.size:
        raise n.error(f"has {count} coefficients for {labels.size} classes of {features} features",
                      "One row of coefficients for each class is supported")
    scores = _linear(b, n, _batched(b, n[0]), labels.size)
    best = b.argmax(scores, axis=1, keepdims=False)
    return [b.gather(b.const(labels), best, axis=0), post_transformed(b, n, scores, n.attr("post_transform", "NONE"))]


@entry("SVMRegressor", domain=ML)
def svm_regressor(b: Context, n: Node) -> Results:
    """sum_i c_i k(x, v_i) + rho over the support vectors, or the linear form where there are none."""
    x = _batched(b, n[0])
    vectors, coefficients = n.attr("n_supports", 0), _f32(n.attr("coefficients"))
    if vectors:
        support = _f32(n.attr("support_vectors")).reshape(vectors, -1)
        y = b.matmul(_kernel(b, n, x, support), b.const(coefficients.reshape(vectors, 1)))
    else:
        y = b.matmul(x, b.const(coefficients.reshape(-1, 1)))
    y = b.add(y, float(n.attr("rho", [0.0])[0]))
    if n.attr("one_class", 0):
        y = b.where(b.greater(y, 0.0), b.const(1, F32), b.const(-1, F32))
    return post_transformed(b, n, y, n.attr("post_transform", "NONE"))


def _kernel(b: Context, n: Node, x: Value, support: np.ndarray) -> Value:
    kind = n.attr("kernel_type", "LINEAR")
    gamma, coef, degree = (list(n.attr("kernel_params", [])) + [0.0] * 3)[:3]
    if kind == "RBF":
        difference = b.sub(b.unsqueezed(x, [1]), b.const(support[None]))
        return b.exp(b.mul(b.reduce_sum(b.mul(difference, difference), axes=(2,)), -gamma))
    product = b.matmul(x, b.const(np.ascontiguousarray(support.T)))
    if kind == "LINEAR":
        return product
    product = b.add(b.mul(product, gamma), coef)
    return b.pow(product, degree) if kind == "POLY" else b.tanh(product)
