"""Vitis HLS projects, built by the host's compiler with the real ap_types headers, against the reference evaluator."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.codegen.hls import ap_types
from graphopt.errors import CodegenError, InputError, TargetError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.parse import parse_graph

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
needs_ap_types = pytest.mark.skipif(ap_types.folder() is None, reason="no hls4ml, which carries the ap_types headers")
DIGITS = Path(__file__).parents[3] / "demo" / "digits.onnx"
RNG = np.random.default_rng(6)


@pytest.fixture(scope="module")
def digits():
    return graphopt.compile(DIGITS, (np.zeros((1, 1, 8, 8), np.float32),), target="fpga:xc7z020")


def compiled(text: str, target: str = "fpga:xc7z020"):
    return graphopt.compile(parse_graph(text), target=target)


def run_test_bench(folder: Path, *, with_ap_types: bool = True) -> subprocess.CompletedProcess[str]:
    """Build as a hardware engineer would before opening Vitis, warnings counted as errors."""
    includes = ["-isystem", str(ap_types.folder())] if with_ap_types else []
    build = ["g++", "-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas", *includes, "-o", "bench"]
    subprocess.run([*build, "testbench.cpp", "top.cpp"], cwd=folder, check=True)
    return subprocess.run(["./bench"], cwd=folder, capture_output=True, text=True, check=False)


@needs_ap_types
@pytest.mark.parametrize("number", ["float", "ap_fixed<16,6>"])
def test_the_demo_passes_its_own_test_bench(digits, tmp_path, number):
    digits.save(tmp_path / "net", number=number)
    done = run_test_bench(tmp_path / "net")
    assert done.returncode == 0 and done.stdout.startswith("PASS: 3 samples, 0 wrong")


def test_a_float_project_needs_no_headers_but_its_own(digits, tmp_path):
    images = [[RNG.random((1, 1, 8, 8)).astype(np.float32)] for _ in range(5)]
    digits.save(tmp_path / "net", stimulus=images, rtol=0.0, atol=1e-6)
    done = run_test_bench(tmp_path / "net", with_ap_types=False)
    assert done.returncode == 0 and done.stdout.startswith("PASS: 5 samples")


def test_a_wrong_weight_fails_the_test_bench(digits, tmp_path):
    folder = tmp_path / "net"
    digits.save(folder)
    text = (folder / "weights.h").read_text()
    start = text.index("{", text.index("w1[")) + 1
    (folder / "weights.h").write_text(text[:start] + "5.0f + " + text[start:].lstrip())
    done = run_test_bench(folder, with_ap_types=False)
    assert done.returncode == 1 and "FAIL" in done.stdout and "expected" in done.stdout


def test_the_emulated_design_agrees_with_the_evaluator(digits):
    run = digits.emulated()
    for _ in range(3):
        x = RNG.random((1, 1, 8, 8)).astype(np.float32)
        want, = evaluate(digits.graph, [x])
        np.testing.assert_allclose(run(x), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(TargetError, match="fpga:xc7z020 does not run in this process"):
        digits(x)


GRAPHS = {
    "row kernels": ("%x: f32[5, 7]", "f32[5, 7]", "%0 = softmax(%x) {axis=0} : f32[5, 7]\n return %0"),
    "a loop rule": ("%x: f32[5, 7]", "f32[5, 7]",
                    "%0 = cumsum(%x) {axis=1, exclusive=false, reverse=true} : f32[5, 7]\n return %0"),
    "indices": ("%x: f32[5, 7]", "i64[5]", "%0 = argmax(%x) {axis=1, keepdims=false, select_last=false} : i64[5]\n return %0"),
    "halves": ("%x: f16[5, 7]", "f16[5, 7]", "%0 = mul(%x, %x) : f16[5, 7]\n %1 = exp(%0) : f16[5, 7]\n return %1"),
    "bools": ("%x: f32[5, 7]", "bool[5, 7]", "%0 = less(%x, %x) : bool[5, 7]\n %1 = not(%0) : bool[5, 7]\n return %1"),
    "an input returned": ("%x: f32[5, 7]", "f32[5, 7]", "return %x"),
    "a view into the arena": ("%x: f32[5, 7]", "f32[2, 2]",
                              "%0 = softmax(%x) {axis=1} : f32[5, 7]\n"
                              " %1 = slice(%0) {axes=[0], starts=[3], ends=[5], steps=[1]} : f32[2, 7]\n"
                              " %2 = transpose(%1) {perm=[1, 0]} : f32[7, 2]\n %3 = matmul(%1, %2) : f32[2, 2]\n return %3"),
    "integers": ("%x: i32[5, 7]", "i32[5, 7]", "%0 = mul(%x, %x) : i32[5, 7]\n %1 = sub(%0, %x) : i32[5, 7]\n return %1"),
    "one element": ("%x: f32[5, 7]", "f32[]", "%0 = reduce_max(%x) {axes=[0, 1], keepdims=false} : f32[]\n return %0"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_small_graphs_agree_with_the_evaluator(name):
    given, result, body = GRAPHS[name]
    model = compiled(f"graph @g({given}) -> {result} {{\n {body}\n}}")
    x = RNG.normal(size=(5, 7)).astype(np.float32) * 3
    x = x.astype(model.inputs[0].numpy)
    want, = evaluate(model.graph, [x])
    got = model.emulated()(x)
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-3 if want.dtype == np.float16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["halves", "bools", "integers", "indices"])
def test_test_benches_read_every_dtype(name, tmp_path):
    given, result, body = GRAPHS[name]
    compiled(f"graph @g({given}) -> {result} {{\n {body}\n}}").save(tmp_path / "p", rtol=1e-3)
    assert run_test_bench(tmp_path / "p", with_ap_types=False).returncode == 0


@needs_ap_types
@pytest.mark.parametrize("number, step", [("ap_fixed<16,6>", 2.0**-10), ("ap_fixed<24,8>", 2.0**-16),
                                          ("ap_fixed<12,6>", 2.0**-6)])
def test_fixed_point_rounds_to_its_step_and_saturates(number, step):
    model = compiled("graph @g(%x: f32[9]) -> f32[9] {\n %0 = tanh(%x) : f32[9]\n %1 = mul(%0, %x) : f32[9]\n return %1\n}")
    x = np.array([0, 1, -1, 0.5, 3.3, -7.7, 20, 1e6, np.inf], np.float32)
    limit = 2.0 ** (int(number.split(",")[1][:-1]) - 1)
    got = model.emulated(number=number)(x)
    held = np.clip(np.round(x / step) * step, -limit, limit - step)
    np.testing.assert_allclose(got, np.minimum(np.tanh(held) * held, limit - step), atol=1.5 * step)
    assert np.array_equal(got, np.round(got / step) * step)


@needs_ap_types
def test_a_sum_in_fixed_point_does_not_overflow_halfway():
    model = compiled("graph @g(%x: f32[400]) -> f32[] {\n %0 = reduce_mean(%x) {axes=[0], keepdims=false} : f32[]\n return %0\n}")
    x = np.full(400, 20, np.float32)  # the sum, 8000, is far beyond what an element of ap_fixed<16,6> can hold
    np.testing.assert_allclose(model.emulated(number="ap_fixed<16,6>")(x), 20, atol=0.01)


def test_what_fixed_point_cannot_hold_is_refused(digits):
    doubles = compiled("graph @g(%x: f64[2]) -> f64[2] {\n %0 = exp(%x) : f64[2]\n return %0\n}")
    with pytest.raises(CodegenError, match="f64 has no fixed-point form"):
        doubles.source(number="ap_fixed<16,6>")
    for number, said in (("double", "Use 'float' or 'ap_fixed<W,I>'"), ("ap_fixed<40,6>", "width"), ("ap_fixed<8,9>", "whole")):
        with pytest.raises(InputError, match=said):
            digits.source(number=number)


@pytest.mark.parametrize("first", ["", "%y = exp(%x) : f32[3]\n"])
def test_memory_read_as_two_dtypes_is_refused(first):
    body = f"{first} %0 = bitcast(%{'y' if first else 'x'}) {{to=i32}} : i32[3]\n %1 = add(%0, %0) : i32[3]\n return %1"
    with pytest.raises(TargetError, match="which HLS cannot do"):
        compiled(f"graph @g(%x: f32[3]) -> i32[3] {{\n {body}\n}}").source()


def test_build_files_name_the_part_the_clock_and_the_top_function(tmp_path):
    model = compiled("graph @main(%x: f32[2]) -> f32[2] {\n %0 = exp(%x) : f32[2]\n return %0\n}", "fpga:xc7z020clg484-1")
    model.save(tmp_path / "p")
    for name in ("hls_config.cfg", "build.tcl"):
        text = (tmp_path / "p" / name).read_text()
        assert "xc7z020clg484-1" in text and "main_top" in text and "10.0" in text
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    assert manifest["part"] == "xc7z020clg484-1" and manifest["top"] == "main_top"
    assert "#pragma HLS INTERFACE m_axi port=input0" in model.source("hls")


@pytest.mark.parametrize("target", ["fpga", "fpga:virtex"])
def test_the_part_must_be_named_and_known(target):
    with pytest.raises(TargetError, match="xc7z020"):
        compiled("graph @g(%x: f32[2]) -> f32[2] {\n return %x\n}", target)


def test_a_stimulus_must_fit_the_inputs(digits, tmp_path):
    with pytest.raises(InputError, match="takes 1 inputs"):
        digits.save(tmp_path / "p", stimulus=[[]])
    with pytest.raises(InputError, match=r"expected shape \[1, 1, 8, 8\]"):
        digits.save(tmp_path / "p", stimulus=[[np.zeros((2, 1, 8, 8), np.float32)]])
    assert not (tmp_path / "p").exists()
