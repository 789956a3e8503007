"""Gathers, scatters and indexing against eager PyTorch."""

import pytest
import torch

from tests.capture.torch_check import check, each

torch.manual_seed(0)
X = torch.randn(4, 5, 6)
I = torch.tensor([[0, 2, -1], [3, 1, 1]])
J = torch.tensor([1, 4, -5])


def test_indexing_with_one_tensor():
    check(
        each(
            {
                "0": lambda x, i, j: x[i],
                "1": lambda x, i, j: x[:, j],
                "2": lambda x, i, j: x[..., i],
                "list": lambda x, i, j: x[[0, 2]],
                "with slices": lambda x, i, j: x[1:, j, None, 2:4],
                "select": lambda x, i, j: x.index_select(1, j % 5),
                "scalar": lambda x, i, j: x[j[0]],
                "take": lambda x, i, j: x.take(i + 1),
            }
        ),
        X,
        I,
        J,
    )


def test_indexing_with_several_tensors():
    check(
        each(
            {
                "adjacent": lambda x, i, j: x[:, i, j],
                "front": lambda x, i, j: x[i, j],
                "all": lambda x, i, j: x[i, j, j],
                "apart": lambda x, i, j: x[i, :, j],
                "broadcast": lambda x, i, j: x[i[:, :1], j],
                "int32": lambda x, i, j: x[i.int(), j.int()],
            }
        ),
        X,
        I,
        J,
    )


def test_masks():
    mask = torch.tensor([True, False, True, True])
    check(
        each(
            {
                "rows": lambda x, m: x[m],
                "fill": lambda x, m: x.masked_fill(m[:, None, None], 0),
                "where": lambda x, m: torch.where(m)[0],
                "select": lambda x, m: x.masked_select(m[:, None, None]),
                "nonzero": lambda x, m: (x > 0.5).nonzero(),
                "2-D": lambda x, m: x[x[:, :, 0] > 0],
                "scatter": lambda x, m: x.masked_scatter(m[:, None, None], x.flip(0)),
            }
        ),
        X,
        mask,
    )


def test_a_data_dependent_length_goes_on_through_the_graph():
    mask = torch.tensor([True, False, True, True])
    check(lambda x, m: (x[m] * 2).sum(0) + x[m].reshape(-1, 30).mean(0).reshape(5, 6), X, mask)


def test_index_put():
    v = torch.randn(3)

    def f(x, i, j):
        a, b, c, d, e, g = (x.clone() for _ in range(6))
        a[:, j] = 0.5
        b[i[0], j] = 7
        c[..., j] = v
        d.index_put_((i[1], j), x[0, :3], accumulate=True)
        e[x > 0] = -1
        g[i[0], :, j] = x[:3, :, 0]
        return a, b, c, d, e, g

    check(f, X, I, J)


def test_gather_and_scatter():
    index = torch.randint(0, 3, (2, 5, 6))
    check(
        each(
            {
                "gather": lambda x, i: x.gather(0, i),
                "small": lambda x, i: x.gather(2, i[:, :3, :2]),
                "scatter": lambda x, i: x.scatter(1, i[:, :1], 3.5),
                "add": lambda x, i: x.scatter_add(1, i, x * 2),
                "amax": lambda x, i: x.scatter_reduce(1, i, x * 2, "amax"),
                "prod": lambda x, i: x.scatter_reduce(0, i, x * 2, "prod"),
                "sum": lambda x, i: x.scatter_reduce(0, i, x, "sum", include_self=False),
                "take_along": lambda x, i: torch.take_along_dim(x, i[:1], 0),
            }
        ),
        X,
        index,
    )


def test_sums_of_booleans_are_or_and_products_and():
    check(each({"add": lambda m, i, o: m.scatter_add(1, i, o), "amin": lambda m, i, o: m.scatter_reduce(1, i, o, "amin"),
                "prod": lambda m, i, o: m.scatter_reduce(1, i, o, "prod"),
                "rows": lambda m, i, o: m.index_add(0, torch.tensor([1, 1]), o)}),
          torch.tensor([[True, False, True], [False, False, True]]), torch.tensor([[0, 0, 1], [2, 2, 2]]),
          torch.tensor([[True, False, True], [False, True, False]]))


def test_whole_slices_by_index():
    j = torch.tensor([1, 4, 0])
    check(
        each(
            {
                "add": lambda x, j: x.index_add(1, j, x[:, :3]),
                "alpha": lambda x, j: x.index_add(0, j % 3, x[:3], alpha=2),
                "copy": lambda x, j: x.index_copy(2, j, x[..., :3]),
                "fill": lambda x, j: x.index_fill(1, j, 2.0),
            }
        ),
        X,
        j,
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_embedding(dtype):
    check(torch.nn.Embedding(9, 5, padding_idx=1), torch.tensor([[0, 1, 8], [2, 2, 3]], dtype=dtype))


def test_embedding_bag_sums_means_and_takes_the_largest():
    for mode in ("sum", "mean", "max"):
        check(torch.nn.EmbeddingBag(9, 5, mode=mode), torch.tensor([[0, 1, 8], [2, 2, 3]]))


def test_buckets():
    b = torch.tensor([-1.0, 0.0, 0.5])
    check(
        each(
            {
                "bucketize": lambda x, b: torch.bucketize(x, b),
                "right": lambda x, b: torch.bucketize(x, b, right=True),
                "searchsorted": lambda x, b: torch.searchsorted(b, x),
            }
        ),
        torch.cat([X.flatten(), b, torch.tensor([float("nan"), float("inf"), -float("inf")])]),
        b,
    )


def test_buckets_of_rows_and_whole_numbers_and_of_a_histogram():
    rows = torch.tensor([[1.0, 2.0, 2.0], [4.0, 5.0, 6.0]])
    check(each({"rows": lambda x, s: torch.searchsorted(s, x), "right": lambda x, s: torch.searchsorted(s, x, right=True)}),
          torch.tensor([[2.0, 9.0, float("nan")], [4.5, 0.0, 6.0]]), rows)
    check(lambda x: torch.bucketize(x, torch.tensor([-3, 0, 0, 7])), torch.arange(-5, 9))
    check(lambda x: torch.histogram(x, torch.tensor([-1.0, -0.5, 0.5, 2.0]))[0], torch.tensor([-1.0, 2.0, -0.5, 2.5, 0.1, -3.0]))


def test_repeats_of_a_tensor():
    check(lambda x, n: torch.repeat_interleave(x, n, dim=0, output_size=5), X[:3], torch.tensor([2, 0, 3]))


def test_unique():
    check(lambda x: torch.unique(x, return_inverse=True, return_counts=True), torch.tensor([[3, 1, 3], [2, 1, 3]]))
