"""`graphopt.compile`: look at the arguments, ask the backend. Read this file first.

What follows stands in `graphopt.backends`: one object for each kind of target (base.py), what was asked for (recipe.py), and how
a model is captured, optimised and made into a program (x86/model.py and x86/static.py; emitted.py for targets that get source).
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from graphopt.backends.base import backend_of
from graphopt.backends.options import check_counts, check_flags, enough_memory, refuse
from graphopt.backends.recipe import Recipe
from graphopt.errors import InputError
from graphopt.measure.records import check_mode
from graphopt.moved import had
from graphopt.targets import without_winograd

if TYPE_CHECKING:
    from graphopt.targets import Target

MAX_SPECIALISATIONS = 16
__getattr__ = had(__name__)


def compile(model: Any, example_inputs: Any = None, *, target: str | Target = "x86", threads: int | None = None,
            dynamic_shapes: Any = None, max_specialisations: int = MAX_SPECIALISATIONS, validate: bool = False,
            tune: str | None = None, tuning: str | PathLike[str] | None = None, winograd: bool = True,
            check_indices: bool = False, **unknown: Any) -> Any:
    """Compile a trained network for one target.

    - `model`: an `nn.Module` (with `example_inputs`), an `fx.GraphModule`, an `ExportedProgram`, an ONNX `ModelProto`, bytes or
      path, or a graphopt `Graph`.
    - `example_inputs`: a tuple as for `torch.export`; `dynamic_shapes` says which dims vary. CUDA and FPGA take their shapes.
    - `target`: `x86[:cpu]`, `cuda:sm_XY` or `fpga:part`.
    - `threads`: how many a call may use (default: this process's cores).
    - `max_specialisations`: how many programs are kept of a model with symbolic dims, which is compiled for each concrete
      shape when it first occurs.
    - `validate`: check every pass with the reference evaluator, and verify every kernel.
    - `tune`: `"fast"` or `"full"` measures candidates for the parameters of kernels on this machine (seconds, or minutes) and
      records the best; later compilations take what is recorded.
    - `tuning`: the file of records, in place of GRAPHOPT_TUNING or the one in the cache; `tune` writes it.
    - `winograd`: False forbids x86 kernels by Winograd's algorithm, which 3x3 convolutions of stride 1 in f32 get where it is
      faster. Their error, 1e-6 of the largest result for 64 channels to 2e-6 or 4e-6 for 512, is within a factor of two of direct
      convolution's, but a NaN or an infinity in an image makes NaN of all results in the tiles (2x2 or 4x4) that read it.
    - `check_indices`: raise IndexRangeError (an IndexError) where an index of a gather, scatter or embedding is out of range in
      a call. Without, such indices are held at the border: memory is safe, results are not what was meant. Calls look at all
      indices then, programs are not kept on disk, and the model cannot be saved.

    Programs of ONNX paths and bytes are kept on disk (GRAPHOPT_CACHE) and found again without compiling.
    Raises GraphOptError: UnsupportedOperators, CaptureError, TargetError, ...
    """
    refuse(unknown, compile)
    check_counts(threads=threads, max_specialisations=max_specialisations)
    check_flags(validate=validate, winograd=winograd, check_indices=check_indices)
    if not winograd:
        target = without_winograd(target, threads)
    backend = backend_of(target)
    recipe = Recipe(model, example_inputs, dynamic_shapes, target, threads, validate, check_mode(tune), tuning, check_indices)
    if (tune is not None or tuning is not None) and not backend.tunes:
        raise InputError(f"kernels for {recipe.target.name} have no parameters to tune", where="tune" if tune else "tuning",
                         hint="Leave it out, or compile for x86")
    if check_indices and not backend.checks_indices:
        raise InputError(f"code for {recipe.target.name} does not check indices", where="check_indices",
                         hint="Compile for x86 to look for wrong ones")
    with enough_memory():
        return backend.compile(recipe, max_specialisations)


__all__ = ["MAX_SPECIALISATIONS", "compile"]
