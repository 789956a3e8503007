"""Calls without Python's interpreter: what they take, that the longer way gives the same for all else, and what they hold."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import graphopt
from graphopt.errors import GraphOptError
from graphopt.ir import Builder, Graph, dtype, tensor
from graphopt.runtime.host import pycall
from graphopt.runtime.host.library import Pointer
from graphopt.runtime.structure import Call, Node
from tests.runtime.small_models import W, linear, linear_reference, named, scale, symbolic

DATA = Path(__file__).parents[2] / "data"
ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(3)
X, OFFSET = RNG.standard_normal((3, 6)).astype(np.float32), RNG.standard_normal(5).astype(np.float32)
TX, TOFFSET = torch.from_numpy(X.copy()), torch.from_numpy(OFFSET.copy())


def entered(model: Any) -> Any:
    """The builtin function by which the model's latest program is called."""
    call = model._by_arguments
    assert type(call) is type(len)
    return call


def short(model: Any, *given: Any) -> Any:
    """What the short way gives."""
    return entered(model)(*given)


@pytest.fixture
def longer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The model of a graph, called by the longer way alone."""

    def compiled(graph: Graph) -> Any:
        monkeypatch.setattr(pycall, "caller", lambda *_: pycall.never)
        model = graphopt.compile(graph)
        model.run({s.name: np.zeros(s.shape, s.numpy) for s in model.inputs})
        monkeypatch.undo()
        assert model._by_arguments is pycall.never
        return model

    return compiled


def affine() -> Graph:
    """y = x @ W + offset, s = x summed, of x[3, 6] and offset[5]."""
    graph = Graph()
    b = Builder(graph)
    x, offset = graph.add_input(tensor("f32", 3, 6), "x"), graph.add_input(tensor("f32", 5), "offset")
    graph.outputs = [b.add(b.matmul(x, b.const(W)), offset), b.reduce_sum(x, axes=[0, 1])]
    return named(graph, ["x", "offset"], ["y", "s"])


class Named(np.ndarray):
    """A subclass."""


class Marked(torch.Tensor):
    """A subclass."""


def unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:].view(x.dtype).reshape(x.shape)[:] = x
    return raw[1:].view(x.dtype).reshape(x.shape)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def spread(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((3, 12), np.float32)
    wide[:, ::2] = x
    return wide[:, ::2]


ARRAYS = {
    "as it is": X, "read-only": read_only(X), "part of another": np.concatenate([X, X])[3:], "of a memory map": np.frombuffer(
        X.tobytes(), np.float32).reshape(3, 6), "float64": X.astype(np.float64), "float16": X.astype(np.float16),
    "int32": X.astype(np.int32), "other byte order": X.astype(">f4"), "equal dtype": X.view(np.dtype("f4").newbyteorder("=")),
    "dtype with metadata": X.view(np.dtype("f4", metadata={"a": 1})), "records": X.view([("a", "f4")]), "shape": X[:2],
    "rank": X[None], "flat": X.ravel(), "Fortran": np.asfortranarray(X), "transposed": np.ascontiguousarray(X.T).T,
    "spread": spread(X), "backward": X[::-1], "broadcast": np.broadcast_to(X[:1], (3, 6)), "unaligned": unaligned(X),
    "subclass": X.view(Named), "masked": np.ma.masked_array(X), "list": X.tolist(), "None": None,
    "number": 1.0, "scalar": np.float32(1), "text": "x", "bytes": X.tobytes(), "memoryview": memoryview(X), "0-d": np.array(1.0),
    "empty": np.empty((0, 6), np.float32), "objects": X.astype(object), "type": np.ndarray,
}
TENSORS = {
    "as it is": TX, "float64": TX.double(), "bfloat16": TX.bfloat16(), "int32": TX.int(), "complex": TX.to(torch.complex64),
    "shape": TX[:2], "rank": TX[None], "part of another": torch.cat([TX, TX])[3:], "transposed": TX.t().contiguous().t(),
    "spread": torch.cat([TX, TX], 1)[:, ::2], "expanded": TX[:1].expand(3, 6), "negative": torch._neg_view(TX),
    "imaginary": torch.complex(TX, TX).conj().imag, "gradients": TX.clone().requires_grad_(), "parameter": torch.nn.Parameter(TX),
    "computed": torch.nn.Parameter(TX) * 2, "subclass": TX.as_subclass(Marked), "meta": TX.to("meta"), "sparse": TX.to_sparse(),
    "mkldnn": TX.to_mkldnn(), "unaligned": torch.from_numpy(unaligned(X)), "numpy": X, "list": X.tolist(), "empty": TX[:0],
    "zeros": torch._efficientzerotensor((3, 6)), "channels last": torch.zeros(1, 3, 2, 2).to(memory_format=torch.channels_last),
    "inference": torch.inference_mode()(lambda: TX * 1)(), "type": torch.Tensor,
}
TAKEN = {"as it is", "read-only", "part of another", "of a memory map", "gradients", "parameter", "computed", "inference"}


def outcome(f: Callable[[], Any]) -> Any:
    """Types, dtypes, shapes and values of results, or the error."""
    try:
        results = f()
    except Exception as e:
        return type(e), str(e)
    assert type(results) is tuple
    return [(type(y), y.dtype, tuple(y.shape), getattr(y, "requires_grad", False), np.asarray(y).tolist()) for y in results]


@pytest.fixture(scope="module")
def ready() -> Any:
    """affine(), having seen arrays and tensors."""
    model = graphopt.compile(affine())
    model(X, OFFSET)
    model(TX, TOFFSET)
    return model


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_do_not_fit_go_the_longer_way(kind: str, ready: Any, longer: Callable[..., Any]) -> None:
    x, other = ARRAYS[kind], longer(affine())
    assert (short(ready, x, OFFSET) is not None) is (kind in TAKEN)
    assert outcome(lambda: ready(x, OFFSET)) == outcome(lambda: other(x, OFFSET))
    assert outcome(lambda: ready(X, x)) == outcome(lambda: other(X, x))


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_go_the_longer_way(kind: str, ready: Any, longer: Callable[..., Any]) -> None:
    x, other = TENSORS[kind], longer(affine())
    assert (short(ready, x, TOFFSET) is not None) is (kind in TAKEN)
    assert outcome(lambda: ready(x, TOFFSET)) == outcome(lambda: other(x, TOFFSET))
    assert outcome(lambda: ready(TX, x)) == outcome(lambda: other(TX, x))


def test_other_counts_of_arguments_go_the_longer_way(ready: Any, longer: Callable[..., Any]) -> None:
    other = longer(affine())
    for given in ((), (X,), (X, OFFSET, X), (TX, OFFSET), (X, TOFFSET)):
        assert short(ready, *given) is None
        assert outcome(partial(ready, *given)) == outcome(partial(other, *given))
    with pytest.raises(TypeError, match="keyword"):
        entered(ready)(x=X, offset=OFFSET)
    assert outcome(lambda: ready(offset=OFFSET, x=X)) == outcome(lambda: other(offset=OFFSET, x=X))
    np.testing.assert_array_equal(ready.run({"offset": OFFSET, "x": X})["y"], ready(X, OFFSET)[0])


def test_values_are_right(ready: Any) -> None:
    for x, offset in ((X, OFFSET), (TX, TOFFSET)):
        y, s = short(ready, x, offset)
        np.testing.assert_allclose(y, X.astype(np.float64) @ W + OFFSET, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(s, X.astype(np.float64).sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("of", ["bool", "i8", "i16", "i32", "i64", "u8", "f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (4, 1, 5), (1, 1)], ids=str)
def test_every_dtype_and_rank(of: str, shape: tuple[int, ...]) -> None:
    graph = Graph()
    b = Builder(graph)
    x = graph.add_input(tensor(of, *shape), "x")
    graph.outputs = [b.or_(x, x) if of == "bool" else b.add(x, x)]
    model = graphopt.compile(graph)
    array = (np.arange(int(np.prod(shape))) % 5).astype(dtype(of).numpy).reshape(shape)
    want = array if of == "bool" else array + array
    assert type(model(array)) is np.ndarray
    got = short(model, array)
    assert got.dtype is array.dtype and got.shape == shape
    np.testing.assert_array_equal(got, want)
    bits = torch.from_numpy(array.reshape(-1).view(np.int16) if of == "bf16" else array)
    given = bits.view(torch.bfloat16).reshape(shape) if of == "bf16" else bits
    assert type(model(given)) is torch.Tensor
    made = short(model, given)
    assert made.dtype is given.dtype and made.shape == given.shape and made.is_contiguous()
    assert torch.equal(made, given if of == "bool" else given + given)


def test_complex_tensors_may_be_conjugates() -> None:
    z = torch.tensor([1 + 2j, 3j, 4], dtype=torch.complex64)
    call = made(where(), [((3,), np.dtype(np.complex64))], [((1,), np.dtype(np.int64))], OFFSET, True)
    assert call(z) is None and call(z.conj()) is None and call(z.numpy())[0] == z.data_ptr()


def test_results_are_new_at_every_call(ready: Any) -> None:
    for x, offset, at in ((X, OFFSET, lambda y: y.ctypes.data), (TX, TOFFSET, lambda y: y.data_ptr())):
        kept = [ready(x + k, offset) for k in range(50)]
        assert len({at(y) for results in kept for y in results}) == 100
        for k, (y, _) in enumerate(kept):
            np.testing.assert_allclose(y, (X + np.float32(k)) @ W + OFFSET, rtol=1e-4, atol=1e-4)
            y += 1  # they are writeable


def test_modes_of_torch(ready: Any, longer: Callable[..., Any]) -> None:
    other = longer(affine())
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, lambda: torch.device("meta")):
        with mode():
            assert outcome(lambda: ready(TX, TOFFSET)) == outcome(lambda: other(TX, TOFFSET))
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert short(ready, TX, TOFFSET) is None  # torch.empty makes no memory
    assert short(ready, TX, TOFFSET) is not None
    wrapped: list[Any] = []
    torch.func.vmap(lambda x: (wrapped.append(short(ready, x, TOFFSET)), x)[1])(TX[None])
    assert wrapped == [None]


# What is held -------------------------------------------------------------------------------------
def counts(things: list[Any]) -> list[int]:
    gc.collect()
    return [sys.getrefcount(t) for t in things]


@pytest.mark.parametrize("given", [
    (X, OFFSET), (TX, TOFFSET), (X[::-1], OFFSET), (TX, X), (TX.t(), TOFFSET), (torch._neg_view(TX), TOFFSET), (X,), (None, None),
    (TX.to("meta"), TOFFSET)], ids=range(9))
def test_nothing_is_kept(given: tuple[Any, ...], ready: Any) -> None:
    call = entered(ready)
    things = [*given, call, np.dtype(np.float32), np.empty, np.ndarray, torch.float32, torch.empty, torch.Tensor,
              torch.Tensor.is_neg]
    call(*given)
    before, blocks, shared = counts(things), sys.getallocatedblocks(), [sys.getrefcount(None), sys.getrefcount(True)]
    for _ in range(10_000):
        call(*given)
    assert counts(things) == before
    assert abs(sys.getallocatedblocks() - blocks) < 1000
    assert all(abs(sys.getrefcount(x) - n) < 1000 for x, n in zip((None, True), shared))  # these come and go elsewhere too
    results = call(*given)
    for y in results or ():
        assert sys.getrefcount(y) == 3  # the tuple, y, the argument
    if results is not None:
        assert sys.getrefcount(results) == 2


def made(entry: Any, inputs: list[pycall.Tensor], outputs: list[pycall.Tensor], held: np.ndarray, tensors: bool = False) -> Any:
    runtime = linear()._only.executable._only.runtime
    return pycall._create(runtime, None, Pointer(entry), held, 64, inputs, outputs, tensors)


def where() -> int:
    return ctypes.cast(linear()._only.executable._only.runtime.library.graphopt_pycall_where, Pointer).value or 0


def test_what_a_function_holds_goes_with_it() -> None:
    weights, kind = np.zeros(3, np.uint8), np.dtype("f4", metadata={"of": "its own"})
    before = counts([weights, kind])
    functions = [made(where(), [((2,), kind)], [((1,), np.dtype(np.int64))], weights) for _ in range(10)]
    for f in functions:
        x = np.zeros(2, kind)
        assert f(x)[0] == x.ctypes.data
        del x
    assert counts([weights, kind])[0] > before[0]
    del f, functions
    assert counts([weights, kind]) == before


def test_without_memory_for_results() -> None:
    x = np.zeros(1, np.int64)
    huge: pycall.Tensor = ((1 << 58,), np.dtype(np.uint8))
    fits: pycall.Tensor = ((1,), np.dtype(np.int64))
    for outputs in ([huge], [fits, huge], [huge, fits]):
        call = made(where(), [fits], outputs, x)
        before = counts([x, call, np.empty])
        for _ in range(100):
            with pytest.raises(MemoryError):
                call(x)
        assert counts([x, call, np.empty]) == before
    assert made(where(), [fits], [fits], x)(x)[0] == x.ctypes.data


def test_code_that_fails() -> None:
    failing = ctypes.CFUNCTYPE(ctypes.c_int, Pointer)(lambda pointers: 7)
    x = np.zeros(1, np.int64)
    for outputs in ([((1,), x.dtype)], [((1,), x.dtype)] * 3, []):
        call = made(ctypes.cast(failing, Pointer).value, [((1,), x.dtype)], outputs, x)
        before = counts([x, call])
        for _ in range(100):
            with pytest.raises(GraphOptError, match="compiled code failed"):
                call(x)
        assert counts([x, call]) == before


def test_the_lock_is_released() -> None:
    """Compiled code that waits for another Python thread."""
    turn = threading.Event()
    waiting = ctypes.CFUNCTYPE(ctypes.c_int, Pointer)(lambda pointers: 0 if turn.wait(60) else 1)
    call = made(ctypes.cast(waiting, Pointer).value, [], [], np.zeros(1, np.uint8))
    thread = threading.Thread(target=call)
    thread.start()
    turn.set()
    thread.join(60)
    assert not thread.is_alive() and call() == ()


# At once ------------------------------------------------------------------------------------------
def test_calls_from_several_threads() -> None:
    model, wrong = linear(), []
    model(X, OFFSET)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for k in range(300):
            x, offset = rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
            given = (x, offset) if k % 3 else (torch.from_numpy(x), torch.from_numpy(offset))
            got = np.asarray(model(*given)[0])
            if not np.allclose(got, linear_reference(x, offset), atol=1e-5):
                wrong.append((seed, k))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


SCRIPT = """
import os, sys, threading
sys.path.insert(0, {here!r})
import numpy as np
from tests.runtime.small_models import scale
model = scale()
x = np.arange(40, dtype=np.float32)
assert np.array_equal(model(x), x + x) and type(model._by_arguments) is type(len)
"""
FORKED = SCRIPT + """
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(model(x + k), 2 * (x + k)) for k in range(20)) else 1)
    assert np.array_equal(model(x), x + x)
    assert os.waitpid(child, 0)[1] == 0
"""
ENDING = SCRIPT + """
def forever():
    while True:
        model(x)
for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
class Late:
    def __del__(self):
        assert np.array_equal(model(x), x + x)
late = Late()
"""


@pytest.mark.parametrize("script", [FORKED, ENDING], ids=["forks", "the end of a process with calls in flight"])
def test_processes(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script.format(here=str(ROOT))], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")


# Models -------------------------------------------------------------------------------------------
def test_programs_for_several_shapes() -> None:
    model = symbolic()
    for n, m in ((2, 3), (5, 3), (2, 3), (2, 3), (5, 3), (1, 1)):
        rows, columns, extra = (RNG.standard_normal(s).astype(np.float32) for s in ((n, 4), (4, m), (n, 1)))
        for _ in range(2):
            np.testing.assert_allclose(model(rows, columns, extra), rows @ columns + extra, rtol=1e-5, atol=1e-5)
        assert short(model, rows, columns, extra).shape == (n, m)
        assert short(model, rows[:0], columns, extra[:0]) is None


def test_loaded_programs_for_several_shapes(tmp_path: Path) -> None:
    model = symbolic()
    cases = [[RNG.standard_normal(s).astype(np.float32) for s in ((n, 4), (4, m), (n, 1))] for n, m in ((2, 3), (5, 3), (1, 1))]
    for case in cases:
        model(*case)
    model.save(tmp_path / "net.gopt")
    loaded = graphopt.load(tmp_path / "net.gopt")
    for k in (0, 1, 0, 2, 2, 1):
        rows, columns, extra = cases[k]
        np.testing.assert_allclose(loaded(rows, columns, extra), rows @ columns + extra, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(loaded(*map(torch.from_numpy, cases[k])), rows @ columns + extra, rtol=1e-5, atol=1e-5)
        assert short(loaded, rows, columns, extra).shape == (rows @ columns).shape
    with pytest.raises(graphopt.InputError, match="has no program for rows=7x4"):
        loaded(np.zeros((7, 4), np.float32), columns, np.zeros((7, 1), np.float32))


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 5)

    def forward(self, x, y=None, *, z=None):
        made = self.linear(x) + (0 if y is None else y)
        return (made, made * 2) if z is None else {"a": made, "b": z}


def test_models_with_arguments_and_results_as_in_torch() -> None:
    net = Pair().eval()
    both = graphopt.compile(net, (torch.zeros(3, 6), torch.zeros(3, 5)))
    x, y = torch.randn(3, 6), torch.randn(3, 5)
    with torch.no_grad():
        want = net(x, y)
    for _ in range(3):
        got = both(x, y)
        assert type(got) is tuple
        torch.testing.assert_close(got, want)
        np.testing.assert_allclose(both(x.numpy(), y.numpy())[1], want[1].numpy(), rtol=1e-5, atol=1e-5)
    assert short(both, x, y) is not None and short(both, x) is None


def test_a_skipped_argument_is_not_filled_by_position() -> None:
    call = Call((("x", Node("tensor")), ("y", Node("tensor"))), Node("tensor"), ("x", "mask", "y"))
    assert call.plain and not call.plain_by_position
    assert Call(call.arguments, call.result, ("x", "y", "mask")).plain_by_position


def test_nested_results_keep_their_structure() -> None:
    class Nested(torch.nn.Module):
        def forward(self, x):
            return {"double": x * 2, "more": [x + 1]}

    model = graphopt.compile(Nested().eval(), (torch.zeros(3),))
    for _ in range(3):
        got = model(torch.ones(3))
        assert list(got) == ["double", "more"] and torch.equal(got["more"][0], torch.full((3,), 2.0))
    assert model._by_arguments is pycall.never


def test_loaded_models_have_it_and_old_ones_do_without(tmp_path: Path) -> None:
    graphopt.compile(affine()).save(tmp_path / "net.gopt")
    loaded = graphopt.load(tmp_path / "net.gopt")
    want = loaded(X, OFFSET)
    for got, wanted in zip(short(loaded, X, OFFSET), want):
        np.testing.assert_array_equal(got, wanted)
    old, arrays = graphopt.load(DATA / "format-1.0" / "net"), np.load(DATA / "format-1.0" / "expected.npz")
    for _ in range(2):
        np.testing.assert_allclose(old(arrays["x"]), arrays["y"], atol=1e-6)
    assert old._by_arguments is pycall.never


def test_a_python_of_another_form_goes_the_longer_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for f in (pycall._functions, pycall._creator, pycall._reads_arrays):
        f.cache_clear()
    monkeypatch.setattr(pycall, "_TWO_POINTERS", 32)
    try:
        model = graphopt.compile(affine())
        y, _ = model(X, OFFSET)
        assert model._by_arguments is pycall.never
        np.testing.assert_allclose(y, X @ W + OFFSET, rtol=1e-5, atol=1e-5)
    finally:
        monkeypatch.undo()
        for f in (pycall._functions, pycall._creator, pycall._reads_arrays):
            f.cache_clear()


def test_dtypes_that_torch_lacks() -> None:
    model = scale("bf16")
    x = np.arange(40).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(model(x), x + x)
    assert short(model, x) is not None
