"""The walk over an exported program's nodes: arguments to values, the table's entry, and torch's own check of the result."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.export import calling_convention, export
from graphopt.capture.torch.ops import ATEN
from graphopt.capture.torch.pairs import Complex, interleaved, is_complex, moved, taken_apart, values_of, with_values
from graphopt.capture.torch.sizes import Later, example_sizes, given_sizes
from graphopt.capture.torch.symbols import Symbols
from graphopt.capture.torch.table import COMPLEX, Refusal, arguments, parameter, parameters
from graphopt.capture.torch.weights import PARTS, TORCH_DTYPES, Weights
from graphopt.errors import CaptureError, IRError, UnsupportedOperators
from graphopt.ir.dims import CALLED, Dim, DimLike
from graphopt.ir.graph import Graph, Loc, Value, refine
from graphopt.ir.types import I64, TensorType
from graphopt.runtime.structure import Call

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def capture(model: Any, example_inputs: Any, dynamic_shapes: Any) -> Graph:
    """See `capture_torch`."""
    program = export(model, example_inputs, dynamic_shapes)
    call = calling_convention(program, model)
    symbols = Symbols()
    name_dims(program, call, dynamic_shapes, symbols)
    weights, name, examples = Weights(), _name(model), example_sizes(program)
    walk = Translation(Graph(name), symbols, weights, deferring=bool(examples))
    graph = walk.program(program, call)
    graph.metadata["call"] = call
    graph.metadata["dim_ranges"] = _ranges(program, symbols)
    if not walk.refused:
        return graph

    def sized(sizes: Mapping[str, int]) -> Graph:
        again = Translation(Graph(name), Symbols(sizes), weights)
        made = again.program(program, call)
        made.metadata["call"] = call
        return made

    sized(examples)  # raises, with what no sizes help
    inputs = graph.input_names
    graph.metadata["recapture"] = lambda shapes, values=None: sized(given_sizes(program, inputs, shapes))
    return graph


def _name(model: Any) -> str:
    inner = model.graph_module if isinstance(model, torch.export.ExportedProgram) else model
    return type(inner).__name__


class Translation:
    """One graph being filled from one fx graph; subgraphs of control flow get their own.

    What an entry refuses is noted; `deferring`, an op `deferred` stands for it, that is captured again for known sizes.
    """

    def __init__(self, graph: Graph, symbols: Symbols, weights: Weights, refused: list[tuple[str, str]] | None = None,
                 deferring: bool = False) -> None:
        self.graph, self.symbols, self.weights, self.deferring = graph, symbols, weights, deferring
        self.env: dict[fx.Node, Any] = {}
        self.refused: list[tuple[str, str]] = [] if refused is None else refused
        self._pending: dict[fx.Node, tuple[torch.Tensor, str]] = {}
        self._constants: dict[int, Value] = {}
        self._interleaved: set[Value] = set()

    # The program's interface --------------------------------------------------------------------
    def program(self, program: torch.export.ExportedProgram, call: Call) -> Graph:
        """Inputs, weights and nodes of an exported program. Raises UnsupportedOperators with all that is unknown."""
        mutated = [s.target for s in program.graph_signature.output_specs
                   if s.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION, OutputKind.PARAMETER_MUTATION)]
        if mutated:
            raise CaptureError("the model changes its own state when called", where=", ".join(map(str, mutated[:5])),
                               hint="Call model.eval() first; return what changes as an output instead of writing it in place")
        names = iter(call.input_names)
        placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
        for spec in program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind is InputKind.USER_INPUT:
                self._input(node, spec, names)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                self._pending[node] = (_weight(program, spec), str(spec.target))
            elif spec.kind is not InputKind.TOKEN:
                raise CaptureError(f"an input of kind {spec.kind.name} is not supported", where=node.name)
        tokens = {a for s, a in zip(program.graph_signature.output_specs, _results(program.graph)) if s.kind is OutputKind.TOKEN}
        self._walk(program.graph, tokens)
        self._outputs(program)
        if self.refused and not self.deferring:
            raise UnsupportedOperators(self.refused, where=self.graph.name)
        self.graph.output_names = call.output_names
        return self.graph

    def _input(self, node: fx.Node, spec: Any, names: Any) -> None:
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor):
            name = next(names)
            for d in val.shape:
                self.symbols.declare(d)
            self.env[node] = self.tensor_input(val, name, f"input {name}")
        elif isinstance(val, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise CaptureError("a number that varies from call to call is not supported", where=f"input {node.name}",
                               hint="Pass it as a tensor")
        else:
            self.env[node] = val if val is not None else getattr(spec.arg, "value", None)

    def _outputs(self, program: torch.export.ExportedProgram) -> None:
        outputs = []
        for spec, result in zip(program.graph_signature.output_specs, _results(program.graph)):
            if type(spec.arg).__name__ == "ConstantArgument" or spec.kind is OutputKind.TOKEN:
                continue
            value = self.argument(result)
            outputs.append(self.output(value) if isinstance(value, (Value, Complex)) else
                           Context(self.graph, self.symbols).scalar(value, I64))
        self.graph.outputs = outputs
        self.note_complex("outputs", [k for k, v in enumerate(outputs) if v in self._interleaved])

    def tensor_input(self, val: torch.Tensor, name: str, where: str) -> Value | Complex:
        """An input of the graph; what it is for the operators. A complex one is a real one with a last axis of two parts."""
        dtype = PARTS.get(val.dtype, val.dtype)
        if dtype not in TORCH_DTYPES:
            raise CaptureError(f"dtype {val.dtype} is not supported", where=where)
        shape = tuple(self.symbols.dim(d) for d in val.shape)
        self.graph.input_names.append(name)
        if dtype is val.dtype:
            return self.graph.add_input(TensorType(TORCH_DTYPES[dtype], shape), name)
        self.note_complex("inputs", [len(self.graph.inputs)])
        value = self.graph.add_input(TensorType(TORCH_DTYPES[dtype], (*shape, 2)), name)
        return taken_apart(Context(self.graph, self.symbols, (name,)), value)

    def output(self, value: Value | Complex, loc: Loc = ()) -> Value:
        """A value as an output of the graph."""
        if isinstance(value, Value):
            return value
        made = interleaved(Context(self.graph, self.symbols, loc), value)
        self._interleaved.add(made)
        return made

    def note_complex(self, which: str, places: Sequence[int]) -> None:
        """These inputs or outputs are complex: `graphopt.backends.pipeline.interface` reads that."""
        if places:
            self.graph.metadata.setdefault("complex", {}).setdefault(which, []).extend(places)

    def _walk(self, graph: fx.Graph, without: Collection[fx.Node] = ()) -> None:
        """Translate the nodes that the outputs need, but for those in `without` (which keep effects in order); run-time checks
        and what only they need are left out."""
        needed: set[fx.Node] = set()
        for node in reversed(graph.nodes):
            if node.op == "output" or node in needed:
                needed.update(n for n in node.all_input_nodes if node.op != "output" or n not in without)
        for node in graph.nodes:
            if node in needed:
                self.node(node)

    # Nodes --------------------------------------------------------------------------------------
    def node(self, node: fx.Node) -> None:
        """Translate one node into `env`."""
        if node in self.env or node.op in ("placeholder", "output"):
            return
        if node.op == "get_attr":
            owner: Any = node.graph.owning_module
            for part in str(node.target).split("."):
                owner = getattr(owner, part)
            if isinstance(owner, torch.Tensor):
                self._pending[node] = (owner, str(node.target))
            else:
                self.env[node] = owner
            return
        if node.target is operator.getitem and not isinstance(node.meta.get("val"), (torch.SymInt, int)):
            self.env[node] = self._item(node)
            return
        val = node.meta.get("val")
        name = target_name(node.target)
        if isinstance(val, (int, float, bool)):
            self.env[node] = val
            return
        if isinstance(val, _NUMBERS):
            self.env[node] = self._attempt(node, name, lambda: self._number(node, name, val), val)
            return
        self.env[node] = self._attempt(node, name, lambda: self._call(node, name, val), val)

    def _attempt(self, node: fx.Node, name: str, f: Any, val: Any) -> Any:
        """The result of `f`, or a stand-in after noting why there is none."""
        try:
            return f()
        except Refusal as e:
            self.refused.append((f"{name} ({e})" if str(e) else name, ", ".join(location(node))))
            return self._instead(node, name, val)
        except IRError as e:
            if self.refused:  # a consequence of a stand-in's unknown type
                return self._instead(node, name, val)
            raise CaptureError(f"{name}: {e}", where=", ".join(location(node))) from e

    def _number(self, node: fx.Node, name: str, val: Any) -> Any:
        """A number of run time: a dim where it is arithmetic over dims, else a rank-0 value where the table has the function."""
        if isinstance(val, torch.SymInt):
            try:
                return self.symbols.dim(val)
            except Refusal:
                if name not in ATEN:
                    raise
        if name not in ATEN:
            raise Refusal(f"a {type(val).__name__.removeprefix('Sym').lower()} computed at run time")
        if isinstance(node.target, torch._ops.OpOverload):
            return self._call(node, name, val)
        c = Context(self.graph, self.symbols, location(node), val)
        return ATEN[name](c, *(self.argument(a) for a in node.args))

    def _call(self, node: fx.Node, name: str, val: Any) -> Any:
        pairs = self._pairs(node, val)
        handler = (COMPLEX.get(name) or ATEN.get(name)) if pairs else (ATEN.get(name) or COMPLEX.get(name))
        if handler is None:
            raise Refusal(_complex(val))
        if isinstance(node.target, torch._ops.OpOverload):
            given = arguments(node.target, node.args, dict(node.kwargs))
        else:
            given = {"args": node.args, **node.kwargs}
        wanted = parameters(handler)
        values = {k: self.argument(a) for k, a in given.items() if k in wanted}
        used = None
        if isinstance(val, (tuple, list)) and all(u.target is operator.getitem for u in node.users):
            used = frozenset(int(u.args[1]) for u in node.users)  # type: ignore[arg-type]
        loc = location(node)
        before = self.graph.last
        c = Context(self.graph, self.symbols, loc, val, used, self._inline, self._region,
                    parts=pairs or handler is COMPLEX.get(name))
        try:
            if pairs and name not in COMPLEX:
                if not isinstance(node.target, torch._ops.OpOverload):
                    raise Refusal("on a complex tensor")
                result = moved(c, handler, values, _numbers(node.target))
            else:
                result = handler(c, **values)
        except (TypeError, AttributeError) as e:  # few entries do arithmetic on what may come from the data
            if late := _from_data(node.target, values):
                raise Refusal(f"{late} computed from the data") from e
            raise
        if isinstance(val, (tuple, list)):
            result = tuple(result) + (None,) * (len(val) - len(result))
            for i, (r, v) in enumerate(zip(result, val)):
                if r is not None and v is not None:
                    self._check(c, r, v, name, loc, f"{node.name}.{i}", before)
            return result
        self._check(c, result, val, name, loc, node.name, before)
        return result

    def _pairs(self, node: fx.Node, val: Any) -> bool:
        """Is an operand or a result complex?"""
        found = [self._pending[n][0] if n in self._pending else self.env.get(n) for n in node.all_input_nodes]
        return is_complex([val, found, node.args, list(node.kwargs.values())])

    # Nested programs ----------------------------------------------------------------------------
    def _inline(self, body: fx.GraphModule, operands: Sequence[Any]) -> tuple:
        """Walk a nested graph's nodes as if they stood here."""
        inputs = [n for n in body.graph.nodes if n.op == "placeholder"]
        for n in body.graph.nodes:  # it may stand in several places
            self.env.pop(n, None)
        self.env.update(zip(inputs, operands))
        self._walk(body.graph)
        (results,) = next(n for n in reversed(body.graph.nodes) if n.op == "output").args
        return tuple(self.argument(r) for r in (results if isinstance(results, (tuple, list)) else (results,)))

    def _region(self, body: Any, operands: Sequence[Any], name: str) -> Graph:
        inner = Translation(Graph(name), self.symbols, self.weights, self.refused, self.deferring)
        seen = [inner.graph.add_input(v.type, v.name) if isinstance(v, Value) else v for v in operands]
        if isinstance(body, fx.GraphModule):
            results = inner._inline(body, seen)
        else:
            results = body(Context(inner.graph, self.symbols, inline=inner._inline, region=inner._region), *seen)
        inner.graph.outputs = list(results)
        return inner.graph

    def _check(self, c: Context, value: Any, val: Any, name: str, loc: Loc, label: str, before: Any) -> None:
        """Hold a result against what torch computed for it, and take torch's knowledge of its dims."""
        if not isinstance(val, torch.Tensor):
            return
        if isinstance(value, Complex) is not is_complex(val):
            raise CaptureError(f"graphopt's entry for {name} gives a {type(value).__name__}, torch says {val.dtype}",
                               where=", ".join(loc), hint="Please report this with the model")
        if isinstance(value, Complex):
            self._check_part(c, value.re, val, name, loc, f"{label}.re", before)
            self._check_part(c, value.im, val, name, loc, f"{label}.im", before)
        else:
            self._check_part(c, value, val, name, loc, label, before)

    def _check_part(self, c: Context, value: Any, val: Any, name: str, loc: Loc, label: str, before: Any) -> None:
        for symbolic, dim in zip(val.shape, value.shape):
            self.symbols.learn(symbolic, dim)
        expected = c.type(val)
        try:
            value.type = refine(expected, value.type)
        except IRError:
            raise CaptureError(f"graphopt's entry for {name} gives {value.type}, torch says {expected}", where=", ".join(loc),
                               hint="Please report this with the model") from None
        if value.name is None and value.op is not None and value.op is not before:
            value.name = label

    def _item(self, node: fx.Node) -> Any:
        source: Any = node.args[0]
        index: Any = node.args[1]
        values = self.argument(source)
        if values is None or values[index] is None:
            return self._attempt(node, str(source.target), lambda: _refuse_result(index), node.meta.get("val"))
        return values[index]

    def argument(self, a: Any) -> Any:
        """An fx argument with nodes replaced by values and dims; a weight becomes a constant on first use."""
        if isinstance(a, fx.Node):
            if a in self._pending:
                tensor, name = self._pending.pop(a)
                self.env[a] = self.constant(tensor, name)
            return self.env[a]
        if isinstance(a, (list, tuple)):
            return type(a)(self.argument(x) for x in a) if type(a) in (list, tuple) else [self.argument(x) for x in a]
        if isinstance(a, (torch.SymInt,)):
            return self.symbols.dim(a)
        return a

    def constant(self, tensor: torch.Tensor, name: str) -> Value | Complex:
        if tensor.dtype in PARTS:
            both = torch.view_as_real(tensor.detach().resolve_conj())
            re, im = (self.constant(both[..., k], f"{name}.{part}") for k, part in enumerate(("re", "im")))
            return Complex(re, im)  # type: ignore[arg-type]
        data = self.weights.tensor(tensor, name)
        if id(data) not in self._constants:
            self._constants[id(data)] = self.graph.constant(data, loc=(name,))
            self._constants[id(data)].name = name
        return self._constants[id(data)]

    def _instead(self, node: fx.Node, name: str, val: Any) -> Any:
        """Stand-ins for what a node gives; where deferring, results of an op that takes what the node takes."""
        instead = self._stand_in(val)
        if not self.deferring:
            return instead
        types = [v.type for v in values_of(instead)]
        taken = list(values_of([self.argument(n) for n in node.all_input_nodes]))
        op = self.graph.add("deferred", taken, {"what": name, "run": Later(name, types)}, types=types, loc=location(node))
        return with_values(instead, iter(op.results))

    def _stand_in(self, val: Any) -> Any:
        """A value of the right type outside any graph, so that the walk goes on to find everything unsupported."""
        if isinstance(val, (tuple, list)):
            return tuple(self._stand_in(v) for v in val)
        if isinstance(val, torch.Tensor):
            shape: tuple[DimLike, ...]
            try:
                shape = tuple(self.symbols.dim(d) for d in val.shape)
            except Refusal:
                shape = tuple(self.graph.fresh_symbol() for _ in val.shape)
            made = Value(TensorType(TORCH_DTYPES.get(val.dtype, TORCH_DTYPES[torch.float32]), shape), None, 0, None)
            return Complex(made, made) if val.dtype in PARTS else made
        return self.graph.fresh_symbol() if isinstance(val, (torch.SymInt, torch.SymFloat, torch.SymBool)) else None


@cache
def _numbers(target: Any) -> tuple[str, ...]:
    """The arguments that are numbers which may become elements of the result."""
    schema = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else ()
    kinds = ("number", "Optional[number]", "float", "Optional[float]")
    return tuple(parameter(a.name) for a in schema if str(a.type) in kinds and a.name not in ("alpha", "beta"))


def _refuse_result(index: Any) -> Any:
    raise Refusal(f"result {index} is not provided")


def _from_data(target: Any, values: dict[str, Any]) -> str:
    """The arguments that are sizes, places or numbers of times, and here are computed from the data; empty where none is."""
    schema = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else ()
    late = [a.name for a in schema if "int" in str(a.type).lower()
            and any(isinstance(x, Value) for x in _parts(values.get(a.name)))]
    return ", ".join(late)


def _parts(given: Any) -> Sequence[Any]:
    return given if isinstance(given, (list, tuple)) else (given,)


def _complex(val: Any) -> str:
    """The name of a complex dtype among the results; empty where there is none."""
    results = val if isinstance(val, (tuple, list)) else (val,)
    found = [v.dtype for v in results if isinstance(v, torch.Tensor) and v.dtype.is_complex]
    return str(found[0]).removeprefix("torch.") if found else ""


def target_name(target: Any) -> str:
    """An operator's name in the table: `aten.add.Tensor`, `operator.add`, `cond`."""
    if isinstance(target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return str(target)
    module = "operator" if target.__module__ == "_operator" else target.__module__
    return f"{module}.{target.__name__}"


def _results(graph: fx.Graph) -> Any:
    """What a graph returns, in order."""
    (results,) = next(n for n in reversed(graph.nodes) if n.op == "output").args
    return results


def _weight(program: torch.export.ExportedProgram, spec: Any) -> torch.Tensor:
    if spec.target in program.state_dict:
        return program.state_dict[spec.target]
    return program.constants[spec.target]


def location(node: fx.Node) -> Loc:
    """Where a node came from: the module's path, or the line of the outermost forward, or the node's own name."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    if path and not path.startswith("_empty"):
        return (path.removeprefix("L['self'].").removeprefix("L__self__."),)
    trace = node.meta.get("stack_trace") or ""
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    if lines and '"' in lines[-1] and ", line " in lines[-1]:
        file = lines[-1].split('"')[1].rsplit("/", 1)[-1]
        return (f"{file}:{lines[-1].split(', line ')[1].split(',')[0]}",)
    return (node.name,)


# Symbolic dims --------------------------------------------------------------------------------
def name_dims(program: torch.export.ExportedProgram, call: Call, dynamic_shapes: Any, symbols: Symbols) -> None:
    """Give torch's symbols the names under which the user declared them."""
    if dynamic_shapes is None:
        return
    declared: list[Any] = []
    for i, (name, node) in enumerate(call.arguments):
        _collect(node, _declared(dynamic_shapes, name, i), declared)
    nodes = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    tensors = [nodes[s.arg.name].meta["val"] for s in program.graph_signature.input_specs
               if s.kind is InputKind.USER_INPUT and type(s.arg).__name__ == "TensorArgument"]
    for val, dims in zip(tensors, declared):
        for axis, dim in (dims.items() if isinstance(dims, dict) else enumerate(dims or ())):
            expression = getattr(getattr(val.shape[axis], "node", None), "expr", None)
            if expression is None or len(expression.free_symbols) != 1 or not hasattr(dim, "__name__"):
                continue
            name = str(getattr(dim, "root", dim).__name__)  # type: ignore[union-attr]
            if name.isidentifier() and name not in CALLED:
                symbols.known.setdefault(str(next(iter(expression.free_symbols))), Dim.symbol(name))


def _declared(dynamic_shapes: Any, name: str, index: int) -> Any:
    """The declaration for one argument; those of `*xs` (named xs.0, xs.1, …) and `**options` are nested."""
    if not isinstance(dynamic_shapes, dict):
        if index < len(dynamic_shapes) and "." not in name:
            return dynamic_shapes[index]
        return dynamic_shapes[-1][int(name.rsplit(".", 1)[1])] if "." in name else None
    if name in dynamic_shapes:
        return dynamic_shapes[name]
    base, _, place = name.rpartition(".")
    if base in dynamic_shapes:
        return dynamic_shapes[base][int(place)]
    return next((d[name] for d in dynamic_shapes.values() if isinstance(d, dict) and name in d), None)


def _collect(node: Any, declared: Any, out: list[Any]) -> None:
    """The declaration for every tensor leaf of an argument, in order."""
    if node.kind == "tensor":
        out.append(declared)
        return
    for i, (key, child) in enumerate(zip(node.keys, node.children)):
        if isinstance(declared, dict):
            part = declared.get(key)
        else:
            part = declared[i] if isinstance(declared, (tuple, list)) and i < len(declared) else None
        _collect(child, part, out)


def _ranges(program: torch.export.ExportedProgram, symbols: Symbols) -> dict[str, tuple[int, int | None]]:
    """(lowest, highest) for every symbolic dim; None for no limit."""
    out: dict[str, tuple[int, int | None]] = {}
    for symbol, limits in program.range_constraints.items():
        dim = symbols.known.get(str(symbol))
        if isinstance(dim, Dim) and str(dim).isidentifier():
            lower, upper = (int(v) if v.is_Integer and abs(int(v)) < 2**31 else None for v in (limits.lower, limits.upper))
            out[str(dim)] = (max(lower or 0, 0), upper)
    return out
