"""dim_params that name nothing: every occurrence is a dim of its own. Names tie dims together, and say so where they differ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.capture.onnx.types import is_placeholder
from graphopt.errors import InputError
from tests.capture.onnx_models import captured, run_ort

RNG = np.random.default_rng(0)
PLACEHOLDERS = ["?", "", "-1", "*", "...", "0", "None", "none", "NONE", "unk", "UNK", "unk__17", "unk_3", "unknown", "Unknown",
                "<unk>", "undefined", "null", "nil", "nan", "N/A", "any", "Dynamic", "dyn", "var", "_", "??", "(?)"]
NAMES = ["N", "batch", "batch_size", "past_length + 1", "2*n", "height/2", "s77", "DynamicDimension.0", "unkempt", "dim", "x_0",
         "nonempty", "anything", "dynamic_axes_1", "länge"]


def _model(nodes: list, inputs: dict[str, list], outputs: dict[str, list], value_info: dict[str, list] | None = None,
           weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    def infos(of: dict[str, list]) -> list:
        made = []
        for name, dims in of.items():
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None if d == "" else d for d in dims])
            for d, proto in zip(dims, info.type.tensor_type.shape.dim):
                if d == "":
                    proto.dim_param = ""
            made.append(info)
        return made

    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), [numpy_helper.from_array(w, n)
                                                                          for n, w in (weights or {}).items()],
                              value_info=infos(value_info or {}))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_placeholders_tie_nothing(text: str) -> None:
    assert is_placeholder(text)
    model = _model([helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["b"], ["z"])],
                   {"a": [1, text, text], "b": [text]}, {"y": [1, text, text], "z": [text]}, {"y": [text, text, 7]})
    graph = captured(model)
    dims = [str(d) for v in graph.inputs for d in v.shape]
    assert dims == ["1", "a_1", "a_2", "b_0"]
    fixed = graph.metadata["recapture"]({"a": (1, 2, 3), "b": (4,)})
    assert [v.shape for v in fixed.outputs] == [(1, 2, 3), (4,)]


@pytest.mark.parametrize("text", NAMES)
def test_names_tie(text: str) -> None:
    assert not is_placeholder(text)
    add = helper.make_node("Add", ["a", "b"], ["y"])
    graph = captured(_model([add], {"a": [text, text], "b": [text, 1]}, {"y": [text, text]}))
    assert len(graph.symbols()) == 1


def test_a_name_is_not_the_place_of_a_nameless_dim() -> None:
    graph = captured(_model([helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Neg", ["w"], ["z"])],
                            {"x": ["?", 2], "w": ["x_0", 2]}, {"y": [2, 2], "z": [2, 2]}))
    assert [str(v.shape[0]) for v in graph.inputs] == ["x_0", "x_0_2"]


def test_dims_that_contradict_each_other_are_named_with_both_inputs() -> None:
    model = _model([helper.make_node("Concat", ["a", "b"], ["y"], axis=1)], {"a": ["n", 2], "b": [3, "n"]}, {"y": ["n", "m"]})
    with pytest.raises(InputError) as e:
        graphopt.compile(model).run({"a": np.zeros((3, 2), np.float32), "b": np.zeros((3, 4), np.float32)})
    for part in ("input b", "dim n is 4 at axis 1", "3 in input a at axis 0"):
        assert part in str(e.value)
    with pytest.raises(InputError) as e:
        captured(model, shapes={"a": (3, 2), "b": (3, 4)})
    for part in ("input 'b'", "dim 'n' is 4 at axis 1", "3 at axis 0 of input 'a'"):
        assert part in str(e.value)


def test_a_detector_that_declares_every_free_dim_alike() -> None:
    """As the RetinaFace files of InsightFace do: a pyramid over an image whose height and width are both `?`."""
    rng = np.random.default_rng(1)
    weights = {n: rng.standard_normal(s).astype(np.float32) / 5 for n, s in
               {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "head": (4, 8, 1, 1)}.items()}
    weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    weights["rows"] = np.array([-1, 4], np.int64)
    n = helper.make_node
    down = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [n("Conv", ["image", "w1"], ["c1"], **down), n("Relu", ["c1"], ["p1"]),
             n("Conv", ["p1", "w2"], ["c2"], **down), n("Relu", ["c2"], ["p2"]),
             n("Resize", ["p2", "", "scales"], ["up"], mode="nearest", coordinate_transformation_mode="asymmetric",
               nearest_mode="floor"), n("Add", ["p1", "up"], ["both"])]
    for k, p in enumerate(("both", "p2")):
        nodes += [n("Conv", [p, "head"], [f"h{k}"]), n("Transpose", [f"h{k}"], [f"t{k}"], perm=[2, 3, 0, 1]),
                  n("Reshape", [f"t{k}", "rows"], [f"r{k}"])]
    nodes += [n("Concat", ["r0", "r1"], ["all"], axis=0), n("Sigmoid", ["all"], ["scores"])]
    model = _model(nodes, {"image": [1, 3, "?", "?"]}, {"scores": ["?", 4]}, {"p1": ["?", "?", "?", "?"], "up": [1, 8, "?", "?"]},
                   weights)
    compiled = graphopt.compile(model)
    for h, w in ((16, 24), (32, 8)):
        x = RNG.standard_normal((1, 3, h, w)).astype(np.float32)
        np.testing.assert_allclose(compiled(x), run_ort(model, {"image": x})[0], rtol=1e-4, atol=1e-5)
