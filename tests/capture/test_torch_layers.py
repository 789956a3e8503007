"""Layers against eager PyTorch: products, convolutions, pooling, normalisation, attention, recurrence, resampling."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.capture.torch_check import check, each, ops

torch.manual_seed(0)
IMAGE = torch.randn(2, 6, 9, 7)


# Matrix products --------------------------------------------------------------------------------
def test_matrix_products_of_all_ranks():
    check(
        each(
            {
                "mm": lambda m, v, b, c: m @ m.T,
                "mv": lambda m, v, b, c: m @ v,
                "vm": lambda m, v, b, c: v @ m.T,
                "dot": lambda m, v, b, c: v @ v,
                "bmm": lambda m, v, b, c: torch.bmm(b, c),
                "broadcast": lambda m, v, b, c: b @ c[0],
                "batched vector": lambda m, v, b, c: v @ c,
                "addmm": lambda m, v, b, c: torch.addmm(v[:3], m, m.T, beta=0.5, alpha=2),
                "baddbmm": lambda m, v, b, c: torch.baddbmm(b[:, :, :1], b, c, beta=2),
                "addmv": lambda m, v, b, c: torch.addmv(m[:, 0], m, v),
                "outer": lambda m, v, b, c: torch.outer(v, v),
                "linear": lambda m, v, b, c: F.linear(b, m),
                "linear vector": lambda m, v, b, c: F.linear(v, m, v[:3]),
                "tensordot": lambda m, v, b, c: torch.tensordot(b, c, dims=([2], [1])),
                "kron": lambda m, v, b, c: torch.kron(m, m),
                "cdist": lambda m, v, b, c: torch.cdist(b, b + 1, p=1),
                "cosine": lambda m, v, b, c: F.cosine_similarity(b, b.flip(0), dim=-1),
            }
        ),
        torch.randn(3, 4),
        torch.randn(4),
        torch.randn(2, 5, 4),
        torch.randn(2, 4, 6),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_linear_layer_in_other_types(dtype):
    check(nn.Linear(17, 5).to(dtype), torch.randn(3, 17).to(dtype))


def test_integer_products():
    a = torch.randint(-9, 9, (3, 4))
    check(lambda a: a @ a.T, a)


def test_bilinear():
    check(nn.Bilinear(3, 4, 5), torch.randn(2, 3), torch.randn(2, 4))


# Convolutions -----------------------------------------------------------------------------------
CONVOLUTIONS = {
    "plain": nn.Conv2d(6, 5, 3),
    "stride and padding": nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(1, 2)),
    "dilated": nn.Conv2d(6, 5, 3, dilation=(1, 2), bias=False),
    "grouped": nn.Conv2d(6, 4, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(6, 12, 3, groups=6),
    "same": nn.Conv2d(6, 5, (4, 3), padding="same", dilation=(1, 2)),
    "reflect": nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"),
    "transposed": nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=(1, 0)),
    "transposed groups": nn.ConvTranspose2d(6, 4, (2, 3), groups=2, dilation=2, bias=False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_images(name):
    check(CONVOLUTIONS[name], IMAGE, tolerance=1e-4)


def test_convolutions_of_other_ranks():
    check(nn.Conv1d(3, 4, 5, padding=2, stride=2), torch.randn(2, 3, 11))
    check(nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), torch.randn(1, 2, 3, 4, 5))
    check(nn.ConvTranspose1d(3, 4, 5, stride=3), torch.randn(2, 3, 6))
    check(nn.Conv2d(6, 5, 3), IMAGE[0])


# Pooling ----------------------------------------------------------------------------------------
def test_pools():
    check(
        each(
            {
                "max": nn.MaxPool2d(3, 2, 1),
                "max ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
                "max dilated": nn.MaxPool2d((2, 3), 1, dilation=2),
                "max indices": nn.MaxPool2d(3, 2, 1, return_indices=True),
                "avg": nn.AvgPool2d(3, 2, 1),
                "avg inside": nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True),
                "avg ceil": nn.AvgPool2d(2, 2, ceil_mode=True),
                "avg divisor": nn.AvgPool2d(2, divisor_override=3),
                "adaptive": nn.AdaptiveAvgPool2d((4, 3)),
                "adaptive none": nn.AdaptiveAvgPool2d((None, 2)),
                "global": nn.AdaptiveAvgPool2d(1),
                "upwards": nn.AdaptiveAvgPool2d(11),
                "adaptive max": nn.AdaptiveMaxPool2d((4, 3), return_indices=True),
                "lp": nn.LPPool2d(2, 2),
                "no batch": lambda x: F.max_pool2d(x[0], 2),
            }
        ),
        IMAGE,
    )


def test_pools_of_other_ranks():
    check(each({"max": nn.MaxPool1d(3, 2), "avg": nn.AvgPool1d(2), "adaptive": nn.AdaptiveAvgPool1d(3)}), torch.randn(2, 3, 8))
    check(
        each({"max": nn.MaxPool3d(2), "avg": nn.AvgPool3d(2, padding=1), "one": nn.AdaptiveAvgPool3d(1)}),
        torch.randn(1, 2, 4, 5, 6),
    )


def test_unpooling_by_indices():
    check(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), torch.randn(1, 2, 6, 4))


# Normalisation ----------------------------------------------------------------------------------
def statistics(module):
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2)
    return module


def test_normalisations():
    for module in (
        statistics(nn.BatchNorm2d(6)),
        statistics(nn.BatchNorm2d(6, affine=False)),
        nn.GroupNorm(3, 6),
        nn.InstanceNorm2d(6, affine=True),
        nn.InstanceNorm2d(6),
        nn.LayerNorm((9, 7)),
        nn.LayerNorm(7, bias=False),
        nn.RMSNorm(7),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.LocalResponseNorm(3),
    ):
        for p in module.parameters():
            nn.init.normal_(p)
        check(module, IMAGE, tolerance=1e-4)


def test_a_normalisation_stays_one_op():
    assert ops(check(nn.LayerNorm(7), IMAGE)) == ["layer_norm"]
    assert ops(check(nn.GroupNorm(3, 6), IMAGE)) == ["group_norm"]
    assert ops(check(statistics(nn.BatchNorm2d(6)), IMAGE)) == ["batch_norm"]


def test_softmax():
    x = torch.randn(3, 5)
    x[0, 1:] = -torch.inf
    check(
        each(
            {
                "softmax": lambda x: x.softmax(-1),
                "log": lambda x: x.log_softmax(0),
                "wide": lambda x: x.half().softmax(1, dtype=torch.float32),
                "softmin": lambda x: F.softmin(x, 0),
            }
        ),
        x,
    )


def test_batch_norm_of_vectors_and_weight_norm():
    check(statistics(nn.BatchNorm1d(5)), torch.randn(3, 5))
    check(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3), dim=2), torch.randn(1, 3, 8))


# Attention --------------------------------------------------------------------------------------
Q, K, V = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 6)


def test_attention():
    bools, floats = torch.rand(2, 1, 5, 7) > 0.4, torch.randn(5, 7)
    check(
        lambda q, k, v, m, f: {
            "plain": F.scaled_dot_product_attention(q, k, v),
            "bool": F.scaled_dot_product_attention(q, k, v, m),
            "float": F.scaled_dot_product_attention(q, k, v, f, scale=0.7),
            "causal": F.scaled_dot_product_attention(q, k, v, is_causal=True),
            "3-D": F.scaled_dot_product_attention(q[0], k[0], v[0], f),
            "5-D": F.scaled_dot_product_attention(q[None], k[None], v[None], m[None]),
            "shared heads": F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True),
        },
        Q, K, V, bools, floats,
    )  # fmt: skip


def test_attention_stays_one_op():
    assert ops(check(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), Q, K, V)) == ["attention"]


def test_a_query_that_sees_nothing_gives_zeros():
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[2] = False
    check(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), Q, K, V, mask)


def test_transformer_modules():
    x = torch.randn(2, 5, 12)
    check(nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), x)
    check(nn.TransformerDecoderLayer(12, 3, 20, batch_first=True, norm_first=True), x, torch.randn(2, 4, 12))
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    check(lambda x, p: attention(x, x, x, key_padding_mask=p), x, padding)


def test_modules_without_gradients_are_captured_in_parts():
    layer = (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 20, batch_first=True), 2, enable_nested_tensor=False)
        .eval()
        .requires_grad_(False)
    )
    with torch.no_grad():
        check(layer, torch.randn(2, 5, 12))


# Recurrence -------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [
    {}, {"num_layers": 2, "batch_first": True}, {"bidirectional": True, "num_layers": 2}, {"bias": False},
])  # fmt: skip
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_modules(kind, options):
    check(kind(5, 7, **options), torch.randn(4, 3, 5))


def test_recurrent_modules_with_states():
    x, h = torch.randn(4, 3, 5), torch.randn(1, 3, 7)
    lstm, rnn = nn.LSTM(5, 7), nn.RNN(5, 7, nonlinearity="relu")
    check(lambda x, h: (lstm(x, (h, h * 2)), rnn(x, h)), x, h)


def test_recurrent_cells():
    x, h = torch.randn(3, 5), torch.randn(3, 7)
    lstm, gru = nn.LSTMCell(5, 7), nn.GRUCell(5, 7)
    check(lambda x, h: (lstm(x, (h, h)), gru(x, h)), x, h)


# Resampling -------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_resizing_images(mode):
    functions = {
        "size": lambda x: F.interpolate(x, size=(5, 13), mode=mode),
        "scale": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6), mode=mode),
        "recomputed": lambda x: F.interpolate(x, scale_factor=1.7, mode=mode, recompute_scale_factor=True),
        "double": lambda x: F.interpolate(x, scale_factor=2, mode=mode),
    }
    if mode.startswith("bi"):
        functions["corners"] = lambda x: F.interpolate(x, size=(5, 13), mode=mode, align_corners=True)
        functions["smooth"] = lambda x: F.interpolate(x, size=(5, 4), mode=mode, antialias=True)
        functions["one"] = lambda x: F.interpolate(x, size=(1, 1), mode=mode, align_corners=True)
    check(each(functions), IMAGE, tolerance=1e-4)


def test_resizing_other_ranks():
    check(each({m: lambda x, m=m: F.interpolate(x, size=11, mode=m) for m in ("nearest", "linear")}), torch.randn(2, 3, 7))
    check(
        each({m: lambda x, m=m: F.interpolate(x, scale_factor=2, mode=m) for m in ("nearest", "trilinear")}),
        torch.randn(1, 2, 3, 4, 5),
    )


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sampling(padding):
    grid = torch.rand(2, 4, 5, 2) * 2.6 - 1.3
    check(
        each(
            {
                f"{mode}{corners}": lambda x, g, m=mode, c=corners: F.grid_sample(x, g, m, padding, align_corners=c)
                for mode in ("bilinear", "nearest", "bicubic")
                for corners in (True, False)
            }
        ),
        IMAGE,
        grid,
        tolerance=1e-4,
    )


def test_spatial_transformers():
    theta = torch.tensor([[[0.9, 0.1, 0.2], [-0.2, 1.1, 0.0]]])
    check(
        lambda x, t: F.grid_sample(x, F.affine_grid(t, (1, 6, 4, 5), align_corners=False), align_corners=False), IMAGE[:1], theta
    )


# Losses and small things --------------------------------------------------------------------------
def test_losses_are_decomposed():
    x, y = torch.randn(4, 5), torch.tensor([0, 3, 4, 1])
    check(
        each(
            {
                "cross entropy": F.cross_entropy,
                "nll": lambda x, y: F.nll_loss(x.log_softmax(1), y),
                "mse": lambda x, y: F.mse_loss(x, x * 2),
                "bce": lambda x, y: F.binary_cross_entropy_with_logits(x, x.sigmoid()),
                "smooth": lambda x, y: F.smooth_l1_loss(x, x.flip(0)),
                "kl": lambda x, y: F.kl_div(x.log_softmax(1), x.flip(0).softmax(1), reduction="batchmean"),
            }
        ),
        x,
        y,
    )


def test_losses_that_go_by_pieces_of_the_batch():
    options = lambda: torch.nn.LinearCrossEntropyOptions(batch_chunk_size=3)
    loss = lambda reduction: lambda x, w, y: F.linear_cross_entropy(x, w, y, reduction=reduction, options=options())
    check(each({"mean": loss("mean"), "sum": loss("sum"), "none": loss("none")}),
          torch.randn(8, 5), torch.randn(4, 5), torch.tensor([0, 3, 1, 1, 2, 0, 3, 2]))


def test_zeros_keep_their_sign():
    zeros = torch.tensor([-0.0, 0.0])
    check(each({f.__name__: lambda x, f=f: 1 / f(x) for f in (F.elu, F.celu, F.selu)}), zeros)
