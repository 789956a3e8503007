"""Damaged and unsupported models: each is refused with what is wrong and where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.capture import capture
from graphopt.errors import CaptureError, InputError, UnsupportedOperators
from tests.capture.onnx_models import check, parse

RELU = "g (float[N] x) => (float[N] y) { y = Relu(x) }"


def _model(nodes: list, initialisers: Sequence[TensorProto] = (), inputs: tuple = ("x",), outputs: tuple = ("y",),
           opset: int = 18) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in inputs]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in outputs]
    return helper.make_model(helper.make_graph(nodes, "g", infos, outs, list(initialisers)),
                             opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _refused(model: object, *parts: str, error: type = CaptureError) -> None:
    with pytest.raises(error) as e:
        capture(model)
    for part in parts:
        assert part in str(e.value), f"{part!r} is not in: {e.value}"


@pytest.mark.parametrize("cut", [1, 10, 40, 60])
def test_truncated_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.onnx"
    model = parse("g (float[N] x) => (float[N] y) { w = Constant<value = float[4] {1, 2, 3, 4}>()  y = Relu(x) }")
    path.write_bytes(model.SerializeToString()[:-cut])
    _refused(str(path), "cut.onnx")


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"not a model at all", b"\xff" * 100])
def test_bytes_that_are_no_model(data: bytes) -> None:
    _refused(data, "bytes")


def test_missing_file(tmp_path: Path) -> None:
    _refused(tmp_path / "absent.onnx", "absent.onnx", "No such file")


def test_something_else() -> None:
    _refused(42, "int")


def test_cycle_names_the_nodes() -> None:
    _refused(_model([helper.make_node("Add", ["x", "b"], ["a"], name="first"),
                     helper.make_node("Relu", ["a"], ["b"], name="second"),
                     helper.make_node("Neg", ["b"], ["y"], name="third")]), "cycle", "first", "second")


def test_a_node_that_reads_its_own_output_is_a_cycle() -> None:
    _refused(_model([helper.make_node("Add", ["x", "y"], ["y"], name="loop")]), "cycle", "loop")


def test_unsorted_nodes_are_sorted() -> None:
    model = _model([helper.make_node("Neg", ["b"], ["y"]), helper.make_node("Relu", ["a"], ["b"]),
                    helper.make_node("Exp", ["x"], ["a"])])
    graph = capture(model)
    assert [op.name for op in graph.ops] == ["exp", "relu", "neg"]


def test_missing_initialiser_names_node_and_tensor() -> None:
    _refused(_model([helper.make_node("Add", ["x", "weight"], ["y"], name="sum")]), "sum", "weight")


def test_dangling_output() -> None:
    _refused(_model([helper.make_node("Relu", ["x"], ["z"])]), "'y'", "no node")


def test_two_producers() -> None:
    _refused(_model([helper.make_node("Relu", ["x"], ["y"], name="a"), helper.make_node("Neg", ["x"], ["y"], name="b")]),
             "twice", "'y'")


def test_wrong_operand_types() -> None:
    whole = numpy_helper.from_array(np.ones((2, 3), np.int64), "w")
    _refused(_model([helper.make_node("Add", ["x", "w"], ["y"], name="mixed")], [whole]), "mixed", "i64", "f32")


def test_wrong_declared_output_type() -> None:
    model = _model([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT32)])
    _refused(model, "'y'", "i32")


def test_shapes_that_do_not_fit() -> None:
    w = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    _refused(_model([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], [w]), "product")


def test_initialiser_with_too_little_data() -> None:
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3], raw_data=b"\x00" * 8)
    _refused(_model([helper.make_node("Add", ["x", "w"], ["y"])], [short]), "'w'")


def test_unknown_element_type() -> None:
    odd = TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=[1], raw_data=b"\x00" * 8)
    _refused(_model([helper.make_node("Add", ["x", "w"], ["y"])], [odd]))


def test_versions_from_the_future() -> None:
    model = parse(RELU)
    model.ir_version = 99
    _refused(model, "IR version 99")
    _refused(parse(RELU, opset=99), "opset 99")


def test_all_unsupported_operators_at_once() -> None:
    with pytest.raises(UnsupportedOperators) as e:
        capture(_model([helper.make_node("Fancy", ["x"], ["a"], name="one"), helper.make_node("Fancy", ["a"], ["b"], name="two"),
                        helper.make_node("Odd", ["b"], ["y"], name="three", domain="com.example")]))
    assert sorted(e.value.operators) == [("Fancy", "one"), ("Fancy", "two"), ("com.example.Odd", "three")]
    assert "2 unsupported" in str(e.value) and "one, two" in str(e.value)


def test_unsupported_operators_inside_branches_and_functions() -> None:
    model = parse("""g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = a () => (float[2] p) { p = Fancy(x) },
                   else_branch = b () => (float[2] r) { r = local.f(x) }> }""",
                  functions='<opset_import: ["" : 18], domain: "local"> f (x) => (y) { y = Odd(x) }')
    with pytest.raises(UnsupportedOperators) as e:
        capture(model)
    assert {name for name, _ in e.value.operators} == {"Fancy", "Odd"}


def test_unknown_names_of_inputs() -> None:
    with pytest.raises(InputError, match=r"no input 'z'.*x"):
        capture(parse(RELU), shapes={"z": (3,)})
    with pytest.raises(InputError, match="'x'"):
        capture(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), shapes={"x": (3,)})
    with pytest.raises(InputError, match="f32"):
        capture(parse(RELU), values={"x": np.arange(3)})


# External data -----------------------------------------------------------------------------------
def _external(tmp_path: Path, location: str = "w.bin", offset: int = 0, length: int | None = 24, dims: tuple = (2, 3),
              data_type: int = TensorProto.FLOAT) -> Path:
    t = TensorProto(name="w", data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            t.external_data.add(key=key, value=str(value))
    model = _model([helper.make_node("Add", ["x", "w"], ["y"], name="sum")], [t])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_mapped(tmp_path: Path) -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "w.bin").write_bytes(b"\x00" * 64 + w.tobytes())
    graph = capture(_external(tmp_path, offset=64))
    constant = next(op.attrs["value"].array for op in graph.ops if op.name == "const")
    base = constant
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    plain = _model([helper.make_node("Add", ["x", "w"], ["y"])], [numpy_helper.from_array(w, "w")])
    check(graph, plain, {"x": np.ones((2, 3), np.float32)})


def test_external_data_without_length_or_offset(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.ones(6, np.float32).tobytes())
    capture(_external(tmp_path, offset=0, length=None))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "sub/../../w.bin"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\x00" * 24)
    _refused(_external(folder, location), "'w'", "outside")


def test_external_data_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 24)
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    _refused(_external(folder), "'w'", "outside")


@pytest.mark.parametrize("change, message", [
    ({"location": "absent.bin"}, "absent.bin"), ({"length": 20}, "20 bytes"), ({"offset": 8}, "ends at byte 32"),
    ({"dims": (2, 4), "length": None}, "ends at byte 32"), ({"offset": "x"}, "no number"), ({"location": ""}, "no file"),
    ({"offset": -8}, "'w'"),
])
def test_external_data_that_does_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"\x00" * 24)
    _refused(_external(tmp_path, **change), "'w'", message)


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\x00" * 24)
    _refused(_external(tmp_path).read_bytes(), "'w'", "path")


@pytest.mark.parametrize("axis", [3, -3])
def test_flatten_at_an_axis_that_there_is_not(axis: int) -> None:
    _refused(_model([helper.make_node("Flatten", ["x"], ["y"], axis=axis)]), "axis", str(axis))
