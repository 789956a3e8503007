"""Calling a compiled model: arguments, arrays of every library and layout, results in kind, errors that say both sides."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import threading

import ml_dtypes
import numpy as np
import pytest
import torch

import graphopt
from graphopt.errors import InputError
from graphopt.ir import Builder, Graph, dtype, tensor
from tests.runtime.small_models import W, inputs, linear, linear_reference, scale


# Arguments
def test_by_position_by_keyword_and_by_name() -> None:
    x, offset = inputs()
    want = linear_reference(x, offset)
    for scores, total in (linear()(x, offset), linear()(x, offset=offset), linear()(offset=offset, x=x)):
        np.testing.assert_allclose(scores, want, atol=1e-6)
        np.testing.assert_allclose(total, x.sum(), rtol=1e-5)
    named = linear().run({"offset": offset, "x": x})
    assert list(named) == ["scores", "total"] and named["total"].shape == ()
    np.testing.assert_allclose(named["scores"], want, atol=1e-6)


def test_what_it_takes_and_gives_is_described() -> None:
    model = linear()
    assert [(s.name, s.dtype, s.shape) for s in model.inputs] == [("x", "f32", (3, 6)), ("offset", "f32", (5,))]
    assert [(s.name, s.dtype, s.shape) for s in model.outputs] == [("scores", "f32", (3, 5)), ("total", "f32", ())]
    assert "x: f32[3, 6]" in repr(model) and "total: f32[]" in repr(model) and "x86" in repr(model)


X, OFFSET = inputs()


@pytest.mark.parametrize("call,says", [
    (lambda m: m(), ["missing input 'x'", "missing input 'offset'", "x: f32[3, 6]"]),
    (lambda m: m(X), ["missing input 'offset'"]),
    (lambda m: m(X, OFFSET, X), ["takes 2 inputs (x, offset), got 3"]),
    (lambda m: m(X, OFFSET, x=X), ["input x", "by position and by name"]),
    (lambda m: m(X, shift=OFFSET), ["no input is named 'shift'", "missing input 'offset'"]),
    (lambda m: m.run({"x": X, "y": X, "offset": OFFSET}), ["no input is named 'y'"]),
    (lambda m: m.run({"x": X}), ["missing input 'offset'"]),
    (lambda m: m.run([X, OFFSET]), ["takes arrays by the names of inputs, got list", "x: f32[3, 6]"]),
    (lambda m: m.profile(X, OFFSET, repeats=0), ["repeats: must be a whole number of at least 1, got 0"]),
    (lambda m: m(X.astype(np.float64), OFFSET), ["input x", "expected dtype f32", "float64", "astype"]),
    (lambda m: m(X, torch.ones(5, dtype=torch.int64)), ["input offset", "expected dtype f32", "int64"]),
    (lambda m: m(X[:2], OFFSET), ["input x", "[3, 6]", "[2, 6]"]),
    (lambda m: m(X, OFFSET[None]), ["input offset", "[5]", "[1, 5]"]),
    (lambda m: m(X, None), ["input offset", "expected f32", "NoneType"]),
    (lambda m: m(X, [1.0] * 5), ["input offset", "expected f32", "list"]),
    (lambda m: m("x", OFFSET), ["input x", "expected dtype f32"]),
    (lambda m: m(X.astype(">f4"), OFFSET), ["input x", "expected dtype f32", ">f4"]),
], ids=lambda v: None if callable(v) else v[0])  # a lambda's address differs between xdist's workers
def test_wrong_inputs_are_named_with_both_sides(call, says: list[str]) -> None:
    with pytest.raises(InputError) as e:
        call(linear())
    for text in says:
        assert text in str(e.value)


# Arrays
class Exchanged:
    """An array of yet another library: all it has is DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_results_are_in_kind() -> None:
    x, offset = inputs()
    want = linear_reference(x, offset)
    assert all(type(y) is np.ndarray for y in linear()(x, offset))
    scores, total = linear()(torch.from_numpy(x), torch.from_numpy(offset))
    assert isinstance(scores, torch.Tensor) and scores.dtype is torch.float32 and total.shape == ()
    np.testing.assert_allclose(scores.numpy(), want, atol=1e-6)
    mixed = linear().run({"x": torch.from_numpy(x), "offset": offset})
    assert all(isinstance(y, torch.Tensor) for y in mixed.values())
    scores, _ = linear()(Exchanged(x), Exchanged(offset))
    np.testing.assert_allclose(np.asarray(scores), want, atol=1e-6)


class Namespaced(Exchanged):
    """An array of a library of the array API, which has bf16 and devices."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        super().__init__(array)
        self.device = device

    def __array_namespace__(self, api_version=None):
        return Namespace

    def __array__(self, dtype=None, copy=None):
        return self.array

    def __dlpack_device__(self):
        return (self.device, 0)


class Namespace:
    asarray = Namespaced

    @staticmethod
    def from_dlpack(x: np.ndarray) -> Namespaced:
        return Namespaced(np.from_dlpack(x))


def test_results_are_of_the_inputs_namespace() -> None:
    x, offset = inputs()
    for scores, total in (linear()(Namespaced(x), offset), linear()(x, Namespaced(offset)),
                          linear().run({"x": Namespaced(x), "offset": offset}).values()):
        assert isinstance(scores, Namespaced) and isinstance(total, Namespaced)
        np.testing.assert_allclose(scores.array, linear_reference(x, offset), atol=1e-6)
    scores, _ = linear()(Namespaced(x), torch.from_numpy(offset))
    assert isinstance(scores, torch.Tensor)
    narrow = np.arange(40).astype(ml_dtypes.bfloat16)  # numpy's DLPack refuses it
    y = scale("bf16")(Namespaced(narrow))
    assert isinstance(y, Namespaced) and y.array.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y.array, narrow + narrow)


@pytest.mark.parametrize("x, says", [
    (Namespaced(X, device=2), "an array of type Namespaced on a device (DLPack's kind 2) cannot be read. Move it to the CPU"),
    (torch.from_numpy(X).to("meta"), "without data (meta) cannot be read"),
    (torch.from_numpy(X).to_sparse(), "a tensor that is sparse_coo cannot be read"),
    (Exchanged(X.astype(ml_dtypes.bfloat16)), "an array of type Exchanged cannot be read"),
], ids=["device", "meta", "sparse", "dtype"])
def test_arrays_that_cannot_be_read(x, says: str) -> None:
    with pytest.raises(InputError) as e:
        linear()(x, OFFSET)
    assert str(e.value).startswith("input x") and says in str(e.value)


def test_tensors_that_require_gradients() -> None:
    x = torch.ones(40, requires_grad=True)
    y = scale()(x)
    assert not y.requires_grad and torch.equal(y, torch.full((40,), 2.0))
    parameter = torch.nn.Parameter(torch.ones(40))
    assert torch.equal(scale()(parameter), torch.full((40,), 2.0))


@pytest.mark.parametrize("of", ["bool", "i8", "i16", "i32", "i64", "u8", "f16", "bf16", "f32", "f64"])
def test_every_dtype_through_numpy_and_torch(of: str) -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor(of, 40), "x")
    graph.outputs = [b.or_(x, x) if of == "bool" else b.add(x, x), x]
    model = graphopt.compile(graph)
    array = (np.arange(40) % 7).astype(dtype(of).numpy)
    want = array if of == "bool" else array + array
    for got, wanted in zip(model(array), (want, array)):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == array.dtype
    given = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if of == "bf16" else torch.from_numpy(array)
    got = model(given)
    assert got[0].dtype is given.dtype and torch.equal(got[1], given)
    assert torch.equal(got[0], given | given if of == "bool" else given + given)


def test_layouts_in_memory_do_not_matter() -> None:
    x, offset = inputs()
    want = linear_reference(x, offset)
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(x.shape)
    unaligned[:] = x
    apart = np.zeros((6, 12), np.float32)[::2, ::2]
    apart[:] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    backward = np.ascontiguousarray(x[::-1])[::-1]
    for given in (np.asfortranarray(x), unaligned, apart, frozen, backward, np.broadcast_to(x, (1, 3, 6))[0]):
        np.testing.assert_allclose(linear()(given, offset)[0], want, atol=1e-6)
    np.testing.assert_allclose(linear()(x, np.repeat(offset, 2)[::2])[0], want, atol=1e-6)
    turned = torch.from_numpy(np.ascontiguousarray(x.T)).T
    np.testing.assert_allclose(linear()(turned, torch.from_numpy(offset))[0].numpy(), want, atol=1e-6)
    once = np.broadcast_to(np.float32(0.5), (5,))
    np.testing.assert_allclose(linear()(x, once)[0], linear_reference(x, once), atol=1e-6)


def test_numbers_are_scalars() -> None:
    graph = Graph()
    graph.outputs = [Builder(graph).mul(graph.add_input(tensor("f64"), "x"), 2.0)]
    model = graphopt.compile(graph)
    for given in (3.0, np.float64(3), np.array(3.0)):
        assert model(given) == 6.0 and model(given).shape == ()
    assert model(torch.tensor(3.0, dtype=torch.float64)).item() == 6.0


# Memory of the caller
def test_inputs_are_not_changed_and_results_are_the_callers() -> None:
    x, offset = inputs()
    before = x.copy(), offset.copy()
    first = linear()(x, offset)
    kept = [y.copy() for y in first]
    second = linear()(x * 3, offset + 1)
    assert np.array_equal(x, before[0]) and np.array_equal(offset, before[1])
    for y, k, z in zip(first, kept, second):
        assert np.array_equal(y, k) and not np.shares_memory(y, z)
    first[0][:] = np.nan  # writable, and nothing that the model reads
    np.testing.assert_allclose(linear()(x, offset)[0], kept[0])


def test_results_that_are_inputs_or_weights_are_copies() -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor("f32", 3, 6), "x")
    sequence = b.seq_construct(x, b.const(np.ones((3, 6), np.float32)))
    graph.outputs = [x, b.reshape(x, shape=[18]), b.const(W), b.seq_at(sequence, b.const(np.int64(0))), sequence]
    model = graphopt.compile(graph)
    given, _ = inputs()
    before = given.copy()
    got = model(given)
    for y in (*got[:4], *got[4]):
        y[:] = 7
    assert np.array_equal(given, before)
    again = model(given)
    np.testing.assert_array_equal(again[2], W)
    np.testing.assert_array_equal(again[3], given)
    np.testing.assert_array_equal(again[4][1], 1)


# Threads
def test_calls_from_several_threads() -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(100):
            x, offset = rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
            if not np.allclose(linear()(x, offset)[0], linear_reference(x, offset), atol=1e-6):
                wrong.append(f"thread {seed}")

    linear()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_it_is_not_pickled_and_the_error_says_what_to_do_instead() -> None:
    spawn = multiprocessing.get_context("spawn")
    attempts = [lambda m: pickle.dumps(m), lambda m: pickle.dumps({"inner": [m]}), lambda m: torch.save(m, io.BytesIO()),
                lambda m: spawn.Process(target=print, args=(m,)).start()]
    for attempt in attempts:
        with pytest.raises(TypeError, match=r"machine code.*model\.save\(path\).*graphopt\.load\(path\)") as e:
            attempt(linear())
        assert isinstance(e.value, graphopt.GraphOptError)


def test_a_copy_is_the_model_itself() -> None:
    model = linear()
    assert copy.copy(model) is model and copy.deepcopy({"a": [model]})["a"][0] is model


def test_bfloat16_of_ml_dtypes() -> None:
    x = np.arange(40).astype(ml_dtypes.bfloat16)
    y = scale("bf16")(x)
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y, x + x)
