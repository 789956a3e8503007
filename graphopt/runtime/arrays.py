"""Arrays of any library in and out: numpy, torch, or anything with DLPack, without copies where alignment allows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.errors import InputError


def to_numpy(x: Any, where: str = "") -> Any:
    """A numpy view of an array-like. torch's bf16 and f8 come through their bits; lists are sequences; None stays None.

    Raises InputError, naming `where`, for an array that this process cannot read as dense memory.
    """
    if x is None or isinstance(x, (np.ndarray, dict)):  # maps hold Python's own numbers
        return x
    if isinstance(x, list):
        return [to_numpy(v, where) for v in x]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        if x.layout is not torch.strided or x.is_quantized or x.device.type == "meta":
            what = "quantized" if x.is_quantized else str(x.layout if x.layout is not torch.strided else "without data (meta)")
            raise InputError(f"a tensor that is {what.removeprefix('torch.')} cannot be read", where=f"input {where}",
                             hint="Give a dense tensor on the CPU")
        return _from_torch(torch, x)
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        return _from_dlpack(x, where)
    return np.asarray(x)


def _from_dlpack(x: Any, where: str) -> np.ndarray:
    """A view where numpy can have one, else what the array itself gives numpy (bf16, for example, which DLPack has and numpy
    lacks). What lies on another device is not fetched unasked."""
    kind = int(x.__dlpack_device__()[0])
    if kind not in _HOST:
        raise InputError(f"an array of type {type(x).__name__} on a device (DLPack's kind {kind}) cannot be read",
                         where=f"input {where}", hint="Move it to the CPU")
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError) as e:
        if hasattr(x, "__array__"):
            return np.asarray(x)
        raise InputError(f"an array of type {type(x).__name__} cannot be read: {e}", where=f"input {where}") from e


_HOST = (1, 3, 11, 13)  # DLPack's kDLCPU, kDLCUDAHost, kDLROCMHost, kDLCUDAManaged


# torch dtypes that numpy has no type for: (torch integer type of the same width, ml_dtypes name)
_BITS = {"bfloat16": ("int16", "bfloat16"), "float8_e4m3fn": ("uint8", "float8_e4m3fn"), "float8_e5m2": ("uint8", "float8_e5m2"),
         "float8_e4m3fnuz": ("uint8", "float8_e4m3fnuz"), "float8_e5m2fnuz": ("uint8", "float8_e5m2fnuz")}


def _from_torch(torch: Any, x: Any) -> np.ndarray:
    x = x.detach()
    if x.device.type != "cpu":
        x = x.cpu()
    name = str(x.dtype).removeprefix("torch.")
    if name in _BITS:
        import ml_dtypes

        bits, narrow = _BITS[name]
        return x.contiguous().view(getattr(torch, bits)).numpy().view(getattr(ml_dtypes, narrow))
    return x.resolve_conj().resolve_neg().numpy()


def _to_torch(torch: Any, x: np.ndarray) -> Any:
    name = x.dtype.name
    if name in _BITS:
        return torch.from_numpy(x.view(_BITS[name][0])).view(getattr(torch, name))
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def kind_of(given: Sequence[Any]) -> str:
    """The library that results should be of: torch if any input is torch's, else another's by the array API, else numpy.

    An array without a namespace of its own (all it has is DLPack) gets numpy's, which it can take back.
    """
    torch = sys.modules.get("torch")
    flat = list(_leaves(given))
    if torch is not None and any(isinstance(x, torch.Tensor) for x in flat):
        return "torch"
    return next((type(x).__module__.partition(".")[0] for x in flat if _has_namespace(x)), "numpy")


def _leaves(given: Sequence[Any]) -> Iterator[Any]:
    """The arrays among inputs, those in sequences too."""
    for x in given:
        if isinstance(x, list):
            yield from _leaves(x)
        else:
            yield x


def _has_namespace(x: Any) -> bool:
    return hasattr(x, "__array_namespace__") and not isinstance(x, (np.ndarray, np.generic))


def from_numpy(x: Any, kind: str, like: Sequence[Any]) -> Any:
    """A result as an array of the library `kind`; `like` are the inputs, for their namespace."""
    if x is None or kind == "numpy" or isinstance(x, dict):  # maps hold Python's own numbers
        return x
    if isinstance(x, list):
        return [from_numpy(v, kind, like) for v in x]
    if kind == "torch":
        return _to_torch(sys.modules["torch"], x)
    namespace = next(v for v in _leaves(like) if _has_namespace(v)).__array_namespace__()
    return namespace.from_dlpack(x) if x.dtype.type.__module__ == "numpy" else namespace.asarray(x)
