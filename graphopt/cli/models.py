"""What the command line accepts as a model: files by their ending, and `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import CaptureError

if TYPE_CHECKING:
    from graphopt.ir import Graph

FORMS = """MODEL is one of
  net.onnx          an ONNX model (external data beside it is found)
  net.pt2           a program saved with torch.export.save
  net.gir           a graph saved by graphopt: graphopt-dump ... -o net.gir
  a folder          that graphopt left where it failed (graphopt-crash-...), or --repro did
  net.ir            the text form of a graph; it can be compiled where all of its constants are small ones, which
                    stand in the text (a .gir file has the data of all)
  module:function   a function without parameters, importable from here, that returns a torch.nn.Module and
                    its example inputs (a tuple), or anything else that graphopt.compile takes"""


class UsageError(Exception):
    """A command line that means nothing: exit code 2."""


class NothingFound(Exception):
    """What a command was to look for is not there, and nothing is wrong with that: exit code 3."""


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`images=1x3x224x224` as ("images", (1, 3, 224, 224)); `steps=` is a scalar. Raises ValueError."""
    name, equals, dims = text.rpartition("=")
    if not equals or not name:
        raise ValueError(text)
    sizes = dims.replace(",", "x").split("x") if dims else []
    if not all(d.isdecimal() for d in sizes):
        raise ValueError(text)
    return name, tuple(map(int, sizes))


def parse_value(text: str) -> tuple[str, float | list[float]]:
    """`rate=16000` as ("rate", 16000), `axes=0,1` as ("axes", [0, 1]), `axes=0,` as a list of one. Raises ValueError."""
    name, equals, numbers = text.rpartition("=")
    if not equals or not name:
        raise ValueError(text)
    try:
        values = [float(n) if set(n) & set(".en") else int(n) for n in numbers.removesuffix(",").split(",")]
    except ValueError:
        raise ValueError(text) from None
    return name, values if "," in numbers else values[0]


def capture_model(spec: str, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph of the model that `spec` names, with the inputs named in `shapes` fixed to those shapes."""
    path = Path(spec)
    if is_crash(path):
        from graphopt.ship.crash import load

        return _fixed(load(path)[0], shapes)
    if path.suffix in (".gir", ".ir"):
        return _fixed(_saved(path), shapes)
    from graphopt.capture import capture

    fixed: dict[str, Any] = {"shapes": dict(shapes)} if shapes else {}
    if path.suffix == ".onnx":
        return capture(_present(path), **fixed)
    if path.suffix == ".pt2":
        from graphopt.capture.torch.saved import load_program

        return _fixed(capture(load_program(_present(path))), shapes)
    if ":" in spec:
        return _fixed(_called(spec), shapes)
    raise UsageError(f"{spec!r} is not a model.\n{FORMS}")


def is_crash(path: Path) -> bool:
    """Is it a folder that reproduces a failure?"""
    return path.is_dir() and (path / "about.json").is_file()


def _present(path: Path) -> Path:
    if not path.is_file():
        raise CaptureError("there is no such file", where=str(path))
    return path


def _saved(path: Path) -> Graph:
    from graphopt.ir import parse_graph, serial

    if path.suffix == ".gir":
        return serial.load(_present(path))
    return parse_graph(_present(path).read_text(encoding="utf-8"))


def _called(spec: str) -> Graph:
    from graphopt.capture import capture

    module_name, _, function_name = spec.partition(":")
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as e:
        raise CaptureError(f"cannot import {module_name}: {e}", where=spec, hint="Run from where it is importable") from e
    finally:
        sys.path.remove("")
    function = getattr(module, function_name, None)
    if not callable(function):
        raise CaptureError(f"{module_name} has no function {function_name!r}", where=spec)
    made = function()
    model, example_inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return capture(model, example_inputs)


def _fixed(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph with its symbolic dims bound by the given input shapes."""
    if not shapes:
        return graph
    from graphopt.ir.dims import Dim
    from graphopt.ir.types import TensorType

    names = input_names(graph)
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in names:
            raise UsageError(f"--shape {name}: the inputs are {', '.join(names)}")
        t = graph.inputs[names.index(name)].type
        known = t.shape if isinstance(t, TensorType) else None
        if known is None or len(known) != len(shape) or any(isinstance(k, int) and k != n for k, n in zip(known, shape)):
            raise UsageError(f"--shape {name}={'x'.join(map(str, shape))}: the input is {t}")
        for k, n in zip(known, shape):
            if isinstance(k, Dim) and str(k).isidentifier() and symbols.setdefault(str(k), n) != n:
                raise UsageError(f"--shape {name}: {k} is {symbols[str(k)]} elsewhere and {n} here")
    return graph.specialise(symbols) if symbols else graph


def bind_values(graph: Graph, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any]) -> Graph:
    """The graph with those input values known that shape the program."""
    if not values:
        return graph
    from graphopt.codegen.program.interface import bound

    arrays = {name: value_array(graph, name, value) for name, value in values.items()}
    if "recapture" in graph.metadata:
        return graph.metadata["recapture"](shapes, arrays)
    return bound(graph, input_names(graph), arrays)  # whose shapes are fixed


def value_array(graph: Graph, name: str, value: float | list[float]) -> Any:
    """The value that an input is given on the command line, as an array. UsageError where the input takes no such value."""
    import numpy as np

    from graphopt.ir.types import TensorType

    shaping = graph.metadata.get("control_inputs", ())
    if name not in shaping:
        raise UsageError(f"--value {name}: {'only ' + ', '.join(shaping) if shaping else 'no input'} shapes this program")
    t = graph.inputs[input_names(graph).index(name)].type
    assert isinstance(t, TensorType)  # nothing else shapes a program
    given = np.asarray(value)
    text = f"--value {name}={','.join(map(str, given.ravel().tolist()))}"
    known = t.shape
    if known is not None and (len(known) != given.ndim or any(isinstance(d, int) and d != n for d, n in zip(known, given.shape))):
        raise UsageError(f"{text}: the input is {t}; write one number for a scalar, and with commas for a list ({name}=3, is one "
                         "of one)")
    try:
        with np.errstate(all="ignore"):
            made = given.astype(t.dtype.numpy)
        fits = np.array_equal(made.astype(given.dtype), given) or t.dtype.is_float
    except (OverflowError, ValueError, TypeError):
        fits = False
    if not fits:
        raise UsageError(f"{text}: the input is {t}, which has no such number")
    return made


def input_names(graph: Graph) -> list[str]:
    """The source model's names of the inputs, else those of the text form."""
    if graph.input_names:
        return graph.input_names
    from graphopt.ir.text import value_names

    names = value_names(graph)
    return [names[v] for v in graph.inputs]


def read_inputs(path: str, graph: Graph) -> list[Any]:
    """The graph's inputs from an .npz file, in order. Raises UsageError where names do not fit."""
    import zipfile

    import numpy as np

    try:
        with np.load(_present(Path(path)), allow_pickle=False) as arrays:
            given = dict(arrays)
    except (ValueError, zipfile.BadZipFile, EOFError) as e:
        raise UsageError(f"--inputs {path}: not an .npz file of plain arrays: {e}") from None
    names = input_names(graph)
    if missing := [n for n in names if n not in given]:
        raise UsageError(f"--inputs {path}: no array for {', '.join(missing)}; it has {', '.join(given) or 'none'}")
    return [given[n] for n in names]


__all__ = ["FORMS", "NothingFound", "UsageError", "bind_values", "capture_model", "input_names", "is_crash", "parse_shape",
           "parse_value", "read_inputs", "value_array"]
