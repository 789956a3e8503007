"""Reductions, scans and sorting against eager PyTorch."""

import math

import pytest
import torch

from tests.capture.torch_check import check, each

torch.manual_seed(0)
X = torch.randn(3, 5, 7)


def test_reductions_over_axes():
    functions = {}
    for name in ("sum", "mean", "amax", "amin", "std", "var", "logsumexp"):
        f = getattr(torch, name)
        functions |= {
            f"{name}-1": lambda x, f=f: f(x, dim=-1),
            f"{name}02": lambda x, f=f: f(x, dim=(0, 2)),
            f"{name}keep": lambda x, f=f: f(x, dim=(1,), keepdim=True),
        }
    check(each(functions), X)


def test_whole_tensor_reductions():
    names = ("sum", "mean", "max", "min", "prod", "std", "var", "argmax", "argmin", "any", "all", "median", "norm")
    check(each({n: getattr(torch, n) for n in names}), X)


def test_reductions_of_integers_and_booleans():
    x = torch.randint(-5, 5, (3, 4))
    check(
        each(
            {
                "sum": torch.sum,
                "prod": lambda x: x.prod(1),
                "sum8": lambda x: x.to(torch.int8).sum(0),
                "amax": lambda x: x.amax(0),
                "anyint": lambda x: x.any(1),
                "mean": lambda x: x.mean(dim=0, dtype=torch.float32),
                "boolsum": lambda x: (x > 0).sum(1),
                "boolmax": lambda x: (x > 0).amax(1),
                "all": lambda x: (x > -4).all(0),
                "any": lambda x: (x > 3).any(0, keepdim=True),
            }
        ),
        x,
    )


def test_extremes_with_their_places():
    check(
        each(
            {
                "max": lambda x: tuple(x.max(1)),
                "min": lambda x: tuple(x.min(-1, keepdim=True)),
                "argmax": lambda x: x.argmax(0),
                "keep": lambda x: x.argmin(2, keepdim=True),
                "values": lambda x: x.max(1).values,
                "indices": lambda x: x.max(1).indices,
                "aminmax": lambda x: tuple(torch.aminmax(x, dim=1)),
            }
        ),
        X,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype):
    x = X.to(dtype)
    check(
        each(
            {
                "sum": lambda x: x.sum(1),
                "mean": lambda x: x.mean((0, 1)),
                "var": lambda x: x.var(2),
                "std": lambda x: x.std(0),
                "norm": lambda x: torch.linalg.vector_norm(x, dim=1),
                "wide": lambda x: x.sum(1, dtype=torch.float32),
            }
        ),
        x,
    )


def test_variance_corrections():
    check(
        each(
            {
                "0": lambda x: x.var(1, correction=0),
                "2": lambda x: x.var((0, 2), correction=2),
                "biased": lambda x: x.std(1, unbiased=False),
                "mean": lambda x: tuple(torch.var_mean(x, 1, keepdim=True)),
                "std_mean": lambda x: tuple(torch.std_mean(x, (0, 1))),
            }
        ),
        X,
    )


@pytest.mark.parametrize("order", [0, 1, 2, 3, 0.5, math.inf, -math.inf])
def test_norms(order):
    check(
        each(
            {
                "v": lambda x: torch.linalg.vector_norm(x, order, dim=1),
                "all": lambda x: torch.norm(x, order),
                "keep": lambda x: torch.norm(x, order, dim=(0, 2), keepdim=True),
            }
        ),
        X,
    )


def test_scans():
    check(
        each(
            {
                "sum": lambda x: x.cumsum(1),
                "prod": lambda x: x.cumprod(-1),
                "bool": lambda x: (x > 0).cumsum(0),
                "half": lambda x: x.cumsum(0, dtype=torch.float64),
            }
        ),
        X,
    )


def test_sorting():
    ties = torch.tensor([[2.0, 1.0, 2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 5.0, -1.0]])
    check(
        each(
            {
                "up": lambda x: tuple(torch.sort(x, stable=True)),
                "down": lambda x: tuple(torch.sort(x, stable=True, descending=True)),
                "argsort": lambda x: torch.argsort(x, dim=0, stable=True),
            }
        ),
        ties,
    )
    check(
        each(
            {
                "top": lambda x: tuple(x.topk(3)),
                "least": lambda x: tuple(x.topk(2, dim=1, largest=False)),
                "kth": lambda x: tuple(x.kthvalue(3)),
                "median": lambda x: tuple(x.median(1)),
                "int": lambda x: x.mul(100).int().topk(1)[0],
            }
        ),
        X,
    )


def test_empty_reductions():
    x = torch.randn(3, 0)
    check(
        each(
            {
                "sum": lambda x: x.sum(1),
                "prod": lambda x: x.prod(1),
                "any": lambda x: (x > 0).any(1),
                "all": lambda x: (x > 0).all(1),
                "mean": lambda x: x.mean(1),
                "over rows": lambda x: x.amax(0),
            }
        ),
        x,
    )


def test_scalars_are_reduced_to_themselves():
    check(
        each(
            {
                "sum": torch.sum,
                "max": torch.max,
                "softmax": lambda x: x.softmax(0),
                "cumsum": lambda x: x.cumsum(0),
                "argmax": torch.argmax,
                "sort": lambda x: tuple(x.sort()),
            }
        ),
        torch.tensor(2.5),
    )


def test_nan_wins_extremes():
    x = torch.tensor([[1.0, math.nan, 3.0], [-math.inf, 0.0, math.inf]])
    check(each({"amax": lambda x: x.amax(1), "amin": lambda x: x.amin(1), "max": torch.max, "sum": lambda x: x.sum(1)}), x)
