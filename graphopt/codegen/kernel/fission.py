"""Threads that wait for each other, as loops that a single thread can run: a loop over threads ends at each barrier, and another
one begins behind it. What a thread keeps across a barrier gets a place for each thread."""

from __future__ import annotations

from dataclasses import replace

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Load, Var, cast, free_vars, load, postorder, substitute
from graphopt.codegen.kernel.loops import (
    Alloc,
    AsyncCopy,
    Barrier,
    Commit,
    For,
    If,
    Let,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Wait,
    seq,
    statements,
    store,
)
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.errors import CodegenError
from graphopt.ir.types import I64


def serial(s: Stmt) -> Stmt:
    """The same with no barrier within a loop over threads or warps. CodegenError where threads go apart around one."""
    if not _waits(s):
        return s
    if isinstance(s, Seq):
        return seq(*map(serial, s.body))
    if isinstance(s, For):
        body = serial(s.body)
        return _split(replace(s, body=body), body) if s.scope in (Scope.WARP, Scope.THREAD) else replace(s, body=body)
    if isinstance(s, If):
        return If(s.condition, serial(s.then), None if s.otherwise is None else serial(s.otherwise))
    if isinstance(s, (Let, Alloc)):
        return replace(s, body=serial(s.body))
    return s


def _waits(s: Stmt, scope: Scope | None = None) -> bool:
    return any(isinstance(x, Barrier) and scope in (None, x.scope) for x in statements(s))


def _split(loop: For, s: Stmt) -> Stmt:
    """The part `s` of what the threads of `loop` do, as loops between barriers."""
    # Warps run one after the other here, each as a whole: only what they wait for together parts them.
    if not _waits(s, Scope.BLOCK if loop.scope is Scope.WARP else None):
        return replace(loop, body=s)
    if isinstance(s, Barrier):
        return s
    if isinstance(s, Seq):
        parts: list[Stmt] = []
        run: list[Stmt] = []
        for x in s.body:
            if _waits(x, Scope.BLOCK if loop.scope is Scope.WARP else None):
                parts += [replace(loop, body=seq(*run))] * bool(run) + [_split(loop, x)]
                run = []
            else:
                run.append(x)
        return seq(*parts, *[replace(loop, body=seq(*run))] * bool(run))
    if isinstance(s, For):
        _alike(loop, s.extent)
        return replace(s, body=_split(loop, s.body))
    if isinstance(s, If):
        _alike(loop, s.condition)
        return If(s.condition, _split(loop, s.then), None if s.otherwise is None else _split(loop, s.otherwise))
    threads = getattr(loop.extent, "value", None)
    if threads is None:
        raise CodegenError(f"threads that wait for each other are not so many as {loop.extent!r}")
    if isinstance(s, Let):
        held = Buffer(s.var.name, I64 if s.var.dtype is INDEX else s.var.dtype, (threads,), Space.LOCAL)
        first = replace(loop, body=store(held, loop.var, cast(s.value, held.dtype)))
        kept = cast(load(held, (loop.var,)), s.var.dtype)
        return Alloc(held, seq(first, _split(loop, _replaced(s.body, {s.var: kept}, {}))))
    if isinstance(s, Alloc) and s.buffer.space is Space.LOCAL:
        each = Buffer(s.buffer.name, s.buffer.dtype, (threads, *s.buffer.shape), Space.LOCAL)
        return Alloc(each, _split(loop, _replaced(s.body, {}, {s.buffer: (each, loop.var)})))
    raise CodegenError(f"no loops for {type(s).__name__} with a barrier in it")


def _alike(loop: For, e: Expr) -> None:
    if loop.var in free_vars(e):
        raise CodegenError(f"threads do not all come to the same barrier: {e!r}")


def _replaced(s: Stmt, values: dict[Var, Expr], moved: dict[Buffer, tuple[Buffer, Var]]) -> Stmt:
    """The statement with other values of variables, and buffers that have gained an axis, indexed by a variable."""

    def value(e: Expr) -> Expr:
        places: dict[Expr, Expr] = {}
        for var, x in values.items():
            places[var] = x
        for node in postorder(e) if moved else ():
            if isinstance(node, Load) and node.buffer in moved:
                buffer, var = moved[node.buffer]
                places[node] = load(buffer, (var, *(substitute(i, places) for i in node.index)))
        return substitute(e, places)

    def go(s: Stmt) -> Stmt:
        if isinstance(s, Seq):
            return Seq(tuple(map(go, s.body)))
        if isinstance(s, For):
            return replace(s, extent=value(s.extent), body=go(s.body))
        if isinstance(s, If):
            return If(value(s.condition), go(s.then), None if s.otherwise is None else go(s.otherwise))
        if isinstance(s, Let):
            return replace(s, value=value(s.value), body=go(s.body))
        if isinstance(s, Alloc):
            return replace(s, body=go(s.body))
        if isinstance(s, Store):
            index = tuple(map(value, s.index))
            if s.buffer in moved:
                buffer, var = moved[s.buffer]
                return Store(buffer, (var, *index), value(s.value))
            return Store(s.buffer, index, value(s.value))
        if isinstance(s, AsyncCopy):
            return replace(s, to=value(s.to), at=value(s.at))
        if isinstance(s, Prefetch):
            return replace(s, index=value(s.index))
        if isinstance(s, (Barrier, Commit, Wait)):
            return s
        raise CodegenError(f"no loops for {type(s).__name__} beside a barrier")

    return go(s)


__all__ = ["serial"]
