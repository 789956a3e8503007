"""Operators that few models use, with NaN, infinities and nothing, against eager PyTorch; and through every way in."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import fx, nn

import graphopt
from tests.capture.torch_check import Of, capture, check, each, ops, run, same

NAN, INF = float("nan"), float("inf")
X = torch.tensor([[1.0, NAN, 3, 2], [NAN, NAN, NAN, 1], [INF, -INF, 0, -0.0], [4, 4, 1, 4]])
Y = torch.tensor([[-1.0, 1, -0.0, INF], [0, -NAN, 2, -2], [1, -1, -0.0, 5], [3, 5, 1, NAN]])
torch.manual_seed(0)


POINTWISE = {
    "copysign": torch.copysign, "copysign of a number": lambda x, y: torch.copysign(x, -1.0), "nextafter": torch.nextafter,
    "lgamma": lambda x, y: torch.lgamma(x), "digamma": lambda x, y: torch.digamma(x), "frexp": lambda x, y: torch.frexp(x),
    "ldexp": lambda x, y: torch.ldexp(x, torch.tensor(3)), "signbit": lambda x, y: torch.signbit(x),
    "round": lambda x, y: torch.round(x * 1.2345, decimals=2), "angle": lambda x, y: torch.angle(x),
    "polygamma": lambda x, y: torch.polygamma(2, x.nan_to_num(1, 9, 9).abs() + 1),
    "igamma": lambda x, y: torch.igamma(x.nan_to_num(2, INF, 0), y),
    "double": lambda x, y: torch.nextafter(x.double(), y.double()), "half": lambda x, y: torch.copysign(x.half(), y.half()),
    "subnormal": lambda x, y: (torch.nextafter(x * 0, y), torch.frexp(x.nan_to_num(1, 1, 1) * 1e-42)),
    "mvlgamma": lambda x, y: torch.mvlgamma(x.nan_to_num(3, 3, 3).abs() + 2, 3), "erfc": lambda x, y: torch.erfc(x),
    "gcd": lambda x, y: torch.gcd((x.nan_to_num(0, 9, 9) * 6).int(), (y.nan_to_num(0, 9, 9) * 4).int()),
    "lcm": lambda x, y: torch.lcm((x.nan_to_num(0, 9, 9) * 6).int(), (y.nan_to_num(0, 9, 9) * 4).int()),
}
REDUCTIONS = {
    "median": lambda x, y: (torch.median(x), torch.median(y, 1).values),
    "nanmedian": lambda x, y: (torch.nanmedian(x), torch.nanmedian(x, 0).values),
    "median of nothing": lambda x, y: (torch.median(x[:0]), torch.nanmedian(x[:0])),
    "median of integers": lambda x, y: torch.median(y.nan_to_num(0, 3, 3).int(), 0).values,
    "cummax": lambda x, y: (torch.cummax(x, 1), torch.cummax(x > 2, 0), torch.cummax(x[:0], 0)),
    "cummin": lambda x, y: (torch.cummin(x, 0), torch.cummin(x[:, :1], 1), torch.cummin(y.nan_to_num().long(), 1)),
    "logcumsumexp": lambda x, y: torch.logcumsumexp(x, 1), "mode": lambda x, y: torch.mode(x[3:], 1),
    "histc": lambda x, y: (torch.histc(y[2], 4), torch.histc(y[2], 3, -1, 1), torch.histc(y[2, :1], 3)),
    "histogram": lambda x, y: (torch.histogram(y[2], 4), torch.histogram(y[2, :1], 2), torch.histogram(
        y[2], torch.tensor([-1.0, 0, 0.5, 2]), weight=y[2], density=True)),
}
MOVEMENT = {
    "diagonal_scatter": lambda x, y: torch.diagonal_scatter(x, y[0, :3], 1),
    "as_strided_scatter": lambda x, y: torch.as_strided_scatter(x, y[:2, :2], (2, 2), (1, 5), 2),
    "repeat_interleave": lambda x, y: torch.repeat_interleave(x, torch.tensor([2, 0, 1, 3]), 0, output_size=6),
    "searchsorted": lambda x, y: torch.searchsorted(torch.tensor([[0.0, 1, 2], [1, 1, NAN]]), x[:2], right=True),
    "replicate beyond what is left": lambda x, y: nn.functional.pad(x[None], (-4, 5), mode="replicate"),
    "nonzero_static": lambda x, y: torch.nonzero_static(x > 1, size=3),
    "put": lambda x, y: torch.put(x, torch.tensor([1, -1]), y[0, :2]),
    "gather of nothing": lambda x, y: torch.gather(x, 0, torch.zeros((0, 2), dtype=torch.int64)),
}


def scatters() -> dict:
    index, rows = torch.tensor([[0, 1, 1, 0], [2, 2, 2, 3]]), torch.tensor([0, 3, 3])
    out = {}
    for how, own in itertools.product(("sum", "prod", "mean", "amax", "amin"), (True, False)):
        out[f"scatter {how} {own}"] = lambda x, y, how=how, own=own: (
            torch.scatter_reduce(x, 0, index, y[:2], how, include_self=own),
            torch.scatter_reduce((y.nan_to_num(0, 5, 5) * 3).int(), 1, index, (y[2:].nan_to_num(0, 3, 3) * 5).int(), how,
                                 include_self=own))
        if how != "sum":
            out[f"index {how} {own}"] = lambda x, y, how=how, own=own: (
                torch.index_reduce(x, 0, rows, y[:3], how, include_self=own),
                torch.index_reduce((y.nan_to_num(0, 5, 5) * 3).int(), 1, rows, (y[:, 1:].nan_to_num(0, 3, 3) * 5).int(), how,
                                   include_self=own))
    return out


@pytest.mark.parametrize("family", [POINTWISE, REDUCTIONS, MOVEMENT, scatters()],
                         ids=["pointwise", "reductions", "movement", "scatters"])
def test_as_eager_does(family: dict) -> None:
    check(each(family), X, Y)


def test_compiled_as_eager_does() -> None:
    functions = POINTWISE | REDUCTIONS | MOVEMENT | {k: v for k, v in scatters().items() if "mean" in k}
    model = Of(each(functions))
    compiled = graphopt.compile(model, (X, Y))
    assert not compiled.host_ops
    torch.testing.assert_close(compiled(X, Y), model(X, Y), rtol=1e-4, atol=1e-5, equal_nan=True)


def test_repeats_that_come_from_the_data_run_on_the_evaluator() -> None:
    counts = torch.tensor([2, 0, 1, 3])
    graph = check(lambda x, n: torch.repeat_interleave(x, n, 0), X.nan_to_num(), counts)
    assert "repeats" in ops(graph)
    assert "repeats" not in ops(check(lambda x, n: torch.repeat_interleave(x, n, 0, output_size=6), X.nan_to_num(), counts))
    check(lambda n: torch.bincount(n, minlength=2), counts)


def test_lists_of_tensors() -> None:
    a, b, c = (torch.rand(3, 4) + 0.5 for _ in range(3))
    check(each({
        "add": lambda *x: torch._foreach_add(x[:2], x[1:], alpha=2), "number": lambda *x: torch._foreach_add(x, 1.5),
        "numbers": lambda *x: torch._foreach_sub(x, [1.0, 2.0, 3.0]), "tensor": lambda *x: torch._foreach_mul(x, x[0][0, 0]),
        "pow": lambda *x: torch._foreach_pow(2.0, x), "norm": lambda *x: torch._foreach_norm(x, 1),
        "exp": lambda *x: torch._foreach_exp(x),
        "lerp": lambda *x: torch._foreach_lerp(x[:2], x[1:], 0.3), "max": lambda *x: torch._foreach_max(x),
        "addcmul": lambda *x: torch._foreach_addcmul(x[:2], x[1:], x[:2], [2.0, 3.0]),
        "addcdiv": lambda *x: torch._foreach_addcdiv(x[:2], x[1:], x[:2], value=2.0),
        "clamp": lambda *x: torch._foreach_clamp_max(x, 0.9), "minimum": lambda *x: torch._foreach_minimum(x[:2], x[1:]),
        "lgamma": lambda *x: torch._foreach_lgamma(x),
    }), a, b, c)

    def in_place(x, y):
        held = [x.clone(), y.clone()]
        torch._foreach_add_(held, [y, x])
        torch._foreach_zero_(held[:1])
        return held

    check(in_place, a, b)


@pytest.mark.parametrize("norm_first, activation", [(False, "relu"), (True, "gelu")])
def test_the_fast_path_of_a_transformer(norm_first: bool, activation: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first, activation=activation).eval()
    attention, x = layer.self_attn, torch.randn(2, 5, 8)
    masks = {None: None, 0: torch.triu(torch.ones(5, 5), 1).bool(), 1: torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]).bool()}

    class Fast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x):
            norms = layer.norm1, layer.norm2
            out = [torch._transformer_encoder_layer_fwd(
                x, 8, 2, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias,
                activation == "gelu", norm_first, 1e-5, *(p for n in norms for p in (n.weight, n.bias)), layer.linear1.weight,
                layer.linear1.bias, layer.linear2.weight, layer.linear2.bias, mask, kind) for kind, mask in masks.items()]
            return out, torch._native_multi_head_attention(
                x, x, x, 8, 2, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight,
                attention.out_proj.bias)

    check(Fast(), x, tolerance=2e-5)


@pytest.mark.parametrize("layers, both, first, bias", [(1, False, False, True), (2, True, True, True), (1, True, False, False)])
def test_an_lstm_with_a_projection(layers: int, both: bool, first: bool, bias: bool) -> None:
    lstm = nn.LSTM(5, 7, layers, bidirectional=both, batch_first=first, bias=bias, proj_size=3).eval()
    x, places = torch.randn(4, 2, 5), layers * (2 if both else 1)
    batch = 4 if first else 2

    class With(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = lstm

        def forward(self, x, h, c):
            return self.lstm(x, (h, c)), self.lstm(x)

    given = x, torch.randn(places, batch, 3), torch.randn(places, batch, 7)
    check(With(), *given)
    if layers == 2:
        compiled = graphopt.compile(With(), given)
        assert not compiled.host_ops
        torch.testing.assert_close(compiled(*given), With()(*given), rtol=1e-4, atol=1e-5)


def test_systems_of_equations() -> None:
    a, b = torch.randn(2, 4, 4), torch.randn(2, 4, 3)
    p = a @ a.mT + torch.eye(4)
    L = torch.linalg
    check(each({
        "cholesky": lambda a, p, b: (L.cholesky(p), L.cholesky(p, upper=True), L.cholesky_ex(p - 6 * torch.eye(4)).info),
        "by it": lambda a, p, b: (torch.cholesky_inverse(L.cholesky(p)), torch.cholesky_solve(b, L.cholesky(p))),
        "inv": lambda a, p, b: (L.inv(p), L.inv_ex(a * 0).info, L.inv(p[:0])), 
        "solve": lambda a, p, b: (L.solve(p, b), L.solve(p, b[..., 0])),
        "right": lambda a, p, b: L.solve(p, b.mT, left=False), "det": lambda a, p, b: (L.det(a), L.slogdet(a), L.slogdet(a * 0)),
        "triangular": lambda a, p, b: (L.solve_triangular(p, b, upper=True), torch.triangular_solve(b, p, transpose=True)),
        "exp": lambda a, p, b: torch.matrix_exp(a), "power": lambda a, p, b: L.matrix_power(p, -2),
    }), a, p, b, tolerance=1e-3)


def test_antialiasing_between_corners() -> None:
    x = torch.randn(1, 2, 7, 9)
    check(each({f"{mode} {size}": lambda x, mode=mode, size=size: nn.functional.interpolate(
        x, size, mode=mode, antialias=True, align_corners=True) for mode in ("bilinear", "bicubic")
        for size in ((3, 4), (1, 5), (7, 9), (14, 2))}), x)


class Mixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cummax(torch.lgamma(x.abs() + 1), 1).values + torch.copysign(x, x.flip(0))


def test_every_way_in() -> None:
    x = torch.randn(3, 5)
    traced = fx.symbolic_trace(Mixed())
    same(run(capture(traced, x), x), Mixed()(x))
    fast = torch.compile(Mixed(), backend="graphopt", options={"threads": 1})
    with torch.no_grad():
        torch.testing.assert_close(fast(x), Mixed()(x), rtol=1e-5, atol=1e-5)


def test_what_is_refused_falls_back_to_eager_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(3, 3)
    with pytest.raises(graphopt.UnsupportedOperators, match="svd"):
        capture(lambda x: torch.linalg.svdvals(x), x)
    torch._dynamo.reset()
    fast = torch.compile(Of(lambda x: torch.linalg.svdvals(x) + 1), backend="graphopt", options={"threads": 1})
    with torch.no_grad(), caplog.at_level("WARNING", "graphopt"):
        torch.testing.assert_close(fast(x), torch.linalg.svdvals(x) + 1)
    assert "svd" in caplog.text
