"""A graph that torch.compile traced, and its programs: one for each set of sizes, with the weights packed into it.

A call checks that the weights are those that were packed, looks up the program for its sizes, and runs it on the tensors'
own memory.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.utils import counters

from graphopt.capture.torch.lifted import Lifted, inputs_changed, lift, weights_among
from graphopt.errors import CodegenError, GraphOptError, UnsupportedOperators
from graphopt.interop.torch_backend.settings import Settings
from graphopt.ir.dims import substitute
from graphopt.runtime.arrays import from_numpy, to_numpy

log = logging.getLogger("graphopt")
MAX_CHANGES = 2  # so often a program is made anew because weights changed; after that it reads them at every call
_living: weakref.WeakSet[TracedGraph] = weakref.WeakSet()


def graphs() -> list[TracedGraph]:
    """Every graph that torch.compile gave to this backend and still holds, in order; print them."""
    return sorted(_living, key=lambda g: g.number)


def said(why: GraphOptError) -> str:
    """Why a graph is not compiled, in a line."""
    if isinstance(why, UnsupportedOperators):
        return f"graphopt has no {', '.join(sorted({name for name, _ in why.operators}))}"
    return f"{f'{why.where}: ' if why.where else ''}{why.what}{f'. {why.hint}' if why.hint else ''}"


def _alone(e: GraphOptError) -> GraphOptError:
    """The error without the frames that it went through, which hold a model's weights."""
    e.__traceback__ = e.__cause__ = e.__context__ = None
    return e


class NotCompiled(Exception):
    """Raised by a call whose graph cannot be compiled, before it has done anything."""

    def __init__(self, why: GraphOptError) -> None:
        self.why = why
        super().__init__(str(why))


class TooManySizes(GraphOptError):
    """A graph whose sizes do not recur."""


class Watched:
    """The weights that programs were made with; they `hold` while tensors, memory and versions are the same."""

    def __init__(self, arguments: Sequence[Any], places: Sequence[int]) -> None:
        self.dead = False
        watch = weakref.ref(self)

        def die(_: Any) -> None:
            if (still := watch()) is not None:
                still.dead = True

        given = [(k, arguments[k]) for k in places]
        self._marks = [(k, id(w), w._version, w.data_ptr()) for k, w in given]
        self._alive = [weakref.ref(w, die) for _, w in given]  # another tensor may come to lie where a dead one did

    def hold(self, arguments: Sequence[Any]) -> bool:
        if self.dead:
            return False
        for k, identity, version, memory in self._marks:
            w = arguments[k]
            if id(w) != identity or w._version != version or w.data_ptr() != memory:
                return False
        return True


class Frozen:
    """What was made of one state of the weights: the graph, and its programs by sizes."""

    def __init__(self, functional: fx.GraphModule, arguments: Sequence[Any], weights: Sequence[int], name: str) -> None:
        self.watched = Watched(arguments, weights)
        self.lifted = lift(functional, {k: arguments[k].detach() for k in weights}, name)
        self.programs: dict[tuple[int, ...], Program | GraphOptError] = {}
        self.sizes = tuple(self.lifted.symbols.values())


class TracedGraph:
    """One graph of torch.compile's: `place` is where it begins, `why_eager` why it is not compiled (None where it is)."""

    _count = 0

    def __init__(self, settings: Settings, place: str) -> None:
        TracedGraph._count += 1
        self.number, self.settings, self.place = TracedGraph._count, settings, place
        self.threads = settings.threads or torch.get_num_threads()  # dynamo traces anew where torch's number changes
        self.why_eager: GraphOptError | None = None
        self.changes = 0  # how often the weights were found changed
        self._functional: fx.GraphModule | None = None
        self._weights: tuple[int, ...] = ()
        self._frozen: Frozen | None = None
        self._lock = threading.RLock()
        _living.add(self)

    def start(self, functional: fx.GraphModule) -> Any:
        """Take the functional graph; what runs it."""
        self._functional = functional
        arguments = sum(n.op == "placeholder" for n in functional.graph.nodes)
        self._weights = weights_among(arguments) if self.settings.weights == "frozen" else ()
        self._changed_inputs = inputs_changed()
        return self.run

    # Calling ----------------------------------------------------------------------------------
    def run(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """Results for the graph's arguments, weights among them. Raises NotCompiled."""
        frozen = self._frozen
        if frozen is None or not frozen.watched.hold(arguments):
            frozen = self._freeze(arguments)
        key = tuple([arguments[k] if axis is None else arguments[k].shape[axis] for k, axis in frozen.sizes])
        program = frozen.programs.get(key)
        if program is None:
            program = self._build(frozen, key, arguments)
        if isinstance(program, GraphOptError):
            raise NotCompiled(program)
        return program(arguments)

    # Building ---------------------------------------------------------------------------------
    def _freeze(self, arguments: Sequence[Any]) -> Frozen:
        """The graph with the weights as they are now."""
        with self._lock:
            if self._frozen is not None:
                if self._frozen.watched.hold(arguments):  # another thread was first
                    return self._frozen
                self.changes += 1
                if self.changes > MAX_CHANGES:
                    self._weights = ()
                    log.warning("torch.compile(backend='graphopt'): weights of the graph from %s keep changing; from now on it "
                                "reads them at every call, which is slower than packing them once", self.place)
            untracked = [k for k in self._weights if arguments[k].is_inference()]
            if untracked:
                log.warning("torch.compile(backend='graphopt'): %d weights of the graph from %s were made under "
                            "torch.inference_mode() and do not tell when they change; they are read at every call, which is "
                            "slower than packing them once", len(untracked), self.place)
                self._weights = tuple(k for k in self._weights if k not in untracked)
            assert self._functional is not None
            try:
                self._frozen = Frozen(self._functional, arguments, self._weights, "graph")
            except GraphOptError as e:
                self.why_eager = _alone(e)
                raise NotCompiled(self.why_eager) from None
            return self._frozen

    def _build(self, frozen: Frozen, key: tuple[int, ...], arguments: Sequence[Any]) -> Program | GraphOptError:
        with self._lock:
            if (found := frozen.programs.get(key)) is not None:
                return found
            limit = self.settings.max_specialisations
            if len(frozen.programs) >= limit:  # sizes that hardly recur (a text that grows) would be compiled at every call
                raise NotCompiled(TooManySizes(
                    f"it has programs for {limit} sets of sizes, and takes no more",
                    hint="Pad to sizes that recur, or raise max_specialisations in options"))
            made: Program | GraphOptError
            try:
                made = build(frozen.lifted, dict(zip(frozen.lifted.symbols, key)), self.threads, self.settings)
                made.check(arguments)
                counters["graphopt"]["compiled"] += 1
            except GraphOptError as e:
                made = _alone(e)
                if not frozen.sizes:
                    self.why_eager = made
            frozen.programs[key] = made
            return made

    # What became of it ------------------------------------------------------------------------
    def __str__(self) -> str:
        if self.why_eager is not None:
            return f"graph {self.number} from {self.place}: in eager PyTorch: {said(self.why_eager)}"
        lines = [f"graph {self.number} from {self.place}, {self.threads} threads"]
        frozen = self._frozen
        for key, program in frozen.programs.items() if frozen else ():
            sizes = ", ".join(f"{name}={n}" for name, n in zip(frozen.lifted.symbols, key)) if frozen else ""
            state = f"in eager PyTorch: {said(program)}" if isinstance(program, GraphOptError) else program.summary()
            lines.append(f"  {sizes or 'one program'}: {state}")
        return "\n".join(lines)

    def explain(self) -> str:
        """What the compiler did, program by program."""
        with self._lock:
            made = list(self._frozen.programs.values()) if self._frozen else []
        return "\n\n".join([str(self), *(p.decisions for p in made if isinstance(p, Program))])


# Programs ---------------------------------------------------------------------------------------
def build(lifted: Lifted, sizes: Mapping[str, int], threads: int, settings: Settings) -> Program:
    """The program of a graph for these sizes. Raises GraphOptError where it cannot be had, or would run outside of kernels."""
    from graphopt.backends.x86 import static
    from graphopt.codegen.x86.link import link
    from graphopt.measure.records import Records
    from graphopt.targets import parse_target, without_winograd

    target: Any = parse_target(settings.target, threads) if settings.winograd else without_winograd(settings.target, threads)
    graph = lifted.graph.specialise(sizes) if lifted.graph.symbols() else lifted.graph
    compiled = static.compile_static(graph, target, settings.validate, settings.tune,
                                     Records.load(settings.tuning, to_write=settings.tune is not None), announce=False)
    hosts = compiled.program.hosts
    if hosts:
        names = sorted({h.op.name for h in hosts})
        raise CodegenError(f"{', '.join(names)} would run on the reference evaluator ({hosts[0].why})",
                           where=", ".join(hosts[0].op.loc) or None)
    return Program(lifted, sizes, link(compiled.program, compiled.code, target.threads), static.statistics(compiled),
                   static.decisions(compiled, target))


class Program:
    """A program for one set of sizes, called with all arguments of the traced graph."""

    def __init__(self, lifted: Lifted, sizes: Mapping[str, int], executable: Any, statistics: Mapping[str, Any],
                 decisions: str) -> None:
        self.executable, self.statistics, self.decisions = executable, statistics, decisions
        self._inputs = lifted.inputs
        self._call, self._single = executable.caller(torch=True), len(executable.outputs) == 1
        self._plain = all(r.kind == "tensor" and r.order is None for r in lifted.results)
        self._results: list[tuple[str, Any, Any]] = [(r.kind, substitute(r.of, sizes) if r.kind == "number" else r.of, r.order)
                                                     for r in lifted.results]

    def check(self, arguments: Sequence[Any]) -> None:
        """Refuse tensors whose memory is not what they show; dynamo's guards keep later ones alike."""
        for k in self._inputs:
            if arguments[k].is_neg() or arguments[k].is_conj():
                raise UnsupportedOperators([("a lazily negated or conjugated input", f"argument {k}")])

    def __call__(self, arguments: Sequence[Any]) -> Sequence[Any]:
        given = [arguments[k] for k in self._inputs]
        made = self._call(*given)
        if made is None:
            given = [x.contiguous() for x in given]
            made = self._call(*given)
        if made is not None:
            outputs = [made] if self._single else list(made)
        else:
            outputs = [from_numpy(y, "torch", ()) for y in self.executable.run([to_numpy(x) for x in given])]
        if self._plain:
            return outputs
        results: list[Any] = []
        for kind, of, order in self._results:
            if kind == "tensor":
                results.append(outputs[of] if order is None else outputs[of].permute(order))
            else:
                results.append(arguments[of] if kind == "argument" else of)
        return results

    def summary(self) -> str:
        s = self.statistics
        return f"{s['calls']} kernel calls, {s['weights_bytes']} bytes of weights, {s['arena_bytes']} bytes of arena"


__all__ = ["MAX_CHANGES", "NotCompiled", "Program", "TracedGraph", "build", "graphs"]
