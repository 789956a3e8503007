"""torch.compile(net, backend="graphopt") against eager PyTorch: what is compiled, and that it is right."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from graphopt.interop.torch_backend import graphs
from graphopt.interop.torch_backend.graphs import MAX_CHANGES
from tests.interop.torch_backend.torch_compiling import compiled, counted, same, warnings_of


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 5)).eval()


# Found by name
def test_torch_finds_it_by_its_entry_point():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["torch_dynamo_backends"] == {"graphopt": "graphopt.interop.torch_backend:backend"}
    assert "graphopt" in torch._dynamo.list_backends(), "graphopt is not installed, or was before it had the entry point"
    net, x = mlp(), torch.randn(3, 7)
    with torch.no_grad():
        same(torch.compile(net, backend="graphopt")(x), net(x))
    assert counted() == (1, 0)


# Real models
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5_decoder", "vit", "convnext", "mamba", "mlp", "resnet18"])
def test_models_of_the_zoo(name: str):
    from bench.zoo import build

    net, args, kwargs = build(name)
    with torch.no_grad():
        want = net(*args, **kwargs)
        call = compiled(net)
        same(call(*args, **kwargs), want)
        same(call(*args, **kwargs), want)
    assert counted()[0] >= 1 and counted()[1] == 0


def test_recurrent_layers_are_one_operator():
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.head = nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True, bidirectional=True), \
                nn.Linear(16, 3)

        def forward(self, ids):
            hidden, (h, _) = self.lstm(self.embed(ids))
            return self.head(hidden), h

    net, ids = Tagger().eval(), torch.randint(0, 20, (2, 11))
    with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=True):
        same(compiled(net, fullgraph=True)(ids), net(ids))
    assert counted() == (1, 0)


def test_dropout_in_eval_mode_is_nothing():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval(), torch.randn(2, 4)
    with torch.no_grad():
        same(compiled(net)(x), net(x))
    assert counted() == (1, 0)


# Graph breaks
def test_code_between_graphs_runs_as_it_is(capsys):
    def f(x):
        y = torch.relu(x) * 2
        print("between")
        if y.sum() > 0:
            return torch.tanh(y) + 1
        return y - 1

    with torch.no_grad():
        for x in (torch.randn(4, 4), -torch.ones(4, 4)):
            same(compiled(f)(x), f(x))
    assert capsys.readouterr().out.count("between") == 4
    assert counted()[0] >= 3 and counted()[1] == 0


# Sizes
@pytest.mark.parametrize("dynamic", [None, True, False])
def test_sizes_that_change(dynamic):
    net = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(0, 1)).eval()
    call = compiled(net, dynamic=dynamic)
    with torch.no_grad():
        for n in (2, 5, 3, 5, 1):
            x = torch.randn(n, 3, 6 + n)
            same(call(x), net(x))
    assert counted()[1] == 0


def test_marked_dims_are_traced_once():
    net, seen = mlp(), set()
    call = compiled(net)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for n in (2, 6, 3):
            x = torch.randn(n, 7)
            torch._dynamo.mark_dynamic(x, 0)
            same(call(x), net(x))
            seen.add(len(graphs()))
    assert counted() == (3, 0) and len(seen) == 1


def test_sizes_beyond_the_limit_run_in_eager(caplog):
    net = mlp()
    call = compiled(net, dynamic=True, options={"max_specialisations": 2})
    with torch.no_grad():
        for n in (2, 3, 4, 5, 2):
            x = torch.randn(n, 7)
            same(call(x), net(x))
    assert counted() == (2, 2) and str(graphs()[-1]).count("kernel calls") == 2
    (said,) = warnings_of(caplog)
    assert "programs for 2 sets of sizes, and takes no more" in said and "max_specialisations" in said


def test_numbers_that_change():
    def f(x, k, a):
        return x.repeat(k, 1) * k + a

    call = compiled(f, dynamic=True)
    with torch.no_grad():
        for k, a in ((2, 0.5), (3, 1.5), (4, 2.5)):
            x = torch.randn(k, 3)
            same(call(x, k, a), f(x, k, a))
    assert counted()[1] == 0


# What goes in and comes out
def test_structures_aliases_and_constants():
    def f(x, pair, *, flag):
        h = x + pair["a"]
        return {"h": h, "same": x, "view": x.view(-1), "none": None, "n": x.shape[0], "flag": flag, "t": h.t(), "one": h[0, 0]}

    x, pair = torch.randn(3, 4), {"a": torch.randn(3, 4)}
    with torch.no_grad():
        got = compiled(f)(x, pair, flag="yes")
        same(got, f(x, pair, flag="yes"))
        assert got["same"] is x
        got["view"][0] = 7.0
        assert x[0, 0] == 7.0  # it is a view of the argument, as in eager


@pytest.mark.parametrize("x", [
    torch.randn(4, 6).t(), torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last), torch.randn(9, 4)[1::2],
    torch.tensor(2.5), torch.empty(0, 3), torch.randn(3).expand(5, 3), torch.randn(8)[3:], torch.arange(6) - 3,
    torch.tensor([True, False]), torch.randn(5, dtype=torch.float64), torch.randn(5).bfloat16(), torch.randn(5).half(),
], ids=["transposed", "channels-last", "strided", "0-dim", "empty", "expanded", "offset", "int64", "bool", "f64", "bf16", "f16"])
def test_tensors_of_every_layout_and_dtype(x: torch.Tensor):
    f = lambda x: (x + x, torch.where(x > 0, 3, x), x.sum())
    with torch.no_grad():
        same(compiled(f)(x), f(x))
    assert counted() == (1, 0)


def test_results_of_other_layouts_have_eagers_strides():
    net = nn.Conv2d(4, 8, 3).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    with torch.no_grad():
        got = compiled(net)(x)
        same(got, net(x))
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_results_are_fresh_memory():
    net, x = mlp(), torch.randn(3, 7)
    call = compiled(net)
    with torch.no_grad():
        first = call(x)
        kept = first.clone()
        call(torch.randn(3, 7))
        assert torch.equal(first, kept)


# In place
def test_arguments_changed_in_place():
    def f(x, y):
        x.add_(y)
        y[1:, :2].mul_(3)
        return x * y

    x, y = torch.randn(3, 4), torch.randn(3, 4)
    a, b = x.clone(), y.clone()
    call = compiled(f)
    with torch.no_grad():
        for _ in range(2):
            same(call(x, y), f(a, b))
            same((x, y), (a, b))
    assert counted() == (1, 0)


def test_arguments_that_share_memory():
    def f(x, y):
        x.add_(1)
        return y * 2

    base, other = torch.zeros(4), torch.zeros(4)
    with torch.no_grad():
        same(compiled(f)(base, base[1:]), f(other, other[1:]))
        same(base, other)


def test_batch_norm_in_training_mode_updates_its_statistics():
    a, b = nn.BatchNorm1d(5).train(), nn.BatchNorm1d(5).train()
    call = compiled(a)
    with torch.no_grad():
        for _ in range(MAX_CHANGES + 2):
            x = torch.randn(6, 5)
            same(call(x), b(x))
    same(dict(a.state_dict()), dict(b.state_dict()))


def test_a_state_that_grows_call_by_call():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x):
            self.seen += x.sum(0)
            return x - self.seen

    a, b = Counter().eval(), Counter().eval()
    call = compiled(a)
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(2, 3)
            same(call(x), b(x))
    same(a.seen, b.seen)


# Weights
def changed_by_an_optimizer(net: nn.Module) -> None:
    with torch.enable_grad():
        net(torch.randn(2, 7)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()


def changed_by_assignment(net: nn.Module) -> None:
    net[0].weight = nn.Parameter(torch.randn(9, 7))


def changed_by_data(net: nn.Module) -> None:
    net[0].weight.data = torch.randn(9, 7)


def changed_in_place(net: nn.Module) -> None:
    with torch.no_grad():
        net[2].bias.add_(1.0)


@pytest.mark.parametrize("change", [
    changed_by_an_optimizer, changed_by_assignment, changed_by_data, changed_in_place,
    lambda net: net.load_state_dict(mlp().state_dict()), lambda net: net.load_state_dict(mlp().state_dict(), assign=True),
], ids=["optimizer", "assignment", "data", "in-place", "state-dict", "state-dict-assigned"])
def test_weights_are_followed(change):
    net, x = mlp(), torch.randn(3, 7)
    call = compiled(net)
    with torch.no_grad():
        same(call(x), net(x))
        before = net(x)
        change(net)
        assert not torch.allclose(net(x), before)
        same(call(x), net(x))


def test_weights_that_keep_changing_are_read_at_every_call(caplog):
    net, x = mlp(), torch.randn(3, 7)
    call = compiled(net)
    with torch.no_grad():
        for _ in range(MAX_CHANGES + 4):
            same(call(x), net(x))
            changed_in_place(net)
    assert counted() == (MAX_CHANGES + 2, 0)
    (said,) = warnings_of(caplog)
    assert "keep changing" in said and "reads them at every call" in said


def test_two_models_of_one_class_have_their_own_weights():
    a, b, x = mlp(), mlp(), torch.randn(3, 7)
    f, g = compiled(a), compiled(b)
    with torch.no_grad():
        for _ in range(2):
            same(f(x), a(x))
            same(g(x), b(x))


def test_weights_made_in_inference_mode(caplog):
    with torch.inference_mode():
        net, x = mlp(), torch.randn(3, 7)
        call = compiled(net)
        same(call(x), net(x))
        net[2].bias.add_(1.0)
        same(call(x), net(x))
    assert counted() == (1, 0)
    assert "do not tell when they change" in "".join(warnings_of(caplog))


def test_inference_mode():
    net, x = mlp(), torch.randn(3, 7)
    with torch.inference_mode():
        y = compiled(net)(x)
        same(y, net(x))
        assert y.is_inference()
    assert counted() == (1, 0)


# Threads
def test_threads_are_torchs_unless_said():
    net, x, before = mlp(), torch.randn(3, 7), torch.get_num_threads()
    call, fixed = compiled(net), compiled(net, options={"threads": 1})
    try:
        with torch.no_grad():
            for n in (1, 2):
                torch.set_num_threads(n)
                same(call(x), net(x))
                same(fixed(x), net(x))
    finally:
        torch.set_num_threads(before)
    assert {g.threads for g in graphs() if g.settings.threads is None} >= {1, 2}
    assert {g.threads for g in graphs() if g.settings.threads == 1} == {1}


def test_calls_may_overlap():
    net = mlp()
    call = compiled(net, dynamic=True)
    xs = [torch.randn(n, 7) for n in (2, 3, 4, 5)]
    with torch.no_grad():
        want = [net(x) for x in xs]
        call(xs[0])
    wrong = []

    def work(k: int) -> None:
        with torch.no_grad():
            for _ in range(50):
                if not torch.allclose(call(xs[k]), want[k], rtol=1e-4, atol=1e-5):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# Looking at it
def test_graphs_say_what_became_of_them():
    net, x = mlp(), torch.randn(3, 7)
    call = compiled(net)
    with torch.no_grad():
        call(x)
    graph = graphs()[-1]
    assert "kernel calls" in str(graph) and graph.why_eager is None
    assert "target x86" in graph.explain()
