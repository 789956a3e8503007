"""A static program bound to its memory: run it on arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from graphopt.runtime.host import pycall
from graphopt.runtime.host.library import Entry, Pointer

ALIGN = 64


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


Observer = Callable[[int, Callable[[Place], Any]], None]


class Executable:
    """Steps over inputs, outputs, weights and an arena. Calls may overlap: each takes its own arena."""

    def __init__(self, steps: Sequence[Callable[..., Any] | HostStep], outputs: Sequence[OutputSpec], weights: np.ndarray,
                 arena_size: int, inputs: Sequence[pycall.Tensor], largest: str = "",
                 complex_outputs: Collection[int] = ()) -> None:
        """`complex_outputs`: which host values of outputs are real arrays with a last axis of two parts."""
        self._complex_outputs = complex_outputs
        self.steps, self.outputs, self.weights, self.arena_size = list(steps), list(outputs), weights, arena_size
        self._inputs, self._largest = list(inputs), largest
        self._arenas: list[np.ndarray] = []
        # One stretch of kernels and every shape known: nothing to interpret between the arrays and the call.
        only = self.steps[0] if len(self.steps) == 1 and all(o.host is None for o in outputs) else None
        self._only = only if isinstance(only, Entry) else None
        self._weights_pointer = pointer(weights)
        self._caller: pycall.Call | None = pycall.never if self._only is None else None
        self._takes_tensors = False

    def needs(self) -> str:
        """What memory a call takes, in words."""
        results = sum(math.prod(o.shape) * o.dtype.itemsize for o in self.outputs if o.shape is not None and o.dtype is not None)
        inner = f" ({self._largest})" if self._largest else ""
        return f"{self.arena_size} bytes for values in between{inner} and {results} for results"

    def caller(self, torch: bool = False) -> pycall.Call:
        """The short way to `run`: `call(*arrays)` gives one result or a tuple of them; None, with nothing done, for arrays that
        are not exactly as the program takes them, and always for programs of several steps. `torch`: takes and gives torch's
        tensors as well. See `graphopt.runtime.host.pycall.caller`."""
        if self._only is not None and (self._caller is None or (torch and not self._takes_tensors)):
            made = [(o.shape, o.dtype) for o in self.outputs]
            self._caller = pycall.caller(self._only, self.weights, self.arena_size, self._inputs, made, torch)
            self._takes_tensors = torch
        assert self._caller is not None
        return self._caller

    def run(self, inputs: Sequence[Any], observe: Observer | None = None) -> list[Any]:
        """Outputs for inputs that are C-contiguous arrays of the program's dtypes and shapes.

        `observe(k, read)` is called after step k; `read(place)` gives what lies in a place, valid until it returns.
        """
        if observe is None and (made := self.caller()(*inputs)) is not None:
            return [made] if len(self.outputs) == 1 else list(made)
        outputs = [np.empty(o.shape, o.dtype) if o.shape is not None and o.host is None else None for o in self.outputs]
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = aligned(self.arena_size)
        inputs = [_taken_apart(a) for a in inputs]
        pointers = [pointer(a) if isinstance(a, np.ndarray) else Pointer(None) for a in (*inputs, *outputs)]
        pointers += [self._weights_pointer, pointer(arena)]
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
            self._arenas.append(arena)
        foreign = [x for x in inputs if isinstance(x, np.ndarray)] + [self.weights]
        made = [_apart(self._read(o.host, inputs, outputs, arena, host), foreign) if o.host is not None else y
                for o, y in zip(self.outputs, outputs)]
        return [_put_together(y) if k in self._complex_outputs else y for k, y in enumerate(made)]

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


def _taken_apart(value: Any) -> Any:
    """A complex array as a real one with a last axis of two parts, in the same memory."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "c":
        return value.reshape(-1).view(value.real.dtype).reshape(*value.shape, 2)
    return value


def _put_together(value: np.ndarray) -> np.ndarray:
    """The other way round; what is complex stays."""
    if value.dtype.kind == "c":
        return value
    return np.ascontiguousarray(value).view(np.result_type(value.dtype, np.complex64))[..., 0]


def _apart(value: Any, memories: Sequence[np.ndarray]) -> Any:
    """The value (a list: all in it) as arrays of their own where they are constants or may lie in one of these memories."""
    if isinstance(value, list):
        return [_apart(v, memories) for v in value]
    if isinstance(value, np.ndarray) and (not value.flags.writeable or any(np.may_share_memory(value, m) for m in memories)):
        return value.copy()
    return value
