"""Ways in: path, bytes, proto; initialisers of every kind; what capture leaves untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.capture import capture
from graphopt.ir import Graph, evaluate
from tests.capture.onnx_models import captured, check, parse

RNG = np.random.default_rng(2)
TEXT = """g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {0.5, -0.5}> {
    h = MatMul(x, w)  y = Add(h, b) }"""


@pytest.mark.parametrize("way", ["path", "str", "bytes", "proto", "bytearray"])
def test_ways_in_agree(tmp_path: Path, way: str) -> None:
    model = parse(TEXT)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    data = path.read_bytes()
    given = {"path": path, "str": str(path), "bytes": data, "proto": model, "bytearray": bytearray(data)}
    graph = captured(given[way])
    assert graph.input_names == ["x"] and graph.output_names == ["y"]
    check(graph, model, {"x": RNG.standard_normal((4, 3)).astype(np.float32)})


def test_a_graph_is_its_own_capture() -> None:
    graph = Graph()
    assert capture(graph) is graph


def test_the_callers_model_stays_as_it_is() -> None:
    model = parse(TEXT)
    before = model.SerializeToString()
    graph = captured(model)
    assert model.SerializeToString() == before
    graph.metadata["recapture"]({"x": (2, 3)}, {})
    assert model.SerializeToString() == before


def test_recapturing_shares_the_weights() -> None:
    graph = captured(parse(TEXT))
    again = graph.metadata["recapture"]({"x": (2, 3)}, {})
    of = lambda g: {op.attrs["value"].name: op.attrs["value"] for op in g.ops if op.name == "const"}
    assert of(graph)["w"] is of(again)["w"]


def test_initialisers_among_the_inputs_are_constants() -> None:
    model = parse(TEXT, ir_version=3)
    model.graph.input.extend([helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2]),
                              helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])])
    graph = captured(model)
    assert graph.input_names == ["x"]
    check(graph, model, {"x": np.ones((2, 3), np.float32)})


@pytest.mark.parametrize("d", ["float16", "float64", "int8", "uint16", "bool", "bfloat16", "float8_e4m3fn", "int4", "uint4"])
def test_initialisers_of_every_dtype(d: str) -> None:
    import ml_dtypes

    np_type = np.dtype(getattr(ml_dtypes, d, None) or d)
    w = RNG.integers(0, 2, (3, 5)).astype(np_type)
    t = numpy_helper.from_array(w, "w")
    model = helper.make_model(helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [], [helper.make_tensor_value_info("y", t.data_type, [3, 5])], [t]),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    got, = evaluate(captured(model), [])
    assert got.dtype == np_type
    np.testing.assert_array_equal(got.astype(np.float32), w.astype(np.float32))


def test_string_initialisers_and_inputs() -> None:
    model = helper.make_model(helper.make_graph(
        [helper.make_node("StringConcat", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])],
        [helper.make_tensor("w", TensorProto.STRING, [1], [" ü".encode()])]),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    got, = evaluate(captured(model), [np.array(["a", "b"], dtype=object)])
    assert got.tolist() == ["a ü", "b ü"]


def test_sparse_initialisers() -> None:
    dense = np.float32([[0, 2, 0], [0, 0, 3]])
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.float32([2, 3]), "w"),
                                       numpy_helper.from_array(np.int64([1, 5]), "i"), [2, 3])
    model = helper.make_model(helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])], sparse_initializer=[sparse]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    np.testing.assert_array_equal(evaluate(captured(model), [np.ones((2, 3), np.float32)])[0], dense + 1)


def test_outputs_that_are_inputs_or_initialisers() -> None:
    model = parse("g (float[N] x) => (float[N] x, float[2] w) <float[2] w = {1, 2}> { }")
    x = np.float32([1, 2, 3])
    a, w = evaluate(captured(model), [x])
    np.testing.assert_array_equal(a, x)
    np.testing.assert_array_equal(w, [1, 2])


def test_locations_are_node_names_or_outputs() -> None:
    model = parse("g (float[N] x) => (float[N] y) { h = Relu(x)  y = Neg(h) }")
    model.graph.node[0].name = "first"
    graph = captured(model)
    assert [op.loc for op in graph.ops] == [("first",), ("y",)]
    assert graph.outputs[0].name == "y"


def test_a_chain_of_a_thousand_layers() -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(1000)]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in ("v0", "v1000")]
    model = helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:]), opset_imports=[helper.make_opsetid("", 18)])
    assert len(captured(model)) == 1000


def test_sequences_and_optionals_at_the_interface() -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    sequence = helper.make_sequence_type_proto(tensor)
    optional = helper.make_optional_type_proto(sequence)
    model = helper.make_model(helper.make_graph(
        [helper.make_node("OptionalHasElement", ["o"], ["has"]), helper.make_node("SequenceLength", ["s"], ["n"]),
         helper.make_node("ConcatFromSequence", ["s"], ["all"], axis=0)],
        "g", [helper.make_value_info("o", optional), helper.make_value_info("s", sequence)],
        [helper.make_tensor_value_info("has", TensorProto.BOOL, []), helper.make_tensor_value_info("n", TensorProto.INT64, []),
         helper.make_tensor_value_info("all", TensorProto.FLOAT, None)]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    graph = captured(model)
    has, n, joined = evaluate(graph, [None, [np.float32([1, 2]), np.float32([3])]])
    assert not has and n == 2 and joined.tolist() == [1, 2, 3]


def test_qdq_stays() -> None:
    model = parse("""g (float[N, 3] x) => (float[N, 3] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }""")
    graph = captured(model)
    assert [op.name for op in graph.ops if op.name != "const"] == ["quantize", "dequantize"]
    check(graph, model, {"x": RNG.standard_normal((4, 3)).astype(np.float32)})
    assert isinstance(model, onnx.ModelProto)
