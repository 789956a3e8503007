"""Failures of the compiler itself: what counts as one, and the folder that reproduces it.

    graph.ir         the graph as it was captured, in the text form
    constants.npz    the constants that are kept; the others, large ones, are drawn at random as about.json says
    inputs.npz       the inputs, where the failure is one of running
    about.json       the failure, target and options, versions, machine, names of inputs and outputs, constants to draw
    traceback.txt    where in the compiler it happened
    command.txt      how to see it again, and repro.py, which does

A folder is written by itself where `graphopt.compile` or `graphopt-dump` fails so (to the current folder or $GRAPHOPT_CRASH_DIR;
0: none), and by `graphopt-dump --repro DIR`, which makes the graph as small as the failure allows. It holds no weights of the
user's but small ones, unless the failure needs them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from graphopt.errors import CodegenError, GraphOptError, IRError, ParseError, RewriteError
from graphopt.ir.serial import names_without_data

if TYPE_CHECKING:
    import numpy as np

    from graphopt.ir.graph import Graph, Tensor
    from graphopt.ir.types import TensorType
    from graphopt.targets import Target

FORMAT = 1
KEPT_ELEMENTS = 1024  # a constant of more is drawn at random: shapes, indices and scales are smaller, weights are not
COMPILE, RUN, COMPARE = "compile", "run", "compare"  # what fails: the stages of `reproduce`


@dataclass(frozen=True)
class Failure:
    """What failed: the `stage`, the `kind` (an exception's name, a signal, `wrong result`), `where` (the pass), the innermost
    `frame` within graphopt, and in words. Two failures of one signature are taken for the same."""

    stage: str
    kind: str
    where: str
    frame: str
    text: str
    traceback: str = ""

    @property
    def signature(self) -> tuple[str, str, str, str]:
        return self.stage, self.kind, self.where, self.frame

    def __str__(self) -> str:
        return f"{self.kind}{f' in {self.where}' if self.where else ''}: {self.text}"


def is_failure(e: BaseException) -> bool:
    """Is it the compiler that is wrong, and not what it was given or where it runs?"""
    if isinstance(e, GraphOptError):
        if isinstance(e, RewriteError):
            return bool(e.where and e.where.startswith("pass "))
        return isinstance(e, CodegenError) or type(e) in (IRError, GraphOptError)
    return isinstance(e, Exception) and not isinstance(e, (OSError, MemoryError, ImportError, KeyboardInterrupt))


def failure_of(e: BaseException, stage: str = COMPILE) -> Failure:
    """The failure that an exception is."""
    inner: BaseException = e
    while inner.__cause__ is not None:
        inner = inner.__cause__
    root = Path(__file__).parents[1]
    frame = ""
    for place in traceback.extract_tb(inner.__traceback__):
        with contextlib.suppress(ValueError):
            frame = f"{Path(place.filename).relative_to(root)} {place.name}"
    where = e.where if isinstance(e, GraphOptError) and e.where and e.where.startswith("pass ") else ""
    said = e.what if isinstance(e, GraphOptError) else str(e)
    return Failure(stage, type(inner).__name__, where or "", frame, said,
                   "".join(traceback.format_exception(e)))


# By itself --------------------------------------------------------------------------------------
@contextlib.contextmanager
def guarded(graph: Graph, target: Target, **options: Any) -> Iterator[None]:
    """Write a folder where what is done within fails by the compiler's fault, and say where in the error, which goes on."""
    try:
        yield
    except Exception as e:
        if is_failure(e) and not getattr(e, "told", False) and not names_without_data(graph):
            _tell(e, _kept(e, graph, target, options))
        raise


P = ParamSpec("P")
R = TypeVar("R")


def guarding(f: Callable[P, R]) -> Callable[P, R]:
    """The function, `guarded`: its first arguments are a graph and a target."""
    @wraps(f)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with guarded(args[0], args[1]):  # type: ignore[arg-type]
            return f(*args, **kwargs)

    return run


def _kept(e: Exception, graph: Graph, target: Target, options: Mapping[str, Any]) -> str:
    """Where the folder is, in words; empty where none is wanted."""
    setting = os.environ.get("GRAPHOPT_CRASH_DIR", "")
    if setting == "0":
        return ""
    failure = failure_of(e)
    try:
        named = hashlib.sha256(repr((failure.signature, str(graph))).encode()).hexdigest()[:12]
        folder = Path(setting or ".").absolute() / f"graphopt-crash-{named}"
        said = write(folder, graph, target, failure, options)
    except Exception as other:  # the failure itself is what the user must see
        return f"It could not be kept for a report ({type(other).__name__}: {other})"
    return f"This is a failure of graphopt. {said} `graphopt-dump {folder} --repro SMALLER` makes it as small as it can be"


def _tell(e: Exception, text: str) -> None:
    e.told = True  # type: ignore[attr-defined]
    if not text:
        return
    if isinstance(e, GraphOptError):
        e.hint = f"{e.hint}. {text}" if e.hint else text
        said = str(e)
        e.args = (f"{said}{'' if said.endswith(chr(10)) else '. '}{text}",)
    else:
        e.add_note(text)


# Writing and reading ----------------------------------------------------------------------------
def write(folder: Path, graph: Graph, target: Target, failure: Failure, options: Mapping[str, Any], *,
          inputs: Sequence[Any] | None = None, drawn: set[str] | None = None, reduced: bool = False) -> str:
    """Write the folder, whole or not at all, in place of one that is there; says in words what it holds.

    `drawn` are the names of constants that are left out, to be drawn at random (default: all large ones).
    """
    import numpy as np

    from graphopt.ir import print_graph
    from graphopt.ir.serial import check_printable
    from graphopt.ir.text import ConstantNames

    check_printable(graph)
    names = ConstantNames()
    text = print_graph(graph, names)
    if drawn is not None:
        drawn &= set(names.tensors)
    else:
        drawn = {n for n, t in names.tensors.items() if is_large(t)}
    kept = [n for n in names.tensors if n not in drawn]
    weights = [n for n in kept if is_large(names.tensors[n])]
    about = {"format": FORMAT, "failure": {k: v for k, v in asdict(failure).items() if k != "traceback"}, "reduced": reduced,
             "target": target.name, "threads": getattr(target, "threads", None),
             "winograd": getattr(target, "winograd", True), "options": dict(options),
             "inputs": graph.input_names, "outputs": graph.output_names, "kept": kept,
             "shapes": None if inputs is None else [list(getattr(x, "shape", ())) for x in inputs],
             "drawn": {n: _manner(t) for n, t in names.tensors.items() if n in drawn}, **_here()}
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
    try:
        (work / "graph.ir").write_text(text, encoding="utf-8")
        np.savez(work / "constants.npz", *(_flat(names.tensors[n].numpy()) for n in kept))
        if inputs is not None and all(isinstance(x, np.ndarray) for x in inputs):
            np.savez(work / "inputs.npz", *map(_flat, inputs))
        (work / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (work / "traceback.txt").write_text(failure.traceback or f"{failure}\n", encoding="utf-8")
        (work / "command.txt").write_text(f"python {folder / 'repro.py'}\n", encoding="utf-8")
        said = textwrap.fill(str(failure).replace("\\", "/").replace('"""', "'''"), 100)
        (work / "repro.py").write_text(_SCRIPT.format(what=said), encoding="utf-8")
        os.chmod(work, 0o755)
        if folder.exists():
            if not (folder / "about.json").is_file() and any(folder.iterdir()):
                raise FileExistsError(f"{folder} holds something else")
            shutil.rmtree(folder)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    ops = sum(op.name != "const" for op in graph.ops)
    holds = f"the graph ({ops} op{'s' * (ops != 1)}, with names)"
    holds += f", the weights {', '.join(weights[:5])}{' and others' if len(weights) > 5 else ''}" if weights else \
        ", and of its constants only small ones" if kept else ""
    return f"{folder} holds {holds}{'; other weights are drawn at random' if drawn else ''}."


_SCRIPT = '''"""Shows a failure of graphopt again: `python repro.py`.

{what}
"""

from pathlib import Path

from graphopt.diagnose.repro import reproduce

print(reproduce(Path(__file__).parent) or "nothing fails any more")
'''


def _here() -> dict[str, Any]:
    import importlib.metadata
    import platform

    from graphopt.runtime.host.machine import identity

    versions = {"python": platform.python_version()}
    for name in ("graphopt", "numpy", "apache-tvm", "onnx", "torch", "ml_dtypes", "networkx"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "machine": identity().partition(" | flags")[0], "system": platform.platform()}


def is_large(t: Tensor) -> bool:
    """Is it what a user may not want to give away, or what takes much room?"""
    return isinstance(t.type.size, int) and t.type.size > KEPT_ELEMENTS and t.type.dtype.kind != "str"


def _manner(t: Tensor) -> dict[str, Any]:
    """How to draw a constant like another: about its mean and spread for floats, within its range for the rest."""
    import numpy as np

    wide = t.numpy().astype(np.float64)
    if t.type.dtype.is_float:
        finite = wide[np.isfinite(wide)]
        return {"mean": float(finite.mean()), "std": float(finite.std())} if finite.size else {"mean": 0.0, "std": 1.0}
    return {"low": int(wide.min()), "high": int(wide.max())}


def draw(t: TensorType, manner: Mapping[str, Any], seed: str) -> np.ndarray:
    """An array of type `t`, the same for the same seed."""
    import zlib

    import numpy as np

    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    array: np.ndarray
    if "mean" in manner:
        array = rng.normal(manner["mean"], manner["std"], t.static_shape)
    else:
        array = rng.integers(manner["low"], manner["high"], t.static_shape, endpoint=True)
    return array.astype(t.dtype.numpy)


def like(t: Tensor, name: str) -> Tensor:
    """A constant drawn at random in place of another."""
    from graphopt.ir.graph import Tensor

    return Tensor(draw(t.type, _manner(t), name), t.name)


def _flat(array: np.ndarray) -> np.ndarray:
    """What an .npz holds of any dtype: bytes, or words for strings."""
    import numpy as np

    return array.astype(str) if array.dtype == np.object_ else np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _shaped(flat: np.ndarray, t: TensorType, shape: Sequence[int]) -> np.ndarray:
    import numpy as np

    if t.dtype.kind == "str":
        return flat.astype(np.object_).reshape(shape)
    return flat.view(t.dtype.numpy).reshape(shape)


def load(folder: Path) -> tuple[Graph, list[Any] | None, dict[str, Any]]:
    """The graph, the inputs (None where none are kept) and what about.json says. Raises ParseError."""
    import numpy as np

    from graphopt.ir import parse_graph
    from graphopt.ir.types import TensorType

    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        text = (folder / "graph.ir").read_text(encoding="utf-8")
        if about.get("format") != FORMAT:
            raise ParseError(f"a folder of format {about.get('format')}, and this graphopt reads {FORMAT}", where=str(folder))
        bare = parse_graph(text)
        types = {op.attrs["value"].name: op.attrs["value"].type for op in bare.walk() if op.name == "const"}
        with np.load(folder / "constants.npz", allow_pickle=False) as kept:
            constants = {n: _shaped(kept[f"arr_{k}"], types[n], types[n].static_shape) for k, n in enumerate(about["kept"])
                         if n in types}
        constants |= {n: draw(types[n], manner, n) for n, manner in about["drawn"].items() if n in types}
        graph = parse_graph(text, constants)
        inputs = None
        if (folder / "inputs.npz").exists():
            with np.load(folder / "inputs.npz", allow_pickle=False) as given:
                inputs = [_shaped(given[f"arr_{k}"], v.type, about["shapes"][k]) for k, v in enumerate(graph.inputs)
                          if isinstance(v.type, TensorType)]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ParseError(f"no folder that graphopt wrote about a failure: {type(e).__name__}: {e}", where=str(folder)) from e
    graph.input_names, graph.output_names = list(about["inputs"]), list(about["outputs"])
    return graph, inputs, about


__all__ = ["COMPARE", "COMPILE", "RUN", "Failure", "draw", "failure_of", "guarded", "guarding", "is_failure", "is_large", "like",
           "load", "write"]
