"""The C interface: what a saved model gives through it, beside PyTorch and float64, and what it says of mistakes."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.ir import Builder, Graph, tensor
from graphopt.runtime.host.machine import missing
from tests.runtime.host.c_interface import (
    BAD_ARGUMENT,
    DAMAGED,
    DTYPES,
    NEWER,
    NO_CPU,
    NO_FILE,
    NO_PROGRAM,
    Buffer,
    CError,
    CModel,
    Options,
    buffer,
    edit,
    joined,
    library,
)
from tests.runtime.small_models import W, inputs, linear, linear_reference, named, scale

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")
RNG = np.random.default_rng(17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linear() of small_models: two inputs, two outputs."""
    path = tmp_path_factory.mktemp("linear") / "net.gopt"
    linear().save(path)
    return path


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "own.gopt"))


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x[N, 6] @ W for N of 1, 3 and 8."""
    root, parts = tmp_path_factory.mktemp("batches"), []
    for n in (1, 3, 8):
        graph = Graph()
        b = Builder(graph)
        graph.outputs = [b.matmul(graph.add_input(tensor("f32", n, 6), "x"), b.const(W))]
        graphopt.compile(named(graph, ["x"], ["y"])).save(root / f"{n}.gopt")
        parts.append(root / f"{n}.gopt")
    return joined(root / "all.gopt", parts, [["N", 6]])


def test_several_inputs_and_outputs(folder: Path) -> None:
    x, offset = inputs()
    with CModel(folder) as model:
        assert model.declared("input") == [("x", "float32", (3, 6)), ("offset", "float32", (5,))]
        assert model.declared("output") == [("scores", "float32", (3, 5)), ("total", "float32", ())]
        scores, total = model(x, offset)
    np.testing.assert_allclose(scores, linear_reference(x, offset), rtol=1e-5)
    np.testing.assert_allclose(total, x.astype(np.float64).sum(), rtol=1e-5)


def test_networks_give_what_pytorch_gives(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the models are PyTorch's")
    from torch import nn

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(50, 24), nn.Linear(24, 7)

        def forward(self, tokens, mask):
            return self.out(self.words(tokens).masked_fill(mask.unsqueeze(-1), 0).mean(1)), tokens + 1

    torch.manual_seed(2)
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(8 * 49, 10))
    cases = {"mlp": (nn.Sequential(nn.Linear(31, 63), nn.GELU(), nn.Linear(63, 9)), (torch.randn(5, 31),)),
             "conv": (conv, (torch.randn(2, 3, 14, 14),)),
             "text": (Text(), (torch.randint(0, 50, (4, 11)), torch.rand(4, 11) > 0.5))}
    for name, (net, given) in cases.items():
        graphopt.compile(net.eval(), given).save(tmp_path / name)
        with CModel(tmp_path / name) as model, torch.no_grad():
            for got, want in zip(model(*(t.numpy() for t in given)), [w for w in [net(*given)] for w in
                                 (w if isinstance(w, tuple) else (w,))], strict=True):
                np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["bool", "i8", "u8", "i16", "i32", "i64", "f16", "bf16", "f64"])
def test_dtypes(tmp_path: Path, name: str) -> None:
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.transpose(graph.add_input(tensor(name, 3, 5), "x"), perm=[1, 0])]
    graphopt.compile(named(graph, ["x"], ["y"])).save(tmp_path / "m")
    with CModel(tmp_path / "m") as model:
        (_, dtype, _), = model.declared("input")
        if name == "bf16":
            import ml_dtypes  # numpy knows its name from there

            assert ml_dtypes
        x = RNG.integers(0, 2, (3, 5)).astype(dtype)
        np.testing.assert_array_equal(model(x)[0], x.T)


def test_each_shape_has_its_program(batches: Path) -> None:
    with CModel(batches) as model:
        assert model.declared("input") == [("x", "float32", ("N", 6))]
        assert [model.shape("input", k, 0) for k in range(3)] == [(1, 6), (3, 6), (8, 6)]
        for n in (8, 1, 3):
            x = RNG.standard_normal((n, 6)).astype(np.float32)
            np.testing.assert_allclose(model(x)[0], x.astype(np.float64) @ W, rtol=1e-5, atol=1e-6)
        with pytest.raises(CError, match=r"not compiled for x \[2, 6\]. It was for x \[1, 6\]; x \[3, 6\]; x \[8, 6\]") as e:
            model(np.zeros((2, 6), np.float32))
        assert e.value.status == NO_PROGRAM
        with pytest.raises(CError, match=r"input x: expected shape \[N, 6\], got \[3, 7\]"):
            model(np.zeros((3, 7), np.float32))
        with pytest.raises(CError, match="its dims are NULL, but the model has it in several shapes"):
            model.find([buffer(np.zeros((3, 6), np.float32), dims=False)])


def test_the_only_shape_may_be_left_out(folder: Path) -> None:
    x, offset = inputs()
    scores, total = np.empty((3, 5), np.float32), np.empty((), np.float32)
    with CModel(folder) as model:
        model.run_buffers([buffer(a, dims=False) for a in (x, offset)], [buffer(a, dims=False) for a in (scores, total)])
    np.testing.assert_allclose(scores, linear_reference(x, offset), rtol=1e-5)


def test_threads_call_at_once(tmp_path: Path) -> None:
    """Each gets its own answer, and several models share a pool."""
    graph = Graph()
    b = Builder(graph)
    n, weights = 131, RNG.standard_normal((131, 67)).astype(np.float32) / 12
    graph.outputs = [b.tanh(b.matmul(graph.add_input(tensor("f32", n, n), "x"), b.const(weights)))]
    graphopt.compile(named(graph, ["x"], ["y"]), threads=3).save(tmp_path / "m")
    c, wrong = library(tmp_path / "m"), []
    pool = c.graphopt_pool_create(3)
    options = Options(ctypes.sizeof(Options), 0, 0, pool)
    with CModel(tmp_path / "m", options) as first, CModel(tmp_path / "m", options) as second:
        assert first.c.graphopt_model_threads(first.handle) == 3

        def calls(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for k in range(60):
                x = rng.standard_normal((n, n)).astype(np.float32)
                got = (first, second)[k % 2](x)[0]
                if not np.allclose(got, np.tanh(x.astype(np.float64) @ weights), atol=1e-5):
                    wrong.append((seed, k))

        threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    c.graphopt_pool_destroy(pool)
    assert not wrong


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(folder: Path, threads: int) -> None:
    x, offset = inputs()
    with CModel(folder, Options(ctypes.sizeof(Options), threads)) as model:
        assert model.c.graphopt_model_threads(model.handle) == threads
        np.testing.assert_allclose(model(x, offset)[0], linear_reference(x, offset), rtol=1e-5)


def test_each_thread_has_its_own_last_error(folder: Path) -> None:
    c, said = library(folder), {}

    def fail(name: str) -> None:
        handle = ctypes.c_void_p()
        for _ in range(200):
            assert c.graphopt_model_create(f"/nowhere/{name}".encode(), None, ctypes.byref(handle)) == NO_FILE
            said.setdefault(name, set()).add(c.graphopt_last_error().decode())

    threads = [threading.Thread(target=fail, args=(f"t{k}",)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert said == {f"t{k}": {f"/nowhere/t{k}: cannot be read: No such file or directory. Is it the folder of a saved model?"}
                    for k in range(4)}


def test_a_newer_library_runs_the_folder_of_another(folder: Path, tmp_path: Path) -> None:
    scale().save(tmp_path / "m")
    x = np.arange(40, dtype=np.float32)
    with CModel(tmp_path / "m", by=folder) as model:
        np.testing.assert_array_equal(model(x)[0], 2 * x)


def test_format_1_0_is_read(tmp_path: Path, folder: Path) -> None:
    if missing(["avx2", "fma"]):
        pytest.skip("its code is for AVX2 (x86:x86-64-v3)")
    old = Path(__file__).parents[2] / "data" / "format-1.0"
    expected = np.load(old / "expected.npz")
    with CModel(old / "net", by=folder) as model:
        np.testing.assert_allclose(model(expected["x"])[0], expected["y"], atol=1e-6)


def test_what_graphopt_build_makes(tmp_path: Path) -> None:
    """Several shapes and CPUs in one folder, whose programs share weights."""
    from graphopt.cli.build import main

    digits, made = str(Path(__file__).parents[3] / "demo" / "digits.onnx"), tmp_path / "digits.gopt"
    shapes = [word for n in (1, 5) for word in ("--shape", f"images={n}x1x8x8")]
    assert main([digits, "-o", str(made), "--target", "x86:x86-64", "--target", "x86:x86-64-v2", *shapes]) in (0, None)
    reference = graphopt.compile(digits)
    with CModel(made) as model:
        assert model.c.graphopt_model_target(model.handle) in (b"x86:x86-64", b"x86:x86-64-v2")
        assert model.declared("input") == [("images", "float32", ("batch", 1, 8, 8))]
        for n in (5, 1):
            x = RNG.random((n, 1, 8, 8)).astype(np.float32)
            np.testing.assert_allclose(model(x)[0], reference.run({"images": x})["probabilities"], atol=1e-6)


def test_nothing_is_left_open(folder: Path) -> None:
    CModel(folder).close()
    gc.collect()  # files that other tests have forgotten are closed now, and not in between
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(50):
        CModel(folder).close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert sum(str(folder) in line and "libgraphopt" not in line for line in open("/proc/self/maps")) == 0


def test_after_a_fork(folder: Path) -> None:
    """In a process of its own: the child of a process whose pool has run starts threads anew."""
    code = f"""
import os, numpy as np
from pathlib import Path
from tests.runtime.host.c_interface import CModel, Options
import ctypes
model = CModel(Path({str(folder)!r}), Options(ctypes.sizeof(Options), 3))
x, offset = np.ones((3, 6), np.float32), np.ones(5, np.float32)
wanted = model(x, offset)
child = os.fork()
for _ in range(20):
    assert all(np.array_equal(a, b) for a, b in zip(model(x, offset), wanted))
if child == 0:
    model.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True, timeout=60)


def test_a_folder_that_is_replaced_gives_the_new_code(tmp_path: Path) -> None:
    """The dynamic loader must not answer with what it had under that path; the old model goes on meanwhile."""
    x = np.arange(40, dtype=np.float32)

    def save(factor: float) -> None:
        graph = Graph()
        b = Builder(graph)
        graph.outputs = [b.mul(graph.add_input(tensor("f32", 40), "x"), b.const(np.full(40, factor, np.float32)))]
        graphopt.compile(named(graph, ["x"], ["y"])).save(tmp_path / "m")

    save(3)
    shutil.copyfile(tmp_path / "m" / "libgraphopt.so", tmp_path / "libgraphopt.so")
    with CModel(tmp_path / "m", by=tmp_path) as old:
        for factor in (5, 7):
            save(factor)
            with CModel(tmp_path / "m", by=tmp_path) as new:
                np.testing.assert_array_equal(new(x)[0], factor * x)
                np.testing.assert_array_equal(old(x)[0], 3 * x)


def test_a_folder_that_keeps_being_replaced_is_always_there(folder: Path, tmp_path: Path) -> None:
    from graphopt.ship import replacing, saving

    x, offset = inputs()
    shutil.copytree(folder, tmp_path / "m")
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            with replacing.scratch(tmp_path / "m") as new:
                shutil.copytree(folder, new, dirs_exist_ok=True)
                replacing.put(new, tmp_path / "m", saving.written)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(150):
            assert all(os.path.isdir(tmp_path / "m") for _ in range(200)), "not even for a moment"
            with CModel(tmp_path / "m", by=folder) as model:
                np.testing.assert_allclose(model(x, offset)[0], linear_reference(x, offset), rtol=1e-5)
    finally:
        done.set()
        writer.join()


# Mistakes of the caller ---------------------------------------------------------------------------
def arguments() -> tuple[list[np.ndarray], list[np.ndarray]]:
    return list(inputs()), [np.zeros((3, 5), np.float32), np.zeros((), np.float32)]


def spoiled(xs: list[Buffer], ys: list[Buffer], what: str) -> None:
    if what == "few inputs":
        xs.pop()
    elif what == "few outputs":
        ys.pop()
    elif what == "shape":
        xs[0].dims = (ctypes.c_int64 * 2)(2, 6)
    elif what == "rank":
        xs[0].rank = 1
    elif what == "no dims":
        xs[0].dims = None
    elif what == "wild rank":
        xs[0].rank = 1 << 30
    elif what == "dtype":
        xs[1].dtype = DTYPES["float64"]
    elif what == "bytes":
        xs[0].bytes = 70
    elif what == "NULL":
        ys[0].data = None
    elif what == "unaligned":
        xs[1].data += 1
    elif what == "output shape":
        ys[0].dims = (ctypes.c_int64 * 2)(5, 3)
    elif what == "over an input":
        ys[0].data = xs[0].data + 4
    elif what == "over an output":
        ys[1].data = ys[0].data + 56


@pytest.mark.parametrize("what,says", [
    ("few inputs", "the model takes 2 inputs, got 1. Give all"), ("few outputs", "the model gives 2 outputs, got 1. Give all"),
    ("shape", r"input x: expected shape \[3, 6\], got \[2, 6\]. Pass"), ("rank", r"input x: expected shape \[3, 6\], got \[3\]"),
    ("no dims", "input x: its rank is 2, but its dims are NULL. Give"), ("wild rank", "input x: its rank is 1073741824"),
    ("dtype", r"input offset: expected dtype 12 \(float32\), got 13. Convert"),
    ("bytes", r"input x: float32\[3, 6\] takes 72 bytes, got 70. Give"),
    ("NULL", r"output scores: its data is NULL. Give 60 bytes for float32\[3, 5\]"),
    ("unaligned", "input offset: its data at 0x.* is not aligned to the 4 bytes of its elements. Copy"),
    ("output shape", r"output scores: its shape is \[3, 5\], got \[5, 3\]. Correct"),
    ("over an input", "output scores: its memory overlaps that of input x. Give"),
    ("over an output", "output total: its memory overlaps that of output scores. Give")])
def test_wrong_buffers_are_refused_and_nothing_is_written(folder: Path, what: str, says: str) -> None:
    given, results = arguments()
    xs, ys = [buffer(x) for x in given], [buffer(y) for y in results]
    with CModel(folder) as model:
        spoiled(xs, ys, what)
        with pytest.raises(CError, match=says) as e:
            model.run_buffers(xs, ys)
        assert e.value.status == BAD_ARGUMENT
        assert not any(y.any() for y in results)


def test_null_where_something_must_be(folder: Path) -> None:
    c = library(folder)
    handle = ctypes.c_void_p()
    for call, says in ((lambda: c.graphopt_model_create(None, None, ctypes.byref(handle)), "folder: NULL"),
                       (lambda: c.graphopt_model_create(str(folder).encode(), None, None), "model: NULL"),
                       (lambda: c.graphopt_model_run(None, None, 0, None, 0), "model: NULL"),
                       (lambda: c.graphopt_model_find(None, None, 0, None), "model: NULL")):
        assert call() == BAD_ARGUMENT
        assert c.graphopt_last_error().decode().startswith(says)
    c.graphopt_model_destroy(None)
    with CModel(folder) as model:
        assert c.graphopt_model_run(model.handle, None, 2, None, 2) == BAD_ARGUMENT
        assert not c.graphopt_model_input(model.handle, 2)
        assert not c.graphopt_model_program_output(model.handle, 1, 0)


@pytest.mark.parametrize("options,says", [
    (Options(0, 1), "its size is 0. Start from GRAPHOPT_OPTIONS"), (Options(ctypes.sizeof(Options), -1), "-1 threads. Give 1 to"),
    (Options(ctypes.sizeof(Options), 2, 0, 1), "both threads and pool are given")])
def test_wrong_options_are_refused(folder: Path, options: Options, says: str) -> None:
    with pytest.raises(CError, match=says):
        CModel(folder, options)


def test_options_of_an_older_and_a_newer_header(folder: Path) -> None:
    class Newer(ctypes.Structure):
        _fields_ = [*Options._fields_, ("more", ctypes.c_int64)]

    with CModel(folder, Options(Options.skip_digests.offset, 1, 77)) as model:  # what is beyond the size is not read
        assert model.c.graphopt_model_threads(model.handle) == 1
    size = ctypes.sizeof(Newer)
    CModel(folder, Newer(size, 1)).close()
    with pytest.raises(CError, match=r"an option is set that this libgraphopt\.so does not know"):
        CModel(folder, Newer(size, 1, 0, None, 5))


# Folders that are not as they were ----------------------------------------------------------------
def refusal(folder: Path, status: int, by: Path, options: Options | None = None) -> str:
    with pytest.raises(CError) as e:
        CModel(folder, options, by=by)
    assert e.value.status == status, str(e.value)
    return str(e.value)


def code_and_weights(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*"))
            if p.suffix in (".so", ".bin") and p.name != "libgraphopt.so"]


def test_altered_files_are_named(own: Path, folder: Path) -> None:
    for name in code_and_weights(own):
        whole = (own / name).read_bytes()
        for spoil, says in ((whole[:-7], "its size is wrong"), (whole[:-1] + bytes([whole[-1] ^ 1]), "its digest is wrong")):
            (own / name).write_bytes(spoil)
            assert f"{name} is not as it was written: {says}. Copy or save" in refusal(own, DAMAGED, folder)
        (own / name).unlink()
        assert f"{name} cannot be read: No such file" in refusal(own, NO_FILE, folder)
        (own / name).write_bytes(whole)
    CModel(own, by=folder).close()


def test_links_are_refused(own: Path, folder: Path) -> None:
    for name in [*code_and_weights(own), "manifest.json"]:
        (own / name).rename(own / "aside")
        (own / name).symlink_to(own / "aside")
        assert f"{name} is, or lies behind, a link" in refusal(own, DAMAGED, folder)
        (own / name).unlink()
        (own / "aside").rename(own / name)


def test_what_is_no_file_is_refused_without_waiting(own: Path, folder: Path) -> None:
    (own / "manifest.json").unlink()
    os.mkfifo(own / "manifest.json")
    assert "manifest.json is, or lies behind" in refusal(own, DAMAGED, folder)


@pytest.mark.parametrize("name", ["../other.so", "/etc/passwd", "a/b/c.so", "a/../b.so", "./x", "a/", "..", "", "manifest.json"])
def test_paths_out_of_the_folder_are_refused(own: Path, folder: Path, name: str) -> None:
    edit(own, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    assert "names a file outside of the folder" in refusal(own, DAMAGED, folder)


@pytest.mark.parametrize("format", [[2, 0], [1, 77]])
def test_a_newer_format_is_refused_by_name(own: Path, folder: Path, format: list[int]) -> None:
    edit(own, lambda m: m.update(format=format))
    assert f"has format {format[0]}.{format[1]}, and this libgraphopt.so reads 1.0 to 1." in refusal(own, NEWER, folder)


def need(m: dict, features: list[str], target: str = "x86:future") -> None:
    for p in m.get("programs", [m]):
        p.update(features=features, target=target)


def test_a_processor_without_the_instructions_is_told_which(own: Path, folder: Path) -> None:
    edit(own, lambda m: need(m, ["avx2", "avx1024", "amx-99"]))
    assert "lacks: that for x86:future needs avx1024, amx-99. Compile it for this machine" in refusal(own, NO_CPU, folder)


def test_the_best_cpu_of_several_is_chosen(folder: Path, tmp_path: Path) -> None:
    parts = []
    for k, features in enumerate((["sse2"], ["sse2", "avx"], ["sse2", "avx"], ["sse2", "avx", "avx1024"])):
        parts.append(Path(shutil.copytree(folder, tmp_path / f"{k}.gopt")))
        edit(parts[-1], lambda m, features=features, k=k: need(m, features, f"x86:cpu{k}"))
    made = joined(tmp_path / "all.gopt", parts, [[3, 6], [5]])
    x, offset = inputs()
    with CModel(made) as model:
        assert model.c.graphopt_model_target(model.handle) == b"x86:cpu1"
        np.testing.assert_allclose(model(x, offset)[0], linear_reference(x, offset), rtol=1e-5)
    shutil.rmtree(made / "part0")  # what is for other CPUs may be left behind
    CModel(made).close()
    edit(made, lambda m: need(m, ["avx1024"]))
    assert refusal(made, NO_CPU, folder).count("needs avx1024") == 1


def test_this_machine_has_what_linux_says_it_has(own: Path, folder: Path) -> None:
    """Of the instruction sets that code of ours can need."""
    from graphopt.targets.x86 import X86

    every = set().union(*(X86.named(cpu).instructions for cpu in ("znver5", "sapphirerapids", "haswell", "bdver4", "x86-64")))
    for feature in sorted(every):
        edit(own, lambda m, feature=feature: need(m, [feature]))
        if missing([feature]):
            assert feature in refusal(own, NO_CPU, folder)
        else:
            CModel(own, by=folder).close()


def test_the_manifest_has_a_digest(own: Path, folder: Path) -> None:
    file = own / "manifest.json"
    whole = file.read_bytes()
    assert (own / "manifest.sha256").read_text() == f"{hashlib.sha256(whole).hexdigest()}  manifest.json\n"
    skip = Options(ctypes.sizeof(Options), 0, 1)
    for k in range(0, len(whole), 31):
        file.write_bytes(whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1:])
        with pytest.raises(CError) as e:
            CModel(own, by=folder)
        said = str(e.value)
        assert "manifest.json is not as it was written: its digest is wrong" in said or e.value.status in (DAMAGED, NEWER)
        file.write_bytes(whole[:k])
        assert "manifest.json is damaged" in refusal(own, DAMAGED, folder, skip)
    file.write_bytes(whole)
    for text in ("none", ""):
        (own / "manifest.sha256").write_text(text)
        assert "manifest.json is not as it was written" in refusal(own, DAMAGED, folder)
    (own / "manifest.sha256").unlink()
    if json.loads(whole)["format"] == [1, 0]:
        CModel(own, by=folder).close()  # which had none
    else:
        assert "manifest.sha256 cannot be read" in refusal(own, NO_FILE, folder)
        CModel(own, skip, folder).close()


@pytest.mark.parametrize("change", [
    lambda p: p.update(arena=p["arena"] // 2), lambda p: p.update(threads=p["threads"] + 1),
    lambda p: p.update(target="x86:other"),
    lambda p: p.update(features=p["features"][:-1]), lambda p: p["inputs"][0].__setitem__(0, p["inputs"][0][0] + 1),
    lambda p: p.update(weights=p["code"]), lambda p: p.update(digest="0" * 64), lambda p: p.update(digest=3)])
def test_programs_that_were_edited_by_hand(folder: Path, tmp_path: Path, change) -> None:
    """What would run in less memory than its code takes, with the manifest's digest made anew."""
    if "programs" not in json.loads((folder / "manifest.json").read_text()):
        pytest.skip("format 1.0 has no digests of programs")
    made = joined(tmp_path / "one.gopt", [folder], [["N", 6], [5]])
    CModel(made).close()
    edit(made, lambda m: change(m["programs"][0]), digests=True)
    assert "manifest.json is damaged: " in refusal(made, DAMAGED, folder)


@pytest.mark.parametrize("text,says", [
    ("", "it ends too early, at line 1, column 1"), ('{"format": [1, 0],\n "x": NaN}', "not a value, at line 2, column 7"),
    ("{}", "it has no format"), ("[" * 100, "nested too deep"), ('{"a": "\\ud800"}', "half of a surrogate pair"),
    ('{"a": "\x01"}', "a control character"), ('{"a": 01}', "a number starts with 0"), ('{} {}', "something follows the end"),
    ('{"format": [1, 0], "format": [1, 0]}', "it has no format"), ('{"a": 1,}', "a member has no name"),
    ('{"format": [1.0, 0]}', "it has no format"), ('{"format": [1, 0]}', "it does not list its files")])
def test_manifests_that_are_none(own: Path, folder: Path, text: str, says: str) -> None:
    (own / "manifest.json").write_text(text)
    skip = Options(ctypes.sizeof(Options), 0, 1)
    said = refusal(own, DAMAGED, folder, skip)
    assert "manifest.json is damaged" in said and says in said and said.endswith("Save the model again")


@pytest.mark.parametrize("change", [
    lambda p: p.update(arena=-1), lambda p: p.update(arena=1 << 60), lambda p: p.update(threads=0), lambda p: p.pop("entry"),
    lambda p: p.update(outputs=p["outputs"][:1]), lambda p: p["outputs"][0].update(numpy="float64"),
    lambda p: p["outputs"][0].update(shape=[1 << 30, 1 << 30]), lambda p: p["outputs"][0].update(shape=["N"]),
    lambda p: p.update(entry="no_such_entry"), lambda p: p["outputs"].append(p["outputs"][0])])
def test_programs_that_make_no_sense(own: Path, folder: Path, change) -> None:
    edit(own, lambda m: change(m["programs"][0] if "programs" in m else m["program"]))
    refusal(own, DAMAGED, folder)
