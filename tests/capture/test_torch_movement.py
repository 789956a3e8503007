"""Operators that move elements, and tensors made from nothing, against eager PyTorch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.capture.torch_check import Of, capture, check, each, ops, run, same

torch.manual_seed(0)
X = torch.randn(3, 4, 5)


def test_shapes():
    check(
        each(
            {
                "view": lambda x: x.view(4, -1),
                "flatten": lambda x: x.flatten(1),
                "permute": lambda x: x.permute(2, 0, 1),
                "transpose": lambda x: x.transpose(-1, 0),
                "T": lambda x: x[0].T,
                "expand": lambda x: x[:, :1].expand(-1, 6, 5),
                "squeeze": lambda x: x[:1].squeeze(),
                "unsqueeze": lambda x: x.unsqueeze(-2),
                "unflatten": lambda x: x.unflatten(1, (2, 2)),
                "movedim": lambda x: x.movedim(0, -1),
                "swap": lambda x: x.swapaxes(0, 2),
                "broadcast": lambda x: torch.broadcast_to(x[0], (2, 4, 5)),
                "reshape": lambda x: x.transpose(0, 1).reshape(-1),
                "expand_as": lambda x: x[0].expand_as(x),
                "mT": lambda x: x.mT,
            }
        ),
        X,
    )


def test_slices():
    check(
        each(
            {
                "front": lambda x: x[:2],
                "back": lambda x: x[-2:],
                "step": lambda x: x[:, ::2],
                "select": lambda x: x[:, -1],
                "middle": lambda x: x[:, 1:-1, 2:4],
                "none": lambda x: x[:, None, 0],
                "empty": lambda x: x[2:1],
                "beyond": lambda x: x[1:99],
                "narrow": lambda x: x.narrow(1, 1, 2),
                "ellipsis": lambda x: x[..., 3],
            }
        ),
        X,
    )


def test_joins_and_splits():
    check(
        each(
            {
                "cat": lambda x: torch.cat([x, x * 2, x[:, :1]], 1),
                "stack": lambda x: torch.stack([x, x + 1], -1),
                "split": lambda x: x.split(3, 1),
                "sizes": lambda x: x.split([1, 2, 2], -1),
                "chunk": lambda x: x.chunk(3, 2),
                "unbind": lambda x: x.unbind(1),
                "mixed": lambda x: torch.cat([x[0], x[0].int()]),
                "tensor_split": lambda x: x.tensor_split(3, 2),
                "hstack": lambda x: torch.hstack([x, x]),
                "empty": lambda x: torch.cat([torch.empty(0), x[0, 0]]),
            }
        ),
        X,
    )


def test_repeats_and_rolls():
    check(
        each(
            {
                "repeat": lambda x: x.repeat(2, 1, 3),
                "more dims": lambda x: x[0].repeat(2, 3, 1),
                "tile": lambda x: x.tile(2, 1),
                "interleave": lambda x: x.repeat_interleave(3, 1),
                "flat": lambda x: x.repeat_interleave(2),
                "flip": lambda x: x.flip(0, -1),
                "roll": lambda x: x.roll(2, 1),
                "rolls": lambda x: x.roll((-1, 7), (0, 2)),
                "roll all": lambda x: x.roll(5),
                "rot90": lambda x: x.rot90(1, (1, 2)),
                "expand by repeat": lambda x: x[:, :1].repeat(1, 4, 1),
            }
        ),
        X,
    )


def test_padding():
    image = torch.randn(2, 3, 5, 7)
    check(
        each(
            {
                "constant": lambda x: F.pad(x, (1, 2, 0, 3), value=1.5),
                "zero": lambda x: F.pad(x, (1, 0)),
                "crop": lambda x: F.pad(x, (-1, 2)),
                "reflect": lambda x: F.pad(x, (2, 1, 1, 3), mode="reflect"),
                "replicate": lambda x: F.pad(x, (2, 1, 1, 3), mode="replicate"),
                "circular": lambda x: F.pad(x, (2, 1, 1, 3), mode="circular"),
            }
        ),
        image,
    )


def test_writes_into_slices():
    def f(x):
        y, z, w = x.clone(), x.clone(), torch.zeros(3, 4, 5)
        y[:, 1:3] = 7
        z[..., 0] = x[..., 1]
        w[:, ::2] = x[:, :2]
        return y, z, w.index_fill(2, torch.tensor([1, 3]), -1)

    check(f, X)


def test_windows_and_diagonals():
    check(
        each(
            {
                "unfold": lambda x: x.unfold(2, 3, 1),
                "unfold0": lambda x: x.unfold(0, 2, 1),
                "diagonal": lambda x: x.diagonal(1, 1, 2),
                "below": lambda x: x.diagonal(-1),
                "tril": torch.tril,
                "triu": lambda x: x.triu(-1),
                "tril2": lambda x: x.tril(2),
                "strided": lambda x: x.as_strided((3, 2, 2), (20, 5, 2), 1),
                "diag_embed": lambda x: torch.diag_embed(x[0]),
                "trace": lambda x: torch.trace(x[0]),
                "diag": lambda x: torch.diag(x[0, 0]),
            }
        ),
        X,
    )
    check(
        each(
            {
                "im2col": lambda x: F.unfold(x, (2, 3), dilation=(2, 1), padding=1, stride=(1, 2)),
                "col2im": lambda x: F.fold(F.unfold(x, 3, padding=1), (5, 7), 3, padding=1),
            }
        ),
        torch.randn(2, 3, 5, 7),
    )


def test_shuffles():
    check(
        each({"pixel": nn.PixelShuffle(2), "unpixel": lambda x: F.pixel_unshuffle(x, 2), "channel": nn.ChannelShuffle(4)}),
        torch.randn(2, 8, 6, 4),
    )


def test_einsum():
    check(
        lambda a, b: (torch.einsum("bij,bjk->bik", a, b), torch.einsum("bij,bjk->ik", a, b), torch.einsum("bij->bji", a)),
        torch.randn(2, 3, 4),
        torch.randn(2, 4, 5),
    )


def test_creation():
    check(
        each(
            {
                "zeros": lambda x: torch.zeros_like(x),
                "ones": lambda x: x.new_ones(2, 3),
                "full": lambda x: torch.full((2, 2), 7),
                "full_like": lambda x: torch.full_like(x, 1.5, dtype=torch.float64),
                "arange": lambda x: torch.arange(2, 11, 3),
                "arange float": lambda x: torch.arange(0, 1, 0.1),
                "linspace": lambda x: torch.linspace(-1, 1, 7),
                "hamming": lambda x: torch.hamming_window(9),
                "hamming, all given": lambda x: torch.hamming_window(8, False, 0.5, 0.4, dtype=torch.float64),
                "blackman": lambda x: torch.blackman_window(8, periodic=False),
                "bartlett": lambda x: torch.bartlett_window(1),
                "kaiser": lambda x: torch.kaiser_window(8, True, 5.0),
                "eye": lambda x: torch.eye(3, 5),
                "tensor": lambda x: torch.tensor([1.0, 2.0]) + x[0, 0, 0],
                "tril_indices": lambda x: torch.tril_indices(3, 4),
                "scalar": lambda x: torch.scalar_tensor(3.0),
                "meshgrid": lambda x: torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij"),
                "half": lambda x: torch.arange(5, dtype=torch.float16),
                "bool": lambda x: torch.zeros(3, dtype=torch.bool),
                "one_hot": lambda x: F.one_hot(torch.arange(4) % 3, 5),
                "hann": lambda x: torch.hann_window(8),
            }
        ),
        X,
    )


def test_random_numbers_are_drawn_on_every_run():
    from tests.capture.torch_check import capture, run

    graph = capture(lambda x: (torch.rand_like(x), torch.randn(3, 4)), torch.zeros(50, 2))
    (a, b), (a2, _) = run(graph, torch.zeros(50, 2)), run(graph, torch.zeros(50, 2))
    assert a.shape == (50, 2) and b.shape == (3, 4) and (a >= 0).all() and (a < 1).all() and (a != a2).any()


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (1, 0)])
def test_degenerate_shapes(shape):
    check(
        each(
            {
                "cat": lambda x: torch.cat([x, x], 0),
                "T": lambda x: x.T,
                "flip": lambda x: x.flip(0),
                "roll": lambda x: x.roll(1, 0),
                "view": lambda x: x.reshape(-1),
                "pad": lambda x: F.pad(x, (1, 1)),
                "slice": lambda x: x[1:],
                "tril": torch.tril,
                "sum": lambda x: x.sum(0),
            }
        ),
        torch.randn(shape),
    )


def test_a_view_of_the_same_shape_costs_nothing():
    assert ops(check(lambda x: x.view(3, 4, 5).expand(3, 4, 5)[:].permute(0, 1, 2), X)) == []


@pytest.mark.parametrize("bounds", [(-8, 2), (-8, None), (-4, 9), (1, -5), (-40, -2)])
@pytest.mark.parametrize("length", [3, 12])
def test_slices_of_a_free_axis_are_cut_where_it_ends(bounds, length):
    """torch guards on which side of a bound the length lies; the graph is held against eager at every length that it admits."""
    cut = slice(*bounds)
    module = Of(lambda x: x[cut] * 2)
    graph = capture(module, torch.randn(length, 3), dynamic=(({0: torch.export.Dim.AUTO},),))
    low, high = graph.metadata["dim_ranges"].get("".join(graph.symbols()), (length, length))
    for n in range(low, min(high or 15, 15) + 1):
        x = torch.randn(n, 3)
        same(run(graph.specialise(dict.fromkeys(graph.symbols(), n)), x), module(x))


def test_a_copy_of_other_strides_is_the_same_tensor():
    check(lambda x: torch.ops.prims.copy_strided(x, (1, 3)).abs(), torch.randn(3, 5))
