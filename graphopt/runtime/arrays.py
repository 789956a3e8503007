"""Arrays of any library in and out: numpy, torch, or anything with DLPack, without copies where alignment allows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np


def to_numpy(x: Any) -> Any:
    """A numpy view of an array-like. torch's bf16 and f8 come through their bits; lists are sequences; None stays None."""
    if x is None or isinstance(x, np.ndarray):
        return x
    if isinstance(x, list):
        return [to_numpy(v) for v in x]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _from_torch(torch, x)
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        return np.from_dlpack(x)
    return np.asarray(x)


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
    """The library that results should be of: torch if any input is torch's, else another's DLPack, else numpy."""
    torch = sys.modules.get("torch")
    for x in given:
        if torch is not None and isinstance(x, torch.Tensor):
            return "torch"
    for x in given:
        if hasattr(x, "__array_namespace__") and not isinstance(x, (np.ndarray, np.generic)):
            return type(x).__module__.partition(".")[0]
    return "numpy"


def from_numpy(x: Any, kind: str, like: Sequence[Any]) -> Any:
    """A result as an array of the library `kind`; `like` are the inputs, for their namespace."""
    if x is None or kind == "numpy":
        return x
    if isinstance(x, list):
        return [from_numpy(v, kind, like) for v in x]
    if kind == "torch":
        return _to_torch(sys.modules["torch"], x)
    sample = next(v for v in like if hasattr(v, "__array_namespace__") and not isinstance(v, (np.ndarray, np.generic)))
    return sample.__array_namespace__().from_dlpack(x)
