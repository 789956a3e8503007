"""`python -m bench COMMAND`: compare with other compilers, measure the machine, sweep the kernels, and count what is covered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "compare": "graphopt beside onnxruntime, OpenVINO and TorchInductor: times, compile times, memory",
    "roofline": "this machine's peaks: multiply-adds, BF16, VNNI, bandwidth of L1, L2, L3 and memory",
    "calibrate": "the coefficients of the cost models on this machine, beside those that graphopt counts with",
    "startup": "process start to first result, and memory, beside onnxruntime",
    "kernels": "every contraction kernel of the models against the roofline, worst first",
    "coverage": "which models (with --ops: which of PyTorch's operators) are captured, compiled, and equal to PyTorch",
    "onnx_suite": "ONNX's own test cases: passed, in a kernel, on the evaluator",
    "ir_scale": "the IR at 10,000 ops: build, verify, print, parse, rewrite",
}
USAGE = ("usage: python -m bench COMMAND [options]\n\n" + "\n".join(f"  {name:12}{text}" for name, text in COMMANDS.items())
         + "\n\n`python -m bench COMMAND --help` shows a command's options.")


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if not given or given[0] not in COMMANDS:
        print(f"{USAGE}\n\nerror: {f'no command {given[0]!r}' if given else 'give a command'}", file=sys.stderr)
        return 2
    return importlib.import_module(f"bench.{given[0]}").main(given[1:]) or 0


if __name__ == "__main__":
    sys.exit(main())
