"""graphopt.load(path, numpy=False): buffers in, memoryviews out, and numpy nowhere."""

from __future__ import annotations

import array
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import ArtifactError, InputError
from graphopt.ir import Builder, Graph, tensor
from graphopt.runtime.artifact.reading import ITEMSIZES
from tests.runtime.small_models import RNG, inputs, linear, linear_reference, scale, symbolic, symbolic_inputs

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    linear().save(tmp_path / "net.gopt")
    return tmp_path / "net.gopt"


def test_neither_numpy_nor_the_compiler_is_imported(saved: Path, tmp_path: Path) -> None:
    x, offset = inputs()
    code = f"""
import sys, array, graphopt
model = graphopt.load({str(saved)!r}, numpy=False)
x = array.array("f", {x.reshape(-1).tolist()!r})
scores, total = model(x.tobytes(), array.array("f", {offset.tolist()!r}))
assert scores.shape == (3, 5) and total.shape == () and scores.format == "f"
open({str(tmp_path / "scores.bin")!r}, "wb").write(scores)
print(*{{"numpy", "torch", "onnx", "tvm", "networkx", "ml_dtypes", "tqdm"}} & set(sys.modules))
ours = [m.split(".")[1] for m in sys.modules if m.startswith("graphopt.")]
print(*set(ours) - {{"cache", "errors", "moved", "runtime", "version"}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PATH": ""})
    assert done.stdout.split() == []
    found = np.fromfile(tmp_path / "scores.bin", np.float32).reshape(3, 5)
    np.testing.assert_allclose(found, linear_reference(x, offset), rtol=1e-5)


def test_anything_with_the_buffer_protocol(saved: Path) -> None:
    x, offset = inputs()
    model = graphopt.load(saved, numpy=False)
    assert [tuple(t) for t in model.inputs] == [("x", "float32", (3, 6)), ("offset", "float32", (5,))]
    assert model.shapes == [{"x": (3, 6), "offset": (5,)}]
    want = linear_reference(x, offset)
    read_only = x.copy()
    read_only.flags.writeable = False
    flat = array.array("f", x.reshape(-1).tolist())
    for given in (x, read_only, x.tobytes(), bytearray(x.tobytes()), memoryview(x), memoryview(flat).cast("B").cast("f", (3, 6))):
        scores, total = model(given, offset)
        np.testing.assert_allclose(np.asarray(scores), want, rtol=1e-5)
        np.testing.assert_allclose(total[()], x.astype(np.float64).sum(), rtol=1e-5)
    by_name = model.run({"offset": offset, "x": x})
    assert list(by_name) == ["scores", "total"]
    np.testing.assert_allclose(np.asarray(by_name["scores"]), want, rtol=1e-5)


def test_every_dtype_of_numpys_and_ml_dtypes_has_its_size() -> None:
    from graphopt.ir.types import DTYPES

    for kind in DTYPES.values():
        if kind.numpy != np.object_:
            assert ITEMSIZES[kind.numpy.name] == kind.numpy.itemsize


@pytest.mark.parametrize("of,kind,form", [("bf16", "bfloat16", "H"), ("f16", "float16", "H"), ("f64", "float64", "d"),
                                          ("i64", "int64", "q"), ("u8", "uint8", "B")])
def test_dtypes(tmp_path: Path, of: str, kind: str, form: str) -> None:
    import ml_dtypes

    numpy_kind = np.dtype(getattr(ml_dtypes, kind, kind))
    scale(of).save(tmp_path / "m")
    x = np.arange(40).astype(numpy_kind)
    y = graphopt.load(tmp_path / "m", numpy=False)(x.tobytes())
    assert (y.format, y.shape) == (form, (40,))
    np.testing.assert_array_equal(np.frombuffer(y, numpy_kind), x + x)


def test_the_program_is_chosen_by_shape_or_size(tmp_path: Path) -> None:
    model = symbolic()
    sizes = ((2, 3), (5, 7), (5, 1))
    for n, m in sizes:
        model(*symbolic_inputs(n, m))
    model.save(tmp_path / "m")
    loaded = graphopt.load(tmp_path / "m", numpy=False)
    for n, m in sizes:
        rows, columns, extra = symbolic_inputs(n, m)
        want = rows.astype(np.float64) @ columns + extra
        for given in ((rows, columns, extra), (rows.tobytes(), columns, extra.tobytes())):
            np.testing.assert_allclose(np.asarray(loaded(*given)), want, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"no program for rows of 3x4, columns of 4x3, extra of 3x1; it has those for rows="):
        loaded(*symbolic_inputs(3, 3))


def test_bytes_that_fit_two_programs_need_shapes(tmp_path: Path) -> None:
    from graphopt.backends.x86 import bundle
    from graphopt.codegen.program.interface import specs
    from graphopt.ir import Dim, TensorType, dtype
    from graphopt.runtime.artifact.saved import model_interface
    from graphopt.targets import parse_target

    graph = Graph()
    x = graph.add_input(TensorType(dtype("f32"), (Dim.symbol("N"), Dim.symbol("M"))), "x")
    graph.outputs = [Builder(graph).reduce_sum(x, axes=[0])]
    known = specs(graph)
    made = bundle.Bundle(model_interface(*known, (), {}))
    bundle.build(graph, known[0], made, parse_target("x86", 1), [bundle.Case({"x": (2, 3)}), bundle.Case({"x": (3, 2)})])
    made.save(tmp_path / "m")
    loaded = graphopt.load(tmp_path / "m", numpy=False)
    given = RNG.standard_normal((3, 2)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(loaded(given)), given.sum(0), rtol=1e-5)
    with pytest.raises(InputError, match=r"several programs for x of 24 bytes.*memoryview\(x\)\.cast"):
        loaded(given.tobytes())


@pytest.mark.parametrize("given,says", [
    ((np.ones((3, 6), np.float64), np.ones(5, np.float32)), r"expected float32, or plain bytes, got elements of format 'd'"),
    ((np.ones((3, 6), np.int32), np.ones(5, np.float32)), r"input x: expected float32"),
    ((np.ones((6, 3), np.float32), np.ones(5, np.float32)), r"no program for x of 6x3, offset of 5"),
    ((np.ones((6, 3), np.float32).T, np.ones(5, np.float32)), r"input x: its elements are not in C order"),
    ((bytes(71), np.ones(5, np.float32)), r"no program for x of 71 bytes"),
    (([1, 2], np.ones(5, np.float32)), r"input x: expected a buffer of float32, got list"),
    ((np.ones((3, 6), np.float32),), r"takes 2 inputs \(x, offset\), got 1"),
])
def test_wrong_inputs(saved: Path, given: tuple[Any, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        graphopt.load(saved, numpy=False)(*given)


def test_wrong_names(saved: Path) -> None:
    with pytest.raises(InputError, match="the inputs are x, offset, got x, offst"):
        graphopt.load(saved, numpy=False).run({"x": b"", "offst": b""})


def test_calls_may_overlap(saved: Path) -> None:
    model = graphopt.load(saved, numpy=False)
    wrong = []

    def work() -> None:
        for _ in range(50):
            x, offset = np.random.default_rng().standard_normal((3, 6)).astype(np.float32), np.ones(5, np.float32)
            if not np.allclose(np.asarray(model(x, offset)[0]), linear_reference(x, offset), rtol=1e-4):
                wrong.append(x)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_tensors_of_no_elements(tmp_path: Path) -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 0, 4), "x")
    graph.outputs = [b.exp(x), b.reduce_sum(x, axes=[0])]
    graphopt.compile(graph).save(tmp_path / "m")
    empty, zeros = graphopt.load(tmp_path / "m", numpy=False)(b"")
    assert empty.nbytes == 0 and zeros.tolist() == [0, 0, 0, 0]


def test_damage_is_seen_and_pickling_refused(saved: Path) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(graphopt.load(saved, numpy=False))
    weights, = saved.glob("*/weights.bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match="digest is wrong"):
        graphopt.load(saved, numpy=False)
