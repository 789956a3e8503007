"""Compile an ONNX file and run it by names: python examples/compile_onnx.py [net.onnx]"""

import sys
from pathlib import Path

import numpy as np

import graphopt

DIGITS = Path(__file__).parents[1] / "demo" / "digits.onnx"


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DIGITS
    model = graphopt.compile(path)
    for spec in model.inputs:
        print("input ", spec)
    for spec in model.outputs:
        print("output", spec)

    rng = np.random.default_rng(0)
    sizes = [[d if isinstance(d, int) else 1 for d in spec.shape] for spec in model.inputs]  # free dims: 1
    inputs = {spec.name: rng.random(size).astype(spec.numpy) for spec, size in zip(model.inputs, sizes)}
    for name, array in model.run(inputs).items():
        print(f"{name} = {array.dtype}{list(array.shape)}, from {array.min():.4g} to {array.max():.4g}")

    print("\nwhere the time goes:")
    for step in model.profile(*inputs.values()):
        print(f"{step['seconds'] * 1e6:8.1f} us  {step['kernel']:30} {', '.join(step['loc'])}")


if __name__ == "__main__":
    main()
