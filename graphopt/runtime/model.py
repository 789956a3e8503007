"""What `graphopt.compile` returns: call it as the source model is called."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from graphopt.errors import InputError, OutOfMemoryError, PickleError
from graphopt.runtime.arrays import from_numpy, kind_of, to_numpy
from graphopt.runtime.host.executable import Executable
from graphopt.runtime.host.pycall import never
from graphopt.runtime.indices import Checked
from graphopt.runtime.structure import Call


class Spec(NamedTuple):
    """An input or output. A dim is an int, or the text of a symbolic one; `shape` is None where the rank is unknown.

    `dtype` is None for a sequence or an optional, which is not checked.
    """

    name: str
    dtype: str | None
    shape: tuple[int | str, ...] | None
    numpy: np.dtype | None = None

    def __str__(self) -> str:
        dims = "*" if self.shape is None else ", ".join(map(str, self.shape))
        return f"{self.name}: {self.dtype}[{dims}]"


class Specialisation(NamedTuple):
    """A program for one set of shapes (and, where they shape the program, values)."""

    executable: Executable | Checked
    details: Any  # the compiler's own record of it


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of an object that is alive whenever this is called, without holding it: what an object holds must not hold it in
    turn, so that it, and the code that it has mapped, is gone with its last user."""
    at = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        found = at()
        assert found is not None
        return found(*args)

    return call


Key = tuple[Any, ...]
Build = Callable[[dict[str, tuple[int, ...]], dict[str, np.ndarray]], Specialisation]


class Specialisations:
    """The least-recently-used cache of programs, one per concrete shape; each is built once, whoever asks first."""

    def __init__(self, build: Build, limit: int) -> None:
        self.build, self.limit = build, limit
        self._ready: OrderedDict[Key, Specialisation] = OrderedDict()
        self._lock = threading.Lock()
        self._building: dict[Key, threading.Lock] = {}

    def get(self, key: Key, shapes: dict[str, tuple[int, ...]], values: dict[str, np.ndarray]) -> Specialisation:
        with self._lock:
            found = self._ready.get(key)
            if found is not None:
                self._ready.move_to_end(key)
                return found
            gate = self._building.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                found = self._ready.get(key)
            if found is None:
                try:
                    found = self.build(shapes, values)
                finally:
                    with self._lock:
                        self._building.pop(key, None)
                with self._lock:
                    self._ready[key] = found
                    while len(self._ready) > self.limit:
                        self._ready.popitem(last=False)
        return found

    def __len__(self) -> int:
        return len(self._ready)

    def cases(self) -> list[tuple[dict[str, tuple[int, ...]], dict[str, bytes]]]:
        """The shapes, and the values that decide, of the programs that are kept, by the names of inputs."""
        with self._lock:
            return [(dict(shapes), {name: data for name, _, data in values}) for shapes, values in self._ready]

    @property
    def latest(self) -> Specialisation | None:
        with self._lock:
            return next(reversed(self._ready.values())) if self._ready else None


class Model:
    """The run-time half of a compiled model: checks inputs, picks or builds the program for their shapes, runs it."""

    def __init__(self, inputs: Sequence[Spec], outputs: Sequence[Spec], programs: Specialisations, *,
                 structure: Call | None = None, control_inputs: Sequence[str] = (),
                 ranges: Mapping[str, tuple[int | None, int | None]] | None = None) -> None:
        self.inputs, self.outputs, self._programs = list(inputs), list(outputs), programs
        self._structure, self._control, self._ranges = structure, tuple(control_inputs), dict(ranges or {})
        fixed = (s.shape is not None and all(isinstance(d, int) for d in s.shape) for s in inputs)
        self._static = not control_inputs and all(fixed)
        self._only: Specialisation | None = None
        self._names, self._output_names = [s.name for s in inputs], [s.name for s in outputs]
        self._named = set(self._names)
        # The latest program, called without Python where arrays are exactly as it takes them: by inputs, and by arguments.
        self._by_inputs = self._by_arguments = never
        self._arguments_are_inputs = structure is None or structure.plain_by_position

    # Calling ----------------------------------------------------------------------------------
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as the source model runs: the same arguments, the same structure of results, arrays in kind."""
        try:
            if not kwargs and (result := self._by_arguments(*args)) is not None:
                return result
        except MemoryError as e:
            raise self._out_of_memory() from e
        given = self._structure.flatten(args, kwargs) if self._structure is not None else self._by_position(args, kwargs)
        results = self._computed(given)
        if self._structure is not None:
            return self._structure.unflatten(results)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Named arrays in, named arrays out; names are the source model's."""
        names = self._names
        if type(inputs) is not dict and not isinstance(inputs, Mapping):
            raise InputError(f"takes arrays by the names of inputs, got {type(inputs).__name__}",
                             hint=f"The inputs are: {', '.join(map(str, self.inputs)) or 'none'}")
        if inputs.keys() != self._named:
            self._check_names(inputs, names)
        given = [inputs[n] for n in names]
        return dict(zip(self._output_names, self._computed(given), strict=True))

    def _computed(self, given: Sequence[Any]) -> list[Any]:
        """Results for the inputs in order, arrays in kind."""
        try:
            if (made := self._by_inputs(*given)) is not None:
                return [made] if len(self.outputs) == 1 else list(made)
            kind = kind_of(given)
            return [from_numpy(r, kind, given) for r in self._run(given, kind == "torch")]
        except OutOfMemoryError:
            raise
        except MemoryError as e:
            raise self._out_of_memory() from e

    def _out_of_memory(self) -> OutOfMemoryError:
        latest = self._only or self._programs.latest
        needs = f": it needs {latest.executable.needs()}" if latest is not None else ""
        return OutOfMemoryError(f"there is no memory for a call{needs}",
                                hint="Give smaller inputs, or a machine with more memory")

    def __reduce__(self) -> Any:
        raise PickleError("a compiled model cannot be pickled, nor sent to another process: it holds machine code",
                          hint="Write it with model.save(path), and graphopt.load(path) it there")

    def __copy__(self) -> Self:
        """Itself: nothing of it changes but what it keeps for later calls, and calls may overlap."""
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def _by_position(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        if not kwargs and len(args) == len(self.inputs):
            return list(args)
        names = [s.name for s in self.inputs]
        if len(args) > len(names):
            raise InputError(f"takes {len(names)} inputs ({', '.join(names)}), got {len(args)}")
        given = dict(zip(names, args))
        for name, value in kwargs.items():
            if name in given:
                raise InputError("given by position and by name", where=f"input {name}")
            given[name] = value
        self._check_names(given, names)
        return [given[n] for n in names]

    def _check_names(self, given: Mapping[str, Any], names: Sequence[str]) -> None:
        missing, extra = [n for n in names if n not in given], [n for n in given if n not in names]
        if missing or extra:
            text = "; ".join([f"missing input {n!r}" for n in missing] + [f"no input is named {n!r}" for n in extra])
            raise InputError(text, hint=f"The inputs are: {', '.join(map(str, self.inputs)) or 'none'}")

    def _run(self, given: Sequence[Any], torch: bool) -> list[Any]:
        arrays = self._checked(given)
        found = self.program(arrays)
        self._next(found, torch)
        return found.executable.run(arrays)

    def _next(self, program: Specialisation, torch: bool = False) -> None:
        """Call this program first from now on."""
        if not self._control:  # whose values choose the program, too
            self._by_inputs = program.executable.caller(torch)
            if self._arguments_are_inputs:
                self._by_arguments = self._by_inputs

    def _checked(self, given: Sequence[Any]) -> list[Any]:
        """Inputs in order as the program wants them."""
        return [self._check(s, to_numpy(x, s.name)) for s, x in zip(self.inputs, given, strict=True)]

    def program(self, arrays: Sequence[Any]) -> Specialisation:
        """The program for checked inputs, built if it is the first call with their shapes."""
        if self._only is not None:
            return self._only
        shapes = {s.name: a.shape for s, a in zip(self.inputs, arrays) if isinstance(a, np.ndarray)}
        values = {s.name: a for s, a in zip(self.inputs, arrays) if s.name in self._control}
        symbols: dict[str, tuple[int, int, str]] = {}
        for s, a in zip(self.inputs, arrays):
            self._check_symbols(s, a, symbols)
        key = (tuple(sorted(shapes.items())), tuple((n, values[n].dtype.str, values[n].tobytes()) for n in sorted(values)))
        found = self._programs.get(key, shapes, values)
        if self._static:
            self._only = found
        return found

    def _check(self, s: Spec, x: Any) -> Any:
        """The array as the program wants it; InputError names the input and both sides."""
        if s.numpy is None:
            return x
        if not isinstance(x, np.ndarray):
            raise InputError(f"expected {s.dtype}, got {type(x).__name__}", where=f"input {s.name}")
        if x.dtype != s.numpy:
            if not (s.numpy == np.object_ and x.dtype.kind in "US"):
                raise InputError(f"expected dtype {s.dtype} ({s.numpy}), got {x.dtype}", where=f"input {s.name}",
                                 hint=f"Convert it, for example with .astype({str(s.numpy)!r})")
            x = x.astype(np.object_)
        if s.shape is not None and x.shape != s.shape and (
                len(x.shape) != len(s.shape) or any(isinstance(d, int) and d != n for d, n in zip(s.shape, x.shape))):
            raise InputError(f"expected shape [{', '.join(map(str, s.shape))}], got {list(x.shape)}", where=f"input {s.name}")
        return x if x.flags.c_contiguous else np.ascontiguousarray(x)

    def _check_symbols(self, s: Spec, x: Any, symbols: dict[str, tuple[int, int, str]]) -> None:
        """One value for each dim name over all inputs, within the range that it was declared with."""
        if s.shape is None or not isinstance(x, np.ndarray):
            return
        for axis, (d, n) in enumerate(zip(s.shape, x.shape)):
            if not isinstance(d, str) or not d.isidentifier():
                continue
            first, there, owner = symbols.setdefault(d, (n, axis, s.name))
            if first != n:
                raise InputError(f"dim {d} is {n} at axis {axis}, but {first} in input {owner} at axis {there}",
                                 where=f"input {s.name}", hint=f"The model says that both are {d}: give them the same size")
            low, high = self._ranges.get(d, (None, None))
            if (low is not None and n < low) or (high is not None and n > high):
                raise InputError(f"dim {d} is {n}, outside of its declared range {low}..{high}", where=f"input {s.name}")
