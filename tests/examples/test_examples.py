"""Every example runs and says what it promises."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "compile_pytorch": ["features: (1, 8, 20, 20)", "numpy in, ndarray out", "input gain: f32[]"],
    "compile_onnx": ["input  images: f32[batch, 1, 8, 8]", "probabilities = float32[1, 10], from"],
    "torch_compile": ["as PyTorch, after the weights changed too", "kernel calls", "in eager PyTorch: ",
                      "module in a module: (7, 9)"],
    "dynamic_batch": ["input: ['batch', '16']", "batch 64: as PyTorch", "a wrong shape is refused"],
    "write_a_rewrite": ["-  %back = neg(%z)", "[scale-later] matmul %y (project): scale the product"],
    "unsupported_operator": [
        "2 unsupported operator(s)", "com.example.Sparkle (2x): at block1/sparkle, block2/sparkle",
        "com.example.Twist (1x)", "add them to the capture tables"],
    "add_an_operator": [
        "host ops: 0", "[('fused', ['matmul', 'add', 'shifted_softplus']), ('fused', ['matmul', 'add'])]", "ONNX: [-3.46",
        "CUDA: the same rule"],
    "add_a_kernel_template": ["[300, 1000] along 0: right; k0_cumsum: strip", "[20, 5] along 1: right; no choice",
                              "a NaN stays in its column"],
    "add_a_target": ["CppModel(images: f32[3, 1, 8, 8] -> probabilities: f32[3, 10]; cpp:c++20)",
                     'extern "C" void graphopt_run(', "saved: manifest.json model.cpp weights.bin", "refused: unknown standard"],
}
NEEDS_TORCH = {"torch_compile", "compile_pytorch", "dynamic_batch", "add_an_operator"}
NEEDS_CXX = {"add_a_target"}
ADDS = {"add_an_operator", "add_a_kernel_template", "add_a_target"}  # to the compiler's tables: in a process of their own


def test_every_example_is_tested():
    assert {p.stem for p in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name, capsys, monkeypatch):
    if name in NEEDS_TORCH:
        pytest.importorskip("torch", reason="the example compiles a PyTorch module")
    if name in NEEDS_CXX and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("the example builds what it made with a C++ compiler")
    path = str(EXAMPLES / f"{name}.py")
    if name in ADDS:
        code = f"import runpy; runpy.run_path({path!r}, run_name='__main__')"  # with this folder's graphopt
        done = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said = done.stdout
    else:
        monkeypatch.setattr(sys, "argv", [f"{name}.py"])
        runpy.run_path(path, run_name="__main__")
        said = capsys.readouterr().out
    for words in SAYS[name]:
        assert words in said, f"{words!r} is not in what the example printed:\n{said}"
