"""A target from outside of graphopt: portable C++17, one file without dependencies, for any machine that has a compiler.

A target is three things: what the machine is (a `Target`), how its name is read, and a model class that turns the finished
program, kernels over a planned memory, into what the machine takes. Passes, lowering, memory plan and the C++ printer are
graphopt's own.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graphopt
from graphopt.capture import capture
from graphopt.codegen.c import PLAIN, print_kernel
from graphopt.codegen.host_cc import load
from graphopt.codegen.project import interface, places, pointer, write_project
from graphopt.codegen.schedule import Style
from graphopt.emitted import EmittedModel, emits
from graphopt.errors import TargetError
from graphopt.ir import Graph, evaluate
from graphopt.runtime.executable import aligned
from graphopt.runtime.model import Model
from graphopt.targets import Target, named

DIGITS = Path(__file__).parents[1] / "demo" / "digits.onnx"
STANDARDS = ("c++17", "c++20", "c++23")


# 1. What the machine is. A real target says here what its kernels and its cost model ask: registers, caches, cores.
@dataclass(frozen=True)
class Cpp(Target):
    """Any machine with a C++ compiler."""

    standard: str = "c++17"


# 2. How the name is read: `cpp`, or `cpp:c++20`. Wrong names are refused here, before any work.
@named("cpp")
def _(detail: str | None) -> Cpp:
    standard = detail or "c++17"
    if standard not in STANDARDS:
        raise TargetError(f"unknown standard {standard!r}", hint=f"Known: {', '.join(STANDARDS)}")
    return Cpp("cpp", f"cpp:{standard}", standard)


# 3. What is made of the program. `self._plan` is it: kernels (loop nests), calls in order, weights, the size of the arena.
@emits("cpp")
class CppModel(EmittedModel):
    """A network as one C++ file with one function, `graphopt_run(inputs..., outputs..., weights, arena)`."""

    forms = ("cpp",)

    def __init__(self, graph: Graph, target: Cpp, validate: bool = False) -> None:
        super().__init__(graph, target, Style(lanes=1), validate)  # no vectors spelled out: the C++ compiler finds them

    def source(self, kind: str | None = None) -> str:
        """The whole file."""
        self._form(kind)
        program = self._plan
        kernels = []
        for kernel in program.kernels:
            users = "; ".join(places(c) for c in program.calls if c.kernel is kernel)
            kernels.append(f"// {users}\n{print_kernel(kernel)}")
        params = [f"{'const ' if space == 'input' else ''}void* {space}{k}" for space, k, _ in interface(program)]
        calls = [f"  {c.kernel.name}({', '.join(pointer(c, k) for k in range(len(c.args)))});" for c in program.calls]
        run = "\n".join([f"// weights: {program.weights_size} bytes, arena: {program.arena_size} bytes, both 64-byte aligned",
                         f'extern "C" void graphopt_run({", ".join([*params, "const void* weights", "void* arena"])}) {{',
                         "  (void)weights; (void)arena;", *calls, "}", ""])
        return "\n".join([f"// @{program.graph.name}, written by graphopt", PLAIN.prelude(), *kernels, run])

    def save(self, folder: str | Path) -> None:
        """Write model.cpp, weights.bin and a manifest to `folder`, all or nothing."""
        files = {"model.cpp": self.source(), "weights.bin": self._plan.pack_weights(aligned).tobytes()}
        write_project(folder, files, {**self._manifest(), "arena_bytes": self._plan.arena_size})

    def built(self) -> Model:
        """The program built by this machine's C++ compiler, to be called here."""
        flags = (f"-std={self.target.standard}", "-O2", "-ffp-contract=off")
        library = load({"model.cpp": self.source()}, "model.cpp", flags)
        return self._on_host(library.graphopt_run)


def main() -> None:
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    model = graphopt.compile(DIGITS, {"images": images}, target="cpp:c++20")
    print(model)

    source = model.source()
    print("\n".join(line for line in source.splitlines() if line.startswith(("// fused", "static void k", "extern"))))

    probabilities = model.built()(images)
    (expected,) = evaluate(capture(DIGITS, shapes={"images": images.shape}), [images])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-6)
    print("largest difference from the reference evaluator:", f"{np.abs(probabilities - expected).max():.1e}")

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "digits-cpp")
        print("saved:", *sorted(p.name for p in (Path(folder) / "digits-cpp").iterdir()))
    try:
        graphopt.compile(DIGITS, {"images": images}, target="cpp:c++98")
    except graphopt.TargetError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
