"""torch.compile with graphopt behind it: graph breaks, a batch size that changes, weights that change, one operator in eager."""

import logging

import torch
from torch import nn

import graphopt
from graphopt.interop.torch_backend import as_module, graphs


class Classifier(nn.Module):
    """Two graphs with Python between them; the second has an operator that graphopt lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                                  nn.Linear(128, 9))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        print("batch of", len(images))  # a graph break
        return torch.linalg.svdvals(features.view(-1, 3, 3))


def main() -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    torch.manual_seed(0)
    net = Classifier().eval()
    fast = torch.compile(net, backend="graphopt")

    with torch.no_grad():
        for batch in (2, 5, 7):
            images = torch.randn(batch, 3, 16, 16)
            torch.testing.assert_close(fast(images), net(images), rtol=1e-4, atol=1e-5)

        net.body[0].weight.mul_(2)  # as an optimizer would
        torch.testing.assert_close(fast(images), net(images), rtol=1e-4, atol=1e-5)
    print("as PyTorch, after the weights changed too")
    for graph in graphs():
        print(graph)

    head = as_module(graphopt.compile(net.body, (images,)))  # ahead of time, and a module again
    with torch.no_grad():
        scores = nn.Sequential(head, nn.Softmax(1))(images)
    print("module in a module:", tuple(scores.shape))


if __name__ == "__main__":
    main()
