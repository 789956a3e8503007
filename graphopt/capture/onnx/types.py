"""Types, attributes and tensors of ONNX protos in graphopt's terms, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, TypeProto, helper, numpy_helper

from graphopt.errors import CaptureError, IRError
from graphopt.ir.dims import CALLED, Dim, DimLike, parse_dim
from graphopt.ir.types import STR, DType, MapType, OptionalType, SequenceType, TensorType, Type, dtype


def element_dtype(code: int, where: str) -> DType:
    """The dtype of an ONNX element type number."""
    if code == TensorProto.STRING:
        return STR
    try:
        return dtype(helper.tensor_dtype_to_np_dtype(code))
    except (KeyError, IRError):
        known = {v: k for k, v in TensorProto.DataType.items()}
        raise CaptureError(f"element type {known.get(code, code)} is not supported", where=where) from None


def element_code(d: DType) -> int:
    """The ONNX element type number of a dtype."""
    return TensorProto.STRING if d is STR else helper.np_dtype_to_tensor_dtype(d.numpy)


# What writers of files put where a dim has no name (compared without case): no two of them mean the same dim.
PLACEHOLDERS = frozenset(
    "any arbitrary auto dyn dynamic flexible free n/a na nan nil none null undef undefined unk unknown unnamed unspecified var "
    "variable".split())
_NUMBERED = re.compile(r"unk(nown)?_+\d+")  # as tf2onnx and ONNX's shape inference count them

DimKey = str | tuple[str, int]  # a dim_param, or the place (name, axis) of a dim that has none


def is_placeholder(dim_param: str) -> bool:
    """Does the text name no dim? So it is with text without a letter (`?`, `-1`, `*`, ``) and with the words for unknown."""
    word = dim_param.strip().strip("<>()[]{}'\"?_").lower()
    return not any(c.isalpha() for c in word) or word in PLACEHOLDERS or _NUMBERED.fullmatch(word) is not None


def dim_key(d: onnx.TensorShapeProto.Dimension, anonymous: str, axis: int) -> DimKey:
    """What tells a dim without value from others: its name, or its place where it has none."""
    text = decoded(d.dim_param, anonymous)
    return (anonymous, axis) if is_placeholder(text) else text


class Symbols:
    """ONNX's dim_params, any text, as identifiers, one for each; `fixed` gives some of them values."""

    def __init__(self) -> None:
        self._names: dict[DimKey, str] = {}
        self.fixed: dict[DimKey, int] = {}

    def names(self) -> set[str]:
        """The identifiers that stand for a dim_param or a place so far."""
        return set(self._names.values())

    def dim(self, key: DimKey) -> DimLike:
        """The dim of a dim_param, or of the dim at a place."""
        if key in self.fixed:
            return self.fixed[key]
        if key not in self._names:
            text = key if isinstance(key, str) else f"{key[0]}_{key[1]}"
            name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
            if not name or not name[0].isalpha() or name in CALLED:
                name = f"d_{name}" if name else "d"
            taken, base, count = set(self._names.values()), name, 1
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            self._names[key] = name
        return Dim.symbol(self._names[key])


def from_type_proto(t: TypeProto, symbols: Symbols, anonymous: str, where: str) -> Type:
    """The type that a proto declares. Dims without value or name are each of their own, and called `<anonymous>_<axis>`."""
    kind = t.WhichOneof("value")
    if kind == "tensor_type":
        element = element_dtype(t.tensor_type.elem_type, where)
        if not t.tensor_type.HasField("shape"):
            return TensorType(element, None)
        dims: list[DimLike] = []
        for axis, d in enumerate(t.tensor_type.shape.dim):
            if d.HasField("dim_value") and d.dim_value >= 0:
                dims.append(d.dim_value)
            else:
                dims.append(symbols.dim(dim_key(d, anonymous, axis)))
        return TensorType(element, tuple(dims))
    if kind == "sequence_type":
        return SequenceType(_open(from_type_proto(t.sequence_type.elem_type, symbols, anonymous, where)))
    if kind == "optional_type":
        return OptionalType(_open(from_type_proto(t.optional_type.elem_type, symbols, anonymous, where)))
    if kind == "map_type":
        return _map_type(t, where)
    raise CaptureError(f"has type {kind or 'none'}, which is not supported", where=where,
                       hint="Tensors, sequences, optionals and maps are")


def _map_type(t: TypeProto, where: str) -> MapType:
    """Maps hold single elements."""
    element = t.map_type.value_type.tensor_type
    return MapType(element_dtype(t.map_type.key_type, where), TensorType(element_dtype(element.elem_type, where), ()))


def _open(t: Type) -> Type:
    """Elements of a sequence may differ in shape: one that is not static is left open."""
    return t if not isinstance(t, TensorType) or t.is_static else TensorType(t.dtype, None)


def to_type_proto(t: Type) -> TypeProto:
    """For ONNX's own inference; dims that are no constants go as names that `from_inferred` reads back."""
    if isinstance(t, TensorType):
        shape = None if t.shape is None else [d if isinstance(d, int) else str(d) for d in t.shape]
        return helper.make_tensor_type_proto(element_code(t.dtype), shape)
    if isinstance(t, MapType):
        return helper.make_map_type_proto(element_code(t.key), to_type_proto(t.element))
    make = helper.make_sequence_type_proto if isinstance(t, SequenceType) else helper.make_optional_type_proto
    return make(to_type_proto(t.element))


def from_inferred(t: TypeProto, where: str) -> tuple[Type, bool]:
    """A type from ONNX's inference as (type, whether each of its dims is known); unknown dims come out as -1."""
    kind = t.WhichOneof("value")
    if kind == "tensor_type":
        element = element_dtype(t.tensor_type.elem_type, where)
        if not t.tensor_type.HasField("shape"):
            return TensorType(element, None), True
        dims: list[DimLike] = []
        for d in t.tensor_type.shape.dim:
            dims.append(d.dim_value if d.HasField("dim_value") else parse_dim(d.dim_param) if _readable(d.dim_param) else -1)
        return TensorType(element, tuple(dims)), -1 not in dims
    if kind == "sequence_type":
        return SequenceType(_open(_unsure(*from_inferred(t.sequence_type.elem_type, where)))), True
    if kind == "optional_type":
        return OptionalType(_open(_unsure(*from_inferred(t.optional_type.elem_type, where)))), True
    if kind == "map_type":
        return _map_type(t, where), True
    raise CaptureError(f"has type {kind or 'none'}, which is not supported", where=where)


def _unsure(t: Type, sure: bool) -> Type:
    return t if sure or not isinstance(t, TensorType) else TensorType(t.dtype, None)


def _readable(text: str) -> bool:
    try:
        return bool(text) and not text.startswith("unk__") and isinstance(parse_dim(text), (int, Dim))
    except IRError:
        return False


def tensor_array(t: TensorProto, where: str) -> np.ndarray:
    """The data of a tensor that lies in the proto itself."""
    expected = math.prod(t.dims)
    element_dtype(t.data_type, where)
    try:
        if any(d < 0 for d in t.dims):
            raise ValueError(f"a dim of {list(t.dims)} is negative")
        array = numpy_helper.to_array(t)
    except CaptureError:
        raise
    except Exception as e:  # onnx raises several kinds on damaged tensors
        raise CaptureError(f"its data cannot be read: {e}", where=where,
                           hint="The file is damaged, or was not written by onnx") from e
    if array.size != expected:
        raise CaptureError(f"has {array.size} elements, but its shape {list(t.dims)} needs {expected}", where=where)
    if t.data_type == TensorProto.STRING:
        texts = np.empty(array.size, dtype=object)
        texts[:] = [decoded(s, where) for s in array.reshape(-1)]
        return texts.reshape(array.shape)
    return array


def decoded(s: Any, where: str) -> str:
    """Text of a proto, which gives bytes where they are not UTF-8."""
    try:
        return s.decode("utf-8") if isinstance(s, bytes) else str(s)
    except UnicodeDecodeError as e:
        raise CaptureError(f"holds text that is not UTF-8: {e}", where=where, hint="The file is damaged") from e


def sparse_array(t: onnx.SparseTensorProto, where: str) -> np.ndarray:
    """A sparse tensor made dense."""
    values, indices = tensor_array(t.values, where), tensor_array(t.indices, where)
    try:
        dense = np.zeros(list(t.dims), dtype=values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except (IndexError, ValueError, MemoryError) as e:
        raise CaptureError(f"{len(values)} values at their indices are no tensor of shape {list(t.dims)}: {e}", where=where,
                           hint="The file is damaged") from e
    return dense


def attributes(node: onnx.NodeProto, outer: Mapping[str, AttributeProto] | None, where: str) -> dict[str, Any]:
    """Attributes as Python values: numbers, strings, lists of them, arrays, GraphProtos.

    Inside a function, attributes that refer to the function's own are taken from `outer`, or left out.
    """
    out: dict[str, Any] = {}
    for a in node.attribute:
        if a.ref_attr_name:
            if outer is None or a.ref_attr_name not in outer:
                continue
            out[a.name] = attribute_value(outer[a.ref_attr_name], where)
        else:
            out[a.name] = attribute_value(a, where)
    return out


def attribute_value(a: AttributeProto, where: str) -> Any:
    where = f"{where}, attribute {a.name}"
    match a.type:
        case AttributeProto.FLOAT:
            return float(a.f)
        case AttributeProto.INT:
            return int(a.i)
        case AttributeProto.STRING:
            return decoded(a.s, where)
        case AttributeProto.TENSOR:
            return tensor_array(a.t, where)
        case AttributeProto.SPARSE_TENSOR:
            return sparse_array(a.sparse_tensor, where)
        case AttributeProto.GRAPH:
            return a.g
        case AttributeProto.FLOATS:
            return [float(x) for x in a.floats]
        case AttributeProto.INTS:
            return [int(x) for x in a.ints]
        case AttributeProto.STRINGS:
            return [decoded(s, where) for s in a.strings]
        case AttributeProto.TENSORS:
            return [tensor_array(t, where) for t in a.tensors]
        case AttributeProto.GRAPHS:
            return list(a.graphs)
        case AttributeProto.TYPE_PROTO:
            return a.tp
    raise CaptureError(f"is of type {AttributeProto.AttributeType.Name(a.type)}, which is not supported", where=where)


__all__ = ["PLACEHOLDERS", "DimKey", "Symbols", "attribute_value", "attributes", "decoded", "dim_key", "element_code",
           "element_dtype", "from_inferred", "from_type_proto", "is_placeholder", "sparse_array", "tensor_array", "to_type_proto"]
