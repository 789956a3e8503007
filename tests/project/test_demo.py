"""The demo from end to end, and its committed network against its data."""

import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="the demo's network is a PyTorch module")
pytest.importorskip("sklearn", reason="the demo's data come with scikit-learn")
onnxruntime = pytest.importorskip("onnxruntime", reason="the demo compares with onnxruntime")

from demo.digits import ONNX, load_split, trained_net  # noqa: E402


def test_the_committed_network_knows_digits_that_it_never_saw():
    import torch

    split = load_split()
    with torch.no_grad():
        eager = trained_net()(torch.from_numpy(split.test_images)).numpy()
    assert np.mean(eager.argmax(1) == split.test_labels) >= 0.98
    session = onnxruntime.InferenceSession(ONNX, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": split.test_images})[0], eager, atol=1e-5)


def test_held_out_digits_are_not_trained_on():
    split = load_split()
    trained = {image.tobytes() for image in split.train_images}
    assert not any(image.tobytes() in trained for image in split.test_images)
    assert len(split.train_labels) == 1437 and len(split.test_labels) == 360


def test_the_demo_runs_and_is_right(monkeypatch, capsys):
    from demo.__main__ import main

    monkeypatch.setattr(sys, "argv", ["demo", "--runs", "3"])
    assert main() == 0
    said = capsys.readouterr().out
    assert "compiled from PyTorch" in said and "compiled from ONNX" in said and "WRONG" not in said
    assert "batch 1" in said and "lines of CUDA C++" in said and "lines of Vitis HLS C++" in said
