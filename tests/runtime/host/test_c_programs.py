"""Programs in C on a saved model: the compiler finds nothing to say, the example runs where there is no Python, CMake finds
the package, and valgrind and the sanitizers find nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.cache import store
from graphopt.ir import Builder, Graph, tensor
from graphopt.ship.cfiles import NATIVE, companions
from tests.runtime.small_models import inputs, linear, linear_reference, named

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler nothing can be saved")
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
PROGRAMS = Path(__file__).parent / "native"
SOURCES = sorted(NATIVE.glob("*.c"))


def run(command: Sequence[object], **how) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linear() of small_models, with everything that an artifact carries."""
    path = tmp_path_factory.mktemp("linear") / "net.gopt"
    linear().save(path)
    return path


@pytest.fixture(scope="module")
def haswell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x @ W and its tanh in code that valgrind knows, with parallel loops."""
    graph = Graph()
    b = Builder(graph)
    w = np.random.default_rng(3).standard_normal((211, 97)).astype(np.float32)
    graph.outputs = [b.tanh(b.matmul(graph.add_input(tensor("f32", 50, 211), "x"), b.const(w)))]
    path = tmp_path_factory.mktemp("haswell") / "net.gopt"
    graphopt.compile(named(graph, ["x"], ["y"]), target="x86:haswell", threads=3).save(path)
    return path


def built(source: Path, folder: Path, where: Path, *flags: str) -> Path:
    """A program on the runtime library of a saved model."""
    made = where / source.stem
    run(["cc", "-std=c11", "-g", *STRICT, *flags, source, f"-I{folder}", f"-L{folder}", "-lgraphopt", f"-Wl,-rpath,{folder}",
         "-pthread", "-o", made])
    return made


# The sources and the library ----------------------------------------------------------------------
@pytest.mark.parametrize("source", [*SOURCES, NATIVE / "companions" / "example.c"], ids=lambda p: p.name)
def test_compilers_find_nothing_to_say(source: Path) -> None:
    for compiler in filter(shutil.which, ("cc", "clang")):
        run([compiler, "-std=c11", "-O2", *STRICT, "-fsyntax-only", f"-I{NATIVE}", source])


@pytest.mark.parametrize("header", ["model.h", "graphopt.h"])
def test_headers_are_for_cpp_too(header: str, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    (tmp_path / "it.cpp").write_text(f'#include "{header}"\n#include "{header}"\nint main() {{ return 0; }}\n')
    for standard in ("c++98", "c++11", "c++20"):
        run(["g++", f"-std={standard}", *STRICT, "-fsyntax-only", f"-I{NATIVE}", tmp_path / "it.cpp"])


def test_the_library_exports_its_interface_and_needs_the_c_library_alone(folder: Path) -> None:
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("there are no binutils")
    exported = set(re.findall(r" T (\w+)$", run(["nm", "-D", "--defined-only", folder / "libgraphopt.so"]), re.MULTILINE))
    declared = set()
    for header in ("model.h", "graphopt.h", "pycall.h"):
        declared |= set(re.findall(r"GRAPHOPT_API [^;]*?(graphopt_\w+)\(", (NATIVE / header).read_text()))
    assert exported == declared
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run(["readelf", "-d", folder / "libgraphopt.so"])))
    assert {n.partition(".")[0] for n in needed} <= {"libc", "libm", "libpthread", "libdl", "ld-linux-x86-64"}


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, (8 << 20) - 1, 8 << 20, (20 << 20) + 3])
def test_digests_are_those_of_the_store(tmp_path: Path, size: int) -> None:
    program = tmp_path / "sha256_file"
    run(["cc", "-std=c11", "-O2", *STRICT, f"-I{NATIVE}", PROGRAMS / "sha256_file.c", NATIVE / "sha256.c", NATIVE / "cpu.c",
         "-pthread", "-o", program])
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "data").write_bytes(data)
    assert set(run([program, tmp_path / "data"]).split()) == {store.digest_of(data)}


# The example --------------------------------------------------------------------------------------
def cc_line(text: str) -> str:
    line, = re.findall(r"cc example\.c .*$", text, re.MULTILINE)
    return line


def test_the_example_runs_without_python(folder: Path, tmp_path: Path) -> None:
    """By the one line that its comment gives; where nothing but the folder, the C library and a shell are."""
    own = Path(shutil.copytree(folder, tmp_path / "net.gopt"))
    line = cc_line((own / "example.c").read_text())
    assert line == cc_line((own / "README.md").read_text()) == "cc example.c -I. -L. -lgraphopt -Wl,-rpath,'$ORIGIN' -o example"
    run(["sh", "-c", line], cwd=own)
    x, offset = inputs()
    (tmp_path / "x").write_bytes(x.tobytes())
    (tmp_path / "offset").write_bytes(offset.tobytes())
    nowhere = {"PATH": str(tmp_path / "nowhere")}
    said = run([own / "example", "-n", "3", "-o", tmp_path / "y", own, tmp_path / "x", tmp_path / "offset"], env=nowhere)
    assert "input x: float32[3, 6] = " in said and "output total: float32[] = " in said and "3 calls: median " in said
    scores = np.fromfile(tmp_path / "y0", np.float32).reshape(3, 5)
    np.testing.assert_allclose(scores, linear_reference(x, offset), rtol=1e-5)
    np.testing.assert_allclose(np.fromfile(tmp_path / "y1", np.float32), [x.astype(np.float64).sum()], rtol=1e-5)
    ramp = (np.arange(18) % 257 / 256).reshape(3, 6)
    run([own / "example", "-o", tmp_path / "r"], cwd=own, env=nowhere)
    np.testing.assert_allclose(np.fromfile(tmp_path / "r0", np.float32).reshape(3, 5),
                               linear_reference(ramp, np.arange(5) / 256), rtol=1e-5)


@pytest.mark.parametrize("arguments,says", [
    (["-n", "many"], "-n takes a number of at least 1, got many"), (["-x", "1"], "usage: example"), (["-t"], "usage: example"),
    (["-p", "7"], "there are not that many programs"), (["nowhere"], "nowhere: cannot be read: No such file"),
    ([".", "manifest.json"], "give a file for every input, or none"),
    ([".", "x", "short"], "short: input offset takes 20 bytes, and the file has fewer")])
def test_the_example_says_what_is_wrong(folder: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    program = built(folder / "example.c", folder, tmp_path)
    own = Path(shutil.copytree(folder, tmp_path / "net.gopt"))
    (own / "x").write_bytes(bytes(72))
    (own / "short").write_bytes(bytes(19))
    done = subprocess.run([program, *arguments], cwd=own, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2) and says in done.stderr


def test_no_model_is_needed_to_read_the_usage(folder: Path, tmp_path: Path) -> None:
    assert "-t THREADS" in run([built(folder / "example.c", folder, tmp_path), "--help"])


def test_threads_in_c(haswell: Path, tmp_path: Path) -> None:
    assert "0 of 400 calls were wrong" in run([built(PROGRAMS / "threads.c", haswell, tmp_path, "-O2"), haswell])


# CMake --------------------------------------------------------------------------------------------
cmake = pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("make") is None, reason="there is no cmake with make")
USES = {"find_package": "find_package(graphopt-model 1 CONFIG REQUIRED PATHS {folder} NO_DEFAULT_PATH)",
        "add_subdirectory": "add_subdirectory({folder} model)"}


@cmake
@pytest.mark.parametrize("by", USES)
def test_cmake_projects_find_the_model(folder: Path, tmp_path: Path, by: str) -> None:
    shutil.copyfile(folder / "example.c", tmp_path / "main.c")
    (tmp_path / "CMakeLists.txt").write_text("\n".join([
        "cmake_minimum_required(VERSION 3.16)", "project(app C)", USES[by].format(folder=folder), "add_executable(app main.c)",
        "target_link_libraries(app PRIVATE graphopt::model)", 'message(STATUS "it is in ${graphopt-model_FOLDER}")']))
    assert f"it is in {folder}\n" in run(["cmake", "-S", tmp_path, "-B", tmp_path / "build"])
    run(["cmake", "--build", tmp_path / "build"])
    assert "output scores" in run([tmp_path / "build" / "app", folder], env={})


@cmake
def test_cmake_builds_the_example(folder: Path, tmp_path: Path) -> None:
    run(["cmake", "-S", folder, "-B", tmp_path])
    run(["cmake", "--build", tmp_path])
    assert "output scores" in run([tmp_path / "example", folder], env={})


@cmake
def test_cmake_refuses_another_interface(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject(app C)\nfind_package(graphopt-model 2 CONFIG REQUIRED PATHS {folder})\n")
    done = subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "build"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "compatible with requested version" in " ".join(done.stderr.split())


# What only other tools see ------------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="there is no valgrind")
@pytest.mark.parametrize("program", ["example.c", "threads.c"])
def test_valgrind_finds_no_leak(haswell: Path, tmp_path: Path, program: str) -> None:
    source = haswell / program if program == "example.c" else PROGRAMS / program
    made = built(source, haswell, tmp_path, "-O1")
    given = ["-n", "2", haswell] if program == "example.c" else [haswell, 2]
    said = run(["valgrind", "--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all", "--error-exitcode=9",
                "--fair-sched=yes", made, *given])
    assert "no leaks are possible" in said and "ERROR SUMMARY: 0 errors" in said


def sanitized(flags: str, tmp_path: Path) -> list[str]:
    """The compiler with these sanitizers, if it has them."""
    (tmp_path / "it.c").write_text("int main(void) { return 0; }\n")
    command = ["cc", "-std=c11", "-g", "-O1", f"-fsanitize={flags}", "-fno-sanitize-recover=all"]
    done = subprocess.run([*command, tmp_path / "it.c", "-o", tmp_path / "it"], capture_output=True, check=False)
    if done.returncode or subprocess.run([tmp_path / "it"], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no -fsanitize={flags}")
    return command


@pytest.mark.parametrize("values", [False, True])
def test_spoiled_manifests_do_no_harm(folder: Path, tmp_path: Path, values: bool) -> None:
    """Cut off anywhere: refused. With any byte changed: refused or read, without a wrong step."""
    program = tmp_path / "fuzz"
    sources = [NATIVE / f"{n}.c" for n in ("manifest", "json", "memory", "error", "cpu", "files")]
    run([*sanitized("address,undefined", tmp_path), f"-I{NATIVE}", PROGRAMS / "fuzz_manifest.c", *sources, "-o", program])
    manifest = json_without_words(folder / "manifest.json", values)
    (tmp_path / "manifest.json").write_text(manifest)
    said = run([program, tmp_path / "manifest.json"])
    cut, refused, read = map(int, re.findall(r"\d+", said))
    assert cut == len(manifest) and refused > 10 * cut and read > 0


def json_without_words(path: Path, values: bool) -> str:
    """A manifest without the long texts that nothing reads: the faster to spoil. With `values`, its first input is two bytes
    whose values decide."""
    import json

    manifest = json.loads(path.read_text())
    for p in (manifest, *manifest.get("programs", [])):
        for name in ("decisions", "stats", "tuning"):
            p.pop(name, None)
    if values:
        first = manifest["inputs"][0]
        manifest |= {"format": [1, 2], "control_inputs": [first["name"]]}
        first.update(shape=[2], numpy="uint8")
        for p in manifest["programs"]:
            p["inputs"][0], p["values"] = [2], {first["name"]: "0aff"}
    return json.dumps(manifest)


def test_a_whole_run_under_the_sanitizers(haswell: Path, tmp_path: Path) -> None:
    program = tmp_path / "example"
    run([*sanitized("address,undefined", tmp_path), f"-I{NATIVE}", NATIVE / "companions" / "example.c", *SOURCES, "-pthread",
         "-ldl", "-o", program])
    assert "output y" in run([program, haswell])
    for name in ("manifest.json", "libgraphopt.so"):
        assert subprocess.run([program, haswell / name], capture_output=True, check=False).returncode == 1


def test_every_allocation_may_fail(haswell: Path, tmp_path: Path) -> None:
    program = tmp_path / "no_memory"
    wrapped = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "aligned_alloc")]
    run([*sanitized("address,undefined", tmp_path), f"-I{NATIVE}", PROGRAMS / "no_memory.c", *SOURCES, *wrapped, "-pthread",
         "-ldl", "-o", program])
    assert int(re.findall(r"(\d+) refusals", run([program, haswell]))[0]) >= 5


def test_threads_under_the_thread_sanitizer(haswell: Path, tmp_path: Path) -> None:
    program = tmp_path / "threads"
    run([*sanitized("thread", tmp_path), f"-I{NATIVE}", PROGRAMS / "threads.c", *SOURCES, "-pthread", "-ldl", "-o", program])
    assert "0 of 400 calls were wrong" in run([program, haswell], env=os.environ | {"TSAN_OPTIONS": "halt_on_error=1"})


# What the folder carries --------------------------------------------------------------------------
def test_the_files_beside_a_model() -> None:
    tensors = [{"name": "a|b`\n<x>", "dtype": "f32", "numpy": "float32", "shape": ["N", 3]},
               {"name": "q", "dtype": "i64", "numpy": "int64", "shape": None}]
    program = {"target": "x86:znver4", "inputs": [[1, 3], [2]]}
    made = companions({"inputs": tensors, "outputs": tensors[1:],
                       "programs": [program, {**program, "inputs": [[4, 3], [2]]}, {**program, "target": "x86:haswell"}]})
    assert set(made) == {"model.h", "example.c", "README.md", "CMakeLists.txt", "graphopt-model-config.cmake",
                         "graphopt-model-config-version.cmake"}
    text = made["README.md"].decode()
    assert "| input | `a?b??<x>` | `float32` | `[N, 3]` |" in text and "| output | `q` | `int64` | `?` |" in text
    assert "Compiled for `x86:znver4`, `x86:haswell`, for inputs of these shapes:\n\n- `[1, 3]`, `[2]`\n- `[4, 3]`, `[2]`" in text
    assert "@" not in text and b'PACKAGE_VERSION "1"' in made["graphopt-model-config-version.cmake"]
    assert hashlib.sha256(made["model.h"]).digest() == hashlib.sha256((NATIVE / "model.h").read_bytes()).digest()
