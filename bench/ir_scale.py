"""How the IR scales: 10,000 elementwise ops built, verified, printed, parsed and rewritten.

    python -m bench ir_scale [--ops 10000]

Each step runs on a tenth of the ops too; a ratio near ten says that it is linear.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from bench import options
from graphopt.ir import Builder, Graph, parse_graph, print_graph, tensor, verify

UNARY = ("relu", "neg", "abs", "sigmoid")
BINARY = ("add", "mul", "maximum")


def build(ops: int) -> Graph:
    """A chain that keeps reaching back: every third op also reads the value of ten ops ago."""
    graph = Graph("scale")
    b = Builder(graph)
    values = [graph.add_input(tensor("f32", "N", 64), "x")]
    for i in range(ops):
        if i % 3:
            values.append(getattr(b, UNARY[i // 3 % len(UNARY)])(values[-1]))
        else:
            values.append(getattr(b, BINARY[i // 3 % len(BINARY)])(values[-1], values[max(0, len(values) - 10)]))
    graph.outputs = [values[-1]]
    return graph


def replace_all(graph: Graph) -> None:
    """Replace every op by a copy of itself, as a rewrite would."""
    for op in graph.ops:
        new = graph.add(op.name, op.operands, op.attrs, before=op)
        op.replace_with(new.result)


def measure(ops: int) -> dict[str, float]:
    """Seconds of each step."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = step()
        seconds[name] = time.perf_counter() - start
        return result

    graph = timed("build", lambda: build(ops))
    assert isinstance(graph, Graph)
    timed("verify", lambda: verify(graph))
    text = timed("print", lambda: print_graph(graph))
    assert isinstance(text, str)
    again = timed("parse", lambda: parse_graph(text))
    timed("clone", graph.clone)
    timed("replace", lambda: replace_all(graph))
    verify(graph)
    assert isinstance(again, Graph)
    if print_graph(again) != text or print_graph(graph) != text:
        raise AssertionError("the text form did not survive the round trip")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench ir_scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ops", type=options.count, default=10_000, help="of the larger graph (default: %(default)s)")
    ops = max(parser.parse_args(argv).ops, 10)
    small, large = measure(ops // 10), measure(ops)
    print(f"{'':10}{ops // 10:>10} ops{ops:>10} ops{'ratio':>8}")
    for name, seconds in large.items():
        print(f"{name:10}{small[name]:>12.3f} s{seconds:>12.3f} s{seconds / small[name]:>8.1f}")
    print(f"{'total':10}{sum(small.values()):>12.3f} s{sum(large.values()):>12.3f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
