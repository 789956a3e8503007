"""A target from outside of graphopt: portable C++17, one file without dependencies, for any machine that has a compiler.

A target is three things: what the machine is (a `Target`), a model class that turns the finished program, kernels over a planned
memory, into what the machine takes, and the `Backend` that graphopt asks. Passes, lowering, memory plan and the C++ printer are
graphopt's own.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graphopt
from graphopt.backends.base import register
from graphopt.backends.emitted import EmittedBackend, EmittedModel
from graphopt.capture import capture
from graphopt.codegen.c.emit import PLAIN, print_kernel
from graphopt.codegen.c.host import load
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.program.launches import interface, places, pointer
from graphopt.errors import TargetError
from graphopt.ir import evaluate
from graphopt.runtime.host.executable import aligned
from graphopt.runtime.model import Model
from graphopt.ship.projects import write_project
from graphopt.targets import Target

DIGITS = Path(__file__).parents[1] / "demo" / "digits.onnx"
STANDARDS = ("c++17", "c++20", "c++23")


# 1. What the machine is. A real target says here what its kernels and its cost model ask: registers, caches, cores.
@dataclass(frozen=True)
class Cpp(Target):
    """Any machine with a C++ compiler."""

    standard: str = "c++17"


# 2. What is made of the program. `self._plan` is it: kernels (loop nests), calls in order, weights, the size of the arena.
class CppModel(EmittedModel):
    """A network as one C++ file with one function, `graphopt_run(inputs..., outputs..., weights, arena)`."""

    forms = ("cpp",)

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
        flags = (f"-std={self.target.name.removeprefix('cpp:')}", "-O2", "-ffp-contract=off")
        library = load({"model.cpp": self.source()}, "model.cpp", flags)
        return self._on_host(library.graphopt_run)


# 3. The backend: how the name is read (`cpp`, or `cpp:c++20`; wrong names are refused here, before any work), and how loops are
# written: no vectors spelled out, the C++ compiler finds them.
class CppBackend(EmittedBackend):
    """One C++ file, for any machine that has a compiler."""

    kind, forms, model = "cpp", CppModel.forms, CppModel

    def read(self, detail: str | None, threads: int | None) -> Cpp:
        standard = detail or "c++17"
        if standard not in STANDARDS:
            raise TargetError(f"unknown standard {standard!r}", hint=f"Known: {', '.join(STANDARDS)}")
        return Cpp("cpp", f"cpp:{standard}", standard)

    def style(self, target: Target) -> Style:
        return Style(lanes=1)


register(CppBackend())


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
