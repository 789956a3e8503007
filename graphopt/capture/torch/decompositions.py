"""What is taken apart before the table is asked: torch's own rules, and ours for operators for which torch has none.

A rule is a function of PyTorch operators, traced in place of the operator; what it calls is decomposed in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from graphopt.capture.torch.ops import ATEN  # noqa: F401  (fills the table)
from graphopt.capture.torch.table import has_entry

Rule = Callable[..., Any]
OWN: dict[str, Rule] = {}


def instead_of(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators given as `namespace.name.overload`."""

    def add(rule: Rule) -> Rule:
        for name in names:
            OWN[name] = rule
        return rule

    return add


@cache
def _all() -> dict[Any, Rule]:
    from torch._decomp import global_decomposition_table

    every: dict[Any, Rule] = {o: f for o, f in global_decomposition_table["post_autograd"].items()
                              if isinstance(o, torch._ops.OpOverload) and not o._schema.is_mutable}
    every.update(torch.export.default_decompositions().items())
    every.update(_foreach())
    return {o: f for o, f in every.items() if not has_entry(str(o))}


def _own() -> dict[Any, Rule]:
    """Our rules for operators that there are; some of torch's are registered when they are first used."""
    found = {}
    for name, rule in OWN.items():
        space, operator, overload = name.split(".")
        packet = getattr(getattr(torch.ops, space), operator, None)
        if packet is not None and overload in packet.overloads():
            found[getattr(packet, overload)] = rule
    return found


def decompositions() -> dict[Any, Rule]:
    """Rules for all operators that have no entry in the table; torch's tracers may change what they are given."""
    return _all() | _own()


# Lists of tensors -------------------------------------------------------------------------------
_PREFIX = "_foreach_"
# Where the operator for one tensor has another name.
_RENAMED = {"norm": "linalg_vector_norm", "zero": "zeros_like", "copy": "copy", "minimum.Scalar": "clamp_max",
            "minimum.ScalarList": "clamp_max", "maximum.Scalar": "clamp_min", "maximum.ScalarList": "clamp_min"}


def _foreach() -> dict[Any, Rule]:
    """`_foreach_f(xs, …)` is f of every tensor, with the elements of what else is a list."""
    out = {}
    registered = torch._C._dispatch_get_all_op_names()
    known = {n.split(".")[0].removeprefix("aten::") for n in registered if n.startswith(f"aten::{_PREFIX}")}
    for name in sorted(known):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            target = getattr(packet, overload)
            base = name.removeprefix(_PREFIX)
            single = getattr(torch.ops.aten, _RENAMED.get(f"{base}.{overload}", _RENAMED.get(base, base)), None)
            if single is not None and not target._schema.is_mutable:
                out[target] = _for_each(single, target)
    return out


def _for_each(single: Any, target: Any) -> Rule:
    kinds = {a.name: str(a.type) for a in target._schema.arguments}
    order = list(kinds)

    def rule(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(order, args)) | kwargs
        lists = {k for k in given if kinds[k].startswith("List[") and given[k] is not None}
        count = max(len(given[k]) for k in lists)
        if kinds.get("scalars") == "Tensor":  # one number each, in a tensor
            given["scalars"] = given["scalars"].unbind(0)
            lists.add("scalars")
        results = []
        for i in range(count):
            own = {k: v[i] if k in lists else v for k, v in given.items() if v is not None}
            if "scalars" in own and "tensor1" in own:
                own["value"] = own.pop("scalars")
            results.append(_one(single, own))
        return results

    return rule


def _one(single: Any, own: dict[str, Any]) -> Any:
    """One call, its named arguments by position as far as they are operands."""
    scale = own.get("value")
    if isinstance(scale, torch.Tensor):  # addcmul and addcdiv take a number only
        product = torch.mul if "addcmul" in str(single) else torch.div
        return own["self"] + scale * product(own["tensor1"], own["tensor2"])
    named = {k: own.pop(k) for k in ("alpha", "value", "dtype") if k in own}
    values = list(own.values())
    if str(single) in ("aten.clamp_max", "aten.clamp_min", "aten.copy"):
        return single(*values[:2])
    return single(*values, **named)


# nn.Transformer's fast path ---------------------------------------------------------------------
@instead_of("aten._native_multi_head_attention.default")
def _native_multi_head_attention(query: Any, key: Any, value: Any, embed_dim: int, num_head: int, qkv_weight: Any, qkv_bias: Any,
                                 proj_weight: Any, proj_bias: Any, mask: Any = None, need_weights: bool = True,
                                 average_attn_weights: bool = True, mask_type: int | None = None) -> Any:
    """Heads of softmax(q k^T / sqrt(d) + mask) v, and (if wanted) the weights. A mask is bool (true: not looked at) or added;
    mask_type 0 is [L, S], 1 [B, S], 2 [B, H, L, S]."""
    weights, biases = qkv_weight.chunk(3), qkv_bias.chunk(3)
    q, k, v = (F.linear(x, w, b).unflatten(-1, (num_head, -1)).transpose(1, 2)
               for x, w, b in zip((query, key, value), weights, biases))
    if mask is not None and mask_type == 1:
        mask = mask.reshape(mask.shape[0], 1, 1, mask.shape[1])
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -math.inf)
    if need_weights:
        scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-2, -1))
        shares = torch.softmax(scores if mask is None else scores + mask, -1)
        heads = torch.matmul(shares, v)
    else:
        heads = F.scaled_dot_product_attention(q, k, v, mask)
    out = F.linear(heads.transpose(1, 2).flatten(2), proj_weight, proj_bias)
    if not need_weights:
        return out, None
    return out, shares.mean(1) if average_attn_weights else shares


@instead_of("aten._transformer_encoder_layer_fwd.default")
def _transformer_encoder_layer(src: Any, embed_dim: int, num_heads: int, qkv_weight: Any, qkv_bias: Any, proj_weight: Any,
                               proj_bias: Any, use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Any, norm_bias_1: Any,
                               norm_weight_2: Any, norm_bias_2: Any, ffn_weight_1: Any, ffn_bias_1: Any, ffn_weight_2: Any,
                               ffn_bias_2: Any, mask: Any = None, mask_type: int | None = None) -> Any:
    """Attention and a network of two layers, each beside its input, with layer norms before (`norm_first`) or after."""
    size = (embed_dim,)

    def attend(x: Any) -> Any:
        return _native_multi_head_attention(x, x, x, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask,
                                            False, True, mask_type)[0]

    def feed(x: Any) -> Any:
        inner = F.linear(x, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(inner) if use_gelu else F.relu(inner), ffn_weight_2, ffn_bias_2)

    if norm_first:
        x = src + attend(F.layer_norm(src, size, norm_weight_1, norm_bias_1, eps))
        return x + feed(F.layer_norm(x, size, norm_weight_2, norm_bias_2, eps))
    x = F.layer_norm(src + attend(src), size, norm_weight_1, norm_bias_1, eps)
    return F.layer_norm(x + feed(x), size, norm_weight_2, norm_bias_2, eps)


# Losses by pieces of the batch -------------------------------------------------------------------
@instead_of("torch_nn._linear_cross_entropy_batch_chunked.default")
def _linear_cross_entropy(input: Any, linear_weight: Any, target: Any, linear_bias: Any, weight: Any, reduction: str,
                          ignore_index: int, label_smoothing: float, *rest: Any) -> Any:
    """The loss of a linear layer's scores, of all the batch at once; its gradients, which are not asked for, are empty."""
    loss = F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, weight, ignore_index=ignore_index,
                           reduction=reduction, label_smoothing=label_smoothing)
    return loss, input.new_zeros((0, 0)), input.new_zeros((0, 0)), input.new_zeros((0,))


@instead_of("torch_nn._linear_cross_entropy_batch_chunked_no_reduction.default")
def _linear_cross_entropies(input: Any, linear_weight: Any, target: Any, linear_bias: Any, weight: Any, ignore_index: int,
                            *rest: Any) -> Any:
    return F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, weight, ignore_index=ignore_index,
                           reduction="none")


__all__ = ["decompositions"]
