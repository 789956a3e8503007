"""What scikit-learn's, LightGBM's and XGBoost's exporters write, against onnxruntime and the libraries themselves.

Labels are equal, scores near; and no op of a numeric model is left to the evaluator, but for the maps that some ask for.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.backends.pipeline import optimise
from graphopt.capture import capture
from graphopt.codegen.program.control import why_not
from graphopt.codegen.program.interface import specialise
from graphopt.ir import evaluate
from graphopt.targets import parse_target
from tests.capture.onnx_models import run_ort

skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx exports scikit-learn's models")

from sklearn import (  # noqa: E402
    calibration,
    cluster,
    decomposition,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

warnings.filterwarnings("ignore")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((90, 5)).astype(np.float32)
HOLES = np.where(RNG.random(X.shape) < 0.1, np.float32(np.nan), X)
TWO, THREE = (X[:, 0] + X[:, 1] > 0).astype(np.int64), np.digitize(X[:, 0] + X[:, 2] / 3, [-0.5, 0.5])
NAMES, AMOUNT = np.array(["no", "yes"])[TWO], X[:, 0] * 2 + X[:, 1] ** 2
ROWS = X[:23]


def near(got: Any, want: Any) -> None:
    if isinstance(want, list):
        assert [list(m) for m in got] == [list(m) for m in want]
        got, want = ([list(m.values()) for m in maps] for maps in (got, want))
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    if want.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4 * max(1, np.abs(want).max(initial=0)))
    else:
        np.testing.assert_array_equal(got, want)


def on_the_evaluator(graph: Any) -> set[str]:
    return {op.name for op in graph.ops if op.name != "const" and why_not(op, ("attention",)) is not None}


def check(model: onnx.ModelProto, x: np.ndarray, hosts: tuple[str, ...] = ()) -> list[Any]:
    """The captured graph, through all passes, gives what onnxruntime gives."""
    graph = capture(model)
    target = parse_target("x86")
    final, _ = optimise(specialise(graph, graph.input_names, {graph.input_names[0]: x.shape}, {}), target)
    got = evaluate(final, [x])
    for mine, theirs in zip(got, run_ort(model, {graph.input_names[0]: x}), strict=True):
        near(mine, theirs)
    assert on_the_evaluator(final) <= set(hosts)
    return got


def exported(estimator: Any, x: np.ndarray = X, zipmap: bool | None = False) -> onnx.ModelProto:
    options = {} if zipmap is None else {"options": {"zipmap": zipmap}}
    return skl2onnx.to_onnx(estimator, x[:1], target_opset={"": 17, "ai.onnx.ml": 3}, **options)


CLASSIFIERS = {
    "forest": lambda: ensemble.RandomForestClassifier(7, random_state=0),
    "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=4),
    "adaboost": lambda: ensemble.AdaBoostClassifier(n_estimators=3),
    "tree": lambda: tree.DecisionTreeClassifier(max_depth=4),
    "svm with probabilities": lambda: svm.SVC(probability=True, random_state=0),
    "svm": lambda: svm.NuSVC(nu=0.2, kernel="poly"),
    "logistic": lambda: linear_model.LogisticRegression(),
    "sgd": lambda: linear_model.SGDClassifier(loss="log_loss", random_state=0),
    "bayes": lambda: naive_bayes.GaussianNB(),
    "mlp": lambda: neural_network.MLPClassifier((6,), max_iter=10, random_state=0),
    "stack": lambda: ensemble.StackingClassifier([("a", linear_model.LogisticRegression()),
                                                  ("b", tree.DecisionTreeClassifier(max_depth=3))]),
    "calibrated": lambda: calibration.CalibratedClassifierCV(linear_model.LogisticRegression(), cv=2),
    "quadratic": lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("classes", [TWO, THREE, NAMES], ids=["two", "three", "names"])
def test_classifiers(name: str, classes: np.ndarray) -> None:
    estimator = CLASSIFIERS[name]().fit(X, classes)
    hosts = ("gather",) if classes is NAMES else ()  # strings are picked by the evaluator
    label, *_ = check(exported(estimator), ROWS, (*hosts, "reshape") if hosts else ())
    if not name.startswith("svm"):  # whose libsvm sums in doubles
        assert np.mean(label.reshape(-1) == estimator.predict(ROWS)) == 1


OTHERS = {
    "forest": lambda: ensemble.ExtraTreesRegressor(6, random_state=0),
    "boosting": lambda: ensemble.GradientBoostingRegressor(n_estimators=4),
    "svr": lambda: svm.SVR(),
    "one class": lambda: svm.OneClassSVM(nu=0.3),
    "isolation": lambda: ensemble.IsolationForest(n_estimators=5, random_state=0),
    "process": lambda: gaussian_process.GaussianProcessRegressor(alpha=0.1),
    "mixture": lambda: mixture.GaussianMixture(3, random_state=0),
    "means": lambda: cluster.KMeans(4, n_init=1, random_state=0),
    "neighbours": lambda: neighbors.KNeighborsRegressor(3),
    "bins": lambda: preprocessing.KBinsDiscretizer(4, encode="onehot-dense"),
    "polynomial": lambda: pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), preprocessing.MinMaxScaler(),
                                                 linear_model.Ridge()),
    "components": lambda: pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(3)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_regressors_clusters_and_transformers(name: str) -> None:
    estimator = OTHERS[name]().fit(X, AMOUNT)
    check(exported(estimator, zipmap=None), ROWS, ("loop", "scan") if name == "neighbours" else ())


def test_missing_values() -> None:
    check(exported(pipeline.make_pipeline(impute.SimpleImputer(), linear_model.LogisticRegression()).fit(HOLES, TWO)), HOLES[:23])
    check(exported(tree.DecisionTreeRegressor(max_depth=5).fit(HOLES, AMOUNT), zipmap=None), HOLES[:23])


def test_categories() -> None:
    codes = RNG.integers(0, 5, (40, 3))
    for transformer in (preprocessing.OneHotEncoder(sparse_output=False), preprocessing.OrdinalEncoder()):
        check(exported(transformer.fit(codes), codes, None), codes)


def test_an_isolation_forest_is_one_kernel_of_trees() -> None:
    graph = capture(exported(ensemble.IsolationForest(n_estimators=6, random_state=0).fit(X), zipmap=None))
    static = specialise(graph, graph.input_names, {graph.input_names[0]: ROWS.shape}, {})
    final, _ = optimise(static, parse_target("x86"))
    assert [op.name for op in final.ops].count("tree_ensemble") == 1


def test_compiled_as_it_is_exported() -> None:
    """With the maps that skl2onnx asks for unless told not to: they are the one op on the evaluator."""
    model = exported(ensemble.RandomForestClassifier(7, random_state=0).fit(X, THREE), zipmap=None)
    compiled = graphopt.compile(model)
    for n in (1, 23):
        for mine, theirs in zip(compiled.run({"X": X[:n]}).values(), run_ort(model, {"X": X[:n]}), strict=True):
            near(mine, theirs)
    assert len(compiled.host_ops) == 1


# Gradient boosting libraries ----------------------------------------------------------------
def _boosted(library: str, estimator: Any) -> onnx.ModelProto:
    tools = pytest.importorskip("onnxmltools", reason="onnxmltools exports LightGBM's and XGBoost's models")
    from onnxmltools.convert.common.data_types import FloatTensorType

    convert = tools.convert_lightgbm if library == "lightgbm" else tools.convert_xgboost
    more = {"zipmap": False} if library == "lightgbm" and hasattr(estimator, "classes_") else {}
    return convert(estimator, initial_types=[("X", FloatTensorType([None, 5]))], **more)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("kind", ["two", "three", "amount"])
def test_boosted_trees_give_what_their_library_gives(library: str, kind: str) -> None:
    module = pytest.importorskip(library, reason=f"{library} trains what is exported")
    prefix, quiet = ("LGBM", {"verbose": -1}) if library == "lightgbm" else ("XGB", {})
    x = HOLES.copy()
    x[:, 4] = np.arange(len(x)) % 6
    of = {"two": TWO, "three": THREE, "amount": AMOUNT}[kind]
    estimator = getattr(module, prefix + ("Regressor" if kind == "amount" else "Classifier"))(n_estimators=6, **quiet).fit(x, of)
    got = check(_boosted(library, estimator), x)
    if kind == "amount":
        np.testing.assert_allclose(got[0].reshape(-1), estimator.predict(x), rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(got[0], estimator.predict(x))
        np.testing.assert_allclose(got[1], estimator.predict_proba(x), rtol=1e-4, atol=1e-5)


def test_categories_of_lightgbm() -> None:
    """Splits by equality, one a category."""
    lightgbm = pytest.importorskip("lightgbm", reason="LightGBM trains what is exported")
    x = X.copy()
    x[:, 4] = np.arange(len(x)) % 6
    classes = ((x[:, 4] % 2 > 0) ^ (X[:, 0] > 1)).astype(np.int64)
    estimator = lightgbm.LGBMClassifier(n_estimators=6, verbose=-1, min_child_samples=3).fit(x, classes, categorical_feature=[4])
    got = check(_boosted("lightgbm", estimator), x)
    np.testing.assert_allclose(got[1], estimator.predict_proba(x), rtol=1e-4, atol=1e-5)
