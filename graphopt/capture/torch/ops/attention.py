"""Scaled dot-product attention: one composite op of the IR, whatever kernel torch had in mind."""

from __future__ import annotations

import math
from typing import Any

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.ir.dims import product
from graphopt.ir.graph import Value
from graphopt.ir.table import broadcast_dims
from graphopt.ir.types import BOOL


@aten("aten.scaled_dot_product_attention.default", "aten._scaled_dot_product_flash_attention_for_cpu.default",
      "aten._scaled_dot_product_efficient_attention.default", "aten._scaled_dot_product_flash_attention.default",
      "aten._scaled_dot_product_attention_math.default")
def _(c: Context, query: Value, key: Value, value: Value, attn_mask: Value | None = None, attn_bias: Value | None = None,
      dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None) -> Any:
    if dropout_p:
        raise Refusal("dropout in training mode; call model.eval() first")
    width = query.shape[-1]
    if scale is None:
        if not isinstance(width, int):
            raise Refusal("a symbolic head width")
        scale = 1 / math.sqrt(width) if width else math.inf  # of heads without width: 0 * inf, so that all is NaN, as in torch
    mask = attn_mask if attn_mask is not None else attn_bias
    if mask is not None and mask.dtype is not BOOL:
        mask = c.cast(mask, query.dtype)
    if mask is not None and mask.rank < 2:
        mask = c.reshape(mask, (*[1] * (2 - mask.rank), *mask.shape))
    rank = max(v.rank for v in (query, key, value))
    if rank < 4:
        query, key, value = (_of_rank(c, v, 4) for v in (query, key, value))
        if mask is not None and mask.rank == 3:  # [B, S, L] beside q [B, S, D]: the batch became the heads
            mask = c.unsqueeze(mask, 0)
    elif rank > 4:
        lead = broadcast_dims([_of_rank(c, v, rank).shape[:-3] for v in (query, key, value)])
        query, key, value = (_of_rank(c, v, rank) for v in (query, key, value))
        if mask is not None:
            mask = _four(c, c.expand(mask, (*lead, *_of_rank(c, mask, 3).shape[-3:])))
        query, key, value = (_four(c, c.expand(v, (*lead, *v.shape[-3:]))) for v in (query, key, value))
    else:
        query, key, value = (_of_rank(c, v, 4) for v in (query, key, value))
    (batch,) = broadcast_dims([v.shape[:1] for v in (query, key, value)])
    query, key, value = (c.expand(v, (batch, *v.shape[1:])) for v in (query, key, value))
    out = c.b.attention(query, key, value, mask, scale=scale, causal=is_causal)
    out = c.reshape(out, c.shape)
    return (out,) if isinstance(c.val, (tuple, list)) else out


def _of_rank(c: Context, v: Value, rank: int) -> Value:
    """A value with axes of one in front."""
    return c.reshape(v, (*[1] * (rank - v.rank), *v.shape))


def _four(c: Context, v: Value) -> Value:
    """The leading axes of a value made one, so that it has four."""
    return c.reshape(v, (product(v.shape[:-3]), *v.shape[-3:]))
