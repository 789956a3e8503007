"""Lines of random PyTorch modules: views, slices, updates in place, arithmetic."""

from __future__ import annotations

import torch

from tests.generate.torch_draft import Skip, TorchDraft, proposal


def axis(d: TorchDraft, rank: int) -> int:
    if not rank:
        raise Skip
    return d.integer(-rank, rank - 1)


def axes(d: TorchDraft, rank: int) -> str:
    if not rank:
        raise Skip
    picked = d.random.sample(range(rank), d.integer(1, rank))
    return str(tuple(a - rank if d.chance(0.4) else a for a in picked))


def index(d: TorchDraft, shape: tuple[int, ...]) -> str:
    """A basic index: slices with any bounds, integers, None, an ellipsis."""
    parts: list[str] = []
    for n in shape[: d.integer(0, len(shape))]:
        p = d.random.random()
        if p < 0.3:
            parts.append(":")
        elif p < 0.45 and n:
            parts.append(str(d.integer(-n, n - 1)))
        elif p < 0.55:
            parts.append("None")
            parts.append(":")
        else:
            low = d.choice(("", str(d.integer(-n - 2, n + 1))))
            high = d.choice(("", str(d.integer(-n, n + 3))))
            parts.append(f"{low}:{high}" + d.choice(("", "", f":{d.integer(1, 3)}")))
    if len([p for p in parts if p != "None"]) < len(shape) and d.chance(0.4):
        parts.append("...")
        if d.chance(0.6):
            n = shape[-1]
            parts.append(d.choice((f"{-min(2, max(n, 1))}:", ":-1", "::2", "1:")))
    return ", ".join(parts) or "..."


# Views and movement
@proposal(3)
def basic_index(d: TorchDraft) -> str:
    v = d.any(1)
    return d.one(f"{v}[{index(d, tuple(d[v].shape))}]")


@proposal(2)
def permute(d: TorchDraft) -> str:
    v = d.any(1)
    n = d[v].dim()
    if d.chance(0.5):
        return d.one(f"{v}.transpose({axis(d, n)}, {axis(d, n)})")
    return d.one(f"{v}.permute({', '.join(map(str, d.random.sample(range(n), n)))})")


@proposal(2.5)
def reshape(d: TorchDraft) -> str:
    from tests.generate.onnx_movement import refactored

    v = d.any()
    dims = refactored(d, tuple(d[v].shape))  # type: ignore[arg-type]
    if dims and 0 not in dims and d.chance(0.4):
        dims[d.integer(0, len(dims) - 1)] = -1
    how = d.choice(("reshape", "reshape", "view"))
    return d.one(f"{v}.{how}({dims if dims else '()'})")


@proposal(1.5)
def other_views(d: TorchDraft) -> str:
    v = d.any(1)
    n = d[v].dim()
    shape = d[v].shape
    a = axis(d, n)
    size = shape[a]
    return d.one(
        d.choice(
            (
                f"{v}.unsqueeze({d.integer(-n - 1, n)})",
                f"{v}.squeeze()",
                f"{v}.squeeze({a})",
                f"{v}.flatten({d.integer(0, n - 1)})",
                f"{v}.flatten(0, {d.integer(0, n - 1)})",
                f"{v}.narrow({a}, {min(1, size)}, {max(size - 1, 0)})",
                f"{v}.select({a}, {d.integer(-size, size - 1) if size else 0})",
                f"{v}.unfold({a}, {min(2, size)}, {d.integer(1, 2)})",
                f"{v}.expand({', '.join(['3'] + ['-1'] * n)})",
                f"{v}.movedim({a}, {axis(d, n)})",
                f"{v}.contiguous()",
                f"{v}.clone()",
                f"{v}.diagonal(0, {a}, {axis(d, n)})",
                f"{v}.T" if n == 2 else f"{v}.mT",
                f"{v}.flip({axes(d, n)})",
                f"{v}.roll({d.integer(-4, 4)}, {a})",
                f"{v}.repeat({', '.join(str(d.choice((1, 1, 2))) for _ in range(n))})",
                f"{v}.repeat_interleave({d.integer(1, 3)}, {a})",
                f"{v}.unflatten({a}, ({size}, 1))",
                f"torch.rot90({v}, {d.integer(-1, 3)}, (0, {n - 1}))",
                f"torch.tril({v}, {d.integer(-2, 2)})",
                f"torch.triu({v}, {d.integer(-2, 2)})",
                f"{v}.ravel()",
                f"{v}.swapaxes({a}, 0)",
                f"torch.broadcast_to({v}, {(2, *shape)})",
                f"{v}.view_as({v})",
                f"{v}.tile((2, 1))",
                f"F.pad({v}, ({d.integer(-1, 2)}, {d.integer(-1, 2)}), value={d.number()})",
                f"torch.atleast_2d({v})",
            )
        )
    )


@proposal(1.2)
def parts(d: TorchDraft) -> list[str]:
    v = d.any(1)
    a = axis(d, d[v].dim())
    n = d[v].shape[a]
    how = d.choice(("split", "chunk", "unbind", "sizes", "tensor_split"))
    if how == "split":
        s = d.integer(1, max(n, 1))
        count = max(-(-n // s), 1)
        code = f"{v}.split({s}, {a})"
    elif how == "chunk":
        k = d.integer(1, 3)
        count = len(d[v].chunk(k, a))
        code = f"{v}.chunk({k}, {a})"
    elif how == "tensor_split":
        count = d.integer(1, 3)
        code = f"{v}.tensor_split({count}, {a})"
    elif how == "sizes":
        cut = d.integer(0, n)
        count, code = 2, f"torch.split({v}, [{cut}, {n - cut}], {a})"
    else:
        count, code = n, f"{v}.unbind({a})"
    if not 1 <= count <= 5:
        raise Skip
    if count == 1:
        return d.line(f"{code}[0]")
    made = d.line(code, results=count)
    if d.chance(0.5):
        d.random.shuffle(made)
        d.one(f"torch.cat([{', '.join(made)}], {a})" if how != "unbind" else f"torch.stack([{', '.join(made)}], {a})")
    return made


@proposal(1.8)
def cat(d: TorchDraft) -> str:
    v = d.any(1)
    a = axis(d, d[v].dim())
    t = d[v]
    others = []
    for _ in range(d.integer(1, 2)):
        shape = list(t.shape)
        shape[a] = d.size()
        others.append(
            d.pick(
                lambda w: (
                    w.dtype == t.dtype
                    and w.dim() == t.dim()
                    and all(m == n or k == a % t.dim() for k, (m, n) in enumerate(zip(w.shape, t.shape)))
                ),
                lambda shape=shape: d.leaf(t.dtype, shape),
                fresh=0.4,
            )
        )
    made = [v, *others]
    d.random.shuffle(made)
    out = d.one(f"torch.cat([{', '.join(made)}], {a})")
    if d.chance(0.4):
        n = d[out].shape[a]
        out = d.one(f"{out}.narrow({a}, {(low := d.integer(0, n))}, {d.integer(0, n - low)})")
    return out


@proposal(0.7)
def stack(d: TorchDraft) -> str:
    v = d.any(0, 3)
    w = d.pick(lambda w: w.shape == d[v].shape and w.dtype == d[v].dtype)
    return d.one(f"torch.stack([{v}, {w}], {d.integer(-d[v].dim() - 1, d[v].dim())})")


@proposal(1)
def pad(d: TorchDraft) -> str:
    mode = d.choice(("reflect", "replicate", "circular", "constant"))
    v = d.float(3, 4, lambda t: 0 not in t.shape)
    n = d[v].dim() - 2
    sizes = d[v].shape[2:][::-1]
    if 0 in d[v].shape:
        raise Skip
    most = lambda s: min(2, s - 1) if mode == "reflect" else min(2, s)
    return d.one(f"F.pad({v}, ({', '.join(str(d.integer(0, most(s))) for s in sizes[:n] for _ in 'ab')}), mode={mode!r})")


# In place
def owned(d: TorchDraft, low: int = 0) -> str:
    """A float variable that may be changed: no view of an input, and not expanded."""
    v = d.float(low)
    storages = {d[n].untyped_storage().data_ptr() for n in d.inputs}
    overlapping = any(s == 0 and n > 1 for s, n in zip(d[v].stride(), d[v].shape))
    return d.one(f"{v}.clone()") if d[v].untyped_storage().data_ptr() in storages or overlapping or v in d.inputs else v


@proposal(3)
def update_in_place(d: TorchDraft) -> None:
    v = owned(d)
    view = v
    if d[v].dim() and d.chance(0.6):
        view = d.one(f"{v}[{index(d, tuple(d[v].shape))}]") if d.chance(0.5) else f"{v}[{index(d, tuple(d[v].shape))}]"
    if view == v or d.chance(0.4):
        if "[" in view:
            raise Skip
        code = d.choice(
            (
                f"{view}.add_({d.number()})",
                f"{view}.mul_({d.number()})",
                f"{view}.relu_()",
                f"{view}.neg_()",
                f"{view}.tanh_()",
                f"{view}.clamp_(-1, 1.5)",
                f"{view}.zero_()",
                f"{view}.fill_({d.number()})",
                f"{view}.sigmoid_()",
                f"{view}.copy_({view}.flip(0))" if d[view].dim() else f"{view}.exp_()",
                f"{view}.masked_fill_({view} > 0.3, {d.number()})",
                f"{view}.sub_({view}.mean())",
                f"F.relu({view}, inplace=True)",
            )
        )
    elif "[" in view:
        code = d.choice(
            (
                f"{view} = {d.number()}",
                f"{view} += {d.number()}",
                f"{view} *= {d.number()}",
                f"{view} = {view}.exp()",
                f"{view} = {v}.mean()",
            )
        )
    else:
        code = f"{view}.add_({d.number()})"
    d.line(code, results=0, in_place=v)


@proposal(0.8)
def index_put(d: TorchDraft) -> None:
    v = owned(d, 1)
    n = d[v].shape[0]
    if not n:
        raise Skip
    rows = d.random.sample(range(n), d.integer(1, min(n, 3)))
    code = d.choice(
        (
            f"{v}[{rows}] = {d.number()}",
            f"{v}[{v} > 0.2] = {d.number()}",
            f"{v}[torch.tensor({rows})] += 1",
            f"{v}.index_add_(0, torch.tensor({rows}), {v}[:{len(rows)}].clone())",
            f"{v}.index_fill_(0, torch.tensor({rows}), 2.0)",
            f"{v}.index_copy_(0, torch.tensor({rows}), {v}[:{len(rows)}].clone())",
        )
    )
    d.line(code, results=0, in_place=v)


# Arithmetic
UNARY = (
    "relu",
    "sigmoid",
    "tanh",
    "exp",
    "abs",
    "neg",
    "sin",
    "cos",
    "erf",
    "square",
    "atan",
    "expm1",
    "rsqrt",
    "sqrt",
    "log",
    "log1p",
    "reciprocal",
    "asinh",
    "sinh",
    "cosh",
    "tan",
    "exp2",
    "erfc",
    "sign",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "isnan",
    "isfinite",
    "logical_not",
)
FUNCTIONAL = (
    "gelu",
    "silu",
    "elu",
    "selu",
    "softplus",
    "leaky_relu",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "mish",
    "relu6",
    "celu",
    "logsigmoid",
    "softsign",
    "tanhshrink",
    "softshrink",
    "hardshrink",
)


@proposal(2.5)
def unary(d: TorchDraft) -> str:
    v = d.float()
    return d.one(f"torch.{d.choice(UNARY)}({v})" if d.chance(0.55) else f"F.{d.choice(FUNCTIONAL)}({v})")


def other(d: TorchDraft, v: str) -> str:
    """A variable that broadcasts with v."""
    t = d[v]

    def fits(w: torch.Tensor) -> bool:
        try:
            shape = torch.broadcast_shapes(w.shape, t.shape)
        except RuntimeError:
            return False
        return w.dtype == t.dtype and w is not t and torch.Size(shape).numel() <= 4096

    return d.pick(
        fits,
        lambda: d.leaf(
            t.dtype, tuple(1 if d.chance(0.3) else n for n in t.shape)[d.integer(0, t.dim()) if d.chance(0.4) else 0 :]
        ),
    )


@proposal(4)
def binary(d: TorchDraft) -> str:
    v = d.float()
    w = other(d, v) if d.chance(0.7) else d.number()
    a, b = (v, w) if d.chance(0.7) else (w, v)
    if not w.startswith(("v", "x")):
        return d.one(f"{a} {d.choice(('+', '-', '*', '/'))} {b}")
    return d.one(
        d.choice(
            (
                f"{a} + {b}",
                f"{a} - {b}",
                f"{a} * {b}",
                f"{a} * {b} + {a}",
                f"{a} / ({b}.abs() + 0.5)",
                f"torch.maximum({a}, {b})",
                f"torch.minimum({a}, {b})",
                f"torch.atan2({a}, {b})",
                f"torch.hypot({a}, {b})",
                f"torch.where({a} > {b}, {a}, {b} * 2)",
                f"torch.lerp({a}, {b}, 0.3)",
                f"torch.add({a}, {b}, alpha=0.5)",
                f"torch.sub({a}, {b}, alpha=2)",
                f"torch.addcmul({a}, {a}, {b}, value=0.5)",
                f"torch.fmod({a}, {b}.abs() + 1)",
                f"torch.remainder({a}, {b}.abs() + 1)",
                f"{a}.abs().pow(1.5)",
                f"torch.logaddexp({a}, {b})",
                f"torch.fmax({a}, {b})",
                f"torch.xlogy({a}, {b}.abs() + 1)",
                f"torch.clamp({a}, min={b})",
                f"torch.floor_divide({a}, {b}.abs() + 1)",
                f"torch.addcdiv({a}, {a}, {b}.abs() + 1)",
                f"{a}.pow(2)",
                f"torch.heaviside({a}, {b})",
            )
        )
    )


@proposal(0.8)
def integers(d: TorchDraft) -> str:
    v = d.pick(lambda t: t.dtype in (torch.int64, torch.int32), lambda: d.leaf(d.choice((torch.int64, torch.int32)), d.shape()))
    k = d.integer(1, 4)
    return d.one(
        d.choice(
            (
                f"{v} + {k}",
                f"{v} * {k}",
                f"{v} // {k}",
                f"{v} % {k}",
                f"{v} & {k}",
                f"{v} | 1",
                f"{v} ^ 3",
                f"{v} << 1",
                f"{v} >> 1",
                f"{v} / {k}",
                f"~{v}",
                f"{v}.clamp(-2, 3)",
                f"{v}.abs()",
                f"{v}.sum()",
                f"{v} > {k}",
                f"{v}.to(FT)",
                f"{v}.float().mean()" if False else f"{v}.max()",
                f"{v}.sign()",
                f"torch.div({v}, {k}, rounding_mode='trunc')",
                f"torch.div({v}, {k}, rounding_mode='floor')",
                f"torch.fmod({v}, {k})",
                f"{v}.bool()",
                f"{v} == {k}",
                f"F.one_hot({v}.clamp(0, 4), 6)",
                f"{v}.prod()" if d[v].numel() < 6 else f"{v}.min()",
                f"{v}.cumsum(0)" if d[v].dim() else f"-{v}",
            )
        )
    )


@proposal(1)
def comparison(d: TorchDraft) -> str:
    v = d.float()
    return d.one(f"{v} {d.choice(('>', '<', '>=', '<=', '==', '!='))} {other(d, v) if d.chance(0.5) else d.number()}")


@proposal(0.7)
def logic(d: TorchDraft) -> str:
    v = d.pick(lambda t: t.dtype == torch.bool, lambda: d.leaf(torch.bool, d.shape()))
    w = other(d, v)
    n = d[v].dim()
    return d.one(
        d.choice(
            (
                f"{v} & {w}",
                f"{v} | {w}",
                f"{v} ^ {w}",
                f"~{v}",
                f"{v}.any()",
                f"{v}.all()",
                f"{v}.sum()",
                f"{v}.to(FT)",
                f"{v}.long()",
                f"{v}.any({axis(d, n)})" if n else f"~{v}",
                f"{v} * 2.5",
                f"{v}.int() + 1",
            )
        )
    )


@proposal(1)
def masked(d: TorchDraft) -> str:
    v = d.float()
    return d.one(
        d.choice(
            (
                f"{v}.masked_fill({v} > 0.4, {d.number()})",
                f"torch.where({v} > 0, {v}, 0.1 * {v})",
                f"{v}.clamp(-0.5, 1)",
                f"{v}.clamp(min=0.2)",
                f"torch.nan_to_num({v})",
                f"{v}.to(torch.int64)",
                f"{v}.to(torch.int32).to(FT)",
                f"{v} * ({v} > 0)",
                f"{v}.half().to(FT)",
                f"torch.where(torch.isnan({v}), torch.zeros_like({v}), {v})",
                f"torch.full_like({v}, 0.5) + {v}",
                f"torch.zeros_like({v})",
                f"torch.ones_like({v}, dtype=torch.int64)",
                f"{v}.new_full((2, 3), 1.25)",
                f"torch.arange({d.integer(0, 6)}) * 2",
                f"torch.linspace(-1, 1, {d.integer(1, 6)})",
                f"torch.eye({d.integer(1, 4)}, {d.integer(1, 4)})",
            )
        )
    )
