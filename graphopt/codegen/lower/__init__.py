"""Lowering rules, a file a family. Importing this package fills the tables of `registry`."""

import graphopt.ir.ops  # noqa: F401  (rules are checked against the op table)
from graphopt.codegen.lower import (  # noqa: F401
    contract,
    coupling,
    elementwise,
    indexing,
    linalg,
    movement,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    special,
    trees,
    vision,
)
