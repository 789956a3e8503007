"""CUDA C++: run through the emulation on the host against the reference evaluator, and compiled for a GPU without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.codegen import cuda
from graphopt.codegen.cuda.emit import CudaDialect, CudaPrinter
from graphopt.codegen.kernel.expr import INDEX, Buffer, Var, const
from graphopt.codegen.kernel.loops import For, Kernel, seq, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.errors import ArtifactError, CodegenError, InputError, TargetError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.parse import parse_graph

needs_cc = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
needs_nvcc = pytest.mark.skipif(not cuda.available(), reason="neither nvcc nor NVRTC is installed")
DIGITS = Path(__file__).parents[3] / "demo" / "digits.onnx"
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def images():
    return RNG.random((3, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def digits(images):
    return graphopt.compile(DIGITS, (images,), target="cuda:sm_90")


def compiled(text: str, target: str = "cuda:sm_90"):
    return graphopt.compile(parse_graph(text), target=target)


@needs_cc
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_the_demo_agrees_with_the_evaluator_in_any_order_of_threads(digits, images, reverse):
    run = digits.emulated(reverse=reverse)
    for batch in (images, images[::-1].copy(), np.zeros_like(images)):
        want, = evaluate(digits.graph, [batch])
        got = run(batch)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        assert np.allclose(got.sum(1), 1)


@needs_nvcc
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90"])
def test_kernels_become_machine_code_without_a_gpu(images, target):
    model = graphopt.compile(DIGITS, (images,), target=target)
    code = model.cubin()
    assert code.startswith(b"\x7fELF")
    assert all(launch["kernel"].encode() in code for launch in model.launch_list())


GRAPHS = {
    "row kernels": ("%x: f32[5, 7]", "f32[5, 7]", "%0 = log_softmax(%x) {axis=1} : f32[5, 7]\n return %0"),
    "one element": ("%x: f32[5, 7]", "f32[]", "%0 = reduce_sum(%x) {axes=[0, 1], keepdims=false} : f32[]\n return %0"),
    "a loop rule": ("%x: f32[5, 7]", "f32[5, 7]",
                    "%0 = cumsum(%x) {axis=0, exclusive=true, reverse=false} : f32[5, 7]\n return %0"),
    "indices": ("%x: f32[5, 7]", "i64[5, 1]",
                "%0 = argmax(%x) {axis=1, keepdims=true, select_last=false} : i64[5, 1]\n return %0"),
    "movement": ("%x: f32[5, 7]", "f32[7, 10]", "%0 = transpose(%x) {perm=[1, 0]} : f32[7, 5]\n"
                 " %1 = concat(%0, %0) {axis=1} : f32[7, 10]\n return %1"),
    "halves": ("%x: f16[5, 7]", "f16[5, 7]", "%0 = mul(%x, %x) : f16[5, 7]\n %1 = exp(%0) : f16[5, 7]\n return %1"),
    "bools": ("%x: f32[5, 7]", "bool[5, 7]", "%0 = less(%x, %x) : bool[5, 7]\n %1 = not(%0) : bool[5, 7]\n return %1"),
    "an input returned": ("%x: f32[5, 7]", "f32[5, 7]", "return %x"),
    "nothing": ("%x: f32[0, 7]", "f32[0, 7]", "%0 = exp(%x) : f32[0, 7]\n return %0"),
}


@needs_cc
@pytest.mark.parametrize("name", GRAPHS)
def test_small_graphs_agree_with_the_evaluator(name):
    given, result, body = GRAPHS[name]
    model = compiled(f"graph @g({given}) -> {result} {{\n {body}\n}}")
    x = RNG.normal(size=model.inputs[0].shape).astype(model.inputs[0].numpy)
    want, = evaluate(model.graph, [x])
    for reverse in (False, True):
        got = model.emulated(reverse=reverse)(x)
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-3 if want.dtype == np.float16 else 1e-5, atol=1e-6)


@needs_nvcc
@pytest.mark.parametrize("name", ["row kernels", "a loop rule", "halves", "bools"])
def test_small_graphs_become_machine_code(name):
    given, result, body = GRAPHS[name]
    assert compiled(f"graph @g({given}) -> {result} {{\n {body}\n}}").cubin().startswith(b"\x7fELF")


def test_calling_without_a_gpu_is_refused_plainly(digits, images):
    with pytest.raises(TargetError, match=r"cuda:sm_90 does not run in this process.*emulated"):
        digits(images)
    with pytest.raises(InputError, match="no source of kind 'tir'"):
        digits.source("tir")


@pytest.mark.parametrize("target, said", [("cuda", "architecture"), ("cuda:sm_9", "Did you mean sm_9"),
                                          ("cuda:h100", "Known: sm_75")])
def test_the_architecture_must_be_named_and_known(target, said):
    with pytest.raises(TargetError, match=said):
        compiled("graph @g(%x: f32[2]) -> f32[2] {\n return %x\n}", target)


def test_ops_without_kernels_are_all_refused_by_name():
    body = "%0 = cast(%x) {to=f8e5m2} : f8e5m2[4]\n %1 = cast(%0) {to=f32} : f32[4]\n %2 = cast(%1) {to=f8e4m3fn} : f8e4m3fn[4]"
    with pytest.raises(TargetError, match=r"(?s)3 op\(s\) have no kernel for cuda:sm_90.*f8e5m2.*f8e4m3fn.*x86"):
        compiled(f"graph @g(%x: f32[4]) -> f8e4m3fn[4] {{\n {body}\n return %2\n}}")


def test_symbolic_dims_take_the_shapes_of_the_example():
    with pytest.raises(TargetError, match="symbolic dims batch"):
        graphopt.compile(DIGITS, target="cuda:sm_90")
    model = graphopt.compile(DIGITS, {"images": np.zeros((2, 1, 8, 8), np.float32)}, target="cuda:sm_90")
    assert [s.shape for s in model.outputs] == [(2, 10)]


def test_a_saved_project_is_complete_and_written_at_once(digits, tmp_path):
    folder = tmp_path / "net"
    digits.save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"kernels.cu", "emulation.h", "weights.bin"} <= set(manifest["sha256"])
    assert manifest["weights_bytes"] == (folder / "weights.bin").stat().st_size
    assert [launch["kernel"] for launch in manifest["launches"]] == [launch["kernel"] for launch in digits.launch_list()]
    (folder / "stale").write_text("x")
    with pytest.raises(ArtifactError, match="files that graphopt did not write: stale"):
        digits.save(folder)
    assert (folder / "stale").exists()
    digits.save(folder, force=True)
    assert not (folder / "stale").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["net"], "scratch folders are gone"


def test_a_folder_of_somebody_else_is_left_alone(digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="something that is not a saved model stands there, and is left alone"):
        digits.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ArtifactError, match="is a file"):
        digits.save(tmp_path / "thesis.tex")


def test_code_that_a_compiler_refuses_is_reported_with_what_it_said():
    if not cuda.available():
        pytest.skip("neither nvcc nor NVRTC is installed")
    with pytest.raises(CodegenError, match="undeclared_thing"):
        cuda.cubin('extern "C" __global__ void k() { undeclared_thing(); }', "sm_90")


def kernel_of(*values) -> CudaPrinter:
    """Loops, one after the other, each storing `value(i)` into a buffer."""
    params = tuple(dict.fromkeys(b for b, _ in values))
    loops = []
    for buffer, value in values:
        i = Var("i", INDEX, 0, 999)
        loops.append(For(i, const(1000, INDEX), store(buffer, i, value(i)), Scope.PARALLEL))
    return CudaPrinter(Kernel("k", params, seq(*loops), 0, len(params)), CudaDialect(), 256)


def test_threads_overlap_only_where_no_loop_reads_what_another_writes():
    a, b = Buffer("a", "f32", (1000,)), Buffer("b", "f32", (1000,))
    apart = kernel_of((a, lambda i: const(1, a.dtype)), (b, lambda i: const(2, a.dtype)))
    assert (apart.launch.blocks, apart.launch.threads) == (4, 256)
    chained = kernel_of((a, lambda i: const(1, a.dtype)), (b, lambda i: a[const(999, INDEX) - i]))
    assert (chained.launch.blocks, chained.launch.threads) == (1, 1)
    assert "blockIdx" not in chained.function()
