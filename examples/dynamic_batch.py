"""One program for any batch size: a dim declared with torch.export.Dim stays symbolic and is compiled for when it occurs."""

import torch
from torch import nn
from torch.export import Dim

import graphopt


def main() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()

    model = graphopt.compile(net, (torch.randn(2, 16),), dynamic_shapes=({0: Dim("batch")},))
    print("input:", [str(d) for d in model.inputs[0].shape])

    for batch in (1, 5, 64, 5):  # the first call with a size compiles for it, the later ones find it compiled
        x = torch.randn(batch, 16)
        with torch.no_grad():
            torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)
        print(f"batch {batch}: as PyTorch")

    try:
        model(torch.randn(5, 17))
    except graphopt.GraphOptError as error:
        print("a wrong shape is refused:", error)


if __name__ == "__main__":
    main()
