"""The IR: types, values, ops, graphs, the op table, the text form, the verifier and the reference evaluator."""

from graphopt.ir import ops  # noqa: F401  (fills the op table)
from graphopt.ir.dims import Dim, DimLike
from graphopt.ir.evaluate import evaluate, evaluate_op
from graphopt.ir.graph import Builder, Graph, Op, Tensor, Value
from graphopt.ir.parse import parse_graph
from graphopt.ir.table import TABLE, Trait
from graphopt.ir.text import print_graph
from graphopt.ir.types import DTYPES, DType, Layout, MapType, OptionalType, SequenceType, TensorType, Type, dtype, tensor
from graphopt.ir.verify import verify

__all__ = [
    "DTYPES", "TABLE", "Builder", "DType", "Dim", "DimLike", "Graph", "Layout", "MapType", "Op", "OptionalType", "SequenceType",
    "Tensor", "TensorType", "Trait", "Type", "Value", "dtype", "evaluate", "evaluate_op", "parse_graph", "print_graph",
    "tensor", "verify",
]
