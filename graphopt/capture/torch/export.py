"""Any PyTorch model as a decomposed ExportedProgram, and its calling convention."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from graphopt.capture.torch.decompositions import decompositions
from graphopt.errors import CaptureError, GraphOptError
from graphopt.runtime.structure import Call, Node


def export(model: Any, example_inputs: Any, dynamic_shapes: Any) -> torch.export.ExportedProgram:
    """Trace where needed and decompose what the table lacks. Raises CaptureError with torch's reason."""
    if isinstance(model, torch.export.ExportedProgram):
        program = model
    elif isinstance(model, torch.nn.Module):
        program = _trace(model, example_inputs, dynamic_shapes)
    else:
        raise CaptureError(f"a {type(model).__name__} is not a PyTorch model",
                           hint="Give an nn.Module, an fx.GraphModule or an ExportedProgram")
    with _quiet():
        try:
            return program.run_decompositions(decompositions())
        except Exception as e:
            raise CaptureError(f"torch could not decompose the program: {_reason(e)}") from e


def _trace(model: torch.nn.Module, example_inputs: Any, dynamic_shapes: Any) -> torch.export.ExportedProgram:
    training = [name or type(model).__name__ for name, m in model.named_modules()
                if m.training and isinstance(m, _DIFFERS_IN_TRAINING)]
    if training:
        shown = ", ".join(training[:3]) + (f" and {len(training) - 3} more" if len(training) > 3 else "")
        raise CaptureError("the model is in training mode", where=shown, hint="Call model.eval() first")
    if example_inputs is None:
        raise CaptureError("an nn.Module is captured by running it", hint="Give example_inputs")
    args, kwargs = _arguments(example_inputs)
    with _quiet(), _without_fused_modules():
        try:
            return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes)
        except GraphOptError:
            raise
        except Exception as e:
            raise CaptureError(f"torch.export could not trace the model: {_reason(e)}", where=type(model).__name__,
                               hint="torch.export.export(model, args) shows the whole reason") from e


_DIFFERS_IN_TRAINING = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd, torch.nn.RReLU)


def _arguments(example_inputs: Any) -> tuple[tuple, dict[str, Any]]:
    def as_torch(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        try:
            return torch.from_numpy(np.asarray(x, order="C"))
        except (TypeError, ValueError) as e:
            raise CaptureError(f"an array of {x.dtype} is nothing that torch takes: {e}", where="example_inputs") from e

    convert = lambda t: pytree.tree_map(as_torch, t)
    if isinstance(example_inputs, Mapping):
        return (), {k: convert(v) for k, v in example_inputs.items()}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(convert(a) for a in example_inputs), {}
    return (convert(example_inputs),), {}


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's own deprecation noise is not about the user's model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_fused_modules() -> Iterator[None]:
    """Trace nn.MultiheadAttention and nn.Transformer* as their parts: the fused forms hide the weights' roles."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _reason(e: Exception) -> str:
    """torch's message without its advertisements: the first lines tell what and which dim."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip() and "TORCH_LOGS" not in line] or \
        [line.strip() for line in str(e).splitlines()]
    return f"{type(e).__name__}: {' '.join(lines[:3])[:500]}"


# The calling convention -----------------------------------------------------------------------
def calling_convention(program: torch.export.ExportedProgram, model: Any) -> Call:
    """Arguments and result of the program, as structures of tensors and constants."""
    signature = program.module_call_graph[0].signature
    assert signature is not None
    inputs = [_leaf(s.arg) for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    outputs = [_leaf(s.arg) for s in program.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
    both = structure(signature.in_spec, inputs)
    args, kwargs = both.children
    parameters = _parameters(model, len(args.children))
    names = list(parameters or signature.forward_arg_names or ())[: len(args.children)]
    names += [f"arg{i}" for i in range(len(names), len(args.children))]
    arguments = [*zip(names, args.children), *zip((str(k) for k in kwargs.keys), kwargs.children)]
    listed = [p for p in parameters if p not in dict(arguments)]
    order = parameters if set(dict(arguments)) <= set(parameters) else [*dict(arguments), *listed]
    return Call(tuple(arguments), structure(signature.out_spec, outputs), tuple(order))


def _parameters(model: Any, positional: int) -> list[str]:
    """Names of a module's arguments, those of `*xs` as xs.0, xs.1, … as far as `positional` arguments reach."""
    if not isinstance(model, torch.nn.Module):
        return []
    out: list[str] = []
    for p in inspect.signature(model.forward).parameters.values():
        if p.kind is inspect.Parameter.VAR_POSITIONAL:
            out += [f"{p.name}.{i}" for i in range(positional - len(out))]
        elif p.kind is not inspect.Parameter.VAR_KEYWORD:
            out.append(p.name)
    return out


def _leaf(argument: Any) -> Node:
    kind = type(argument).__name__
    if kind == "TensorArgument":
        return Node("tensor")
    if kind in ("SymIntArgument", "SymFloatArgument", "SymBoolArgument"):
        return Node("number")
    if kind == "ConstantArgument":
        return Node("constant", value=argument.value)
    raise CaptureError(f"an argument of kind {kind} is not supported")


def structure(spec: pytree.TreeSpec, leaves: list[Node]) -> Node:
    """A pytree spec as our own structure, its leaves taken from the front of `leaves`."""
    if spec.is_leaf():
        return leaves.pop(0)
    children = tuple(structure(c, leaves) for c in spec.children())
    cls = spec.type
    if cls is tuple or cls is list:
        return Node(cls.__name__, tuple(range(len(children))), children)
    if cls is dict or cls is OrderedDict:
        return Node("dict", tuple(spec.context), children, cls=cls)
    if cls is defaultdict:
        return Node("dict", tuple(spec.context[1]), children)
    registered: dict[Any, Any] = pytree.SUPPORTED_NODES
    known = registered[cls]
    real: Any = spec.context if cls is pytree.namedtuple else cls  # one entry serves every named tuple
    context = spec.context

    def take(x: Any) -> Sequence[Any]:
        return known.flatten_fn(x)[0]

    def build(parts: Sequence[Any]) -> Any:
        return known.unflatten_fn(list(parts), context)

    keys = _fields(known.unflatten_fn, context, len(children), known)
    return Node("object", keys, children, name=f"{real.__module__}.{real.__qualname__}", cls=real, take=take, build=build)


def _fields(build: Any, context: Any, count: int, known: Any) -> tuple[Any, ...]:
    """Names of a registered container's parts, as its own key paths tell; numbers where it has none."""
    if known.flatten_with_keys_fn is not None:
        try:
            paths, _ = known.flatten_with_keys_fn(build(list(range(count)), context))
            return tuple(getattr(k, "name", getattr(k, "key", getattr(k, "idx", i))) for i, (k, _) in enumerate(paths))
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError):
            return tuple(range(count))  # a container whose constructor refuses stand-ins has no names for us
    return tuple(range(count))
