"""Lines of random PyTorch modules: reductions, gathers, contractions and layers."""

from __future__ import annotations

import torch

from tests.generate.torch_draft import Skip, TorchDraft, proposal
from tests.generate.torch_lines import axes, axis


# Reductions
@proposal(3)
def reduce(d: TorchDraft) -> str:
    v = d.float(1)
    n = d[v].dim()
    a, many, keep = axis(d, n), axes(d, n), d.choice(("", ", keepdim=True"))
    most = d.integer(1, max(d[v].shape[a], 1))
    return d.one(
        d.choice(
            (
                f"{v}.sum({many}{keep})",
                f"{v}.mean({many}{keep})",
                f"{v}.amax({many}{keep})",
                f"{v}.amin({many}{keep})",
                f"{v}.sum()",
                f"{v}.mean()",
                f"{v}.max()",
                f"{v}.max({a}{keep}).values",
                f"{v}.min({a}{keep})[0]",
                f"{v}.argmax({a}{keep})",
                f"{v}.argmin({a}{keep})",
                f"{v}.prod({a}{keep})",
                f"{v}.std({many}{keep})",
                f"{v}.var({many}, unbiased=False{keep})",
                f"{v}.norm(dim={a}{keep})",
                f"{v}.norm(p=1, dim={a}{keep})",
                f"torch.logsumexp({v}, {many}{keep})",
                f"{v}.cumsum({a})",
                f"{v}.cumprod({a})",
                f"{v}.softmax({a})",
                f"{v}.log_softmax({a})",
                f"F.softmin({v}, {a})",
                f"F.normalize({v}, dim={a})",
                f"{v}.median({a}{keep}).values",
                f"{v}.sort({a}, descending={d.chance(0.5)}).values",
                f"{v}.argsort(dim={a}, stable=True)",
                f"{v}.topk({d.integer(1, max(d[v].shape[a], 1))}, {a}).values",
                f"{v}.topk({most if distinct(d[v], a) else 0}, {a}, largest=False).indices",
                f"torch.linalg.vector_norm({v}, 3, dim={a}{keep})",
                f"{v}.argmax()",
                f"torch.count_nonzero({v} > 0, {a})",
                f"torch.diff({v}, dim={a})",
                f"{v}.aminmax(dim={a}).max",
                f"{v}.kthvalue(1, {a}).values",
                f"{v}.nansum({a})",
                f"torch.nanmean({v}, {a})",
            )
        )
    )


def distinct(t: torch.Tensor, a: int) -> bool:
    """Are no two elements of a line equal? PyTorch leaves open which of them topk names."""
    ranked = t.sort(a).values
    return not bool((ranked.diff(dim=a) == 0).any() or t.isnan().any())


# Gathers
@proposal(1.5)
def gathers(d: TorchDraft) -> str:
    v = d.any(1, 4)
    t = d[v]
    a = axis(d, t.dim())
    n = t.shape[a]
    if not n or 0 in t.shape:
        raise Skip
    many = d.leaf(torch.int64, (), torch.randint(0, n, (d.integer(1, 4),), generator=d.numbers))
    full = f"torch.randint(0, {n}, {tuple(t.shape)})"
    del full
    like = d.leaf(torch.int64, (), torch.randint(0, n, tuple(t.shape), generator=d.numbers))
    rows = torch.randint(-t.shape[0], t.shape[0], (d.integer(1, 4),), generator=d.numbers)
    first = d.leaf(torch.int64, (), rows)
    along = [n if k == a % t.dim() else 1 for k in range(t.dim())]
    return d.one(
        d.choice(
            (
                f"{v}.index_select({a}, {many})",
                f"torch.gather({v}, {a}, {like})",
                f"torch.take_along_dim({v}, {like}, {a})",
                f"{v}[{first}]",
                f"{v}[..., {rows.clamp(min=0).tolist()[0] % t.shape[-1]}]",
                f"{v}[:, {first} % {t.shape[1]}]" if t.dim() > 1 else f"{v}[{first}]",
                f"{v}[{first}, {first} % {t.shape[1]}]" if t.dim() > 1 else f"{v}[{first}]",
                f"{v}[{first}[:, None], {first} % {t.shape[1]}]" if t.dim() > 1 else f"{v}[{first}[None]]",
                f"{v}[{rows.tolist()}]",
                f"torch.take({v}, {first} % {t.numel()})",
                f"{v}.scatter({a}, {like} * 0 + torch.arange({n}).view({along}), {v}.flip({a}))",
                f"{v}.scatter_add({a}, {like}, {v})",
                f"{v}.index_add({a}, {many}, {v}.index_select({a}, {many}))",
                f"{v}.scatter_reduce({a}, {like}, {v}, 'amax')",
                f"{v}[..., {v}.shape[-1] // 2:]",
                f"F.embedding({first} % {t.shape[0]}, {v})" if t.dim() == 2 else f"{v}[{first}]",
            )
        )
    )


# Contractions and layers
@proposal(2.5)
def product(d: TorchDraft) -> str:
    v = d.float(1, 4)
    t = d[v]
    k = t.shape[-1]
    w = d.pick(
        lambda w: w.is_floating_point() and w.dim() == 2 and w.shape[0] == k and w.dtype == t.dtype and w is not t,
        lambda: d.leaf(torch.float32, (k, d.integer(1, 7))),
        fresh=0.5,
    )
    choices = [
        f"{v} @ {w}",
        f"torch.matmul({v}, {w}) * 0.5",
        f"F.linear({v}, {w}.t())",
        f"torch.einsum('...i,ij->...j', {v}, {w})",
    ]
    if t.dim() == 2:
        choices += [
            f"torch.mm({v}, {w})",
            f"torch.addmm({w}[0], {v}, {w}, beta=0.5, alpha=2)",
            f"{v}.t() @ {v}",
            f"torch.outer({v}[0], {v}[-1])",
            f"torch.cdist({v}, {v} + 1)",
            f"torch.einsum('ij,kj->ik', {v}, {v})",
        ]
    if t.dim() == 3:
        choices += [
            f"torch.bmm({v}, {v}.transpose(1, 2))",
            f"{v} @ {v}.mT",
            f"torch.einsum('bij,bkj->bik', {v}, {v})",
            f"torch.baddbmm({v} @ {v}.mT, {v}, {v}.mT)",
            f"F.scaled_dot_product_attention({v}, {v} * 0.5, {v})",
        ]
    if t.dim() == 4:
        choices += [f"{v} @ {v}.mT", f"F.scaled_dot_product_attention({v}, {v}.flip(-1), {v}, is_causal={d.chance(0.5)})"]
    if not t.isfinite().all():  # eager's kernel loses some NaNs
        choices = [c for c in choices if "attention" not in c]
    if t.dim() == 1:
        choices += [f"torch.dot({v}, {v})", f"torch.outer({v}, {v})", f"{v} @ {v}"]
    return d.one(d.choice(choices))


@proposal(1.5)
def linear(d: TorchDraft) -> str:
    v = d.float(1, 4, lambda t: t.shape[-1] > 0)
    return d.one(f"{d.layer(f'nn.Linear({d[v].shape[-1]}, {d.integer(1, 9)}, bias={d.chance(0.7)})')}({v})")


def image(d: TorchDraft, n: int) -> str:
    return d.pick(
        lambda t: t.is_floating_point() and t.dim() == n + 2 and 0 not in t.shape,
        lambda: d.leaf(
            torch.float32,
            (
                d.integer(1, 2),
                d.choice((1, 2, 3, 4, 6, 8)),
                *(d.choice((1, 3, 5, 6, 8, 11) if n < 3 else (1, 2, 4, 5)) for _ in range(n)),
            ),
        ),
    )


@proposal(3)
def convolution(d: TorchDraft) -> str:
    n = d.choice((1, 2, 2, 2, 3))
    v = image(d, n)
    c = d[v].shape[1]
    g = 1 if d.chance(0.55) else d.choice([g for g in range(1, c + 1) if c % g == 0])
    m = g * d.choice((1, 1, 2, 3))
    k, s, dil = d.choice((1, 2, 3, 3, 5)), d.choice((1, 1, 2)), d.choice((1, 1, 1, 2))
    if d.chance(0.25):
        more = f"padding={d.integer(0, k // 2)}, output_padding={d.integer(0, s - 1)}"
        layer = d.layer(f"nn.ConvTranspose{n}d({c}, {m}, {k}, stride={s}, groups={g}, dilation={dil}, {more})")
        return d.one(f"{layer}({v})")
    padding = d.choice((0, k // 2, k // 2, d.integer(0, 2), "'same'" if s == 1 else 1))
    mode = d.choice(("zeros", "zeros", "zeros", "zeros", "reflect", "replicate", "circular"))
    more = f"padding={padding}, dilation={dil}, groups={g}, bias={d.chance(0.6)}, padding_mode={mode!r}"
    layer = d.layer(f"nn.Conv{n}d({c}, {m}, {k}, stride={s}, {more})")
    out = d.one(f"{layer}({v})")
    if d.chance(0.4):
        out = d.one(f"{d.layer(f'nn.BatchNorm{n}d({m})')}({out})")
    return d.one(f"F.{d.choice(('relu', 'silu', 'gelu', 'leaky_relu'))}({out})") if d.chance(0.4) else out


@proposal(1.8)
def pool(d: TorchDraft) -> str:
    n = d.choice((1, 2, 2, 2, 3))
    v = image(d, n)
    k, s = d.choice((1, 2, 3)), d.choice((1, 2, 3))
    p = d.integer(0, k // 2)
    return d.one(
        d.choice(
            (
                f"F.max_pool{n}d({v}, {k}, {s}, {p}, ceil_mode={d.chance(0.4)})",
                f"F.max_pool{n}d({v}, 2, 1, 1, dilation=2)",
                f"F.avg_pool{n}d({v}, {k}, {s}, {p}, ceil_mode={d.chance(0.4)}, count_include_pad={d.chance(0.5)})",
                f"F.adaptive_avg_pool{n}d({v}, {d.integer(1, 4)})",
                f"F.adaptive_max_pool{n}d({v}, {d.integer(1, 4)})",
                f"F.lp_pool{min(n, 2)}d({v}, 2, {k})" if n < 3 else f"{v}.mean((-1, -2))",
                f"F.avg_pool2d({v}, 2, divisor_override=3)" if n == 2 else f"{v}.amax(-1)",
            )
        )
    )


@proposal(2)
def interpolate(d: TorchDraft) -> str:
    n = d.choice((1, 2, 2, 2, 3))
    v = image(d, n)
    mode = d.choice(
        ("nearest", "nearest-exact", ("linear", "bilinear", "trilinear")[n - 1], *(("bicubic", "area") if n == 2 else ()))
    )
    if not mode.startswith("nearest") and not d[v].isfinite().all():
        raise Skip  # which elements a kernel of eager's multiplies by a weight of zero is its own affair
    corners = f", align_corners={d.chance(0.5)}" if "linear" in mode or mode == "bicubic" else ""
    if d.chance(0.2) and mode in ("bilinear", "bicubic"):
        corners += ", antialias=True"
    if "antialias" in corners and 1 in d[v].shape[2:]:
        raise Skip  # eager's rows are all alike where one is a single element wide
    if d.chance(0.5):
        sizes = tuple(d.integer(1 + ("antialias" in corners), 2 * m + 1) for m in d[v].shape[2:])
        return d.one(f"F.interpolate({v}, size={sizes}, mode={mode!r}{corners})")
    scale = (
        d.choice((2, 0.5, 1.5, 0.7, 1.4, 2.3, 3)) if d.chance(0.6) else tuple(d.choice((1.0, 2.0, 0.6, 1.3)) for _ in range(n))
    )
    if mode != "area" and "antialias" not in corners and d.chance(0.2):
        corners += ", recompute_scale_factor=True"
    return d.one(f"F.interpolate({v}, scale_factor={scale}, mode={mode!r}{corners})")


@proposal(2)
def norm(d: TorchDraft) -> str:
    kind = d.choice(("layer", "layer", "group", "batch", "instance", "rms", "functional"))
    if kind in ("layer", "rms", "functional"):
        v = d.float(1, 4, lambda t: 0 not in t.shape)
        n = d.integer(1, min(2, d[v].dim()))
        shape = list(d[v].shape[-n:])
        if kind == "functional":
            return d.one(f"F.layer_norm({v}, {shape}, eps=0.01)")
        return d.one(
            f"{d.layer(f'nn.LayerNorm({shape}, eps=0.01)' if kind == 'layer' else f'nn.RMSNorm({shape}, eps=0.01)')}({v})"
        )
    n = d.choice((1, 2, 2, 3))
    v = image(d, n)
    c = d[v].shape[1]
    g = d.choice([g for g in range(1, c + 1) if c % g == 0])
    layer = d.layer({"group": f"nn.GroupNorm({g}, {c}, eps=0.01)", "batch": f"nn.BatchNorm{n}d({c})",
                     "instance": f"nn.InstanceNorm{n}d({c}, affine=True, eps=0.01)"}[kind])
    return d.one(f"{layer}({v})")


@proposal(0.8)
def other_layers(d: TorchDraft) -> str:
    kind = d.choice(("shuffle", "unshuffle", "grid", "fold", "lstm", "gru", "embedding", "prelu", "glu", "lrn", "mha"))
    if kind in ("lstm", "gru", "mha"):
        v = d.float(3, 3, lambda t: 0 not in t.shape)
        c = d[v].shape[-1]
        if kind == "mha":
            return d.one(f"{d.layer(f'nn.MultiheadAttention({c}, 1, batch_first=True)')}({v}, {v}, {v}, need_weights=False)[0]")
        layer = d.layer(f"nn.{kind.upper()}({c}, {d.integer(1, 5)}, batch_first={d.chance(0.5)}, bidirectional={d.chance(0.3)})")
        return d.one(f"{layer}({v})[0]")
    if kind == "embedding":
        v = d.pick(lambda t: t.dtype == torch.int64 and t.dim() <= 3, lambda: d.leaf(torch.int64, d.shape(0, 2)))
        return d.one(f"{d.layer(f'nn.Embedding(7, {d.integer(1, 5)})')}({v}.clamp(0, 6))")
    if kind == "glu":
        v = d.float(1, 4, lambda t: t.shape[-1] % 2 == 0)
        return d.one(f"F.glu({v}, -1)")
    v = image(d, 2)
    c = d[v].shape[1]
    return d.one(
        {
            "shuffle": f"F.pixel_shuffle({v}, 2)",
            "unshuffle": f"F.pixel_unshuffle({v}, 2)",
            "grid": f"F.grid_sample({v}, {v}[:, :1].reshape({d[v].shape[0]}, -1, 1, 1).expand(-1, -1, 2, 2)"
            f".nan_to_num(0, 1, -1) * 0.4, "
            f"mode={d.choice(('bilinear', 'nearest'))!r}, padding_mode={d.choice(('zeros', 'border', 'reflection'))!r}, "
            f"align_corners={d.chance(0.5)})",
            "fold": f"F.unfold({v}, 2, dilation={d.integer(1, 2)}, padding={d.integer(0, 1)}, stride={d.integer(1, 2)})",
            "prelu": f"{d.layer(f'nn.PReLU({c})')}({v})",
            "lrn": f"F.local_response_norm({v}, 3)",
        }[kind]
    )
