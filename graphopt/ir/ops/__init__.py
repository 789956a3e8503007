"""The op table's entries, a file a family. Importing this package fills the table."""

from graphopt.ir.ops import (  # noqa: F401
    cast,
    contract,
    control,
    core,
    coupling,
    elementwise,
    indexing,
    maps,
    movement,
    norm,
    pool,
    quant,
    random,
    recurrent,
    reduce,
    sequence,
    strings,
    trees,
    vision,
)
