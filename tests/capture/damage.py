"""Damage to ONNX models: by bits, by protobuf fields, and by what nodes, tensors and types say. All of it from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, helper

NUMBERS = [-(2**63), -(2**40), -(2**31), -1000, -3, -2, -1, 0, 1, 2, 3, 4, 5, 8, 1000, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]
KINDS = ["", *"""
    Add Mul Relu Conv MatMul Gemm Reshape Transpose Concat Slice Gather Split Pad Cast ReduceSum Softmax Squeeze Unsqueeze
    Expand Shape ConstantOfShape Resize Where If Loop Scan LSTM GRU TopK NonZero Tile Clip Einsum BatchNormalization
    LayerNormalization MaxPool QuantizeLinear DequantizeLinear OneHot Range ScatterND GatherND Constant Identity SequenceAt
    SplitToSequence Nonsense ArgMax CumSum Trilu Unique Compress Upsample ConvTranspose
    """.split()]
R = random.Random


def damaged(data: bytes, seed: int) -> bytes | onnx.ModelProto:
    """A model with one to three faults. What no serialised model could be (too large dims) is not made."""
    r = random.Random(seed)
    if r.random() < 0.25:
        return _bits(bytearray(data), r)
    model = onnx.ModelProto.FromString(data)
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        try:
            r.choice(FAULTS)(model, r)
        except (IndexError, ValueError, TypeError):  # nothing there to be damaged
            _any_field(model, r)
    return model.SerializeToString()


def _bits(data: bytearray, r: R) -> bytes:
    for _ in range(r.choice([1, 1, 2, 5])):
        at = r.randrange(len(data))
        what = r.random()
        if what < 0.6:
            data[at] ^= 1 << r.randrange(8)
        elif what < 0.8:
            data[at] = r.choice([0, 255, 127, 128, r.randrange(256)])
        elif what < 0.9:
            del data[at:at + r.randrange(1, 9)]
        else:
            data[at:at] = data[at:at + r.randrange(1, 30)]
    return bytes(data)


# Faults ---------------------------------------------------------------------------------------
def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for a in node.attribute:
            for g in [a.g] if a.type == AttributeProto.GRAPH else a.graphs:
                found += _graphs(g)
    return found


def _node(model: onnx.ModelProto, r: R) -> onnx.NodeProto:
    nodes = [n for g in _graphs(model.graph) for n in g.node] + [n for f in model.functions for n in f.node]
    return r.choice(nodes)


def _names(model: onnx.ModelProto) -> list[str]:
    g = model.graph
    return [*(i.name for i in g.input), *(t.name for t in g.initializer), *(o for n in g.node for o in n.output), "", "nowhere"]


def _operand(model: onnx.ModelProto, r: R) -> None:
    node = _node(model, r)
    k = r.randrange(len(node.input))
    what = r.random()
    if what < 0.3:
        node.input[k] = ""
    elif what < 0.6:
        del node.input[k]
    elif what < 0.9:
        node.input[k] = r.choice(_names(model))
    else:
        node.input.append(r.choice(_names(model)))


def _result(model: onnx.ModelProto, r: R) -> None:
    node = _node(model, r)
    k = r.randrange(len(node.output))
    if r.random() < 0.4:
        node.output[k] = r.choice(_names(model))
    elif r.random() < 0.5:
        del node.output[k]
    else:
        node.output.append("more")


def _kind(model: onnx.ModelProto, r: R) -> None:
    node = _node(model, r)
    node.op_type = r.choice([*KINDS, *(n.op_type for n in model.graph.node)])
    if r.random() < 0.1:
        node.domain = r.choice(["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "local"])


def _order(model: onnx.ModelProto, r: R) -> None:
    nodes = model.graph.node
    k = r.randrange(len(nodes))
    if r.random() < 0.5:
        del nodes[k]
    else:
        nodes.add().CopyFrom(nodes[k])


def _attribute(model: onnx.ModelProto, r: R) -> None:
    node = _node(model, r)
    if not node.attribute or r.random() < 0.1:
        name = r.choice(["axis", "axes", "perm", "to", "kernel_shape", "group", "pads", "mode"])
        node.attribute.append(helper.make_attribute(name, r.choice([1, [1, 0], "x", 1.5, [-1]])))
        return
    a = r.choice(node.attribute)
    what = r.random()
    if what < 0.15:
        node.attribute.remove(a)
    elif what < 0.25:
        a.type = r.randrange(0, 16)
    elif what < 0.3:
        a.ref_attr_name = "else"
    elif a.type == AttributeProto.INT:
        a.i = r.choice(NUMBERS)
    elif a.type == AttributeProto.INTS:
        _numbers(a.ints, r)
    elif a.type == AttributeProto.FLOAT:
        a.f = r.choice([0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e30, 0.5])
    elif a.type == AttributeProto.STRING:
        a.s = r.choice([b"", b"\xff\xfe", b"nearest", b"bij,bjk->bik", b"constant", b"NOTSET", b"SAME_UPPER", b"\0"])
    elif a.type == AttributeProto.TENSOR:
        _tensor(a.t, r)
    else:
        _any_field_of(a, r)


def _numbers(numbers: Any, r: R) -> None:
    what = r.random()
    if what < 0.5 and numbers:
        numbers[r.randrange(len(numbers))] = r.choice(NUMBERS)
    elif what < 0.7 and numbers:
        del numbers[r.randrange(len(numbers))]
    elif what < 0.9:
        numbers.append(r.choice(NUMBERS))
    else:
        del numbers[:]


def _tensor(t: TensorProto, r: R) -> None:
    what = r.random()
    if what < 0.5:
        _numbers(t.dims, r)
    elif what < 0.65:
        t.data_type = r.randrange(0, 26)
    elif what < 0.8 and t.raw_data:
        t.raw_data = t.raw_data[:r.randrange(len(t.raw_data))] if r.random() < 0.5 else t.raw_data + b"\x00" * r.randrange(9)
    elif what < 0.9:
        t.data_location = TensorProto.EXTERNAL
        for key, value in (("location", r.choice(["x", "", ".", "..", "\0", "/etc/passwd", "a/../../b"])),
                           ("offset", r.choice(["0", "-1", "x", "9" * 30])), ("length", r.choice(["4", "-4", "", "1" * 40]))):
            t.external_data.add(key=key, value=value)
    else:
        _any_field_of(t, r)


def _weights(model: onnx.ModelProto, r: R) -> None:
    t = r.choice([t for g in _graphs(model.graph) for t in g.initializer])
    if r.random() < 0.15:
        t.name = r.choice(_names(model))
    elif r.random() < 0.3 and t.raw_data:  # the values of shapes, axes and indices
        data = bytearray(t.raw_data)
        data[r.randrange(len(data))] = r.choice([0, 1, 255, 127, r.randrange(256)])
        t.raw_data = bytes(data)
    else:
        _tensor(t, r)


def _type(model: onnx.ModelProto, r: R) -> None:
    v = r.choice([*model.graph.input, *model.graph.input, *model.graph.output])
    what = r.random()
    if what < 0.2:
        v.type.tensor_type.elem_type = r.randrange(0, 26)
    elif what < 0.8:
        dims = v.type.tensor_type.shape.dim
        k = r.randrange(len(dims) + 1)
        if k == len(dims):
            dims.add().dim_value = r.choice(NUMBERS)
        elif r.random() < 0.5:
            dims[k].dim_value = r.choice(NUMBERS)
        elif r.random() < 0.6:
            dims[k].dim_param = r.choice(["N", "?", "", "min", "2*N", "N//0", "(" * 50, "é", "x y", "N" * 300, "_0"])
        else:
            del dims[k]
    elif what < 0.9:
        v.name = r.choice(_names(model))
    else:
        _any_field_of(v, r)


def _header(model: onnx.ModelProto, r: R) -> None:
    if r.random() < 0.8:
        r.choice(model.opset_import).version = r.choice([0, 1, 2, 5, 6, 7, 9, 10, 11, 12, 13, 14, 17, 18, 20, 22, -1, 99, 2**40])
    else:
        model.ir_version = r.choice([0, 1, 3, 4, 9, 10, -1, 2**40])


def _messages(m: Message) -> list[Message]:
    found = [m]
    for field, value in m.ListFields():
        if field.message_type is not None:
            for part in (value if _repeated(field) else [value]):
                found += _messages(part)
    return found


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _any_field(model: onnx.ModelProto, r: R) -> None:
    _any_field_of(model, r)


def _any_field_of(m: Message, r: R) -> None:
    """A field of any message within is cleared, doubled or changed."""
    m = r.choice([x for x in _messages(m) if x.ListFields()])
    field, value = r.choice(m.ListFields())
    what = r.random()
    if what < 0.3:
        m.ClearField(field.name)
    elif _repeated(field):
        k = r.randrange(len(value))
        if what < 0.6:
            del value[k]
        elif field.message_type is not None:
            value.add().CopyFrom(value[k])
        else:
            value.append(value[r.randrange(len(value))])
    elif isinstance(value, int):
        n = r.choice(NUMBERS)
        try:
            setattr(m, field.name, n)
        except ValueError:  # 32 bits, or an enumeration
            setattr(m, field.name, n % 8 if field.enum_type is None else 1)
    elif isinstance(value, str):
        setattr(m, field.name, r.choice(["", "x", value + "x", "\0", value[:-1]]))


Fault = Callable[[onnx.ModelProto, R], None]
FAULTS: list[Fault] = [_operand, _operand, _result, _kind, _order, _attribute, _attribute, _attribute, _weights, _weights, _type,
                       _type, _header, _any_field]
