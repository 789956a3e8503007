"""torch tensors as constants that share their memory."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from graphopt.errors import CaptureError
from graphopt.ir.graph import Tensor
from graphopt.ir.types import DTYPES, DType

# torch dtype -> our dtype. Quantized dtypes are missing on purpose: they are refused by name. Complex ones have PARTS.
TORCH_DTYPES: dict[torch.dtype, DType] = {
    torch.bool: DTYPES["bool"],
    torch.int8: DTYPES["i8"], torch.int16: DTYPES["i16"], torch.int32: DTYPES["i32"], torch.int64: DTYPES["i64"],
    torch.uint8: DTYPES["u8"], torch.uint16: DTYPES["u16"], torch.uint32: DTYPES["u32"], torch.uint64: DTYPES["u64"],
    torch.float16: DTYPES["f16"], torch.bfloat16: DTYPES["bf16"], torch.float32: DTYPES["f32"], torch.float64: DTYPES["f64"],
    torch.float8_e4m3fn: DTYPES["f8e4m3fn"], torch.float8_e4m3fnuz: DTYPES["f8e4m3fnuz"],
    torch.float8_e5m2: DTYPES["f8e5m2"], torch.float8_e5m2fnuz: DTYPES["f8e5m2fnuz"],
    torch.float8_e8m0fnu: DTYPES["f8e8m0"],
}
# Complex dtype -> that of the real and of the imaginary part.
PARTS: dict[torch.dtype, torch.dtype] = {torch.complex64: torch.float32, torch.complex128: torch.float64}
# numpy lacks these in torch's own conversion: viewed through an integer of the same width.
_THROUGH = {torch.bfloat16: (torch.int16, ml_dtypes.bfloat16)} | {
    t: (torch.uint8, TORCH_DTYPES[t].numpy.type)
    for t in (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu)
}


def array_of(t: torch.Tensor, where: str = "tensor") -> np.ndarray:
    """A numpy view of a dense CPU tensor (of a copy, where it is on another device). Raises CaptureError otherwise."""
    if t.dtype not in TORCH_DTYPES:
        raise CaptureError(f"dtype {t.dtype} is not supported", where=where)
    if t.device.type == "meta":
        raise CaptureError("it has no data (meta device)", where=where, hint="Materialise the model's weights first")
    if t.layout is not torch.strided:
        raise CaptureError(f"layout {t.layout} is not supported", where=where, hint="Convert it with .to_dense()")
    plain = t.detach().cpu().resolve_neg()
    if plain.dtype in _THROUGH:
        through, as_numpy = _THROUGH[plain.dtype]
        return plain.view(through).numpy().view(as_numpy)
    return plain.numpy()


class Weights:
    """Constants by the memory that they lie in, so that tied weights are one Tensor."""

    def __init__(self) -> None:
        self._of: dict[tuple[Any, ...], Tensor] = {}

    def tensor(self, t: torch.Tensor, name: str) -> Tensor:
        array = array_of(t, name)
        key = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype) if array.size else (name,)
        if key not in self._of:
            self._of[key] = Tensor(array, name)
        return self._of[key]


__all__ = ["PARTS", "TORCH_DTYPES", "Weights", "array_of"]
