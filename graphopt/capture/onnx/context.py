"""What an entry of the table works with: the builder it adds ops to, and the node it captures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphopt.capture.onnx.known import Knowledge
from graphopt.capture.onnx.table import Defer
from graphopt.errors import CaptureError
from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.graph import Builder, Graph, Op, Tensor, Value
from graphopt.ir.table import normalise_axis
from graphopt.ir.types import DType, TensorType, Type, dtype

if TYPE_CHECKING:
    from graphopt.capture.onnx.scope import Scope


class Context(Builder):
    """A builder that follows what is known of the values it makes."""

    def __init__(self, graph: Graph, knowledge: Knowledge) -> None:
        super().__init__(graph)
        self.knowledge = knowledge

    def op(self, name: str, operands: Sequence[Any], attrs: Mapping[str, Any] | None = None, *,
           regions: Sequence[Graph] = (), types: Sequence[Type] | None = None) -> Op:
        like = next((v.type.dtype for v in operands if isinstance(v, Value) and isinstance(v.type, TensorType)), None)
        values = [v if v is None or isinstance(v, Value) else self.const(v, like if not isinstance(v, np.ndarray) else None)
                  for v in operands]
        op = self.graph.add(name, values, attrs, regions=regions, loc=self.loc, types=types)
        self.knowledge.learn(op)
        return op

    def const(self, value: Any, dtype_of: Any = None, name: str | None = None) -> Value:
        if not isinstance(value, Tensor):
            array = np.asarray(value)
            value = Tensor(array if dtype_of is None else array.astype(dtype(dtype_of).numpy), name)
        return self.op("const", (), {"value": value}).result

    def content(self, v: Value) -> Any:
        """What is known of a value's content, or None."""
        return self.knowledge.get(v)

    # Short forms used by many entries ----------------------------------------------------------
    def to(self, x: Value, dtype_of: Any) -> Value:
        """`x` cast to a dtype, itself where it has it."""
        d = dtype(dtype_of)
        return x if x.dtype is d else self.cast(x, to=d)

    def reshaped(self, x: Value, shape: Sequence[DimLike]) -> Value:
        return x if isinstance(x.type, TensorType) and x.type.shape == tuple(shape) else self.reshape(x, shape=tuple(shape))

    def permuted(self, x: Value, perm: Sequence[int]) -> Value:
        return x if list(perm) == list(range(len(perm))) else self.transpose(x, perm=tuple(perm))

    def unsqueezed(self, x: Value, axes: Iterable[int]) -> Value:
        """Dims of 1 at these (non-negative) axes of the result."""
        rest = list(rank_of(x))
        for a in sorted(axes):
            rest.insert(a, 1)
        return self.reshaped(x, rest)

    def cut(self, x: Value, axis: int, start: DimLike, end: DimLike) -> Value:
        """x[..., start:end, ...] along one axis."""
        return self.slice(x, axes=(axis,), starts=(start,), ends=(end,), steps=(1,))

    def parts(self, x: Value, axis: int, sizes: Sequence[DimLike]) -> list[Value]:
        if len(sizes) == 1:
            return [x]
        return list(self.op("split", [x], {"axis": axis, "sizes": tuple(sizes)}).results)

    def shape_value(self, x: Value) -> Value:
        """The shape of x as an i64 tensor."""
        t = x.type
        if not isinstance(t, TensorType) or t.shape is None:
            return self.shape(x)
        if t.is_static:
            return self.const(np.array(t.shape, dtype=np.int64))
        return self.dims(values=t.shape)

    def full(self, value: Any, shape: Sequence[DimLike], dtype_of: Any) -> Value:
        """A tensor of one number."""
        scalar = self.const(np.asarray(value), dtype_of)
        return self.expand(scalar, shape=tuple(shape)) if len(shape) else scalar

    def channelwise(self, v: Value, rank: int, axis: int = 1) -> Value:
        """A vector along `axis` of a tensor of this rank, ready to broadcast."""
        return self.reshaped(v, [*([1] * axis), v.shape[0], *([1] * (rank - axis - 1))])


def rank_of(v: Value) -> tuple[DimLike, ...]:
    """The shape of a tensor; Defer where even its rank is not known."""
    if not isinstance(v.type, TensorType) or v.type.shape is None:
        raise Defer(f"the rank of {v!r} is not known")
    return v.type.shape


def static_shape(v: Value) -> tuple[int, ...]:
    """The shape of a tensor; Defer where a dim is symbolic."""
    shape = rank_of(v)
    if any(isinstance(d, Dim) for d in shape):
        raise Defer(f"the shape of {v!r} is not static")
    return shape  # type: ignore[return-value]


class Node:
    """One node: operands as values (None where absent), attributes as Python values, the opset version it is of."""

    def __init__(self, proto: onnx.NodeProto, domain: str, version: int, inputs: Sequence[Value | None],
                 attrs: dict[str, Any], scope: Scope, place: str) -> None:
        self.proto, self.domain, self.version, self.inputs = proto, domain, version, list(inputs)
        self.attrs, self.scope, self.place = attrs, scope, place
        self.kind = proto.op_type
        self.outputs = len(proto.output)

    # Operands ----------------------------------------------------------------------------------
    def __getitem__(self, index: int) -> Value:
        v = self.get(index)
        if v is None:
            raise self.error(f"operand {index} is missing")
        return v

    def get(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def wants(self, index: int) -> bool:
        """Whether anything takes this output."""
        return index < self.outputs and bool(self.proto.output[index])

    def known(self, index: int) -> Any:
        """The content of a control operand (an array, or an object array with Dims), None where absent."""
        v = self.get(index)
        if v is None:
            return None
        content = self.scope.ctx.content(v)
        if content is None:
            raise Defer(f"operand {index} is not known at capture", v)
        return content

    def need(self, *indices: int) -> None:
        """Defer unless all of these operands (those that are there) are known; names every one that is not."""
        missing = [v for v in map(self.get, indices) if v is not None and self.scope.ctx.content(v) is None]
        if missing:
            raise Defer("control operands are not known at capture", *missing)

    def dims(self, index: int) -> tuple[DimLike, ...] | None:
        """A control operand as dims."""
        content = self.known(index)
        if content is None:
            return None
        return tuple(d if isinstance(d, Dim) else int(d) for d in np.asarray(content).reshape(-1).tolist())

    def ints(self, index: int) -> tuple[int, ...] | None:
        """A control operand as plain integers; symbolic dims in it defer the node."""
        dims = self.dims(index)
        if dims is not None and any(isinstance(d, Dim) for d in dims):
            raise Defer(f"operand {index} depends on symbolic dims")
        return dims  # type: ignore[return-value]

    def number(self, index: int, default: Any = None) -> Any:
        """A control operand of one element as a Python number."""
        content = self.known(index)
        if content is None:
            return default
        item = np.asarray(content).reshape(-1)[0]
        if isinstance(item, Dim):
            raise Defer(f"operand {index} depends on symbolic dims")
        return item.item() if isinstance(item, np.generic) else item

    # Attributes --------------------------------------------------------------------------------
    def attr(self, name: str, default: Any = ...) -> Any:
        """An attribute, or its default: a float is one of 32 bits either way, also for operands of 64."""
        if name in self.attrs:
            return self.attrs[name]
        if default is ...:
            raise self.error(f"attribute {name} is missing")
        return float(np.float32(default)) if isinstance(default, float) else default

    def attr_or_ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """Integers that older opsets give as an attribute and newer ones as an operand."""
        if name in self.attrs:
            value = self.attrs[name]
            return tuple(value) if isinstance(value, list) else (value,)
        return self.ints(index)

    def axis(self, default: Any, rank: int, name: str = "axis") -> int:
        return normalise_axis(self.attr(name, default), rank, f"attribute {name}")

    def dtype(self, name: str, default: DType | None = None) -> DType:
        """A dtype given by ONNX's number."""
        from graphopt.capture.onnx.types import element_dtype

        code = self.attr(name, 0)
        if not code and default is not None:
            return default
        return element_dtype(code, self.place)

    def error(self, message: str, hint: str | None = None) -> CaptureError:
        return CaptureError(f"{self.kind}: {message}", where=self.place, hint=hint)


__all__ = ["Context", "Node", "rank_of", "static_shape"]
