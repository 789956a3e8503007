"""Operators that are translated for known sizes only, in models whose sizes are free."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt
from graphopt.capture.torch import capture_torch
from graphopt.codegen.program.interface import specialise
from graphopt.errors import EvaluationError, UnsupportedOperators
from graphopt.ir import evaluate


class Of(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def ranked(x):
    return x.sort(-1)[0], x.argsort(0), x.median(-1).values, x.round().mode(-1).values


def moved(x):
    image = x[None, None]
    return (F.unfold(image, 2), torch.diagonal(x), torch.pdist(x), F.instance_norm(x[None]),
            F.interpolate(image, scale_factor=1.5, mode="bicubic", antialias=True, align_corners=True))


def attended(x):
    y = F.scaled_dot_product_attention(x[None], x[None], x[None])
    return y, torch.complex(x, x + 1).prod(-1)  # a complex result, of an operator that needs the size


def free(f):
    rows, columns = torch.export.Dim("rows", min=3, max=40), torch.export.Dim("columns", min=3, max=40)
    return Of(f).eval(), {"dynamic_shapes": ({0: rows, 1: columns},)}


@pytest.mark.parametrize("f", [ranked, moved, attended], ids=lambda f: f.__name__)
def test_sizes_are_known_when_they_come(f):
    torch.manual_seed(0)
    model, how = free(f)
    graph = capture_torch(model, (torch.randn(5, 6),), **how)
    assert {"columns", "rows"} <= set(map(str, graph.symbols()))
    for shape in ((5, 6), (7, 4)):
        x = torch.randn(*shape)
        fixed = specialise(graph, graph.input_names, {graph.input_names[0]: shape}, {})
        assert not fixed.symbols() and "deferred" not in {op.name for op in fixed.walk()}
        got = graph.metadata["call"].unflatten(evaluate(fixed, [x.numpy()]))
        for a, b in zip(got, model(x)):
            b = torch.view_as_real(b) if b.is_complex() else b
            torch.testing.assert_close(torch.as_tensor(a), b, rtol=1e-4, atol=1e-5)
    with pytest.raises(EvaluationError, match="sizes that are not known"):
        evaluate(graph, [torch.randn(5, 6).numpy()])


def test_a_program_for_each_size(tmp_path):
    model, how = free(lambda x: (x.sort(-1)[0] * 2, x.median(0).values))
    compiled = graphopt.compile(model, (torch.randn(5, 6),), threads=1, **how)
    inputs = [torch.randn(5, 6), torch.randn(3, 9)]
    for x in inputs:
        torch.testing.assert_close(compiled(x), model(x))
    assert not compiled.host_ops
    compiled.save(tmp_path / "net.gopt")
    loaded = graphopt.load(tmp_path / "net.gopt")
    for x in inputs:
        torch.testing.assert_close(loaded(x), model(x))


def test_what_no_size_helps_is_refused_at_once():
    model, how = free(lambda x: x[x > 0].sort()[0])
    with warnings.catch_warnings(), pytest.raises(UnsupportedOperators, match="sorting a symbolic dim"):
        warnings.simplefilter("ignore")
        graphopt.compile(model, (torch.randn(5, 6),), **how)
