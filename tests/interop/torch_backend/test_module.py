"""A compiled model as an nn.Module."""

from __future__ import annotations

import copy
import io
from functools import cache

import pytest
import torch
from torch import nn

import graphopt
from graphopt.interop.torch_backend import CompiledModule, as_module
from tests.interop.torch_backend.torch_compiling import same


def source() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU()).eval()


@cache
def compiled() -> CompiledModule:
    return as_module(graphopt.compile(source(), (torch.randn(3, 7),)))


def test_in_a_larger_model_with_hooks():
    head, seen = nn.Linear(9, 2), []
    net = nn.Sequential(compiled(), head)
    handle = net[0].register_forward_hook(lambda module, args, y: seen.append(y.shape))
    x = torch.randn(3, 7)
    with torch.no_grad():
        same(net(x), head(source()(x)))
    handle.remove()
    assert seen == [(3, 9)] and "x: f32[3, 7]" in str(net).replace("input", "x")


def test_structures_and_names_are_the_models():
    class Net(nn.Module):
        def forward(self, x, *, gain):
            return {"y": x * gain}

    x, gain = torch.randn(4), torch.tensor(2.0)
    module = as_module(graphopt.compile(Net().eval(), {"x": x, "gain": gain}))
    assert torch.equal(module(x, gain=gain)["y"], x * 2)


def test_of_a_loaded_model(tmp_path):
    x = torch.randn(3, 7)
    graphopt.compile(source(), (x,)).save(tmp_path / "net.gopt")
    module = as_module(graphopt.load(tmp_path / "net.gopt"))
    with torch.no_grad():
        same(module(x), source()(x))


def test_what_is_around_it_can_be_trained():
    net = nn.Sequential(compiled(), nn.Linear(9, 2)).train()
    assert net[1].training and not net[0].training
    net(torch.randn(3, 7)).sum().backward()
    assert net[1].weight.grad is not None and net.eval()[0].training is False


def test_gradients_through_it_are_refused():
    x = torch.randn(3, 7, requires_grad=True)
    with pytest.raises(graphopt.GraphOptError, match=r"argument 0: gradients cannot flow.*no_grad"):
        compiled()(x)
    with torch.no_grad():
        same(compiled()(x), source()(x))
    with torch.inference_mode():
        same(compiled()(x), source()(x))


def test_it_has_no_parameters():
    module = compiled()
    assert list(module.parameters()) == [] and module.state_dict() == {}
    module.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict(source().state_dict())


def test_it_stays_where_it_is():
    module = compiled()
    assert module.to("cpu") is module and module.float() is module and module.requires_grad_(False) is module
    for move, to in ((lambda: module.to("meta"), "meta"), (module.half, "float16"), (module.double, "float64"),
                     (lambda: nn.Sequential(module).to(torch.bfloat16), "bfloat16")):
        with pytest.raises(graphopt.GraphOptError, match=f"cannot be moved to .*{to}.*compile that"):
            move()


def test_it_is_not_replicated_or_pickled_but_copied():
    module = compiled()
    with pytest.raises(graphopt.GraphOptError, match="DataParallel"):
        module._replicate_for_data_parallel()
    with pytest.raises(graphopt.GraphOptError, match=r"model\.save"):
        torch.save(nn.Sequential(module), io.BytesIO())
    copied = copy.deepcopy(nn.Sequential(module))[0]
    assert copied is not module and copied.compiled is module.compiled


def test_it_is_a_break_in_a_graph():
    net, x = nn.Sequential(compiled(), nn.Linear(9, 2).eval()), torch.randn(3, 7)
    with torch.no_grad():
        same(torch.compile(net, backend="eager")(x), net(x))


def test_only_models_are_made_modules():
    with pytest.raises(graphopt.InputError, match=r"as_module: takes what graphopt\.compile .* got Linear"):
        as_module(nn.Linear(2, 2))
