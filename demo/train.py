"""Train the demo's network and write digits.pt and digits.onnx beside this file: python -m demo.train

Ten seconds on two cores. The split, the seed and the schedule are fixed; the last bits of the weights
depend on the machine's arithmetic.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from tqdm import tqdm

from demo.digits import ONNX, WEIGHTS, DigitsNet, load_split


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one pixel along each axis, zeros moving in."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y:y + 8, x:x + 8] for image, (y, x) in zip(padded, moves)])


def train(epochs: int, seed: int) -> tuple[DigitsNet, float]:
    """The trained network in evaluation mode, and its accuracy on the held-out digits."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    split = load_split()
    images, labels = torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)
    net = DigitsNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in tqdm(range(epochs), desc="training", unit="epoch", disable=None):
        net.train()
        for batch in torch.randperm(len(images), generator=generator).split(64):
            loss = nn.functional.cross_entropy(net.logits(shifted(images[batch], generator)), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        predicted = net(torch.from_numpy(split.test_images)).argmax(1).numpy()
    return net, float(np.mean(predicted == split.test_labels))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary file and put it in place at once."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    os.replace(temporary, path)


def export(net: DigitsNet, path: Path) -> None:
    """Write the network as ONNX with a free batch size and nothing of this machine's paths."""
    program = torch.onnx.export(net, (torch.zeros(2, 1, 8, 8),), dynamo=True, verbose=False,
                                input_names=["images"], output_names=["probabilities"],
                                dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces
    onnx.save(model, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    net, accuracy = train(args.epochs, args.seed)
    write_whole(WEIGHTS, lambda at: torch.save(net.state_dict(), at))
    write_whole(ONNX, lambda at: export(net, at))
    print(f"{accuracy:.2%} of the held-out digits right; wrote {WEIGHTS.name} ({WEIGHTS.stat().st_size / 1e3:.0f} kB) "
          f"and {ONNX.name} ({ONNX.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
