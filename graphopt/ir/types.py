"""Types of values: dtypes, layouts, tensors, sequences, optionals and maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.errors import IRError
from graphopt.ir.dims import Dim, DimLike, Shape, dim_symbols, is_static, product, substitute


@dataclass(frozen=True, eq=False)
class DType:
    """An element type. `kind` is one of bool, int, uint, float, str; `bits` its width in a packed tensor.

    One object exists per dtype, so identity is equality. numpy holds the narrow types one element a byte.
    """

    name: str
    kind: str
    bits: int
    numpy: np.dtype

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype, (self.name,)

    def __copy__(self) -> DType:
        return self

    def __deepcopy__(self, memo: object) -> DType:
        return self

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory."""
        return self.numpy.itemsize

    def holds(self, value: int) -> bool:
        """Is that whole number, exactly, one of this dtype?"""
        if self.is_integer:
            low = -(1 << self.bits - 1) if self.kind == "int" else 0
            return low <= value < low + (1 << self.bits)
        return value in (0, 1) if self.kind == "bool" else value == 0 or (self.is_float and float(np.asarray(
            value, np.float64).astype(self.numpy)) == value)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")


def _define(*rows: tuple[str, str, int, Any]) -> dict[str, DType]:
    return {name: DType(name, kind, bits, np.dtype(np_type)) for name, kind, bits, np_type in rows}


DTYPES: dict[str, DType] = _define(
    ("bool", "bool", 8, np.bool_),
    ("i2", "int", 2, ml_dtypes.int2),
    ("i4", "int", 4, ml_dtypes.int4),
    ("i8", "int", 8, np.int8),
    ("i16", "int", 16, np.int16),
    ("i32", "int", 32, np.int32),
    ("i64", "int", 64, np.int64),
    ("u2", "uint", 2, ml_dtypes.uint2),
    ("u4", "uint", 4, ml_dtypes.uint4),
    ("u8", "uint", 8, np.uint8),
    ("u16", "uint", 16, np.uint16),
    ("u32", "uint", 32, np.uint32),
    ("u64", "uint", 64, np.uint64),
    ("f4e2m1", "float", 4, ml_dtypes.float4_e2m1fn),
    ("f8e4m3fn", "float", 8, ml_dtypes.float8_e4m3fn),
    ("f8e4m3fnuz", "float", 8, ml_dtypes.float8_e4m3fnuz),
    ("f8e5m2", "float", 8, ml_dtypes.float8_e5m2),
    ("f8e5m2fnuz", "float", 8, ml_dtypes.float8_e5m2fnuz),
    ("f8e8m0", "float", 8, ml_dtypes.float8_e8m0fnu),
    ("f16", "float", 16, np.float16),
    ("bf16", "float", 16, ml_dtypes.bfloat16),
    ("f32", "float", 32, np.float32),
    ("f64", "float", 64, np.float64),
    ("str", "str", 64, np.object_),
)
_BY_NUMPY = {d.numpy: d for d in DTYPES.values()}


def dtype(of: str | DType | np.dtype | type) -> DType:
    """The DType of a graphopt name (`"f32"`), a numpy dtype, or itself."""
    if isinstance(of, DType):
        return of
    if isinstance(of, str) and of in DTYPES:
        return DTYPES[of]
    try:
        as_numpy = np.dtype(of)
    except TypeError:
        raise IRError(f"unknown dtype {of!r}", hint=f"Known: {', '.join(DTYPES)}") from None
    if as_numpy.kind in "US":
        return DTYPES["str"]
    found = _BY_NUMPY.get(as_numpy)
    if found is None:
        raise IRError(f"numpy dtype {as_numpy} has no counterpart", hint=f"Known: {', '.join(DTYPES)}")
    return found


BOOL, I8, I16, I32, I64 = (DTYPES[n] for n in ("bool", "i8", "i16", "i32", "i64"))
U8, U16, U32, U64 = (DTYPES[n] for n in ("u8", "u16", "u32", "u64"))
F16, BF16, F32, F64 = (DTYPES[n] for n in ("f16", "bf16", "f32", "f64"))
STR = DTYPES["str"]


AXES = {3: "NCW", 4: "NCHW", 5: "NCDHW"}  # names of the logical axes by rank


@dataclass(frozen=True)
class Layout:
    """How a value lies in memory; its logical shape is untouched.

    `order` names the logical axes (N, C, D, H, W by position) from outermost to innermost, as in `NHWC`.
    `halo` is the border kept in the buffer around the spatial axes, in elements, and `fill` the value of each of them, such as a
    zero point. `pitch` is how many elements the innermost axis takes in memory where the value is part of a larger one (0: as
    many as it has). In text `NHWC+1=128/64`, each part only where it is not 0.
    """

    order: str
    halo: int = 0
    pitch: int = 0
    fill: int = 0

    def __post_init__(self) -> None:
        if self.fill and not self.halo:
            raise IRError(f"a border of {self.fill} has no width", hint="Give the layout a halo, or no fill")

    def __str__(self) -> str:
        border = f"+{self.halo}" + (f"={self.fill}" if self.fill else "") if self.halo else ""
        return self.order + border + (f"/{self.pitch}" if self.pitch else "")

    def serves(self, border: int, value: int = 0) -> bool:
        """Can windows that reach so far beyond the image, and see `value` there, read it as it lies?"""
        return border <= 0 or (border <= self.halo and self.fill == value)

    def axes(self, rank: int) -> tuple[int, ...]:
        """Logical axes from outermost to innermost. Raises IRError where the order does not fit the rank."""
        names = AXES.get(rank, "")
        if sorted(names) != sorted(self.order) or not names:
            raise IRError(f"layout {self} does not name the axes of a tensor of rank {rank}", hint=f"Known: {AXES}")
        return tuple(names.index(a) for a in self.order)


def channels_last(rank: int, halo: int = 0, pitch: int = 0) -> Layout:
    """NWC, NHWC or NDHWC."""
    names = AXES[rank]
    return Layout(f"N{names[2:]}C", halo, pitch)


@dataclass(frozen=True)
class TensorType:
    """A tensor. `shape` is None where even the rank is unknown; `layout` is None for row-major."""

    dtype: DType
    shape: Shape | None
    layout: Layout | None = None

    def __str__(self) -> str:
        dims = "*" if self.shape is None else ", ".join(map(str, self.shape))
        return f"{self.dtype}[{dims}]" + (f"@{self.layout}" if self.layout else "")

    @property
    def rank(self) -> int:
        if self.shape is None:
            raise IRError(f"the rank of {self} is not known")
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return self.shape is not None and is_static(self.shape)

    @property
    def size(self) -> DimLike:
        """Number of elements."""
        if self.shape is None:
            raise IRError(f"the size of {self} is not known")
        return product(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        if self.shape is None or not is_static(self.shape):
            raise IRError(f"the shape of {self} is not static")
        return self.shape  # type: ignore[return-value]

    @property
    def nbytes(self) -> DimLike:
        return self.size * self.dtype.itemsize

    @property
    def storage_axes(self) -> tuple[int, ...]:
        """Logical axes in the order of memory, outermost first."""
        return tuple(range(self.rank)) if self.layout is None else self.layout.axes(self.rank)

    @property
    def storage(self) -> tuple[int, ...]:
        """Sizes in memory, outermost first: permuted, with halo and pitch. Static shapes only."""
        shape = self.static_shape
        if self.layout is None:
            return shape
        halo = self.layout.halo
        sizes = [shape[a] + (2 * halo if a >= 2 else 0) for a in self.storage_axes]
        if self.layout.pitch:
            sizes[-1] = self.layout.pitch
        return tuple(sizes)


@dataclass(frozen=True)
class SequenceType:
    """A list of values of one type, ONNX's sequence."""

    element: Type

    def __str__(self) -> str:
        return f"seq<{self.element}>"


@dataclass(frozen=True)
class OptionalType:
    """A value that may be absent, ONNX's optional."""

    element: Type

    def __str__(self) -> str:
        return f"opt<{self.element}>"


@dataclass(frozen=True)
class MapType:
    """Elements by keys, ONNX's map; a dict of Python's own keys and numbers when it runs."""

    key: DType
    element: Type

    def __str__(self) -> str:
        return f"map<{self.key}, {self.element}>"


Type = TensorType | SequenceType | OptionalType | MapType


def lies_channels_last(t: Type) -> bool:
    """Is that a tensor whose innermost axis in memory is the channels, as its layout says?"""
    return isinstance(t, TensorType) and t.layout is not None and t.layout.order.endswith("C")


def logical(t: Type) -> Type:
    """The type without its layout."""
    return replace(t, layout=None) if isinstance(t, TensorType) and t.layout is not None else t


def tensor(dtype_name: str | DType, *shape: DimLike | str) -> TensorType:
    """`tensor("f32", "N", 64)`: strings become symbols."""
    return TensorType(dtype(dtype_name), tuple(Dim.symbol(d) if isinstance(d, str) else d for d in shape))


def type_of(value: object) -> Type:
    """The type of a runtime value: an array, a list (sequence), a dict (map) or None (an absent optional)."""
    if isinstance(value, dict):
        key, element = next(iter(value.items()), (0, 0.0))
        held = STR if isinstance(element, str) else F32 if isinstance(element, float) else I64
        return MapType(STR if isinstance(key, str) else I64, TensorType(held, ()))
    if isinstance(value, list):
        return SequenceType(type_of(value[0]) if value else TensorType(F32, None))
    array = np.asarray(value)
    return TensorType(dtype(array.dtype), array.shape)


def substitute_type(t: Type, values: Mapping[str, DimLike]) -> Type:
    """The type with dimension symbols replaced."""
    if isinstance(t, TensorType):
        if t.shape is None or is_static(t.shape):
            return t
        return replace(t, shape=tuple(substitute(d, values) for d in t.shape))
    return replace(t, element=substitute_type(t.element, values))


def type_symbols(t: Type) -> set[str]:
    if not isinstance(t, TensorType):
        return type_symbols(t.element)
    return set().union(*(dim_symbols(d) for d in t.shape or ()))
