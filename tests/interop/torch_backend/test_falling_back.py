"""What torch.compile(net, backend="graphopt") leaves to eager PyTorch, and how it says so; modes and options."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import graphopt
from graphopt.interop.torch_backend import MODES, OPTIONS, OptionError, graphs
from graphopt.interop.torch_backend.settings import read_settings
from tests.interop.torch_backend.torch_compiling import compiled, counted, same, warnings_of


# Why
def test_an_operator_that_is_not_there_is_named_once_for_all_graphs(caplog):
    def f(x):
        y = torch.relu(x)
        torch._dynamo.graph_break()
        y = torch.linalg.svdvals(y)
        torch._dynamo.graph_break()
        y = torch.linalg.svdvals(torch.outer(y, y)) + 1
        torch._dynamo.graph_break()
        return torch.tanh(y)

    x = torch.randn(4, 4)
    with torch.no_grad():
        same(compiled(f)(x), f(x))
    assert counted() == (2, 2)
    (said,) = warnings_of(caplog)
    assert "svd" in said and "runs in eager PyTorch" in said and "test_falling_back.py:" in said


def test_gradients_are_eagers(caplog):
    net, x = nn.Linear(4, 3).eval(), torch.randn(2, 4)
    call = compiled(net)
    y = call(x)
    y.sum().backward()
    assert torch.equal(net.weight.grad, x.sum(0).expand(3, 4))
    with torch.no_grad():
        same(call(x), net(x))
    assert counted() == (1, 1)
    (said,) = warnings_of(caplog)
    assert "gradients" in said and "torch.no_grad()" in said


def test_frozen_parameters_need_no_gradients():
    net, x = nn.Linear(4, 3).requires_grad_(False).eval(), torch.randn(2, 4)
    same(compiled(net)(x), net(x))
    assert counted() == (1, 0)


def test_gradients_turned_on_inside():
    def f(x):
        with torch.enable_grad():
            y = x * 2
        return y

    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert compiled(f)(x).requires_grad == f(x).requires_grad


def test_dropout_in_training_mode_draws_as_eager_does(caplog):
    net, x = nn.Dropout(0.5).train(), torch.randn(50)
    call = compiled(net)
    with torch.no_grad():
        torch.manual_seed(3)
        got = call(x)
        torch.manual_seed(3)
        assert torch.equal(got, net(x))
    assert counted() == (0, 1) and len(warnings_of(caplog)) == 1


def test_other_devices(caplog):
    with torch.no_grad():
        y = compiled(lambda x: x + 1)(torch.ones(3, device="meta"))
    assert y.device.type == "meta" and counted() == (0, 1)
    assert "a tensor is on meta" in "".join(warnings_of(caplog))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_dtypes_that_are_not_there(caplog):
    x = torch.randn(3).to(torch.complex32)
    f = lambda x: torch.view_as_real(x)
    with torch.no_grad():
        same(compiled(f)(x), f(x))
    assert counted() == (0, 1) and "complex32" in "".join(warnings_of(caplog))


def test_sizes_that_depend_on_data(caplog):
    def f(x):
        return torch.nonzero(x) * 2

    x = torch.tensor([0.0, 1.0, 2.0])
    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        same(compiled(f)(x), f(x))
    assert counted()[1] == 1


def test_numbers_from_data_are_values_but_no_sizes(caplog):
    x = torch.randn(4, 6)
    with torch.no_grad(), torch._dynamo.config.patch(capture_scalar_outputs=True):
        for f in (lambda x: x * x.sum().item(), lambda x: x / (x.mean().item() * 2), lambda x: torch.full((3,), x.sum().item())):
            same(compiled(f)(x), f(x))
        assert counted() == (3, 0)
        f = lambda x: x[int(x.argmax().item()) % 3:]
        same(compiled(f)(x), f(x))
    assert "start computed from the data" in "".join(warnings_of(caplog))


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 3).eval(), lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout()).train()],
                         ids=["compiled", "eager"])
def test_nothing_of_a_model_is_kept_once_it_is_gone(make):
    net = make()
    weight, call = weakref.ref(next(net.parameters())), compiled(net)
    with torch.no_grad():
        call(torch.randn(2, 6))
    before = len(graphs())
    del net, call
    torch.compiler.reset()
    gc.collect()
    assert weight() is None and len(graphs()) < before


def test_an_assertion_on_data_is_kept():
    def f(x):
        torch._assert(x.sum() > 0, "the sum is negative")
        return x + 1

    call = compiled(f)
    with torch.no_grad():
        same(call(torch.ones(3)), f(torch.ones(3)))
        with pytest.raises((AssertionError, RuntimeError)):
            call(-torch.ones(3))


def test_it_can_be_an_error():
    net, x = nn.Linear(4, 3).eval(), torch.randn(2, 4)
    with pytest.raises(Exception, match="gradients are to flow"):
        compiled(net, options={"fallback": False})(x)


def test_a_graph_says_why_it_is_eager():
    call = compiled(lambda x: torch.linalg.svdvals(x))
    with torch.no_grad():
        call(torch.randn(3, 3))
    assert isinstance(graphs()[-1].why_eager, graphopt.UnsupportedOperators) and "svd" in str(graphs()[-1])


# Modes and options
@pytest.mark.parametrize("mode", list(MODES))
def test_modes(mode: str, tmp_path, monkeypatch):
    if "tune" in MODES[mode]:
        monkeypatch.setenv("GRAPHOPT_TUNING", str(tmp_path / "records.json"))
    net, x = nn.Linear(4, 3).eval(), torch.randn(2, 4)
    with torch.no_grad():
        same(compiled(net, mode=mode)(x), net(x))
    assert counted() == (1, 0)


def test_max_autotune_measures():
    assert read_settings("max-autotune", None).tune == "fast" and read_settings(None, None).tune is None


@pytest.mark.parametrize("options", [
    {"threads": 1}, {"winograd": False}, {"target": "x86"}, {"weights": "read"}, {"validate": True}, {"max_specialisations": 1},
], ids=lambda o: next(iter(o)))
def test_options(options):
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    call = compiled(net, options=options)
    with torch.no_grad():
        same(call(x), net(x))
        net[0].weight.data.mul_(2.0)  # which no version counter tells of
        if options.get("weights") == "read":
            same(call(x), net(x))
    assert counted() == (1, 0)


@pytest.mark.parametrize("how, says", [
    ({"mode": "fastest"}, ["no mode 'fastest'", *MODES]),
    ({"options": {"thread": 2}}, ["no option 'thread' (did you mean 'threads'?)", *OPTIONS]),
    ({"options": {"threads": 0}}, ["option threads", "whole number of at least 1, got 0"]),
    ({"options": {"tune": "slow"}}, ["option tune", "'fast', 'full'", "'slow'"]),
    ({"options": {"weights": True}}, ["option weights", "'frozen', 'read'"]),
    ({"options": {"target": "cuda:sm_90"}}, ["option target", "runs on the CPU"]),
    ({"options": {"target": "x87"}}, ["option target", "x87"]),
    ({"options": {"tuning": 3}}, ["option tuning", "path"]),
    ({"options": {"tuning": "no/such/records.json"}}, ["no/such/records.json"]),
], ids=str)
def test_wrong_modes_and_options(how, says):
    with torch.no_grad(), pytest.raises(OptionError) as e:
        compiled(nn.Linear(2, 2).eval(), **how)(torch.randn(1, 2))
    assert isinstance(e.value, graphopt.GraphOptError)
    for text in says:
        assert text in str(e.value)
