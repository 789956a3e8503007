"""Saved graphs: what comes back, and what is refused."""

import json
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import IRError, ParseError
from graphopt.ir import Graph, Tensor, parse_graph, print_graph, serial, tensor
from graphopt.ir.types import DTYPES

RNG = np.random.default_rng(0)
BITWISE = [d for d in DTYPES.values() if d.kind != "str"]


def with_constants(*arrays: np.ndarray, names: list[str | None] | None = None) -> Graph:
    graph = Graph("net")
    graph.add_input(tensor("f32", "N", 3), "x")
    names = names or [f"w{i}" for i in range(len(arrays))]
    graph.outputs = [graph.inputs[0], *(graph.constant(Tensor(a, n), loc=(f"layer{i}",))
                                        for i, (a, n) in enumerate(zip(arrays, names)))]
    return graph


def constants(graph: Graph) -> list[np.ndarray]:
    return [op.attrs["value"].numpy() for op in graph.walk() if op.name == "const"]


def round_trip(graph: Graph, tmp_path) -> Graph:
    serial.save(graph, tmp_path / "net.gir")
    return serial.load(tmp_path / "net.gir")


def rewritten(path, **changes: bytes) -> None:
    """Replace members of a saved graph; names with dots for __."""
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**members, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("dtype", BITWISE, ids=str)
def test_constants_of_every_dtype_come_back_bit_for_bit(dtype, tmp_path):
    bits = min(dtype.bits, 8 * dtype.itemsize)
    raw = RNG.integers(0, 2 ** min(bits, 63), (3, 17), dtype=np.uint64)
    given = (raw % 2).astype(bool) if dtype.kind == "bool" else raw.astype(f"u{dtype.itemsize}").view(dtype.numpy)
    (back,) = constants(round_trip(with_constants(given), tmp_path))
    assert back.dtype == given.dtype and back.shape == given.shape
    assert back.tobytes() == given.tobytes()


def test_nan_infinity_and_negative_zero_survive(tmp_path):
    given = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324] * 3)
    (back,) = constants(round_trip(with_constants(given), tmp_path))
    assert back.tobytes() == given.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (9, 1)])
def test_shapes_come_back(shape, tmp_path):
    given = RNG.standard_normal(shape).astype(ml_dtypes.bfloat16)
    (back,) = constants(round_trip(with_constants(given), tmp_path))
    assert back.shape == shape and back.dtype == given.dtype


def test_an_array_that_is_not_contiguous_keeps_its_elements(tmp_path):
    given = RNG.standard_normal((6, 8)).astype(np.float32).T[::2]
    np.testing.assert_array_equal(constants(round_trip(with_constants(given), tmp_path))[0], given)


def test_strings_come_back(tmp_path):
    given = np.array([["ä", "", "b\n\""]] * 4, dtype=object)
    np.testing.assert_array_equal(constants(round_trip(with_constants(given), tmp_path))[0], given)


def test_the_text_and_the_names_come_back(tmp_path):
    graph = with_constants(RNG.standard_normal((4, 5)), np.float32(2.5))
    graph.input_names, graph.output_names = ["images:0"], ["a/b", "ü", "c"]
    graph.metadata["control_inputs"] = ["images:0"]
    back = round_trip(graph, tmp_path)
    assert print_graph(back) == print_graph(graph)
    assert back.input_names == graph.input_names and back.output_names == graph.output_names
    assert back.metadata["control_inputs"] == ["images:0"]


def test_a_shared_constant_is_saved_once_and_stays_shared(tmp_path):
    shared = Tensor(RNG.standard_normal(100), "tied")
    graph = Graph()
    graph.outputs = [graph.constant(shared), graph.constant(shared)]
    serial.save(graph, tmp_path / "net.gir")
    with zipfile.ZipFile(tmp_path / "net.gir") as archive:
        assert sum(n.startswith("constants/") for n in archive.namelist()) == 1
    first, second = (op.attrs["value"] for op in serial.load(tmp_path / "net.gir").ops)
    assert first is second


def test_names_that_climb_out_of_folders_stay_names(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    graph = with_constants(np.arange(20.0), np.arange(30.0), names=["../../etc/passwd", "/absolute"])
    serial.save(graph, inside / "net.gir")
    with zipfile.ZipFile(inside / "net.gir") as archive:
        assert all(".." not in n and not n.startswith("/") for n in archive.namelist())
    assert [a.size for a in constants(serial.load(inside / "net.gir"))] == [20, 30]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inside", "net.gir"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    serial.save(with_constants(np.arange(20.0)), tmp_path / "net.gir")
    before = (tmp_path / "net.gir").read_bytes()
    without_data = parse_graph("graph @g() -> f32[64] {\n  %w = const @w : f32[64]\n  return %w\n}")
    with pytest.raises(IRError, match="@w has no data"):
        serial.save(without_data, tmp_path / "net.gir")
    assert (tmp_path / "net.gir").read_bytes() == before
    assert os.listdir(tmp_path) == ["net.gir"]


def saved(tmp_path):
    path = tmp_path / "net.gir"
    serial.save(with_constants(np.arange(20.0)), path)
    return path


def test_something_else_is_refused_by_name(tmp_path):
    path = tmp_path / "net.gir"
    path.write_bytes(b"no zip at all")
    with pytest.raises(ParseError, match=r"net\.gir: not a saved graph"):
        serial.load(path)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = saved(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * keep)])
    with pytest.raises(ParseError, match=r"net\.gir"):
        serial.load(path)


def test_flipped_bits_are_noticed(tmp_path):
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(np.float64(7).tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ParseError, match="CRC"):
        serial.load(path)


def test_a_newer_format_is_named(tmp_path):
    path = saved(tmp_path)
    rewritten(path, manifest__json=b'{"format": 99}')
    with pytest.raises(ParseError, match=r"format 99.*Upgrade"):
        serial.load(path)


def test_text_that_does_not_parse_is_placed(tmp_path):
    path = saved(tmp_path)
    rewritten(path, graph__txt=b"graph @g() -> () {\n  %0 = nonsense() : f32[1]\n")
    with pytest.raises(ParseError, match=r"net\.gir: line 2, column"):
        serial.load(path)


def test_a_graph_that_does_not_verify_is_refused(tmp_path):
    path = saved(tmp_path)
    rewritten(path, graph__txt=b"graph @g(%x: f32[3]) -> f32[4] {\n  %0 = const @w : f32[20]\n  return %x\n}")
    with pytest.raises(ParseError, match="returns"):
        serial.load(path)


@pytest.mark.parametrize("change", [
    {"type": "f64[2000000000]"}, {"type": "f64[-1]"}, {"type": "what[3]"}, {"type": "f32[20]"}, {"file": "../../secret"},
    {"file": "graph.txt"}, {"file": 7},
], ids=str)
def test_a_manifest_that_lies_is_refused(tmp_path, change):
    path = saved(tmp_path)
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    manifest["constants"]["w0"].update(change)
    rewritten(path, manifest__json=json.dumps(manifest).encode())
    with pytest.raises(ParseError):
        serial.load(path)


def test_a_pickle_inside_is_never_loaded(tmp_path):
    import io

    path = saved(tmp_path)
    evil = io.BytesIO()
    np.save(evil, np.array([print] * 500, dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path) as archive:
        member = next(n for n in archive.namelist() if n.startswith("constants/"))
    rewritten(path, **{member.replace(".", "__"): evil.getvalue()})
    with pytest.raises(ParseError, match=r"pickle|Object arrays"):
        serial.load(path)
