"""The weights of an ONNX file where they lie: found in its protobuf encoding, and left out of what is parsed.

protobuf would copy every weight into the message. Here the large `raw_data` of the main graph's initializers are cut
out of the encoded file before it is parsed, and remembered by their place in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SMALLEST = 1 << 12  # bytes of data worth cutting out
# Field numbers of onnx.proto: they never change.
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Cut:
    """An encoded model without its large weights. `places` are (offset, length) of each initializer's data, in order; None
    where the data stayed."""

    model: bytes
    places: list[tuple[int, int] | None]


class _Unusual(Exception):
    """An encoding that is damaged or that no exporter writes: protobuf itself shall judge it."""


def cut(data: memoryview) -> Cut | None:
    """The model without its weights' data; None where nothing is won, or where the file is not as exporters write it."""
    try:
        graphs = [f for f in _fields(data, 0, len(data)) if f[0] == MODEL_GRAPH and f[1] == BYTES]
        if len(graphs) != 1:
            return None
        _, _, start, begin, end = graphs[0]
        pieces: list[bytes] = []
        places: list[tuple[int, int] | None] = []
        kept = begin
        for number, kind, at, first, last in _fields(data, begin, end):
            if number != GRAPH_INITIALIZER or kind != BYTES:
                continue
            raw = [f for f in _fields(data, first, last) if f[0] == TENSOR_RAW_DATA] if last - first >= SMALLEST else []
            if len(raw) != 1 or raw[0][1] != BYTES or raw[0][4] - raw[0][3] < SMALLEST:
                places.append(None)
                continue
            _, _, field, content, stop = raw[0]
            tensor = bytes(data[first:field]) + bytes(data[stop:last])
            pieces += [bytes(data[kept:at]), _tag(GRAPH_INITIALIZER), _varint(len(tensor)), tensor]
            places.append((content, stop - content))
            kept = last
    except _Unusual:
        return None
    if not pieces:
        return None
    graph = b"".join([*pieces, bytes(data[kept:end])])
    model = b"".join([bytes(data[:start]), _tag(MODEL_GRAPH), _varint(len(graph)), graph, bytes(data[end:])])
    return Cut(model, places)


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, kind, where the field starts, where its content starts, where it ends) of a message's fields."""
    while at < end:
        start = at
        tag, at = _read(data, at, end)
        number, kind = tag >> 3, tag & 7
        first = at
        if kind == VARINT:
            _, at = _read(data, at, end)
        elif kind == BYTES:
            length, first = _read(data, at, end)
            at = first + length
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise _Unusual
        if at > end or number == 0:
            raise _Unusual
        yield number, kind, start, first, at


def _read(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _Unusual


def _tag(number: int) -> bytes:
    return _varint(number << 3 | BYTES)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


__all__ = ["Cut", "cut"]
