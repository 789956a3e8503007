"""Reading ONNX models: paths, bytes and protos; weights in place, external ones memory-mapped."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from graphopt.capture.onnx.check import check_dims, check_tensors, tensors_of
from graphopt.capture.onnx.types import decoded, element_dtype, tensor_array
from graphopt.capture.onnx.wire import cut
from graphopt.errors import CaptureError
from graphopt.ir.graph import Tensor

NEWEST_IR = 14
NEWEST_OPSET = 28


@dataclass
class Source:
    """A model without its main graph's weights, which are in `tensors`. `where` names it in messages."""

    model: onnx.ModelProto
    tensors: dict[str, Tensor]
    where: str
    external: list[Path]  # other files that it was read from


def load(model: Any) -> Source:
    """Read a model; raises CaptureError where it is damaged, or newer than what is known here."""
    mapped: dict[int, np.ndarray] = {}  # data of initializers that stayed in the file
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        where = str(path)
        try:
            if path.exists() and not path.is_file():
                raise CaptureError("is no file", where=where, hint="Give the path of an .onnx file")
            data = _mapped(path)
        except (OSError, ValueError) as e:
            raise CaptureError(f"cannot be read: {getattr(e, 'strerror', None) or e}", where=where[:200]) from e
        lean = cut(data.data)
        given, folder = _parse(data.tobytes() if lean is None else lean.model, where), path.resolve().parent
        if lean is not None and len(lean.places) == len(given.graph.initializer):
            mapped = {k: data[at:at + size] for k, (at, size) in enumerate(p or (0, 0) for p in lean.places) if size}
        elif lean is not None:
            given = _parse(data.tobytes(), where)
    elif isinstance(model, (bytes, bytearray, memoryview)):
        given, folder, where = _parse(bytes(model), "bytes"), None, "bytes"
    else:
        given, folder, where = model, None, model.graph.name or "model"
    _check_header(given, where)
    check_tensors(given, where)
    proto = _without_weights(given)  # what recapturing needs; the weights are held once, as arrays
    tensors: dict[str, Tensor] = {}
    for k, t in enumerate(given.graph.initializer):
        place = f"{where}: initializer {t.name!r}"
        if t.name in tensors:
            raise CaptureError("is there twice", where=place)
        if k in mapped:
            array = _in_place(t, mapped[k], place)
        elif t.data_location == TensorProto.EXTERNAL:
            array = _external(t, folder, place)
        else:
            array = tensor_array(t, place)
        tensors[t.name] = Tensor(array, t.name)
    _inline_external(proto, folder, where)
    return Source(proto, tensors, where, _external_files(given, folder))


def _external_files(proto: onnx.ModelProto, folder: Path | None) -> list[Path]:
    """The files that external data lies in."""
    found = {e.value for t in (*proto.graph.initializer, *(t for t, _ in _nested_tensors(proto)))
             if t.data_location == TensorProto.EXTERNAL for e in t.external_data if e.key == "location"}
    return [] if folder is None else [(folder / name).resolve() for name in sorted(found)]


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, read when they are looked at."""
    if not path.stat().st_size:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")


def _in_place(t: TensorProto, data: np.ndarray, place: str) -> np.ndarray:
    """A tensor's data as it lies in the file; what is not simply its elements is decoded from a copy."""
    plain = t.data_location != TensorProto.EXTERNAL and t.data_type not in (TensorProto.STRING, TensorProto.UNDEFINED)
    d = element_dtype(t.data_type, place) if plain else None
    if d is None or d.bits < 8 or d.kind == "bool" or math.prod(t.dims) * d.itemsize != len(data):
        t.raw_data = data.tobytes()
        return tensor_array(t, place)
    return data.view(d.numpy).reshape(list(t.dims))


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as e:
        raise CaptureError("is not a complete ONNX model", where=where,
                           hint="The file is truncated or damaged, or is of another format") from e
    if not proto.HasField("graph"):
        raise CaptureError("holds no graph", where=where, hint="The file is truncated or damaged, or is of another format")
    return proto


def _check_header(proto: onnx.ModelProto, where: str) -> None:
    if proto.ir_version > NEWEST_IR:
        raise CaptureError(f"has IR version {proto.ir_version}; known are those up to {NEWEST_IR}", where=where,
                           hint="Export it for an older version")
    if not proto.opset_import and not proto.functions and proto.ir_version >= 3:
        raise CaptureError("imports no opset", where=where, hint="The file is truncated or damaged")
    _check_text(proto.graph, where)
    for o in (*proto.opset_import, *(o for f in proto.functions for o in f.opset_import)):
        if not 0 <= o.version < 1 << 31:
            raise CaptureError(f"uses version {o.version} of the operators {o.domain or 'ai.onnx'!r}", where=where,
                               hint="The file is damaged")
        if o.domain in ("", "ai.onnx") and o.version > NEWEST_OPSET:
            raise CaptureError(f"uses opset {o.version}; known are those up to {NEWEST_OPSET}", where=where,
                               hint="Export it for an older opset, or convert it with onnx.version_converter")


def _check_text(graph: onnx.GraphProto, where: str) -> None:
    """Names must be text: protobuf gives bytes for strings that are not UTF-8."""
    names: list[Any] = [graph.name, *(t.name for t in graph.initializer), *(v.name for v in (*graph.input, *graph.output))]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        for a in node.attribute:
            names.append(a.name)
            for g in [a.g] if a.HasField("g") else a.graphs:
                _check_text(g, where)
    for name in names:
        if isinstance(name, bytes):
            decoded(name, where)


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that leaves the weights where they are."""
    out = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _copy_field(out, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _copy_field(out.graph, field.name, value)
    for t in proto.graph.initializer:
        out.graph.initializer.add(name=t.name, data_type=t.data_type, dims=t.dims)
    return out


def _copy_field(out: Any, name: str, value: Any) -> None:
    target = getattr(out, name)
    if hasattr(target, "MergeFrom"):
        target.MergeFrom(value)
    elif not isinstance(value, bytes):  # bytes here are text that is not UTF-8: documentation at most
        setattr(out, name, value)


def _external(t: TensorProto, folder: Path | None, place: str) -> np.ndarray:
    """A memory-mapped view of data in another file, which must lie in the model's folder."""
    entries = {e.key: e.value for e in t.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise CaptureError(f"its data lies in the file {location!r}, but the model was not read from a path", where=place,
                           hint="Give the path of the model instead")
    if not location:
        raise CaptureError("its data is external, but no file is named", where=place)
    try:
        path = (folder / location).resolve()
        no_file = path.exists() and not path.is_file()
    except (OSError, ValueError, RuntimeError) as e:  # a NUL in it, a link to itself, a name that is too long
        raise CaptureError(f"its data points to {location!r}, which is no file: {getattr(e, 'strerror', None) or e}",
                           where=place) from e
    if os.path.isabs(location) or not path.is_relative_to(folder):
        raise CaptureError(f"its data points to {location!r}, outside the model's folder", where=place,
                           hint="Such a file is refused: it could read any file of this machine")
    if no_file:
        raise CaptureError(f"its data points to {location!r}, which is no file", where=place)
    if t.data_type == TensorProto.STRING:
        raise CaptureError("string tensors cannot be external", where=place)
    d = element_dtype(t.data_type, place)
    count = check_dims(t.dims, place)
    expected = (count * d.bits + 7) // 8 if d.kind != "bool" else count
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or expected)
        size = path.stat().st_size
    except ValueError as e:
        raise CaptureError(f"its external offset or length is no number: {e}", where=place) from e
    except OSError as e:
        raise CaptureError(f"its data file {location!r} cannot be read: {e.strerror}", where=place,
                           hint="Keep the data file beside the model") from e
    if length != expected:
        raise CaptureError(f"its external data has {length} bytes, but {d}{list(t.dims)} needs {expected}", where=place)
    if offset < 0 or offset + length > size:
        raise CaptureError(f"its external data ends at byte {offset + length}, but {location!r} has {size}", where=place,
                           hint="The data file is truncated or belongs to another model")
    if count == 0:
        return np.zeros(list(t.dims), dtype=d.numpy)
    try:
        raw = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
    except OSError as e:
        raise CaptureError(f"its data file {location!r} cannot be read: {e.strerror}", where=place) from e
    if d.bits < 8:  # packed two or four to a byte: unpacked by onnx from a copy
        copy = TensorProto(data_type=t.data_type, dims=t.dims, raw_data=raw.tobytes())
        return tensor_array(copy, place)
    return raw.view(d.numpy).reshape(list(t.dims))


def _inline_external(proto: onnx.ModelProto, folder: Path | None, where: str) -> None:
    """Read external tensors of nested graphs and attributes into the proto: they are small and few."""
    for t, place in _nested_tensors(proto):
        if t.data_location == TensorProto.EXTERNAL:
            array = _external(t, folder, f"{where}: {place}")
            read = onnx.numpy_helper.from_array(np.asarray(array, order="C"), t.name)
            t.CopyFrom(read)


def _nested_tensors(proto: onnx.ModelProto) -> Iterator[tuple[TensorProto, str]]:
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        yield from tensors_of(nodes)


__all__ = ["NEWEST_IR", "NEWEST_OPSET", "Source", "load"]
