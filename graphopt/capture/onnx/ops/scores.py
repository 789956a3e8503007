"""What the classifiers and regressors of ai.onnx.ml share: rows from the input, scores to probabilities, classes to labels."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.ir.graph import Value
from graphopt.ir.types import F32


def batched(b: Context, x: Value) -> Value:
    """[N, features]; a vector is one row."""
    shape = rank_of(x)
    return b.unsqueezed(x, [0]) if len(shape) == 1 else x


def labels_of(n: Node, ints: str) -> np.ndarray:
    """The classes' labels, strings or i64. CaptureError where there are none."""
    strings, numbers = n.attr("classlabels_strings", None), n.attr(ints, None)
    if not strings and not numbers:
        raise n.error(f"has neither classlabels_strings nor {ints}")
    return np.array(strings, dtype=object) if strings else np.array(numbers, dtype=np.int64)


def labelled(b: Context, labels: np.ndarray, best: Value) -> Value:
    """The labels at these indices."""
    return b.gather(b.const(labels), best, axis=0)


def probit(b: Context, p: Value) -> Value:
    """The quantile of the normal distribution, by Winitzki's approximation of the inverse error function (2008) with the
    constants of onnxruntime: off by up to 0.002, NaN outside of 0 to 1.

    With l = log(4 p (1 - p)) and h = 2 / (pi a) + l / 2 it is the root of 2 (sqrt(h^2 - l / a) - h), signed. Both the logarithm
    near p = 1/2 and the difference where h > 0 are taken in forms that lose no digits; onnxruntime's do, and are off by 3e-4
    there and by more for p below 1e-5.
    """
    a = float(np.float32(0.147))
    x = b.sub(b.mul(p, 2.0), 1.0)
    middle = b.less(b.abs(x), 0.5)
    edge = b.log(b.mul(b.mul(p, 4.0), b.sub(1.0, p)))
    log = b.where(middle, b.log1p(b.neg(b.mul(x, x))), edge)
    half = b.add(b.mul(log, 0.5), 2.0 / (float(np.float32(3.14159)) * a))
    part = b.mul(log, 1 / a)
    outer = b.sqrt(b.sub(b.mul(half, half), part))
    square = b.where(b.greater(half, 0.0), b.div(b.neg(part), b.add(outer, half)), b.sub(outer, half))
    root = b.mul(b.sqrt(square), float(np.sqrt(2)))
    return b.where(b.less(x, 0.0), b.neg(root), root)


def softmax_zero(b: Context, x: Value) -> Value:
    """Softmax over the last axis in which elements of zero (1e-7 and less) have no part and stay zero."""
    top = b.reduce_max(x, axes=(1,), keepdims=True)
    small = b.less_equal(b.abs(x), float(np.float32(1e-7)))
    power = b.exp(b.sub(x, top))
    total = b.reduce_sum(b.where(small, b.const(0, x.dtype), power), axes=(1,), keepdims=True)
    return b.div(b.where(small, b.mul(x, b.exp(b.neg(top))), power), total)


def post_transformed(b: Context, n: Node, scores: Value, how: str) -> Value:
    """The scores [N, classes] as the attribute post_transform says."""
    if how in ("NONE", ""):
        return scores
    if how == "LOGISTIC":
        return b.sigmoid(scores)
    if how == "SOFTMAX":
        return b.softmax(scores, axis=1)
    if how == "SOFTMAX_ZERO":
        return softmax_zero(b, scores)
    if how == "PROBIT":
        return probit(b, scores)
    raise n.error(f"post_transform={how!r}", "Known: NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO, PROBIT")


def binary_scores(b: Context, n: Node, score: Value, sure: bool, how: str) -> Value:
    """Two columns from the one of the second class, [N, 1]: with 1 - p where it is a probability (`sure`), else with -s.

    As in onnxruntime softmax has no part in it, and the logistic function is that of s and -s.
    """
    if how == "PROBIT":
        return probit(b, b.to(b.concat(b.sub(1.0, score), score, axis=1), F32))
    other = b.sub(1.0, score) if sure and how != "LOGISTIC" else b.neg(score)
    both = b.to(b.concat(other, score, axis=1), F32)
    return post_transformed(b, n, both, "NONE" if how in ("SOFTMAX", "SOFTMAX_ZERO") else how)
