"""The C interface from Python, by ctypes and nothing of graphopt: as a program in another language would use it."""

from __future__ import annotations

import ctypes as c
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OK, BAD_ARGUMENT, NO_PROGRAM, NO_FILE, DAMAGED, NEWER, NO_CPU, NO_MEMORY, FAILED = range(9)
DTYPES = {"bool": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint8": 6, "uint16": 7, "uint32": 8, "uint64": 9,
          "float16": 10, "bfloat16": 11, "float32": 12, "float64": 13}


class Options(c.Structure):
    _fields_ = [("size", c.c_size_t), ("threads", c.c_int32), ("skip_digests", c.c_int32), ("pool", c.c_void_p)]


class Tensor(c.Structure):
    _fields_ = [("name", c.c_char_p), ("dtype_name", c.c_char_p), ("dtype", c.c_int32), ("rank", c.c_int32),
                ("dims", c.POINTER(c.c_int64)), ("dim_names", c.POINTER(c.c_char_p)), ("element", c.c_size_t)]


class Shape(c.Structure):
    _fields_ = [("dims", c.POINTER(c.c_int64)), ("rank", c.c_int32), ("elements", c.c_size_t), ("bytes", c.c_size_t)]


class Buffer(c.Structure):  # graphopt_input and graphopt_output
    _fields_ = [("data", c.c_void_p), ("bytes", c.c_size_t), ("dtype", c.c_int32), ("rank", c.c_int32),
                ("dims", c.POINTER(c.c_int64))]


class CError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def buffer(array: np.ndarray, dims: bool = True) -> Buffer:
    """The array as a buffer; the array must outlive it."""
    sizes = (c.c_int64 * max(array.ndim, 1))(*array.shape) if dims else None
    return Buffer(array.ctypes.data, array.nbytes, DTYPES[array.dtype.name], array.ndim if dims else 0, sizes)


def library(folder: Path) -> Any:
    found = c.CDLL(str(folder / "libgraphopt.so"))
    for name, result, arguments in (
            ("graphopt_last_error", c.c_char_p, []),
            ("graphopt_model_create", c.c_int32, [c.c_char_p, c.c_void_p, c.c_void_p]),
            ("graphopt_model_destroy", None, [c.c_void_p]),
            ("graphopt_model_target", c.c_char_p, [c.c_void_p]),
            ("graphopt_model_threads", c.c_int32, [c.c_void_p]),
            *((f"graphopt_model_{n}", c.c_size_t, [c.c_void_p]) for n in ("inputs", "outputs", "programs")),
            *((f"graphopt_model_{n}", c.POINTER(Tensor), [c.c_void_p, c.c_size_t]) for n in ("input", "output")),
            *((f"graphopt_model_program_{n}", c.POINTER(Shape), [c.c_void_p, c.c_size_t, c.c_size_t])
              for n in ("input", "output")),
            ("graphopt_model_program_value", c.c_void_p, [c.c_void_p, c.c_size_t, c.c_size_t]),
            ("graphopt_model_find", c.c_int32, [c.c_void_p, c.c_void_p, c.c_size_t, c.c_void_p]),
            ("graphopt_model_run", c.c_int32, [c.c_void_p, c.c_void_p, c.c_size_t, c.c_void_p, c.c_size_t]),
            ("graphopt_pool_create", c.c_void_p, [c.c_int]),
            ("graphopt_pool_destroy", None, [c.c_void_p])):
        getattr(found, name).restype, getattr(found, name).argtypes = result, arguments
    return found


class CModel:
    """A model opened by the runtime library of its own folder, or by another one's."""

    def __init__(self, folder: Path, options: Options | None = None, by: Path | None = None) -> None:
        self.c = library(by or folder)
        self.handle = c.c_void_p()
        given = None if options is None else c.byref(options)
        self.check(self.c.graphopt_model_create(str(folder).encode(), given, c.byref(self.handle)))

    def check(self, status: int) -> None:
        if status != OK:
            raise CError(status, self.c.graphopt_last_error().decode())

    def close(self) -> None:
        self.c.graphopt_model_destroy(self.handle)

    def __enter__(self) -> CModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def shape(self, kind: str, program: int, k: int) -> tuple[int, ...]:
        s = getattr(self.c, f"graphopt_model_program_{kind}")(self.handle, program, k)[0]
        return tuple(s.dims[i] for i in range(s.rank))

    def value(self, program: int, k: int) -> np.ndarray | None:
        """The elements that input `k` must have for a program."""
        found = self.c.graphopt_model_program_value(self.handle, program, k)
        if found is None:
            return None
        s = self.c.graphopt_model_program_input(self.handle, program, k)[0]
        return np.frombuffer(c.string_at(found, s.bytes), self.declared("input")[k][1]).reshape(self.shape("input", program, k))

    def declared(self, kind: str) -> list[tuple[str, str, tuple[int | str, ...]]]:
        """Name, dtype and dims of every input or output."""
        found = []
        for k in range(getattr(self.c, f"graphopt_model_{kind}s")(self.handle)):
            t = getattr(self.c, f"graphopt_model_{kind}")(self.handle, k)[0]
            dims = tuple(t.dims[i] if t.dims[i] >= 0 else t.dim_names[i].decode() for i in range(t.rank))
            found.append((t.name.decode(), t.dtype_name.decode(), dims))
        return found

    def find(self, inputs: Sequence[Buffer]) -> int:
        program = c.c_size_t()
        self.check(self.c.graphopt_model_find(self.handle, (Buffer * len(inputs))(*inputs), len(inputs), c.byref(program)))
        return program.value

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Room for what these inputs give."""
        program = self.find([buffer(x) for x in inputs])
        return [np.empty(self.shape("output", program, k), dtype) for k, (_, dtype, _) in enumerate(self.declared("output"))]

    def run_buffers(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        self.check(self.c.graphopt_model_run(self.handle, (Buffer * len(inputs))(*inputs), len(inputs),
                                             (Buffer * len(outputs))(*outputs), len(outputs)))

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        made = self.outputs(inputs)
        self.run_buffers([buffer(x) for x in inputs], [buffer(y) for y in made])
        return made


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], digests: bool = False) -> None:
    """Change the manifest, and its digest with it; the digests of its programs are left out, unless they shall stay."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    for p in manifest.get("programs", ()) if not digests else ():
        if isinstance(p, dict):
            p.pop("digest", None)
    file.write_text(json.dumps(manifest))
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  manifest.json\n")


def joined(path: Path, folders: Sequence[Path], inputs: Sequence[Sequence[int | str]]) -> Path:
    """One artifact of the programs of several, whose inputs are declared as given."""
    path.mkdir()
    made: dict[str, Any] = {}
    for k, folder in enumerate(folders):
        m = json.loads((folder / "manifest.json").read_text())
        made = made or {**m, "format": [1, 1], "programs": [], "files": {"libgraphopt.so": m["files"]["libgraphopt.so"]}}
        for p in m.get("programs") or [{**m["program"], "target": m["target"], "features": m["features"], "code": "model.so",
                                        "weights": "weights.bin", "inputs": [i["shape"] for i in m["inputs"]]}]:
            names = {}
            for kind in ("code", "weights"):
                names[kind] = f"part{k}/{p[kind].replace('/', '-')}"
                (path / names[kind]).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / p[kind], path / names[kind])
                made["files"][names[kind]] = m["files"][p[kind]]
            made["programs"].append({**p, **names})
    for spec, shape in zip(made["inputs"], inputs, strict=True):
        spec["shape"] = list(shape)
    made.pop("program", None)
    shutil.copyfile(folders[0] / "libgraphopt.so", path / "libgraphopt.so")
    (path / "manifest.json").write_text(json.dumps(made))
    edit(path, lambda m: None, digests=True)
    return path
