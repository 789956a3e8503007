"""Graphs on disk: one `.gir` file, a zip of the text form, a manifest, and one .npy for each constant not in the text.

    graph.txt        the graph as `print_graph` writes it
    manifest.json    {"format": 1, "inputs": [names], "outputs": [names], "constants": {name: {"file", "type"}}, ...}
    constants/0.npy  the bytes of a constant, as unsigned integers where numpy has no dtype of its own for it
    constants/1.json the elements of a constant of strings

Nothing in a file is executed or unpickled, and no member is ever written to disk: a hostile member name
reaches nothing. A file is written beside its place and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphOptError, IRError, ParseError
from graphopt.ir.graph import Graph, Tensor
from graphopt.ir.parse import parse_graph
from graphopt.ir.text import ConstantNames, print_graph
from graphopt.ir.types import DTYPES, DType, TensorType
from graphopt.ir.verify import verify

FORMAT = 1
SUFFIX = ".gir"
_REFERENCE = re.compile(r"^ *%\S+ = const @([A-Za-z0-9_.$/-]+) : ", re.M)


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write `graph` with its constants to `path`, whole or not at all.

    Raises IRError where the graph holds what text cannot: a source operator deferred to run time, or a
    constant without data. Calling conventions of the source model (pytrees) are not kept; names are.
    """
    check_printable(graph)
    names = ConstantNames()
    text = print_graph(graph, names)
    constants: dict[str, dict[str, str]] = {}
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("graph.txt", text)
            for name in dict.fromkeys(_REFERENCE.findall(text)):
                tensor = names.tensors[name]
                member = f"constants/{len(constants)}.{'json' if tensor.type.dtype.kind == 'str' else 'npy'}"
                constants[name] = {"file": member, "type": str(TensorType(tensor.type.dtype, tensor.type.shape))}
                with archive.open(member, "w", force_zip64=True) as out:
                    _write_constant(tensor, out)
            manifest = {"format": FORMAT, "inputs": graph.input_names, "outputs": graph.output_names,
                        "control_inputs": list(graph.metadata.get("control_inputs", ())), "constants": constants}
            if "complex" in graph.metadata:
                manifest["complex"] = graph.metadata["complex"]
            archive.writestr("manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph saved at `path`, verified. Raises ParseError, saying what is wrong with the file."""
    where = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ParseError("a saved graph holds nothing compressed", where=where)
            manifest = json.loads(archive.read("manifest.json"))
            if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
                raise ParseError("the manifest is damaged", where=where)
            if manifest["format"] > FORMAT:
                raise ParseError(f"written in format {manifest['format']}, newer than this graphopt's {FORMAT}", where=where,
                                 hint="Upgrade graphopt")
            constants = {name: _read_constant(archive, name, entry) for name, entry in manifest["constants"].items()}
            graph = parse_graph(archive.read("graph.txt").decode(), constants)
            graph.input_names, graph.output_names = list(manifest["inputs"]), list(manifest["outputs"])
            if manifest["control_inputs"]:
                graph.metadata["control_inputs"] = list(manifest["control_inputs"])
            if "complex" in manifest:
                graph.metadata["complex"] = _complex(manifest["complex"], graph)
    except (zipfile.BadZipFile, EOFError) as e:
        raise ParseError(f"not a saved graph, or a damaged one: {e}", where=where) from None
    except (KeyError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as e:
        raise ParseError(f"a damaged graph: {e}", where=where) from None
    except GraphOptError as e:
        if e.where == where:
            raise
        raise ParseError(e.what, where=f"{where}: {e.where}" if e.where else where, hint=e.hint) from None
    for op in graph.walk():
        if op.name == "const" and op.attrs["value"].array is None:
            raise ParseError(f"the data of the constant @{op.attrs['value'].name} is missing", where=where)
    try:
        verify(graph)
    except IRError as e:
        raise ParseError(e.what, where=f"{where}: {e.where}", hint=e.hint) from None
    return graph


def check_printable(graph: Graph) -> None:
    for op in graph.walk():
        if op.name == "const":
            op.attrs["value"].numpy()
        elif any(a.kind.rstrip("?") == "data" for a in op.definition.attrs):
            raise IRError("this operator runs the source model's own code, which a file cannot hold", where=op.where(),
                          hint="Save the source model instead")


def _complex(given: Any, graph: Graph) -> dict[str, list[int]]:
    """Which inputs and outputs are complex: those must be pairs of floats."""
    made = {}
    for which in ("inputs", "outputs"):
        values, places = getattr(graph, which), [int(k) for k in given.get(which, ())]
        for k in places:
            t = values[k].type if 0 <= k < len(values) else None
            if not isinstance(t, TensorType) or t.dtype.name not in ("f32", "f64") or t.shape is None or t.shape[-1:] != (2,):
                raise ValueError(f"{which} {k} is no complex tensor")
        made[which] = places
    return made


def _stored(dtype: DType) -> np.dtype:
    """The dtype in the .npy file: numpy's own, or unsigned integers of the same width."""
    return dtype.numpy if dtype.numpy.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def _write_constant(tensor: Tensor, out: Any) -> None:
    array = tensor.numpy()
    if tensor.type.dtype.kind == "str":
        elements = [e.decode("utf-8", "surrogateescape") if isinstance(e, bytes) else str(e) for e in array.ravel()]
        out.write(json.dumps(elements).encode())
        return
    array = np.asarray(array, order="C")  # not ascontiguousarray, which gives a scalar an axis
    np.lib.format.write_array(out, array.view(_stored(tensor.type.dtype)), allow_pickle=False)


def _read_constant(archive: zipfile.ZipFile, name: str, entry: dict[str, str]) -> Tensor:
    match = re.fullmatch(r"(\w+)\[([\d, ]*)\]", entry["type"])
    if not match or match[1] not in DTYPES:
        raise ParseError(f"the constant @{name} has the type {entry['type']!r}")
    t = TensorType(DTYPES[match[1]], tuple(int(d) for d in match[2].split(",")) if match[2].strip() else ())
    size = math.prod(t.static_shape)
    info = archive.getinfo(entry["file"])
    if t.dtype.kind != "str" and info.file_size < size * t.dtype.itemsize:
        raise ParseError(f"the constant @{name} is {t}, but {info.filename} has only {info.file_size} bytes")
    with archive.open(info) as file:
        if t.dtype.kind == "str":
            elements = json.loads(file.read())
            array = np.empty(len(elements), object)
            array[:] = elements
            array = array.reshape(t.static_shape)
        else:
            array = np.lib.format.read_array(file, allow_pickle=False)
    if array.shape != t.shape or (t.dtype.kind != "str" and array.dtype != _stored(t.dtype)):
        raise ParseError(f"the constant @{name} should be {t}, but {info.filename} holds {array.dtype}{list(array.shape)}")
    return Tensor(array if t.dtype.kind == "str" else array.view(t.dtype.numpy), name, t)


def names_without_data(graph: Graph) -> list[str]:
    """The constants of a graph and of those that it holds that are only named: what is read from text has not their data."""
    return [op.attrs["value"].name or "?" for op in graph.walk() if op.name == "const" and op.attrs["value"].array is None]


__all__ = ["FORMAT", "SUFFIX", "load", "save"]
