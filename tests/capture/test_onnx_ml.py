"""Linear models, support vector machines and feature preparation of ai.onnx.ml, and ONNX's first experimental operators,
against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.errors import CaptureError, EvaluationError
from graphopt.ir import evaluate
from tests.capture.ml_models import F, I, S, one_node
from tests.capture.onnx_models import captured, check, op_names, run_ort

RNG = np.random.default_rng(5)
X = RNG.standard_normal((7, 3)).astype(np.float32)
W = RNG.standard_normal(60).round(3).tolist()
NAN = float("nan")
TRANSFORMS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"]


def svm(kernel: str, classes: int = 3, probable: bool = False, **attrs: Any) -> dict[str, Any]:
    vectors, pairs = [2, 1, 3, 2][:classes], classes * (classes - 1) // 2
    n = sum(vectors)
    made = {"vectors_per_class": vectors, "support_vectors": W[:3 * n], "coefficients": W[5:5 + (classes - 1) * n],
            "rho": W[3:3 + pairs], "kernel_type": kernel, "kernel_params": [0.4, 0.1, 3.0],
            "classlabels_ints": [7, 5, 3, 1][:classes], **attrs}
    return {**made, "prob_a": W[10:10 + pairs], "prob_b": W[20:20 + pairs]} if probable else made


BINARY = {"coefficients": W[:3], "intercepts": [0.2], "classlabels_ints": [3, 5]}
CASES = {
    "scaler": ("Scaler", X, [F], {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.0]}),
    "scaler of one number": ("Scaler", X, [F], {"offset": [1.0], "scale": [0.5]}),
    "scaler of integers": ("Scaler", np.arange(6).reshape(2, 3), [F], {"offset": [1.0], "scale": [0.5]}),
    **{f"normalizer {n}": ("Normalizer", np.concatenate([X, -abs(X), 0 * X[:2]]), [F], {"norm": n}) for n in ("MAX", "L1", "L2")},
    "normalizer of integers": ("Normalizer", np.arange(-3, 3).reshape(2, 3), [F], {"norm": "L2"}),
    "binarizer": ("Binarizer", np.array([[0.5, 0.25, 9], [0.75, -1, 0]], np.float32), [F], {"threshold": 0.5}),
    "linear": ("LinearRegressor", X, [F], {"coefficients": W[:3], "intercepts": [0.5]}),
    "linear of two targets": ("LinearRegressor", X, [F], {"coefficients": W[:6], "intercepts": [0.5, 1.0], "targets": 2}),
    **{f"three classes, {p}": ("LinearClassifier", X, [I, F], {
        "coefficients": W[:9], "intercepts": [0.1, 0.2, 0.3], "classlabels_ints": [3, 5, 7], "post_transform": p})
       for p in TRANSFORMS},
    **{f"two classes of one row, {p}": ("LinearClassifier", X, [I, F], {**BINARY, "post_transform": p}) for p in TRANSFORMS},
    "classes of doubles": ("LinearClassifier", X.astype(np.float64), [I, F], BINARY),
    "classes with names": ("LinearClassifier", X, [S, F], {"coefficients": W[:6], "intercepts": [0.1, 0.2],
                                                          "classlabels_strings": ["a", "b"]}),
    **{f"svr {k}": ("SVMRegressor", X, [F], {"n_supports": 2, "support_vectors": W[:6], "coefficients": W[6:8], "rho": [0.3],
                                             "kernel_type": k, "kernel_params": [0.4, 0.1, 3.0]})
       for k in ("LINEAR", "POLY", "RBF", "SIGMOID")},
    "svr by another power": ("SVMRegressor", abs(X), [F], {
        "n_supports": 2, "support_vectors": [abs(w) for w in W[:6]], "coefficients": W[6:8], "rho": [0.3], "kernel_type": "POLY",
        "kernel_params": [0.4, 0.1, 2.5]}),
    "svr without vectors": ("SVMRegressor", X, [F], {"n_supports": 0, "coefficients": W[6:9], "rho": [0.3],
                                                    "kernel_params": [0.0, 0.0, 3.0]}),
    "one class": ("SVMRegressor", X, [F], {"n_supports": 2, "support_vectors": W[:6], "coefficients": W[6:8], "rho": [0.3],
                                           "kernel_type": "RBF", "kernel_params": [0.4, 0.0, 3.0], "one_class": 1}),
    **{f"svc {k}": ("SVMClassifier", X, [I, F], svm(k)) for k in ("LINEAR", "POLY", "RBF", "SIGMOID")},
    **{f"svc of {n}, {p}": ("SVMClassifier", X, [I, F], svm("RBF", n, post_transform=p)) for n in (2, 4) for p in TRANSFORMS},
    **{f"svc of {n} with probabilities": ("SVMClassifier", X, [I, F], svm("RBF", n, True)) for n in (2, 3, 4)},
    "svc of integers": ("SVMClassifier", np.arange(6).reshape(2, 3), [I, F], svm("LINEAR")),
    "svc with names": ("SVMClassifier", X, [S, F], {
        k: v for k, v in svm("RBF", 2, True, classlabels_strings=["no", "yes"]).items() if k != "classlabels_ints"}),
    **{f"svc without vectors, {n}": ("SVMClassifier", X, [I, F], {
        "coefficients": c, "rho": [0.3], "kernel_params": [0.0, 0.0, 0.0], "classlabels_ints": [7, 5, 3][:n]})
       for n, c in ((2, W[:6]), (3, W[:9]))},
    "svc without vectors, positive": ("SVMClassifier", X, [I, F], {
        "coefficients": [abs(w) for w in W[:6]], "rho": [0.1], "kernel_params": [0.0, 0.0, 0.0], "classlabels_ints": [7, 5]}),
    "features": ("FeatureVectorizer", X, [F], {"inputdimensions": [3]}),
    "features cut": ("FeatureVectorizer", X, [F], {"inputdimensions": [2]}),
    "features filled up": ("FeatureVectorizer", X, [F], {"inputdimensions": [5]}),
    "imputer": ("Imputer", np.where(X > 1, np.float32(NAN), X), [F],
                {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": NAN}),
    "imputer of integers": ("Imputer", np.array([[1, -1], [-1, 2]]), [I],
                            {"imputed_value_int64s": [7], "replaced_value_int64": -1}),
    "one hot": ("OneHotEncoder", np.array([3, 5, 9, 3]), [F], {"cats_int64s": [3, 5, 7], "zeros": 1}),
    "one hot of floats": ("OneHotEncoder", np.array([[3.9, -0.5], [7, 5]], np.float32), [F], {"cats_int64s": [0, 3, 5]}),
    "one hot of names": ("OneHotEncoder", np.array([["a"], ["c"]], dtype=object), [F], {"cats_strings": ["c", "a", "b"]}),
    "categories": ("CategoryMapper", np.array([3, 5, 9]), [S],
                   {"cats_int64s": [3, 5], "cats_strings": ["a", "b"], "default_string": "none"}),
    "categories back": ("CategoryMapper", np.array(["b", "x"], dtype=object), [I],
                        {"cats_int64s": [3, 5], "cats_strings": ["a", "b"], "default_int64": -7}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str) -> None:
    op, x, outputs, attrs = CASES[name]
    model = one_node(op, x, outputs, **attrs)
    check(captured(model), model, {"x": x}, rtol=1e-4, atol=1e-5)


def test_a_vector_is_one_row() -> None:
    x = X[0]
    for op, outputs, attrs in (("LinearClassifier", [I, F], BINARY), ("SVMClassifier", [I, F], svm("RBF")),
                               ("LinearRegressor", [F], {"coefficients": W[:3], "intercepts": [0.5]})):
        model = one_node(op, x, outputs, **attrs)
        check(captured(model), model, {"x": x}, rtol=1e-4, atol=1e-5)


def test_what_is_wrong_is_said() -> None:
    for op, outputs, attrs, said in (
            ("LinearRegressor", [F], {"coefficients": W[:3], "post_transform": "CUBE"}, "CUBE"),
            ("LinearClassifier", [I, F], {"coefficients": W[:4], "intercepts": W[:2], "classlabels_ints": [0, 1]}, "coeffi"),
            ("LinearClassifier", [I, F], {"coefficients": W[:3]}, "classlabels"),
            ("SVMRegressor", [F], {"coefficients": W[:3], "rho": [0.0], "n_supports": 2, "support_vectors": W[:6]}, "2 support"),
            ("SVMClassifier", [I, F], svm("CUBIC"), "CUBIC"),
            ("SVMClassifier", [I, F], {**svm("RBF"), "rho": [0.0]}, "rho"),
            ("Normalizer", [F], {"norm": "L3"}, "L3"),
            ("Scaler", [F], {"offset": [0.0, 1.0], "scale": [1.0]}, "offset"),
            ("Imputer", [F], {"imputed_value_floats": [1.0, 2.0], "replaced_value_float": 0.0}, "imputed"),
            ("FeatureVectorizer", [F], {"inputdimensions": [1, 2]}, "inputdimensions"),
            ("ZipMap", [F], {}, "classlabels")):
        with pytest.raises(CaptureError, match=said):
            captured(one_node(op, X, outputs, **attrs))


def test_surplus_coefficients_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """As in the iris model that onnxruntime comes with, trained on 4 features and declared with 2."""
    model = one_node("LinearClassifier", X[:, :2].copy(), [I, F], coefficients=W[:12], intercepts=[0.1, 0.2, 0.3],
                     classlabels_ints=[0, 1, 2], post_transform="LOGISTIC")
    check(captured(model), model, {"x": X[:, :2].copy()}, rtol=1e-4, atol=1e-5)
    assert "12 coefficients for 3 classes of 2 features: the first 6" in caplog.text


def test_compiled_without_host_ops() -> None:
    """Of each kind one: votes and coupling, one row to two columns, the quantile."""
    for op, attrs in (("SVMClassifier", svm("RBF", 4, True)), ("LinearClassifier", {**BINARY, "post_transform": "LOGISTIC"})):
        model = one_node(op, X, [I, F], **attrs)
        compiled = graphopt.compile(model)
        got = list(compiled.run({"x": X}).values())
        want = run_ort(model, {"x": X})
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-5)
        assert not compiled.host_ops


# Labels -------------------------------------------------------------------------------------
NUMERIC = {"i64": np.array([5, -3, 5, 900], np.int64), "i32": np.array([5, -3, 5, 900], np.int32),
           "i16": np.array([32767, -32768, 32767, 4], np.int16), "sparse": np.array([2**62, -(2**62), 0, 3], np.int64),
           "f32": np.array([0.5, NAN, -0.0, np.inf], np.float32), "f64": np.array([0.1, NAN, 1e300, -np.inf], np.float64)}
VALUES = {"f32": np.array([1, 2, 3, 4], np.float32), "i64": np.array([9, 8, 7, 6]), "f64": np.array([0.1, 0.2, 0.3, 0.4]),
          "i16": np.array([1, 2, 3, 4], np.int16)}


@pytest.mark.parametrize("of", NUMERIC)
@pytest.mark.parametrize("to", VALUES)
def test_numbers_are_encoded_by_kernels(of: str, to: str) -> None:
    """Of equal keys the last one counts, NaN is a key, and what is no key gives the default: the document's table, in Python."""
    keys, values = NUMERIC[of], VALUES[to]
    default = np.array([77], values.dtype)
    others = [6, 0, -1, 12] if keys.dtype.kind == "i" else [0.0, 0.1, np.nan, -np.inf]
    x = np.concatenate([keys, np.array(others, keys.dtype)]).reshape(2, 4)
    model = one_node("LabelEncoder", x, [helper.np_dtype_to_tensor_dtype(values.dtype)], version=4,
                     keys_tensor=numpy_helper.from_array(keys), values_tensor=numpy_helper.from_array(values),
                     default_tensor=numpy_helper.from_array(default))
    graph = captured(model)
    assert "label_encode" not in op_names(graph)
    table = {("nan" if k != k else k): v for k, v in zip(keys.tolist(), values.tolist())}
    want = [table.get("nan" if k != k else k, 77) for k in x.reshape(-1).tolist()]
    got = evaluate(graph, [x])[0]
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got.reshape(-1), np.array(want, values.dtype))
    if of == "sparse" and to == "f32":
        compiled = graphopt.compile(model)
        np.testing.assert_array_equal(compiled.run({"x": x})["y0"].reshape(-1), np.array(want, np.float32))
        assert not compiled.host_ops


def test_names_are_encoded_by_the_evaluator() -> None:
    x = np.array([["a"], ["c"]], dtype=object)
    model = one_node("LabelEncoder", x, [F], version=2, keys_strings=["a", "b"], values_floats=[1.0, 2.0])
    graph = captured(model)
    assert op_names(graph) == ["label_encode"]
    check(graph, model, {"x": x})
    first = one_node("LabelEncoder", x, [I], version=1, classes_strings=["b", "a"], default_int64=-5)
    check(captured(first), first, {"x": x})


# Maps ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("keys", [{"classlabels_int64s": [7, 3, 5]}, {"classlabels_strings": ["b", "a", "c"]}], ids=list)
def test_a_map_for_each_row(keys: dict[str, Any]) -> None:
    """As Python gets it from onnxruntime: keys in their order, plain numbers."""
    model = one_node("ZipMap", X, [F], version=1, **keys)
    kind = helper.make_map_type_proto(S if "classlabels_strings" in keys else I, helper.make_tensor_type_proto(F, []))
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(kind))
    compiled = graphopt.compile(model)
    for x in (X, X[:1], X[:0]):
        got = compiled.run({"x": x})["y0"]
        want = run_ort(model, {"x": x})[0] if len(x) else []
        assert got == want and [list(m) for m in got] == [list(m) for m in want]
        assert all(type(v) is float for m in got for v in m.values())


def _of_map(op: str, key: int, value: int, output: int, **attrs: Any) -> Any:
    kind = helper.make_map_type_proto(key, helper.make_tensor_type_proto(value, []))
    return helper.make_model(helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **attrs)], "g", [helper.make_value_info("x", kind)],
        [helper.make_tensor_value_info("y", output, None)]),
        opset_imports=[helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 18)], ir_version=8)


def test_maps_as_inputs() -> None:
    model = _of_map("DictVectorizer", S, F, F, string_vocabulary=["a", "c", "b"])
    x = {"c": 2.5, "a": -1.0}
    np.testing.assert_array_equal(graphopt.compile(model).run({"x": x})["y"], run_ort(model, {"x": x})[0])
    x = {5: 1.5, 2: -2.0, 0: 7.0}
    for attrs in ({"map_form": "DENSE"}, {"map_form": "SPARSE", "max_map": 8}):
        model = _of_map("CastMap", I, F, I, cast_to="TO_INT64", **attrs)
        np.testing.assert_array_equal(evaluate(captured(model), [x])[0], run_ort(model, {"x": x})[0])
    model = _of_map("CastMap", I, F, F, map_form="SPARSE", max_map=3)
    with pytest.raises(EvaluationError, match="key 5"):
        evaluate(captured(model), [x])


# Picking ------------------------------------------------------------------------------------
@pytest.mark.parametrize("x", [X, X[0], np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)], ids=lambda x: str(x.ndim))
def test_array_feature_extractor(x: np.ndarray) -> None:
    model = helper.make_model(helper.make_graph(
        [helper.make_node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain="ai.onnx.ml")], "g",
        [helper.make_tensor_value_info("x", F, x.shape)], [helper.make_tensor_value_info("y", F, None)],
        [numpy_helper.from_array(np.array([[2, 0]]), "i")]),
        opset_imports=[helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 18)], ir_version=8)
    check(captured(model), model, {"x": x})


# The first opset ----------------------------------------------------------------------------
IMAGE = RNG.standard_normal((2, 3, 5, 6)).astype(np.float32)
OLD = {
    "Affine": {"alpha": 2.0, "beta": -0.5},
    "ImageScaler": {"scale": 0.5, "bias": [1.0, 2.0, 3.0]},
    "Crop": {"border": [1, 2, 1, 0]},
    "ParametricSoftplus": {"alpha": 0.5, "beta": 3.0},
    "ScaledTanh": {"alpha": 0.5, "beta": 3.0},
    "Scale": {"scale": 0.3},
    "ThresholdedRelu": {"alpha": 0.5},
    "MeanVarianceNormalization": {},
}


@pytest.mark.parametrize("op, attrs", [*OLD.items(), ("Crop", {"border": [1, 2, 9, 9], "scale": [2, 3]}),
                                       ("MeanVarianceNormalization", {"across_channels": 1}),
                                       ("MeanVarianceNormalization", {"normalize_variance": 0})])
def test_experimental_operators_of_the_first_opset(op: str, attrs: dict[str, Any]) -> None:
    model = helper.make_model(helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], **attrs)], "g", [helper.make_tensor_value_info("x", F, IMAGE.shape)],
        [helper.make_tensor_value_info("y", F, None)]), opset_imports=[helper.make_opsetid("", 1)], ir_version=3)
    check(captured(model), model, {"x": IMAGE}, rtol=1e-4, atol=1e-5)

