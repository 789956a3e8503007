"""What emitted programs of all targets share: the refusal of host ops, and launch arguments."""

from __future__ import annotations

from graphopt.codegen.c.emit import STORED
from graphopt.codegen.program.plan import Call, Program, Slot
from graphopt.errors import TargetError
from graphopt.ir.types import TensorType


def refuse_host_ops(program: Program, target: str) -> None:
    """TargetError naming every op that has no kernel: the evaluator cannot run beside a GPU or an FPGA."""
    if program.hosts:
        lines = "\n".join(f"  {h.op.where()}: {h.why}" for h in program.hosts)
        raise TargetError(f"{len(program.hosts)} op(s) have no kernel for {target}:\n{lines}\n",
                          hint="Replace them in the model, or compile for x86, where the reference evaluator runs them")


def interface(program: Program) -> list[tuple[str, int, TensorType]]:
    """(space, index, type) of every input, then of every output. All must be tensors of static shape."""
    found = []
    for space, values in (("input", program.graph.inputs), ("output", program.graph.outputs)):
        for k, v in enumerate(values):
            if not isinstance(v.type, TensorType) or not v.type.is_static:
                raise TargetError(f"{space} {v.name} is {v.type}; tensors of static shape are needed")
            found.append((space, k, v.type))
    return found


def space_name(slot: Slot) -> str:
    """The name of the parameter that points to the slot's memory."""
    return f"{slot.space}{slot.index}" if slot.space in ("input", "output") else slot.space


def pointer(call: Call, position: int) -> str:
    """The C++ expression for one argument of a kernel call, over `input0`, ..., `output0`, ..., `weights` and `arena`."""
    slot, buffer = call.args[position], call.kernel.params[position]
    qualifier = "const " if position < call.kernel.inputs else ""
    base = space_name(slot)
    at = f"(({qualifier}char*){base} + {slot.offset})" if slot.offset else base
    return f"({qualifier}{STORED[buffer.dtype.name]}*){at}"


def places(call: Call) -> str:
    """Where the call's op stands in the source model, as a comment."""
    return f"{call.op.name}{' from ' + ', '.join(call.op.loc) if call.op.loc else ''}".replace("\n", " ")


__all__ = ["interface", "places", "pointer", "refuse_host_ops", "space_name"]
