"""Saved models: the same answers without the compiler, and several programs in one folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.backends.x86 import bundle
from graphopt.codegen.program.interface import specs
from graphopt.errors import ArtifactError, InputError
from graphopt.ir import Builder, Dim, Graph, TensorType, dtype, tensor
from graphopt.runtime.artifact import reading as artifact
from graphopt.runtime.artifact import saved as reading
from graphopt.runtime.host import machine
from graphopt.targets import parse_target
from tests.runtime.small_models import RNG, W, inputs, linear, scale, symbolic, symbolic_inputs

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    linear().save(tmp_path / "net.gopt")
    return tmp_path / "net.gopt"


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_a_saved_model_gives_the_same_answers(saved: Path) -> None:
    x, offset = inputs()
    model = graphopt.load(saved)
    assert [str(s) for s in model.inputs] == [str(s) for s in linear().inputs]
    for got, want in zip(model(x, offset), linear()(x, offset)):
        np.testing.assert_array_equal(got, want)
    assert list(model.run({"offset": offset, "x": x})) == ["scores", "total"]
    with pytest.raises(graphopt.InputError, match="input x"):
        model(x[:2], offset)


def test_it_is_loaded_without_the_compiler(saved: Path) -> None:
    code = f"""
import sys, numpy as np, graphopt
scores, total = graphopt.load({str(saved)!r})(np.ones((3, 6), np.float32), np.ones(5, np.float32))
assert total == 18
print(*{{"torch", "onnx", "tvm", "tvm_ffi", "networkx", "ml_dtypes", "tqdm"}} & set(sys.modules))
compiler = ("ir", "codegen", "rewrite", "capture", "targets", "quantize", "cli", "compiler", "static", "bundle", "programs")
print(*[m for m in sys.modules if m.startswith(tuple(f"graphopt.{{part}}" for part in compiler))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"GRAPHOPT_CACHE": "0", "PATH": ""})
    assert done.stdout.split() == []


def test_the_manifest_is_plain(saved: Path) -> None:
    m = manifest(saved)
    assert m["format"] == [1, 1]
    assert m["made_by"]["graphopt"] == graphopt.__version__ and {"tvm", "llvm", "date"} <= set(m["made_by"])
    program, = m["programs"]
    assert program["inputs"] == [[3, 6], [5]] and program["outputs"] == [{"shape": [3, 5], "numpy": "float32"},
                                                                         {"shape": [], "numpy": "float32"}]
    on_disk = {f.relative_to(saved).as_posix() for f in saved.rglob("*") if f.is_file()}
    assert on_disk == {"manifest.json", "manifest.sha256", *m["files"]} >= {program["code"], program["weights"], "libgraphopt.so"}
    for name, said in m["files"].items():
        assert said["bytes"] == (saved / name).stat().st_size


def test_dtypes_of_ml_dtypes(tmp_path: Path) -> None:
    import ml_dtypes

    scale("bf16").save(tmp_path / "m")
    x = np.arange(40).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(graphopt.load(tmp_path / "m")(x), x + x)


@pytest.mark.parametrize("rows", [1, 50, 5000])
def test_weights_of_any_size(tmp_path: Path, rows: int) -> None:
    graph = Graph()
    b = Builder(graph)
    w = np.random.default_rng(3).standard_normal((rows, 60)).astype(np.float32)
    graph.outputs = [b.add(graph.add_input(tensor("f32", rows, 60), "x"), b.const(w))]
    graphopt.compile(graph).save(tmp_path / "m")
    x = np.ones((rows, 60), np.float32)
    np.testing.assert_array_equal(graphopt.load(tmp_path / "m")(x), x + w)


# Several shapes --------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [None, 5, "", "a\0b"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(InputError, match="path"):
        symbolic().save(path)


def test_a_symbolic_model_is_saved_with_the_programs_it_has(tmp_path: Path) -> None:
    model = symbolic()
    with pytest.raises(ArtifactError, match=r"no program yet.*Call it with inputs of every shape"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
    for n, m in ((2, 3), (5, 7), (5, 1)):
        model(*symbolic_inputs(n, m))
    model.save(tmp_path / "m")
    loaded = graphopt.load(tmp_path / "m")
    assert [s.shape for s in loaded.inputs] == [("N", 4), (4, "M"), ("N", 1)]
    assert {(s["rows"], s["columns"]) for s in loaded.shapes} == {((2, 4), (4, 3)), ((5, 4), (4, 7)), ((5, 4), (4, 1))}
    for n, m in ((5, 7), (2, 3), (5, 1), (5, 7)):
        rows, columns, extra = symbolic_inputs(n, m)
        want = rows.astype(np.float64) @ columns + extra
        np.testing.assert_allclose(loaded(rows, columns, extra), want, rtol=1e-5, atol=1e-5)
        by_name = loaded.run({"extra": extra, "columns": columns, "rows": rows})
        np.testing.assert_allclose(by_name["sum"], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(loaded(rows, np.asfortranarray(columns), extra), want, rtol=1e-5, atol=1e-5)


def test_shapes_that_it_was_not_saved_for(tmp_path: Path) -> None:
    model = symbolic(ranges={"N": (1, 6)})
    model(*symbolic_inputs(2, 3))
    model.save(tmp_path / "m")
    loaded = graphopt.load(tmp_path / "m")
    with pytest.raises(graphopt.InputError, match=r"no program for rows=4x4,columns=4x3,extra=4x1; it has those for "
                                                  r"rows=2x4,columns=4x3,extra=2x1"):
        loaded(*symbolic_inputs(4, 3))
    rows, columns, extra = symbolic_inputs(2, 3)
    with pytest.raises(graphopt.InputError, match=r"dim N is 1 at axis 0, but 2 in input rows"):
        loaded(rows, columns, extra[:1])
    with pytest.raises(graphopt.InputError, match=r"dim N is 7, outside of its declared range 1\.\.6"):
        loaded(*symbolic_inputs(7, 3))
    with pytest.raises(graphopt.InputError, match=r"input rows: expected shape \[N, 4\], got \[2, 5\]"):
        loaded(np.ones((2, 5), np.float32), columns, extra)
    with pytest.raises(graphopt.InputError, match="input rows: expected dtype f32"):
        loaded(rows.astype(np.float64), columns, extra)
    with pytest.raises(graphopt.InputError, match="missing input 'extra'"):
        loaded(rows, columns)


def net(rows: int | str) -> Graph:
    """gelu(x @ W) @ W^T with a constant that is folded, so that it is another tensor in every program."""
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(TensorType(dtype("f32"), (Dim.symbol(rows) if isinstance(rows, str) else rows, 6)), "x")
    folded = b.transpose(b.const(W), perm=[1, 0])
    graph.outputs = [b.matmul(b.relu(b.matmul(x, b.const(W))), folded)]
    graph.input_names, graph.output_names = ["x"], ["y"]
    return graph


def reference(x: np.ndarray) -> np.ndarray:
    return np.maximum(x.astype(np.float64) @ W, 0) @ W.T


def bundled(path: Path, targets: list[str], sizes: list[int]) -> Path:
    graph = net("N")
    known = specs(graph)
    made = bundle.Bundle(reading.model_interface(*known, (), {}))
    for target in targets:
        bundle.build(graph, known[0], made, parse_target(target, 2), [bundle.Case({"x": (n, 6)}) for n in sizes])
    made.save(path)
    return path


def test_programs_share_their_weights(tmp_path: Path) -> None:
    sizes = [1, 8, 16, 64]
    one, four = bundled(tmp_path / "one", ["x86"], [8]), bundled(tmp_path / "four", ["x86"], sizes)
    loaded = graphopt.load(four)
    for n in sizes:
        x = RNG.standard_normal((n, 6)).astype(np.float32)
        np.testing.assert_allclose(loaded(x), reference(x), rtol=1e-4, atol=1e-5)
    assert len({id(s.executable.weights) for s in loaded._programs_by_key.values()}) == 1
    weights = {p["weights"] for p in manifest(four)["programs"]}
    size = lambda folder: sum(f.stat().st_size for f in folder.rglob("weights.bin"))
    assert len(weights) == 1 and size(one) <= size(four) < 4 * size(one), "packings that differ are there beside each other"


def test_equal_packings_are_stored_once() -> None:
    from graphopt.codegen.lower.kernels import Packing
    from graphopt.codegen.program.plan import WeightBlock
    from graphopt.ir.graph import Tensor

    block, w = WeightBlock(), RNG.standard_normal((3, 5)).astype(np.float32)
    twice, again = (Packing(name, 120, lambda a: iter([a, a])) for name in ("twice", "again"))
    first = block.place(Tensor(w), None)
    assert block.place(Tensor(w.copy()), None) is first and block.size == 64
    second = block.place(Tensor(w.copy()), twice)
    assert (second.offset, block.size) == (64, 192) and block.place(Tensor(w), again) is second
    assert block.place(Tensor(w + 1), None).offset == 192 and block.place(Tensor(np.asfortranarray(w)), None) is first


# Several CPUs ----------------------------------------------------------------------------------
AVX2, AVX512 = "x86:haswell", "x86:skylake-avx512"


@pytest.mark.skipif(bool(machine.missing(parse_target(AVX512).instructions)), reason="this machine has no AVX-512")
@pytest.mark.parametrize("order", [[AVX2, AVX512], [AVX512, AVX2]], ids=["small first", "large first"])
def test_the_code_that_uses_most_of_the_machine_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         order: list[str]) -> None:
    path = bundled(tmp_path / "m", order, [1, 9])
    x = RNG.standard_normal((9, 6)).astype(np.float32)
    assert {p.target for p in artifact.read(path).programs} == {AVX512}
    np.testing.assert_allclose(graphopt.load(path)(x), reference(x), rtol=1e-4, atol=1e-5)
    without = frozenset(f for f in machine.features() if not f.startswith("avx512"))
    monkeypatch.setattr(machine, "features", lambda: without)
    assert {p.target for p in artifact.read(path).programs} == {AVX2} and len(artifact.read(path).programs) == 2
    np.testing.assert_allclose(graphopt.load(path)(x), reference(x), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(machine, "features", lambda: frozenset({"sse", "sse2"}))
    with pytest.raises(ArtifactError, match=r"processor lacks: x86:\S+ needs .*; x86:\S+ needs .*avx2"):
        graphopt.load(path)


def test_files_for_other_cpus_need_only_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundled(tmp_path / "m", [AVX2, "x86:x86-64"], [4])
    monkeypatch.setattr(machine, "features", lambda: frozenset({"sse", "sse2"}))
    file = path / "haswell" / "0.so"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert {p.target for p in artifact.read(path).programs} == {"x86:x86-64"}
    file.unlink()
    with pytest.raises(ArtifactError, match=r"haswell/0\.so cannot be read"):
        artifact.read(path)


def test_what_cannot_stand_alone_says_why(tmp_path: Path) -> None:
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.nonzero(graph.add_input(tensor("f32", 4), "x"))]
    with pytest.raises(ArtifactError, match="nonzero runs on the reference evaluator"):
        graphopt.compile(graph).save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
