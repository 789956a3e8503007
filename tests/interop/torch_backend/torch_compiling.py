"""What the tests of torch.compile(backend="graphopt") share."""

from __future__ import annotations

from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.utils import _pytree as pytree

from graphopt.interop.torch_backend import backend


def compiled(f: Any, **how: Any) -> Any:
    return torch.compile(f, backend=backend, **how)


def counted() -> tuple[int, int]:
    """Programs compiled, and graphs left to eager PyTorch."""
    return counters["graphopt"]["compiled"], counters["graphopt"]["eager"]


def same(got: Any, want: Any) -> None:
    """The same structure, dtypes, shapes, strides of what is dense, and values as closely as f32 sums agree."""
    a, b = pytree.tree_flatten(got), pytree.tree_flatten(want)
    assert a[1] == b[1]
    for x, y in zip(a[0], b[0], strict=True):
        assert type(x) is type(y)
        if not isinstance(x, torch.Tensor):
            assert x == y
            continue
        if y.is_floating_point() and y.numel():
            rounding, largest = 4 * torch.finfo(y.dtype).eps, float(y.double().abs().max())
            torch.testing.assert_close(x, y, rtol=max(1e-4, rounding), atol=1e-5 * max(1.0, largest))
        else:
            torch.testing.assert_close(x, y)
        if y.numel() == y.untyped_storage().nbytes() // y.element_size():
            assert x.stride() == y.stride()


def warnings_of(caplog: Any) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "graphopt" and r.levelname == "WARNING"]
