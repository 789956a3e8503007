"""What a captured PyTorch model promises: forms of models, structure, names, shared weights, symbolic dims, refusals."""

import collections
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from graphopt.capture.torch import capture_torch
from graphopt.errors import CaptureError, InputError, UnsupportedOperators
from graphopt.ir.evaluate import evaluate
from graphopt.ir.parse import parse_graph
from graphopt.ir.verify import verify
from graphopt.runtime.structure import Call
from tests.capture.torch_check import Of, capture, check, ops, run, same

Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    extra: torch.Tensor | None = None


torch.export.register_dataclass(Answer, serialized_type_name="test_torch_interface.Answer")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.inner(x))


X = torch.randn(5, 4)


# Forms of models --------------------------------------------------------------------------------
def test_module_graph_module_and_exported_program_give_the_same_graph():
    net = Net().eval()
    graphs = [capture_torch(net, (X,)), capture_torch(torch.fx.symbolic_trace(net), (X,)),
              capture_torch(torch.export.export(net, (X,)))]
    with torch.no_grad():
        for graph in graphs:
            verify(graph)
            same(run(graph, X), net(X))
    assert ops(graphs[0]) == ops(graphs[1]) == ops(graphs[2])


def test_example_inputs_may_be_a_tensor_arrays_or_a_dict():
    net = Net().eval()
    for example in (X, (X,), [X.numpy()], {"x": X}, X.numpy()):
        assert capture_torch(net, example).input_names == ["x"]


def test_a_decomposed_program_is_captured_too():
    program = torch.export.export(Net().eval(), (X,)).run_decompositions()
    with torch.no_grad():
        same(run(capture_torch(program), X), program.module()(X))


def test_the_graph_survives_its_text_form():
    graph = capture_torch(Net().eval(), (X,))
    constants = {op.attrs["value"].name: op.attrs["value"] for op in graph.ops if op.name == "const"}
    again = parse_graph(str(graph), constants=constants)
    np.testing.assert_array_equal(evaluate(again, [X.numpy()])[0], evaluate(graph, [X.numpy()])[0])


def test_locations_name_the_submodule():
    graph = capture_torch(Net().eval(), (X,))
    assert {op.loc for op in graph.ops if op.name == "matmul"} == {("inner.0",), ("out",)}
    assert {op.loc for op in graph.ops if op.name == "relu"} == {("inner.1",)}


# Structure --------------------------------------------------------------------------------------
class Structured(nn.Module):
    def forward(self, batch, pair, scale=2.0, *, flag=True, mask=None):
        y = batch["x"] * scale + pair[0] - pair[1]["z"]
        return {"y": y, "parts": [y * 2, (y + 1,)], "nothing": None, "number": 3, "mask": mask, "point": Point(y, y - 1),
                "answer": Answer(y * 3)}


BATCH, PAIR = {"x": torch.randn(3), "unused": torch.randn(2)}, (torch.randn(3), {"z": torch.randn(3)})


def test_structure_of_arguments_and_results_is_kept():
    graph = capture_torch(Structured().eval(), {"batch": BATCH, "pair": PAIR, "scale": 1.5, "flag": False})
    call = graph.metadata["call"]
    assert graph.input_names == ["batch.x", "batch.unused", "pair.0", "pair.1.z"]
    assert graph.output_names == ["y", "parts.0", "parts.1.0", "point.x", "point.y", "answer.logits"]
    arrays = [t.numpy() for t in call.flatten((BATCH,), {"pair": PAIR})]
    got = call.unflatten(evaluate(graph, arrays))
    expected = Structured()(BATCH, PAIR, 1.5, flag=False)
    assert list(got) == list(expected) and got["nothing"] is None and got["number"] == 3
    assert isinstance(got["point"], Point) and isinstance(got["answer"], Answer) and isinstance(got["parts"][1], tuple)
    np.testing.assert_allclose(got["point"].y, expected["point"].y.numpy(), rtol=1e-6)


@pytest.mark.parametrize("args, kwargs, message", [
    ((BATCH,), {}, "pair: missing argument"),
    ((BATCH, PAIR, 2.5), {}, r"scale: was captured as 1.5.*got 2.5"),
    ((BATCH, (PAIR[0],)), {}, "pair: expected a tuple of 2, got 1"),
    (({"x": BATCH["x"]}, PAIR), {}, "batch: missing key 'unused'"),
    (({**BATCH, "w": 1}, PAIR), {}, "batch: unexpected key 'w'"),
    ((BATCH["x"], PAIR), {}, "batch: expected a dict"),
    ((BATCH, (PAIR[0], {"z": None})), {}, r"pair.1.z: expected a tensor, got None"),
    ((BATCH, PAIR), {"batch": BATCH}, "batch: given by position and by name"),
    ((BATCH, PAIR), {"mask": BATCH["x"]}, "mask: not an argument of the captured model"),
    ((BATCH, PAIR), {"masc": 1}, "masc: not an argument.*arguments are"),
    ((BATCH, PAIR, 1.5, False, None, 7), {}, "takes 5 positional arguments"),
])  # fmt: skip
def test_wrong_structure_is_named(args, kwargs, message):
    call = capture_torch(Structured().eval(), {"batch": BATCH, "pair": PAIR, "scale": 1.5}).metadata["call"]
    with pytest.raises(InputError, match=message):
        call.flatten(args, kwargs)


def test_the_calling_convention_is_plain_data():
    graph = capture_torch(Structured().eval(), {"batch": BATCH, "pair": PAIR, "scale": 1.5})
    call = graph.metadata["call"]
    again = Call.from_json(json.loads(json.dumps(call.to_json())))
    assert again.input_names == graph.input_names and again.output_names == graph.output_names
    values = list(range(6))
    result = again.unflatten(values)
    assert result["point"].y == 4 and result["answer"]["logits"] == 5 and result["parts"] == [1, (2,)]
    assert len(again.flatten((BATCH, PAIR), {})) == 4


def test_hugging_face_outputs_come_back_as_their_class():
    from bench.zoo import build

    module, args, kwargs = build("distilbert")
    graph = capture_torch(module, kwargs)
    call = graph.metadata["call"]
    got = call.unflatten(evaluate(graph, [t.numpy() for t in call.flatten(args, kwargs)]))
    with torch.no_grad():
        expected = module(**kwargs)
    assert type(got) is type(expected) and graph.output_names == ["last_hidden_state"]
    np.testing.assert_allclose(got.last_hidden_state, expected.last_hidden_state.numpy(), rtol=1e-4, atol=1e-5)


def test_an_input_may_be_an_output_and_an_output_come_twice():
    graph = check(lambda x, y: (x, x + y, x + y, y), torch.randn(3), torch.randn(3))
    assert graph.output_names == ["output.0", "output.1", "output.2", "output.3"]


# Weights ----------------------------------------------------------------------------------------
def test_weights_are_shared_with_the_module_and_tied_ones_are_one_tensor():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    net[1].weight = net[0].weight
    graph = capture_torch(net, (X,))
    tensors = {id(op.attrs["value"]): op.attrs["value"] for op in graph.ops if op.name == "const"}
    assert sorted(t.array.shape for t in tensors.values()) == [(4,), (4,), (4, 4)]
    weight = next(t.array for t in tensors.values() if t.array.ndim == 2)
    assert np.shares_memory(weight, net[0].weight.detach().numpy()) and not weight.flags.writeable


def test_half_precision_weights_are_shared_too():
    net = nn.Linear(4, 4, bias=False).to(torch.bfloat16).eval()
    graph = capture_torch(net, (X.bfloat16(),))
    (weight,) = (op.attrs["value"].array for op in graph.ops if op.name == "const")
    assert weight.dtype.name == "bfloat16"
    assert weight.__array_interface__["data"][0] == net.weight.data_ptr()


def test_buffers_and_plain_tensors_become_constants():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.arange(3.0))
            self.register_buffer("temporary", torch.ones(3), persistent=False)
            self.plain = torch.full((3,), 2.0)

        def forward(self, x):
            return x * self.kept + self.temporary - self.plain

    check(Model(), torch.randn(3))


def test_unused_weights_do_not_appear():
    net = Net().eval()
    net.spare = nn.Linear(1000, 1000)
    assert all(op.attrs["value"].name[:5] != "spare" for op in capture_torch(net, (X,)).ops if op.name == "const")


# Symbolic dims ----------------------------------------------------------------------------------
def test_declared_dims_keep_their_names_and_ranges():
    batch, length = Dim("batch", min=1, max=64), Dim("length", max=128)

    def f(x, y):
        return x.reshape(x.shape[0] * x.shape[1], -1).sum(1) * x.shape[1], torch.arange(x.shape[1]) + y[0, :, 0] * 0, \
            torch.cat([x, y], 1)[:, 1:-1], x.shape[0] + 1

    module = Of(lambda x, y: f(x, y))
    example = (torch.randn(3, 5, 4), torch.randn(3, 5, 4))
    graph = capture(module, *example, dynamic={"xs": tuple({0: batch, 1: length} for _ in example)})
    assert [str(v.type) for v in graph.inputs] == ["f32[batch, length, 4]"] * 2
    assert [str(v.type) for v in graph.outputs][:3] == ["f32[batch*length]", "f32[length]", "f32[batch, 2*length - 2, 4]"]
    assert graph.metadata["dim_ranges"]["batch"][1] == 64 and graph.metadata["dim_ranges"]["length"][1] == 128
    for shape in ((3, 5, 4), (1, 7, 4), (6, 2, 4)):
        x, y = torch.randn(shape), torch.randn(shape)
        same(run(graph, x, y), f(x, y))
    concrete = graph.specialise({"batch": 2, "length": 3})
    verify(concrete)
    x = torch.randn(2, 3, 4)
    same(concrete.metadata["call"].unflatten(evaluate(concrete, [x.numpy()] * 2)), f(x, x))


def test_derived_dims_are_arithmetic_over_their_root():
    half = Dim("half", max=50)
    module = Of(lambda x, y: x + y.repeat(2)).eval()
    graph = capture_torch(module, (torch.randn(6), torch.randn(3)), {"xs": ({0: 2 * half}, {0: half})})
    assert [str(v.type) for v in graph.inputs] == ["f32[2*half]", "f32[half]"]
    y = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(evaluate(graph, [np.zeros(10, np.float32), y])[0], np.tile(y, 2))


def test_dynamic_layers():
    batch, side = Dim("batch", max=9), Dim("side", min=4, max=99)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(4, 2)).eval()
    graph = capture_torch(net, (torch.randn(2, 3, 8, 8),), {"input": {0: batch, 2: side}})
    verify(graph)
    with torch.no_grad():
        for shape in ((1, 3, 4, 8), (5, 3, 11, 8)):
            x = torch.randn(shape)
            same(run(graph, x), net(x))


def test_resizing_to_a_symbolic_size():
    height = Dim("height", min=4, max=99)
    f = Of(lambda x: nn.functional.interpolate(nn.functional.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear")).eval()
    graph = capture_torch(f, (torch.randn(1, 2, 8, 6),), {"xs": ({2: height},)})
    x = torch.randn(1, 2, 11, 6)
    same(run(graph, x), f(x))


def test_dynamic_attention_and_recurrence():
    length = Dim("length", min=2, max=99)
    encoder = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True).eval()
    graph = capture_torch(encoder, (torch.randn(2, 5, 12),), {"src": {1: length}})
    lstm = nn.LSTM(4, 3).eval()
    recurrent = capture_torch(lstm, (torch.randn(5, 2, 4),), {"input": {1: length}})
    with torch.no_grad():
        for n in (2, 7):
            same(run(graph, torch.ones(2, n, 12)), encoder(torch.ones(2, n, 12)))
            same(run(recurrent, torch.ones(5, n, 4)), lstm(torch.ones(5, n, 4)))


def test_undeclared_names_still_are_symbols():
    graph = capture_torch(Of(torch.sin).eval(), (torch.randn(3, 4),), {"xs": ((Dim.AUTO, None),)})
    assert not graph.inputs[0].type.is_static and graph.inputs[0].shape[1] == 4


# Numbers from the data and control flow -----------------------------------------------------------
def test_a_number_read_from_a_tensor_stays_a_value():
    check(lambda x, n: (x * n[0].item() + 1, x[n[1].item()]), torch.randn(3), torch.tensor([2, 1]))


def test_torch_cond_becomes_if():
    weight = torch.randn(3)
    graph = check(lambda x: torch.cond(x.sum() > 0, lambda x: x * weight, lambda x: x - 1, (x,)), torch.ones(3))
    assert "if" in ops(graph)
    same(run(graph, -torch.ones(3)), -torch.ones(3) - 1)


def test_no_grad_blocks_vanish():
    def f(x):
        with torch.no_grad():
            y = x * 2
        return y + x
    assert ops(check(f, torch.randn(3))) == ["mul", "add"]


# Refusals -----------------------------------------------------------------------------------------
def test_all_unsupported_operators_are_listed_with_their_places():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Identity(), Of(lambda x: torch.linalg.qr(x)[0] + torch.geqrf(x)[0])

        def forward(self, x):
            return self.second(torch.geqrf(self.first(x))[0]) + torch.asin(torch.fft.fft(x[0])).real[None]

    with pytest.raises(UnsupportedOperators) as raised:
        capture_torch(Model().eval(), (torch.randn(3, 3),))
    names = {name for name, _ in raised.value.operators}
    assert {"aten.geqrf.default", "aten.linalg_qr.default"} <= names
    assert "aten.asin.default (on a complex tensor)" in names
    assert ("aten.linalg_qr.default", "second") in raised.value.operators


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_dtypes_that_are_not_there_are_refused_by_name():
    with pytest.raises(CaptureError, match=r"input .*: dtype torch.complex32"):
        capture_torch(Of(lambda x: torch.view_as_real(x)).eval(), (torch.randn(3).to(torch.complex32),))


def test_training_mode_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(CaptureError, match=r"training mode.*eval"):
        capture_torch(net, (torch.randn(2, 3, 8, 8),))
    with pytest.raises(CaptureError, match=r"1: the model is in training mode"):
        capture_torch(net, (torch.randn(2, 3, 8, 8),))


def test_a_model_that_writes_its_buffers_is_refused():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return x * self.count

    with pytest.raises(CaptureError, match="count: the model changes its own state"):
        capture_torch(Counter().eval(), (torch.randn(3),))


def test_what_cannot_be_traced_is_explained():
    with pytest.raises(CaptureError, match=r"Of: torch.export could not trace the model"):
        capture_torch(Of(lambda x: x if x.sum() > 0 else -x).eval(), (torch.randn(3),))
    with pytest.raises(CaptureError, match="Give example_inputs"):
        capture_torch(Net().eval())
    with pytest.raises(CaptureError, match="a dict is not a PyTorch model"):
        capture_torch({}, (X,))


def test_capture_leaves_the_module_as_it_was():
    net = Net().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    capture_torch(net, (X,))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() and all(p.requires_grad for p in net.parameters())
