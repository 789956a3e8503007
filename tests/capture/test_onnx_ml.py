"""ai.onnx.ml's linear models, kernels and feature preparation against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.errors import CaptureError
from tests.capture.onnx_models import captured, check

RNG = np.random.default_rng(5)
X = RNG.standard_normal((7, 3)).astype(np.float32)
W = RNG.standard_normal(12).round(3).tolist()


def _model(op: str, x: np.ndarray, outputs: list[int], **attrs: Any) -> Any:
    code = helper.np_dtype_to_tensor_dtype(x.dtype) if x.dtype != object else TensorProto.STRING
    names = [f"y{i}" for i in range(len(outputs))]
    return helper.make_model(helper.make_graph(
        [helper.make_node(op, ["x"], names, domain="ai.onnx.ml", **attrs)], "g",
        [helper.make_tensor_value_info("x", code, ["N", *x.shape[1:]])],
        [helper.make_tensor_value_info(n, c, None) for n, c in zip(names, outputs)]),
        opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 18)], ir_version=8)


F, I = TensorProto.FLOAT, TensorProto.INT64
CASES = {
    "scaler": ("Scaler", X, [F], {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.0]}),
    "scaler of one number": ("Scaler", X, [F], {"offset": [1.0], "scale": [0.5]}),
    "linear": ("LinearRegressor", X, [F], {"coefficients": W[:3], "intercepts": [0.5]}),
    "linear of two targets": ("LinearRegressor", X, [F], {"coefficients": W[:6], "intercepts": [0.5, 1.0], "targets": 2}),
    "classifier": ("LinearClassifier", X, [I, F], {"coefficients": W[:9], "intercepts": [0.1, 0.2, 0.3],
                                                  "classlabels_ints": [3, 5, 7], "post_transform": "SOFTMAX"}),
    "classifier, logistic": ("LinearClassifier", X, [I, F], {"coefficients": W[:9], "intercepts": [0.1, 0.2, 0.3],
                                                            "classlabels_ints": [3, 5, 7], "post_transform": "LOGISTIC"}),
    "svm rbf": ("SVMRegressor", X, [F], {"n_supports": 2, "support_vectors": W[:6], "coefficients": W[6:8], "rho": [0.3],
                                         "kernel_type": "RBF", "kernel_params": [0.4, 0.0, 3.0]}),
    "svm poly": ("SVMRegressor", X, [F], {"n_supports": 2, "support_vectors": W[:6], "coefficients": W[6:8], "rho": [0.3],
                                          "kernel_type": "POLY", "kernel_params": [0.4, 0.1, 3.0]}),
    "svm linear": ("SVMRegressor", X, [F], {"n_supports": 0, "coefficients": W[6:9], "rho": [0.3], "kernel_type": "LINEAR",
                                            "kernel_params": [0.0, 0.0, 3.0]}),
    "features": ("FeatureVectorizer", X, [F], {"inputdimensions": [3]}),
    "imputer": ("Imputer", np.where(X > 1, np.float32(np.nan), X), [F],
                {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")}),
    "one hot": ("OneHotEncoder", np.array([3, 5, 9, 3]), [F], {"cats_int64s": [3, 5, 7], "zeros": 1}),
    "categories": ("CategoryMapper", np.array([3, 5, 9]), [TensorProto.STRING],
                   {"cats_int64s": [3, 5], "cats_strings": ["a", "b"], "default_string": "none"}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str) -> None:
    op, x, outputs, attrs = CASES[name]
    model = _model(op, x, outputs, **attrs)
    check(captured(model), model, {"x": x}, rtol=1e-4, atol=1e-5)


def test_what_is_left_out_says_so() -> None:
    with pytest.raises(CaptureError, match="PROBIT"):
        captured(_model("LinearRegressor", X, [F], coefficients=W[:3], post_transform="PROBIT"))
    with pytest.raises(CaptureError, match="coefficients"):
        captured(_model("LinearClassifier", X, [I, F], coefficients=W[:3], classlabels_ints=[0, 1]))
