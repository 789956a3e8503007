"""What the entries of com.microsoft share: registering with a check of what they know, and per-tensor quantisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Entry, Results, entry
from graphopt.ir.graph import Value
from graphopt.ir.types import F32, DType

MS = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """What an entry knows of its operator."""

    attrs: tuple[str, ...]
    inputs: int
    outputs: int
    doc: str


KNOWN: dict[tuple[str, str], Form] = {}  # by domain and name


def contrib(*names: str, attrs: str = "", inputs: int, outputs: int = 1, domain: str = MS,
            beyond: Sequence[str] = ()) -> Callable[[Entry], Entry]:
    """Register an entry that knows these attributes and so many operands and results; a node with others is refused.

    `beyond` names the operands behind those that are known, as their documentation does.

    These operators are not versioned: new options appear in them while the opset stays 1.
    """
    known = frozenset(attrs.split())

    def add(f: Entry) -> Entry:
        @wraps(f)
        def checked(b: Context, n: Node) -> Results:
            for name in n.attrs:
                if name not in known:
                    raise n.error(f"attribute {name}={n.attrs[name]!r} is not supported", _known("attributes", sorted(known)))
            for i in range(inputs, len(n.inputs)):
                if n.inputs[i] is not None:
                    name = beyond[i - inputs] if i - inputs < len(beyond) else repr(n.proto.input[i])
                    raise n.error(f"operand {i}, {name}, is not supported", f"The first {inputs} are")
            for i in range(outputs, n.outputs):
                if n.wants(i):
                    raise n.error(f"output {i} ({n.proto.output[i]!r}) is not supported", f"The first {outputs} are")
            return f(b, n)

        entry(*names, domain=domain)(checked)
        for name in names:
            KNOWN[domain, name] = Form(tuple(sorted(known)), inputs, outputs, f.__doc__ or "")
        return f

    return add


def _known(what: str, names: list[str]) -> str:
    return f"Known {what}: {', '.join(names)}" if names else f"It has no {what}"


def refuse(n: Node, *names: str) -> None:
    """Raise CaptureError where one of these attributes is set and not 0."""
    for name in names:
        if n.attr(name, 0):
            raise n.error(f"{name}={n.attr(name)!r} is not supported", f"Set {name}=0")


def replaced(n: Node, **operands: Value) -> Node:
    """The node with other operands, given as x0=..., x1=... by their index."""
    inputs = [operands.get(f"x{i}", v) for i, v in enumerate(n.inputs)]
    return Node(n.proto, n.domain, n.version, inputs, n.attrs, n.scope, n.place)


def channels_first(b: Context, x: Value) -> Value:
    """[N, ..., C] as [N, C, ...]."""
    rank = len(rank_of(x))
    return b.permuted(x, [0, rank - 1, *range(1, rank - 1)])


def channels_last(b: Context, x: Value) -> Value:
    """[N, C, ...] as [N, ..., C]."""
    rank = len(rank_of(x))
    return b.permuted(x, [0, *range(2, rank), 1])


# Quantisation of a whole tensor -------------------------------------------------------------------
def scalar(b: Context, n: Node, index: int) -> Value | None:
    """A scale or zero point that holds for the whole tensor, None where it is absent."""
    v = n.get(index)
    if v is None:
        return None
    if rank_of(v) not in ((), (1,)):
        raise n.error(f"operand {index} is {v.type}, but only one scale and zero point for the whole tensor are supported")
    return b.reshaped(v, ())


def scale_at(b: Context, n: Node, index: int) -> Value:
    """A scale that holds for the whole tensor, and must be there."""
    found = scalar(b, n, index)
    if found is None:
        raise n.error(f"operand {index}, a scale, is missing")
    return found


def real(b: Context, n: Node, index: int, scale: int | None = None) -> Value:
    """Operand `index` in f32; its scale and zero point are operands `scale` (default: the next) and the one after."""
    at = index + 1 if scale is None else scale
    return b.dequantize(n[index], scale_at(b, n, at), scalar(b, n, at + 1), axis=0, to=F32)


def stored(b: Context, n: Node, y: Value, scale: int, to: DType) -> Value:
    """`y` quantised by operands `scale` and the zero point after it."""
    return b.quantize(y, scale_at(b, n, scale), scalar(b, n, scale + 1), axis=0, to=to)


__all__ = ["KNOWN", "MS", "Form", "channels_first", "channels_last", "contrib", "real", "refuse", "replaced", "scalar",
           "scale_at", "stored"]
