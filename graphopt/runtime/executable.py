"""A static program bound to its memory: run it on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from graphopt.runtime.library import FAILED, Entry, Pointer

ALIGN = 64
_Byte = ctypes.c_char
# The buffer protocol is three times as fast as numpy's interface, where it applies: not to read-only or empty arrays, nor
# to dtypes that it does not know.
_byte_of, _addressof = _Byte.from_buffer, ctypes.addressof


def aligned(nbytes: int) -> np.ndarray:
    """A block of bytes that starts at a multiple of ALIGN."""
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGN
    return raw[start:start + nbytes]


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def pointer(array: np.ndarray) -> Pointer:
    """The address as an argument."""
    return Pointer(address(array))


@dataclass(frozen=True)
class Place:
    """Where a host step finds or leaves a value."""

    space: str  # input, output, weights, arena, host
    index: int
    offset: int
    shape: tuple[int, ...] | None
    dtype: np.dtype | None


class HostStep(NamedTuple):
    """A step that numpy code runs between kernels: `run(arguments, dims)`.

    `dims` are the sizes that only this call knows; a step reads them and adds those that its results show.
    """

    run: Callable[[list[Any], dict[str, int]], list[Any]]
    args: tuple[Place | None, ...]
    results: tuple[Place, ...]
    name: str
    why: str


class OutputSpec(NamedTuple):
    """An output's place when its shape is static, else the host value it is."""

    shape: tuple[int, ...] | None
    dtype: np.dtype | None
    host: Place | None = None


class _Workspace(NamedTuple):
    """What one call holds: an arena, and the array of pointers for compiled code with those filled in that never change."""

    arena: np.ndarray
    arena_pointer: Pointer
    frame: Any


Observer = Callable[[int, Callable[[Place], Any]], None]


class Executable:
    """Steps over inputs, outputs, weights and an arena. Calls may overlap: each takes its own arena."""

    def __init__(self, steps: Sequence[Callable[..., Any] | HostStep], outputs: Sequence[OutputSpec], weights: np.ndarray,
                 arena_size: int, inputs: int) -> None:
        self.steps, self.outputs, self.weights, self.arena_size = list(steps), list(outputs), weights, arena_size
        self._workspaces: list[_Workspace] = []
        self._weights_pointer = Pointer(address(weights))
        self._frame = Pointer * (inputs + len(outputs) + 2)
        # One stretch of kernels and every shape known: nothing to interpret between the pointers and the call.
        fixed = all(o.shape is not None and o.host is None for o in outputs)
        only = self.steps[0] if fixed and len(self.steps) == 1 else None
        self._only = only if isinstance(only, Entry) else None
        self._made = [(o.shape, o.dtype) for o in outputs]

    def run(self, inputs: Sequence[Any], observe: Observer | None = None) -> list[Any]:
        """Outputs for inputs that are C-contiguous arrays of the program's dtypes and shapes.

        `observe(k, read)` is called after step k; `read(place)` gives what lies in a place, valid until it returns.
        """
        if self._only is not None and observe is None:
            return self._direct(inputs, self._only)
        outputs = [np.empty(o.shape, o.dtype) if o.shape is not None and o.host is None else None for o in self.outputs]
        lent = self._lend()
        arena = lent.arena
        pointers = [pointer(a) if isinstance(a, np.ndarray) else Pointer(None) for a in (*inputs, *outputs)]
        pointers += [self._weights_pointer, lent.arena_pointer]
        host: dict[int, Any] = {}
        dims: dict[str, int] = {}
        try:
            for k, step in enumerate(self.steps):
                if isinstance(step, HostStep):
                    self._host(step, inputs, outputs, arena, host, dims)
                else:
                    step(*pointers)
                if observe is not None:
                    observe(k, lambda place: self._read(place, inputs, outputs, arena, host))
        finally:
            self._workspaces.append(lent)
        foreign = [x for x in inputs if isinstance(x, np.ndarray)] + [self.weights]
        return [_apart(self._read(o.host, inputs, outputs, arena, host), foreign) if o.host is not None else y
                for o, y in zip(self.outputs, outputs)]

    @property
    def direct(self) -> bool:
        """Is a call one stretch of kernels, which `run_at` runs?"""
        return self._only is not None

    def run_at(self, addresses: Sequence[int]) -> None:
        """Run on memory that the caller vouches for: the addresses of all inputs, then of all outputs, C-contiguous and of the
        program's dtypes and shapes. Only where `direct`."""
        entry = self._only
        assert entry is not None
        lent = self._lend()
        try:
            lent.frame[:-2] = addresses
            if entry.call(entry.pool, entry.address, lent.frame):
                raise FAILED
        finally:
            self._workspaces.append(lent)

    def _lend(self) -> _Workspace:
        """A workspace for one call."""
        try:
            return self._workspaces.pop()
        except IndexError:
            arena = aligned(self.arena_size)
            made = _Workspace(arena, Pointer(address(arena)), self._frame())
            made.frame[-2:] = [self._weights_pointer, made.arena_pointer]
            return made

    def _direct(self, inputs: Sequence[np.ndarray], entry: Entry) -> list[Any]:
        outputs: list[Any] = [np.empty(shape, kind) for shape, kind in self._made]
        try:
            lent = self._workspaces.pop()
        except IndexError:
            lent = self._lend()
        frame, k = lent.frame, 0
        try:
            for a in (*inputs, *outputs):
                try:
                    frame[k] = _addressof(_byte_of(a))  # type: ignore[arg-type]
                except (TypeError, ValueError, BufferError):
                    frame[k] = address(a)
                k += 1
            if entry.call(entry.pool, entry.address, frame):
                raise FAILED
        finally:
            self._workspaces.append(lent)
        return outputs

    def _host(self, step: HostStep, inputs: Sequence[Any], outputs: list[Any], arena: np.ndarray, host: dict[int, Any],
              dims: dict[str, int]) -> None:
        args = [None if p is None else self._read(p, inputs, outputs, arena, host) for p in step.args]
        for place, value in zip(step.results, step.run(args, dims), strict=True):
            if place.space == "host":
                host[place.index] = _apart(value, [arena])  # what it views there may be overwritten before it is read
            else:
                target = self._read(place, inputs, outputs, arena, host)
                np.copyto(target, np.asarray(value).reshape(target.shape))

    def _read(self, p: Place, inputs: Sequence[Any], outputs: Sequence[Any], arena: np.ndarray, host: dict[int, Any]) -> Any:
        if p.space == "host":
            return host[p.index]
        if p.space == "input" and (p.shape is None or not isinstance(inputs[p.index], np.ndarray)):
            return inputs[p.index]
        base = {"input": inputs, "output": outputs}.get(p.space)
        if base is not None and p.dtype == np.object_:  # strings have no bytes to view
            return base[p.index].reshape(p.shape)
        memory = base[p.index].reshape(-1).view(np.uint8) if base is not None else self.weights if p.space == "weights" else arena
        assert p.shape is not None and p.dtype is not None
        size = int(np.prod(p.shape)) * p.dtype.itemsize
        return memory[p.offset:p.offset + size].view(p.dtype).reshape(p.shape)


def _apart(value: Any, memories: Sequence[np.ndarray]) -> Any:
    """The value (a list: all in it) as arrays of their own where they are constants or may lie in one of these memories."""
    if isinstance(value, list):
        return [_apart(v, memories) for v in value]
    if isinstance(value, np.ndarray) and (not value.flags.writeable or any(np.may_share_memory(value, m) for m in memories)):
        return value.copy()
    return value
