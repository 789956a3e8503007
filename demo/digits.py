"""The demo's data and network: scikit-learn's handwritten digits (8x8 grey, ten classes) and a small CNN."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
WEIGHTS = HERE / "digits.pt"
ONNX = HERE / "digits.onnx"


class Split(NamedTuple):
    """Images are f32[n, 1, 8, 8] in 0 to 1, labels i64[n]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_split() -> Split:
    """1437 digits to train on and 360 held out, the same ones every time, classes evenly spread."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels.astype(np.int64), test_size=0.2, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return Split(train_images, train_labels, test_images, test_labels)


class DigitsNet(nn.Module):
    """Images f32[N, 1, 8, 8] to class probabilities f32[N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(24 * 4 * 4, 10)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(images), 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.logits(images), dim=1)


def trained_net() -> DigitsNet:
    """The network with the committed weights, in evaluation mode."""
    net = DigitsNet()
    net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return net.eval()
