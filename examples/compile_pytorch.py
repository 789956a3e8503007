"""Compile a PyTorch module and call the program like the module: torch in, torch out; numpy in, numpy out."""

import torch
from torch import nn

import graphopt


class Residual(nn.Module):
    """Two convolutions around a shortcut; returns a dictionary, which the compiled program returns too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: torch.Tensor, *, gain: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.norm(self.first(image)))
        return {"features": torch.relu(image + gain * self.second(hidden)), "hidden": hidden}


def main() -> None:
    torch.manual_seed(0)
    net = Residual(8).eval()
    image, gain = torch.randn(1, 8, 20, 20), torch.tensor(0.5)

    model = graphopt.compile(net, {"image": image, "gain": gain}, target="x86")

    got = model(image, gain=gain)
    with torch.no_grad():
        expected = net(image, gain=gain)
    for name, tensor in expected.items():
        print(f"{name}: {tuple(tensor.shape)}, largest difference from PyTorch {(got[name] - tensor).abs().max():.1e}")
        torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=1e-5)

    from_numpy = model(image.numpy(), gain=gain.numpy())
    print("numpy in,", type(from_numpy["features"]).__name__, "out")
    for spec in model.inputs:
        print("input", spec)


if __name__ == "__main__":
    main()
