"""Kernels run by the meaning of their statements, over numpy arrays: what every target must do, checked at every step.

Slow; for tests, and to settle what a statement means. Lanes of a vector loop go statement by statement; threads of a block go one
after the other from barrier to barrier, and all must come to the same ones. Iterations that may overlap in time must not touch
what another one writes (but for writing the same value): races are found by keeping, for every element, who wrote and who read
it. An asynchronous copy spoils its target at once and arrives with `Wait`. Indices and ranges of variables are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.codegen.kernel.expr import (
    COMPARISONS,
    INDEX,
    Apply,
    Buffer,
    Const,
    Expr,
    Load,
    Reduce,
    Var,
    free_vars,
    postorder,
)
from graphopt.codegen.kernel.interpret import APPLY, Evaluation
from graphopt.codegen.kernel.loops import (
    Alloc,
    AsyncCopy,
    Barrier,
    Commit,
    Dot,
    For,
    If,
    Kernel,
    Let,
    Prefetch,
    Seq,
    Shuffle,
    Stmt,
    Store,
    TileDot,
    TileLoad,
    Tiles,
    TileStore,
    TileZero,
    Wait,
    statements,
)
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.errors import CodegenError
from graphopt.ir.types import BOOL

Env = dict[Any, Any]  # values of variables and arrays of buffers; by name, what the interpreter itself keeps for a thread
Function = Callable[[Env], Any]


def run_kernel(kernel: Kernel, arrays: Sequence[np.ndarray], scalars: Sequence[int] = ()) -> list[np.ndarray]:
    """Outputs of a kernel on its inputs. What it does not write comes back as a telling pattern (NaN, or 0x5A bytes)."""
    if len(arrays) != kernel.inputs or len(scalars) != len(kernel.scalars):
        raise CodegenError(f"@{kernel.name} takes {kernel.inputs} arrays and {len(kernel.scalars)} scalars, "
                           f"got {len(arrays)} and {len(scalars)}")
    env: Env = {"path": (), "copies": [[]]}
    machine = _Machine(kernel)
    for var, value in zip(kernel.scalars, scalars):
        env[var] = machine.within(var, int(value))
    for k, buffer in enumerate(kernel.params):
        shape = buffer.shape if buffer.length is None else (int(machine.value(buffer.length, env)),)
        if shape[:1] > buffer.shape[:1]:
            raise CodegenError(f"@{kernel.name}: {buffer!r} of {shape[0]} elements")
        if k >= kernel.inputs:
            env[buffer] = unwritten(buffer, shape)
            continue
        array = np.asarray(arrays[k])
        if array.shape != shape or array.dtype != buffer.dtype.numpy:
            raise CodegenError(f"@{kernel.name}: {buffer!r} given {array.dtype}{list(array.shape)}")
        env[buffer] = array
    with np.errstate(all="ignore"):
        machine.run(kernel.body, env)
        machine.all_arrived(env)
    return [env[b] for b in kernel.params[kernel.inputs:kernel.inputs + kernel.outputs]]


def unwritten(buffer: Buffer, shape: Sequence[int] | None = None) -> np.ndarray:
    """An array that shows where nothing was written."""
    shape, d = buffer.shape if shape is None else tuple(shape), buffer.dtype
    if d.is_float:
        return np.full(shape, np.nan).astype(d.numpy)
    if d is BOOL:
        return np.zeros(shape, bool)
    out = np.empty(shape, d.numpy)
    out.reshape(-1).view(np.uint8)[:] = 0x5A
    return out


class _Machine:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.functions: dict[tuple[int, frozenset[Var]], tuple[Function, Expr]] = {}
        self.free: dict[int, frozenset[Var]] = {}
        self.wide: set[Var] = set()  # variables that hold a value for each lane
        self.synchronised: dict[int, bool] = {}
        self.instances = 0
        self.races = _Races()
        self.shared_loads: dict[int, list[Load]] = {}

    def fail(self, what: str) -> CodegenError:
        return CodegenError(what, where=f"@{self.kernel.name}")

    # Values
    def value(self, e: Expr, env: Env) -> Any:
        wide = free_vars(e, self.free) & self.wide if self.wide else frozenset()
        found = self.functions.get((id(e), wide))
        if found is None:
            found = self.functions[id(e), wide] = compiled(e, wide, self.free), e
        return found[0](env)

    def within(self, var: Var, value: Any) -> Any:
        if (var.low is not None and value < var.low) or (var.high is not None and value > var.high):
            raise self.fail(f"{var!r} is {value}, and says {var.low} to {var.high}")
        return value

    def barriers(self, s: Stmt) -> bool:
        """Whether threads wait for each other within."""
        if id(s) not in self.synchronised:
            self.synchronised[id(s)] = any(isinstance(x, Barrier) for x in statements(s))
        return self.synchronised[id(s)]

    # Statements that no thread waits in
    def run(self, s: Stmt, env: Env) -> None:
        if isinstance(s, Seq):
            for x in s.body:
                self.run(x, env)
        elif isinstance(s, For):
            self.loop(s, env)
        elif isinstance(s, Store):
            self.store(s, env)
        elif isinstance(s, If):
            self.reads(env, s.condition)
            if self.value(s.condition, env):
                self.run(s.then, env)
            elif s.otherwise is not None:
                self.run(s.otherwise, env)
        elif isinstance(s, Let):
            with _bound(env, s.var, self.bind(s, env)):
                wide = not self.wide.isdisjoint(free_vars(s.value, self.free))
                if wide:
                    self.wide.add(s.var)
                self.run(s.body, env)
                if wide:
                    self.wide.discard(s.var)
        elif isinstance(s, Alloc):
            self.races.forget(s.buffer)
            with _bound(env, s.buffer, unwritten(s.buffer)):
                self.run(s.body, env)
        elif isinstance(s, Prefetch):
            pass
        elif isinstance(s, Shuffle):
            w = len(s.order)
            lanes = np.concatenate([env[s.source][at:at + w] for at in (s.a, s.b)])
            env[s.target][s.at:s.at + w] = lanes[list(s.order)]
        elif isinstance(s, Dot):
            self.dot(s, env)
        elif isinstance(s, Tiles):
            env.update((tile, unwritten(tile)) for tile in s.buffers)
            self.run(s.body, env)
            for tile in s.buffers:
                del env[tile]
        elif isinstance(s, TileZero):
            env[s.tile][:] = 0
        elif isinstance(s, TileDot):
            env[s.acc][:] = s.how.meaning(env[s.acc], env[s.a], env[s.b])
        elif isinstance(s, (TileLoad, TileStore)):
            self.move(s, env)
        elif isinstance(s, Barrier):
            self.passed(s, env)  # between loops over threads: nobody is in one
        elif isinstance(s, AsyncCopy):
            self.copy(s, env)
        elif isinstance(s, Commit):
            env["copies"].append([])
        elif isinstance(s, Wait):
            while len(env["copies"]) > s.left + 1:
                self.arrive(env["copies"].pop(0), env)
        else:
            raise self.fail(f"unknown statement {s!r}")

    def bind(self, s: Let, env: Env) -> Any:
        self.reads(env, s.value)
        value = self.value(s.value, env)
        return self.within(s.var, value) if s.var.dtype is INDEX and not isinstance(value, np.ndarray) else value

    def loop(self, s: For, env: Env) -> None:
        extent = int(self.value(s.extent, env))
        if s.scope is Scope.VECTOR and all(isinstance(x, (Store, Seq, Let)) for x in statements(s.body)):
            with _bound(env, s.var, np.arange(extent)):
                self.wide.add(s.var)
                self.run(s.body, env)
                self.wide.discard(s.var)
        elif s.scope.concurrent:
            self.threads(s, extent, env)
        else:
            before = env.get(s.var)
            for k in range(extent):
                env[s.var] = self.within(s.var, k)
                self.run(s.body, env)
            env[s.var] = before

    def threads(self, s: For, extent: int, env: Env) -> None:
        """Iterations that may overlap: each on its own, or in lockstep where they wait for each other."""
        for _ in self.lockstep(s, extent, env) if self.barriers(s.body) and s.scope in (Scope.WARP, Scope.THREAD) else \
                self.one_by_one(s, extent, env):
            raise self.fail("a barrier that not all threads of the block come to")

    def own(self, s: For, extent: int, env: Env) -> Iterator[Env]:
        """What each iteration sees: variables and memory of its own beside those around it."""
        # Loops over threads are not ordered by standing one after the other, which is what barriers are for.
        instance = 0 if s.scope in (Scope.WARP, Scope.THREAD) else self.instances
        self.instances += 1
        for k in range(extent):
            yield {**env, s.var: self.within(s.var, k), "path": (*env["path"], [s.scope, instance, k, 0]), "copies": [[]]}

    def one_by_one(self, s: For, extent: int, env: Env) -> Iterator[Barrier]:
        for own in self.own(s, extent, env):
            self.run(s.body, own)
            self.all_arrived(own)
        yield from ()

    def lockstep(self, s: For, extent: int, env: Env) -> Iterator[Barrier]:
        """From barrier to barrier; those of threads around these are passed on."""
        each = [(own, self.steps(s.body, own)) for own in self.own(s, extent, env)]
        while each:
            at = [next(steps, None) for _, steps in each]
            if all(b is None for b in at):
                break
            if any(b is not at[0] for b in at):
                raise self.fail("a barrier that not all threads come to")
            barrier = at[0]
            assert barrier is not None
            within_warps = s.scope is Scope.THREAD and any(scope is Scope.WARP for scope, *_ in env["path"])
            if barrier.scope is Scope.BLOCK and within_warps:
                yield barrier
            else:
                self.passed(barrier, env)
        for own, _ in each:
            self.all_arrived(own)

    def passed(self, s: Barrier, env: Env) -> None:
        """What lies behind the barrier comes after all that lies before it, within the block or warp."""
        for level in env["path"]:
            if level[0] is s.scope:
                level[3] += 1

    def steps(self, s: Stmt, env: Env) -> Iterator[Barrier]:
        """Run a statement of one thread, stopping at each barrier."""
        if isinstance(s, Barrier):
            yield s
        elif not self.barriers(s):
            self.run(s, env)
        elif isinstance(s, Seq):
            for x in s.body:
                yield from self.steps(x, env)
        elif isinstance(s, For):
            extent = int(self.value(s.extent, env))
            if s.scope.concurrent:
                yield from self.lockstep(s, extent, env)
                return
            for k in range(extent):
                env[s.var] = self.within(s.var, k)
                yield from self.steps(s.body, env)
        elif isinstance(s, If):
            self.reads(env, s.condition)
            branch = s.then if self.value(s.condition, env) else s.otherwise
            if branch is not None:
                yield from self.steps(branch, env)
        elif isinstance(s, Let):
            env[s.var] = self.bind(s, env)
            yield from self.steps(s.body, env)
        elif isinstance(s, Alloc):
            env[s.buffer] = unwritten(s.buffer)
            yield from self.steps(s.body, env)
        else:
            raise self.fail(f"unknown statement {s!r}")

    # Memory
    def store(self, s: Store, env: Env) -> None:
        index = tuple(self.value(i, env) for i in s.index)
        value = self.value(s.value, env)
        array = env[s.buffer]
        for i, n in zip(index, array.shape):
            wide = isinstance(i, np.ndarray)
            if (wide and i.size and (i.min() < 0 or i.max() >= n)) or (not wide and not 0 <= i < n):
                at = [x.tolist() if isinstance(x, np.ndarray) else x for x in index]
                raise self.fail(f"a store to {at} leaves {s.buffer!r}")
        if isinstance(value, np.ndarray) and value.ndim and not any(isinstance(i, np.ndarray) for i in index):
            raise self.fail(f"lanes of a vector store into one element of {s.buffer!r}")
        if env["path"] and s.buffer.space is not Space.LOCAL:
            self.reads(env, s.value, *s.index)
            self.races.write(s.buffer, array, index, value, env["path"], self.fail)
        array[index] = value
        if len(index) == 1 and isinstance(index[0], np.ndarray) and not same_bits(array[index], value):
            raise self.fail(f"lanes of a vector store into the same element of {s.buffer!r}")

    def dot(self, s: Dot, env: Env) -> None:
        shape = s.lanes, s.how.depth
        with _bound(env, s.lane, np.arange(s.lanes).reshape(-1, 1)), _bound(env, s.step, np.arange(s.how.depth).reshape(1, -1)):
            self.wide |= {s.lane, s.step}
            self.reads(env, s.a, s.b, s.target)
            a, b = (np.broadcast_to(self.value(x, env), shape) for x in (s.a, s.b))
            before = np.broadcast_to(self.value(s.target, env), (s.lanes, 1))[:, 0]  # its index is checked
            index = tuple(np.broadcast_to(self.value(i, env), (s.lanes, 1))[:, 0] for i in s.target.index)
            self.wide -= {s.lane, s.step}
        if (a.dtype, b.dtype) != (s.how.a.numpy, s.how.b.numpy):
            raise self.fail(f"{s.how.name} takes {s.how.a} and {s.how.b}, got {a.dtype} and {b.dtype}")
        buffer, array = s.target.buffer, env[s.target.buffer]
        value = s.how.meaning(before, a, b)
        if env["path"] and buffer.space is not Space.LOCAL:
            self.races.write(buffer, array, index, value, env["path"], self.fail)
        array[index] = value

    def move(self, s: TileLoad | TileStore, env: Env) -> None:
        """Between a tile and the rows of a buffer, which has one axis."""
        tile, array = env[s.tile], env[s.buffer]
        at, stride = (int(self.value(e, env)) for e in (s.at, s.stride))
        places = at + stride * np.arange(tile.shape[0])[:, None] + np.arange(tile.shape[1])
        if places.min() < 0 or places.max() >= array.size:
            raise self.fail(f"a tile at {at} by {stride} leaves {s.buffer!r}")
        shared = env["path"] and s.buffer.space is not Space.LOCAL and s.buffer not in self.kernel.params[:self.kernel.inputs]
        flat = (places.reshape(-1),)
        if isinstance(s, TileLoad):
            if shared:
                self.races.read(s.buffer, array, flat, env["path"], self.fail)
            tile[:] = array[places]
        else:
            if shared:
                self.races.write(s.buffer, array, flat, tile.reshape(-1), env["path"], self.fail)
            array[places] = tile

    def reads(self, env: Env, *exprs: Expr) -> None:
        """What a statement reads of memory that others may write."""
        if not env["path"]:
            return
        for e in exprs:
            if id(e) not in self.shared_loads:
                inputs = self.kernel.params[:self.kernel.inputs]
                self.shared_loads[id(e)] = [n for n in postorder(e) if isinstance(n, Load) and n.buffer.space is not Space.LOCAL
                                            and n.buffer not in inputs]
            for node in self.shared_loads[id(e)]:
                index = tuple(self.value(i, env) for i in node.index)
                self.races.read(node.buffer, env[node.buffer], index, env["path"], self.fail)

    def copy(self, s: AsyncCopy, env: Env) -> None:
        to, at = (int(self.value(e, env)) for e in (s.to, s.at))
        target, source = env[s.target].reshape(-1), env[s.source].reshape(-1)
        for first, array, b in ((to, target, s.target), (at, source, s.source)):
            if not 0 <= first <= array.size - s.count:
                raise self.fail(f"a copy of {s.count} from {first} on leaves {b!r}")
        part = slice(to, to + s.count)
        spoilt = unwritten(s.target)
        self.races.write(s.target, env[s.target], (np.arange(s.count) + to,), None, env["path"], self.fail)
        target[part] = spoilt.reshape(-1)[:s.count]
        env["copies"][-1].append((s, part, source[at:at + s.count], source[at:at + s.count].copy()))

    def arrive(self, group: list[Any], env: Env) -> None:
        for s, part, source, before in group:
            target = env[s.target].reshape(-1)
            if not same_bits(source, before) or not same_bits(target[part], unwritten(s.target).reshape(-1)[:s.count]):
                raise self.fail(f"a copy from {s.source!r} to {s.target!r} was under way while one side changed")
            self.races.write(s.target, env[s.target], (np.arange(part.start, part.stop),), None, env["path"], self.fail)
            target[part] = before

    def all_arrived(self, env: Env) -> None:
        if any(env["copies"]):
            raise self.fail("an asynchronous copy is never waited for")


class _bound:
    """A name that means something within a `with`, and after it what it meant before."""

    def __init__(self, env: Env, name: Any, value: Any) -> None:
        self.env, self.name, self.value = env, name, value

    def __enter__(self) -> None:
        self.before, self.env[self.name] = self.env.get(self.name), self.value

    def __exit__(self, *_: object) -> None:
        self.env[self.name] = self.before


def same_bits(a: Any, b: Any) -> bool:
    a = np.asarray(a)
    return bool(a.tobytes() == np.broadcast_to(np.asarray(b, a.dtype), a.shape).tobytes())


class _Races:
    """Who wrote each element last and who read it since: two readers are enough to find one that is not the next writer."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.paths: list[tuple[Any, ...]] = [()]
        self.overlap: dict[tuple[int, int], bool] = {}
        self.stamps: dict[Buffer, np.ndarray] = {}  # [writer, reader, another reader] of each element; 0: none, -1: several alike

    def forget(self, b: Buffer) -> None:
        self.stamps.pop(b, None)

    def number(self, path: Sequence[Sequence[Any]]) -> int:
        key = tuple(tuple(level) for level in path)
        found = self.numbers.get(key)
        if found is None:
            found = self.numbers[key] = len(self.paths)
            self.paths.append(key)
        return found

    def concurrent(self, a: int, b: int) -> bool:
        """Whether accesses of two iterations may come in any order."""
        if a <= 0 or b <= 0 or a == b:
            return False
        found = self.overlap.get((a, b))
        if found is None:
            found = False
            for x, y in zip(self.paths[a], self.paths[b]):
                if x[:2] != y[:2]:
                    break  # one loop is behind the other
                if x[2] != y[2]:
                    found = True
                    break
                if x[3] != y[3]:
                    break  # a barrier lies between
            self.overlap[a, b] = found
        return found

    def places(self, b: Buffer, array: np.ndarray, index: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        stamps = self.stamps.get(b)
        if stamps is None:
            stamps = self.stamps[b] = np.zeros((array.size, 3), np.int32)
        at = np.ravel_multi_index(np.broadcast_arrays(*index), array.shape) if len(index) > 1 else index[0] if index else 0
        return stamps, np.reshape(at, -1)

    def write(self, b: Buffer, array: np.ndarray, index: Sequence[Any], value: Any, path: Any, fail: Any) -> None:
        me = self.number(path)
        stamps, at = self.places(b, array, index)
        for k, column in enumerate(stamps[at].T):
            for other in set(column.tolist()):
                if not self.concurrent(other, me):
                    continue
                theirs = column == other
                if k == 0 and value is not None and same_bits(array.reshape(-1)[at[theirs]],
                                                              np.broadcast_to(value, at.shape)[theirs]):
                    stamps[at[theirs], 0] = -1
                    continue
                where = np.unravel_index(int(at[theirs][0]), array.shape)
                raise fail(f"a race for {b!r} at {[int(i) for i in where]}: {self.said(me)} writes what {self.said(other)} "
                           f"{'writes' if k == 0 else 'reads'}")
        alike = stamps[at, 0] == -1
        stamps[at] = (me, 0, 0)
        stamps[at[alike], 0] = -1

    def read(self, b: Buffer, array: np.ndarray, index: Sequence[Any], path: Any, fail: Any) -> None:
        me = self.number(path)
        stamps, at = self.places(b, array, index)
        for other in set(stamps[at, 0].tolist()):
            if self.concurrent(other, me):
                where = np.unravel_index(int(at[stamps[at, 0] == other][0]), array.shape)
                raise fail(f"a race for {b!r} at {[int(i) for i in where]}: {self.said(me)} reads what {self.said(other)} writes")
        for place in at.tolist():
            first = int(stamps[place, 1])
            stamps[place, 2 if self.concurrent(first, me) else 1] = me

    def said(self, number: int) -> str:
        return ", ".join(f"{level[0].value} {level[2]}" for level in self.paths[number])


# Expressions as Python ----------------------------------------------------------------------
_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_INDEX = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "floormod": "%"}
_FACTORIES: dict[str, Any] = {}  # by text: statements that are written out differ in constants only


def compiled(e: Expr, wide: frozenset[Var], free: dict[int, frozenset[Var]]) -> Function:
    """A function from the values of variables and the arrays to the expression's value; a value for each lane where variables of
    `wide` are in it. Shared parts are computed once."""
    order = postorder(e)
    if any(isinstance(n, Reduce) for n in order):
        return lambda env: _scalar(Evaluation({v: env[v] for v in free_vars(e)}, env)(e))
    names: dict[int, str] = {}
    given: list[Any] = []
    lines: list[str] = []

    def constant(x: Any) -> str:
        given.append(x)
        return f"k{len(given) - 1}"

    for node in order:
        many = not wide.isdisjoint(free_vars(node, free))
        args = [names[id(c)] for c in node.children]
        if isinstance(node, Const):
            names[id(node)] = constant(int(node.value) if node.dtype is INDEX else node.dtype.numpy.type(node.value))
            continue
        if isinstance(node, Var):
            text = f"E[{constant(node)}]"
        elif isinstance(node, Load):
            load = "take" if many else "pick"
            text = f"{load}(E[{constant(node.buffer)}], ({''.join(a + ', ' for a in args)}), {constant(node)})"
        else:
            assert isinstance(node, Apply)
            text = _applied(node, args, many, constant)
        names[id(node)] = name = f"t{len(names)}"
        lines.append(f"  {name} = {text}")
    unpack = f" {', '.join(f'k{k}' for k in range(len(given)))}, = K\n" if given else ""
    source = f"def make(K):\n{unpack} def f(E):\n" + "\n".join(lines) + f"\n  return {names[id(e)]}\n return f\n"
    factory = _FACTORIES.get(source)
    if factory is None:
        space: dict[str, Any] = dict(_HELPERS)
        exec(compile(source, "<kernel>", "exec"), space)
        factory = _FACTORIES[source] = space["make"]
    return factory(given)  # type: ignore[no-any-return]


def _applied(node: Apply, args: list[str], many: bool, constant: Callable[[Any], str]) -> str:
    of, kind = node.args[0].dtype, node.kind
    if kind == "cast":
        if node.dtype is INDEX:
            return f"{args[0]}.astype(I64)" if many else f"int({args[0]})"
        return f"cast({args[0]}, {constant(node.dtype.numpy)})"
    if kind == "bitcast":
        return f"bits({args[0]}, {constant(node.dtype.numpy)})"
    if kind == "select" and not many:
        return f"({args[1]} if {args[0]} else {args[2]})"
    if of is INDEX:
        if kind in _INDEX or kind in COMPARISONS:
            return f"({args[0]} {_INDEX.get(kind) or _OPERATORS[kind]} {args[1]})"
        if kind in ("min", "max") and not many:
            return f"{kind}({args[0]}, {args[1]})"
        if not many:
            return f"int({constant(APPLY[kind])}({', '.join(f'I64({a})' for a in args)}))"
    elif kind in _OPERATORS and of is not BOOL:
        return f"({args[0]} {_OPERATORS[kind]} {args[1]})"
    return f"{constant(APPLY[kind])}({', '.join(args)})"


def _pick(array: np.ndarray, index: tuple[int, ...], node: Load) -> Any:
    for i, n in zip(index, array.shape):
        if not 0 <= i < n:
            raise CodegenError(f"{node!r}: index {i} leaves 0..{n - 1} of {node.buffer!r}")
    return array[index]


def _take(array: np.ndarray, index: tuple[Any, ...], node: Load) -> Any:
    for i, n in zip(index, array.shape):
        if np.size(i) and (np.min(i) < 0 or np.max(i) >= n):
            raise CodegenError(f"{node!r}: index {np.min(i)}..{np.max(i)} leaves 0..{n - 1} of {node.buffer!r}")
    return array[index]


def _scalar(x: Any) -> Any:
    return x.reshape(())[()] if isinstance(x, np.ndarray) else x


_HELPERS = {"pick": _pick, "take": _take, "I64": np.int64, "min": min, "max": max, "int": int,
            "cast": lambda x, d: np.asarray(x).astype(d)[()], "bits": lambda x, d: np.asarray(x).view(d)[()]}

__all__ = ["run_kernel"]
