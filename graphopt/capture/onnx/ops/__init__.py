"""The entries of the table, a file a family. Importing this package fills the table."""

from graphopt.capture.onnx.ops import (  # noqa: F401
    attention,
    contract,
    control,
    einsum,
    elementwise,
    indexing,
    ml,
    movement,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    sequence,
    signal,
    strings,
    training,
    trees,
    vision,
)
