"""Every example runs and says what it promises."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "compile_pytorch": ["features: (1, 8, 20, 20)", "numpy in, ndarray out", "input gain: f32[]"],
    "compile_onnx": ["input  images: f32[batch, 1, 8, 8]", "probabilities = float32[1, 10], from"],
    "dynamic_batch": ["input: ['batch', '16']", "batch 64: as PyTorch", "a wrong shape is refused"],
    "write_a_rewrite": ["-  %back = neg(%z)", "[scale-later] matmul %y (project): scale the product"],
    "unsupported_operator": [
        "2 unsupported operator(s)", "com.example.Sparkle (2x): at block1/sparkle, block2/sparkle",
        "com.example.Twist (1x)", "add them to the capture tables"],
}
NEEDS_TORCH = {"compile_pytorch", "dynamic_batch"}


def test_every_example_is_tested():
    assert {p.stem for p in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(name, capsys, monkeypatch):
    if name in NEEDS_TORCH:
        pytest.importorskip("torch", reason="the example compiles a PyTorch module")
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    for words in SAYS[name]:
        assert words in said, f"{words!r} is not in what the example printed:\n{said}"
