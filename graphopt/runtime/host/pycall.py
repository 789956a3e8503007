"""Calls of a program without Python's interpreter: the builtin functions that native/pycall.c makes.

CPython only, and only where arrays are as C code knows them, which is tried on arrays before it is relied on. Elsewhere (and with
the libraries of artifacts that were saved before there was this) `Executable` runs programs by ctypes: the same, slower.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from graphopt.runtime.host.library import FAILED, Entry, Pointer, Runtime

Tensor = tuple[tuple[int, ...] | None, np.dtype | None]  # an input or output; None for what is not known before a call
Call = Callable[..., Any]

PYCALL = 1  # GRAPHOPT_PYCALL of pycall.c
_FUNCTIONS = ("PyCFunction_NewEx", "PyCapsule_New", "PyCapsule_GetPointer", "PyObject_Call", "PyObject_Vectorcall", "PyTuple_New",
              "PyTuple_SetItem", "Py_IncRef", "Py_DecRef", "PyEval_SaveThread", "PyEval_RestoreThread", "PyErr_Clear",
              "PyErr_NoMemory", "PyErr_SetObject")
_TWO_POINTERS = 16  # bytes of an object's head: a count and a type


def _struct(*names: str) -> type[ctypes.Structure]:
    """A struct of pointers and of integers as wide."""
    return type("Struct", (ctypes.Structure,), {"_fields_": [(n, Pointer) for n in names]})


_Program = _struct("tensor", "parameter", "read", "is_neg", "torch_empty", "numpy_empty", "failed", "held", "pool", "entry",
                   "weights", "inputs", "outputs", "arena")
_Tensor = _struct("dtype", "dims", "rank", "numpy_arguments", "torch_arguments", "torch_names", "code", "bits")


def never(*arrays: Any) -> None:
    """Takes no arrays: for programs that are not called this way."""


def caller(entry: Entry, weights: np.ndarray, arena: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor],
           torch: bool = False) -> Call:
    """`call(*arrays)`: the entry's results as new arrays, one or a tuple of them, for arrays of exactly these shapes and dtypes.

    They are numpy's, in C order and aligned; with `torch`, they may all be torch's instead (dense on the CPU, nothing lazy), and
    results are then too. For anything else the call gives None and has done nothing, and so does every call where this cannot
    be. Calls may overlap. MemoryError where there is none left; GraphOptError where compiled code fails.
    """
    runtime = entry.runtime
    unknown = any(shape is None or dtype is None or dtype.hasobject for shape, dtype in (*inputs, *outputs))
    if unknown or not _reads_arrays(runtime):
        return never
    return _create(runtime, entry.pool, entry.address, weights, arena, inputs, outputs, torch and _reads_tensors(runtime),
                   entry.code)


@cache
def _functions() -> ctypes.Array[Any] | None:
    """Addresses of what pycall.c calls; None where this Python has objects of another form."""
    if sys.implementation.name != "cpython" or object.__basicsize__ != _TWO_POINTERS:
        return None
    found = [ctypes.cast(getattr(ctypes.pythonapi, name), Pointer).value for name in _FUNCTIONS]
    return (Pointer * (len(found) + 3))(*found, id(None), id(True), id(np.ndarray))


@cache
def _creator(runtime: Runtime) -> Call | None:
    """graphopt_pycall_create, None where the library has none of this interface."""
    try:
        abi, create = runtime.library.graphopt_pycall_abi, runtime.library.graphopt_pycall_create
    except AttributeError:
        return None
    if abi() != PYCALL or _functions() is None:
        return None
    return ctypes.PYFUNCTYPE(ctypes.py_object, Pointer, Pointer, Pointer)(ctypes.cast(create, Pointer).value or 0)


def _create(runtime: Runtime, pool: Pointer | None, entry: Pointer, weights: np.ndarray, arena: int, inputs: Sequence[Tensor],
            outputs: Sequence[Tensor], torch: bool, code: Any = None) -> Call:
    create, held = _creator(runtime), [FAILED, np.empty, weights, code]
    assert create is not None

    def hold(x: Any) -> int:
        held.append(x)
        return id(x)

    described = (_Tensor * (len(inputs) + len(outputs)))()
    for k, (shape, dtype) in enumerate((*inputs, *outputs)):
        assert shape is not None and dtype is not None
        d: Any = described[k]
        dims = (ctypes.c_int64 * len(shape))(*shape)
        held.append(dims)
        d.dtype, d.dims, d.rank = hold(dtype), ctypes.addressof(dims), len(shape)
        lazy = k < len(inputs) and dtype.kind == "c"  # a tensor may lazily be the conjugate of what lies in memory
        made = _torch_type(dtype) if torch and not lazy else None
        if made is not None:
            kind, d.code, d.bits = made
        if k >= len(inputs):
            d.numpy_arguments = hold((shape, dtype))
            if made is not None:
                d.torch_arguments, d.torch_names = hold(shape or ((),)), hold({"dtype": kind, "device": _torch().device("cpu")})
    program: Any = _Program(numpy_empty=id(np.empty), failed=id(FAILED), held=id(held), pool=pool, entry=entry,
                            weights=weights.__array_interface__["data"][0], inputs=len(inputs), outputs=len(outputs), arena=arena)
    if torch and all(t.bits for t in described):
        t = _torch()
        program.tensor, program.parameter, program.read = id(t.Tensor), id(t.nn.Parameter), _exchange()
        program.is_neg, program.torch_empty = hold(t.Tensor.is_neg), hold(t.empty)
    return create(_functions(), ctypes.byref(program), described)


# Trying it --------------------------------------------------------------------------------------
@cache
def _reads_arrays(runtime: Runtime) -> bool:
    """Whether arrays are taken for what they are, and others are not."""
    if _creator(runtime) is None:
        return False
    for dtype in (np.float32, np.uint16, np.int64):
        x = np.zeros((3, 3), dtype)
        unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
        others = [x.T, x[:, ::-1], x[None], x[:2], x.astype(x.dtype.newbyteorder()), x.astype(np.int16), unaligned, None, "x"]
        if not _finds(runtime, x, x.dtype, x.__array_interface__["data"][0], others, False):
            return False
    return True


_reading_tensors: dict[Runtime, bool] = {}


def _reads_tensors(runtime: Runtime) -> bool:
    """Whether tensors are, too. They may be on other devices, or lazily be the negative of what lies in memory."""
    torch = _torch()
    if runtime not in _reading_tensors:
        x, one = torch.zeros((3, 3), dtype=torch.float32, device="cpu"), torch.zeros((1, 1), dtype=torch.float32, device="cpu")
        if type(x) is not torch.Tensor:  # one of torch's modes is on: not now
            return False
        n, negative = x.to(torch.int64), one.to(torch.complex64).conj().imag
        others = [x.t(), one.expand(3, 3), x[None], x[:2], x.to(torch.int16), x.to("meta"), x.to_sparse(), None, "x"]
        _reading_tensors[runtime] = _exchange() is not None and (
            _finds(runtime, x, np.dtype(np.float32), x.data_ptr(), others, True)
            and _finds(runtime, n, np.dtype(np.int64), n.data_ptr(), others, True)
            and _finds(runtime, one, np.dtype(np.float32), one.data_ptr(), [negative], True))
    return _reading_tensors[runtime]


def _finds(runtime: Runtime, x: Any, dtype: np.dtype, at: int, others: Sequence[Any], torch: bool) -> bool:
    """Whether a program for this array finds its memory there, and does not take the others."""
    where = ctypes.cast(runtime.library.graphopt_pycall_where, Pointer)
    call = _create(runtime, None, where, np.empty(0, np.uint8), 0, [(tuple(x.shape), dtype)], [((1,), np.dtype(np.int64))], torch)
    found = call(x)
    return found is not None and int(found[0]) == at and all(call(other) is None for other in others)


# torch ------------------------------------------------------------------------------------------
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}  # DLPack's, by numpy's kinds, and by the names of dtypes that are ml_dtypes'
_NARROW = {"bfloat16": 4, "float8_e4m3fn": 10, "float8_e4m3fnuz": 11, "float8_e5m2": 12, "float8_e5m2fnuz": 13}


def _torch() -> Any:
    return sys.modules["torch"]


def _torch_type(dtype: np.dtype) -> tuple[Any, int, int] | None:
    """torch's dtype with DLPack's code and bits; None where torch has none."""
    code = _NARROW.get(dtype.name, _CODES.get(dtype.kind))
    kind = getattr(_torch(), dtype.name, None)
    return None if kind is None or code is None else (kind, code, 8 * dtype.itemsize)


@cache
def _exchange() -> int | None:
    """What reads a tensor into a DLTensor, of DLPack's exchange interface; None where this torch has none that we know."""
    capsule = getattr(_torch().Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    at = ctypes.PYFUNCTYPE(Pointer, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
    table = _Exchange.from_address(at(capsule, b"dlpack_exchange_api"))
    return table.read if table.major == 1 else None


class _Exchange(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1.3."""

    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", Pointer), ("allocate", Pointer),
                ("take", Pointer), ("give", Pointer), ("read", Pointer), ("stream", Pointer)]


__all__ = ["Call", "Tensor", "caller", "never"]
