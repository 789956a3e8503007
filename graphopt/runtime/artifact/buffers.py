"""Artifacts as models that take buffers and give memoryviews, for processes that have no other use for numpy."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from graphopt.errors import ArtifactError, InputError
from graphopt.runtime.artifact.reading import ITEM_FORMATS, ITEMSIZES, RUNTIME, Artifact, Program, threads_of, values_text
from graphopt.runtime.host.library import FAILED, Entry, Pointer, runtime

_BITS = {1: "B", 2: "H", 4: "I", 8: "Q"}  # elements that memoryviews have no format for are seen as numbers of their width
_SAME = {"l": "q", "L": "Q", "n": "q", "N": "Q"}  # on x86-64


class Tensor(NamedTuple):
    """An input or output; a dim is an int, or the text of a symbolic one, `shape` None where the rank is unknown."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


class _Ready(NamedTuple):
    """A program that can be entered, with the workspaces that no call holds."""

    program: Program
    entry: Entry
    weights: mmap.mmap
    free: list[tuple[mmap.mmap, Any]]


class BufferModel:
    """A loaded model without numpy. Calls may overlap.

    An input is anything with the buffer protocol, in C order: of its dtype and shape (a scalar may be an array of one), or
    plain bytes, which are taken for the one program that has inputs of such sizes. Outputs are memoryviews of their dtype and
    shape; where memoryviews do not know the dtype, of unsigned integers of its width (complex128: pairs of them). InputError
    where an input does not fit.
    """

    def __init__(self, found: Artifact) -> None:
        m = found.manifest
        self.inputs, self.outputs = _tensors(m["inputs"]), _tensors(m["outputs"])
        self._path = found.path
        weights: dict[str, mmap.mmap] = {}
        self._programs = []
        try:
            library = runtime(found.path / RUNTIME, m["runtime"])
            for p in found.programs:
                if p.weights not in weights:
                    weights[p.weights] = _mapped(found.path / p.weights)
                entry, = library.entries(found.path / p.code, [p.entry], threads_of(p))
                self._programs.append(_Ready(p, entry, weights[p.weights], []))
        except (OSError, AttributeError) as e:
            hint = "Is it on a file system that is mounted noexec?" if "not permitted" in str(e) else None
            raise ArtifactError(f"its code cannot be loaded: {e}", where=str(found.path), hint=hint) from e

    @property
    def values(self) -> list[dict[str, bytes]]:
        """Of the same programs, the values of inputs that each is for; nothing where shapes alone decide."""
        return [dict(r.program.values) for r in self._programs]

    @property
    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """The shapes of inputs that there are programs for."""
        return [dict(zip((t.name for t in self.inputs), r.program.inputs)) for r in self._programs]

    def __call__(self, *buffers: Any) -> Any:
        """Outputs for inputs in order: one, or a tuple of them."""
        if len(buffers) != len(self.inputs):
            raise InputError(f"takes {len(self.inputs)} inputs ({', '.join(t.name for t in self.inputs)}), got {len(buffers)}")
        made = self._run([_view(t, x) for t, x in zip(self.inputs, buffers)])
        return made[0] if len(made) == 1 else tuple(made)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, memoryview]:
        """Named buffers in, named memoryviews out."""
        names = [t.name for t in self.inputs]
        if inputs.keys() != set(names):
            raise InputError(f"the inputs are {', '.join(names) or 'none'}, got {', '.join(inputs) or 'none'}")
        return dict(zip((t.name for t in self.outputs), self._run([_view(t, inputs[t.name]) for t in self.inputs])))

    def __reduce__(self) -> Any:
        raise TypeError("a loaded model cannot be pickled: it holds machine code. Load it from its folder where it is needed")

    def _run(self, views: list[memoryview]) -> list[memoryview]:
        ready = self._fitting(views)
        p = ready.program
        outputs = [bytearray(max(1, math.prod(shape) * ITEMSIZES[dtype])) for shape, dtype in p.outputs]
        try:
            arena, frame = ready.free.pop()
        except IndexError:
            arena, frame = mmap.mmap(-1, max(1, p.arena)), (Pointer * (len(views) + len(outputs) + 2))()
            frame[-2:] = [_address(ready.weights), _address(arena)]
        held = []  # copies of what may not be written, until the call is over
        try:
            for k, x in enumerate((*views, *outputs)):
                if isinstance(x, memoryview) and (x.readonly or x.nbytes == 0):
                    held.append(x := bytearray(x) or bytearray(1))
                frame[k] = _address(x)
            if ready.entry.call(ready.entry.pool, ready.entry.address, frame):
                raise FAILED
        finally:
            ready.free.append((arena, frame))
        return [_shaped(y, shape, dtype) for y, (shape, dtype) in zip(outputs, p.outputs)]

    def _fitting(self, views: list[memoryview]) -> _Ready:
        """The program for these inputs. InputError where there is none, or more than one."""
        fits = [r for r in self._programs
                if all(x.nbytes == math.prod(shape) * ITEMSIZES[t.dtype]
                       and (_plain(x, t) or x.shape == shape or (x.shape, shape) == ((1,), ()))
                       and (t.name not in r.program.values or x.tobytes() == r.program.values[t.name])
                       for t, x, shape in zip(self.inputs, views, r.program.inputs))]
        if len(fits) == 1:
            return fits[0]
        deciding, dtypes = self._programs[0].program.values, {t.name: t.dtype for t in self.inputs}
        got = ", ".join(f"{t.name} of {f'{x.nbytes} bytes' if _plain(x, t) else 'x'.join(map(str, x.shape or ()))}"
                        for t, x in zip(self.inputs, views) if t.name not in deciding)
        got += _valued({t.name: x.tobytes() for t, x in zip(self.inputs, views)
                        if t.name in deciding and x.nbytes % ITEMSIZES[t.dtype] == 0}, dtypes)
        there = "; ".join(",".join(f"{n}={'x'.join(map(str, s))}" for n, s in shapes.items() if n not in deciding)
                          + _valued(values, dtypes) for shapes, values in zip(self.shapes[:12], self.values))
        raise InputError(f"{self._path} has {'several programs' if fits else 'no program'} for {got}; it has those for {there}",
                         hint="Give memoryviews with shapes: memoryview(x).cast('f', shape)" if fits else None)


def _valued(values: Mapping[str, bytes], dtypes: Mapping[str, str]) -> str:
    return f" with {values_text(values, dtypes)}" if values else ""


def _tensors(given: list[Mapping[str, Any]]) -> list[Tensor]:
    return [Tensor(t["name"], t["numpy"], None if t["shape"] is None else tuple(t["shape"])) for t in given]


def _view(t: Tensor, x: Any) -> memoryview:
    """The input's memory, of its dtype or plain bytes."""
    try:
        view = memoryview(x)
    except TypeError as e:
        raise InputError(f"expected a buffer of {t.dtype}, got {type(x).__name__}", where=f"input {t.name}") from e
    if not view.c_contiguous:
        raise InputError("its elements are not in C order, one after the other", where=f"input {t.name}")
    kind = view.format.lstrip("@=<")
    wanted = ITEM_FORMATS.get(t.dtype)
    if not _plain(view, t) and _SAME.get(kind, kind) != wanted and (wanted or view.itemsize != ITEMSIZES[t.dtype]):
        raise InputError(f"expected {t.dtype}, or plain bytes, got elements of format {view.format!r}", where=f"input {t.name}")
    return view


def _plain(view: memoryview, t: Tensor) -> bool:
    """Whether it is bytes without a shape; an input of bytes is of one dim then too."""
    return view.ndim == 1 and view.format in ("B", "b", "c") and t.shape != (view.nbytes,)


def _address(x: Any) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(x))


def _mapped(path: Path) -> mmap.mmap:
    """A file in memory that processes share while nobody writes to it, and nobody does."""
    size = path.stat().st_size
    if size == 0:
        return mmap.mmap(-1, 1)
    with open(path, "rb") as f:
        return mmap.mmap(f.fileno(), size, access=mmap.ACCESS_COPY)  # ctypes gives no address of what cannot be written


def _shaped(block: bytearray, shape: tuple[int, ...], dtype: str) -> memoryview:
    size = ITEMSIZES[dtype]
    count = math.prod(shape)
    if size == 16:
        shape, size = (*shape, 2), 8
    bare, kind = memoryview(block)[:count * ITEMSIZES[dtype]], ITEM_FORMATS.get(dtype) or _BITS[size]
    # A memoryview has no axis of 0 elements: what is empty has the shape (0,).
    return bare.cast(kind, shape) if count else bare.cast(kind)  # type: ignore[call-overload]


__all__ = ["BufferModel", "Tensor"]
