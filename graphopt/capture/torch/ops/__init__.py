"""The table's entries, a file a family. Importing this package fills the table."""

from graphopt.capture.torch.ops import (  # noqa: F401
    attention,
    complex,
    complex_functions,
    complex_sums,
    control,
    convolution,
    counting,
    creation,
    fourier,
    indexing,
    linalg,
    linear,
    movement,
    normalisation,
    pointwise,
    pooling,
    recurrent,
    reduction,
    special,
    vision,
)
from graphopt.capture.torch.table import ATEN

__all__ = ["ATEN"]
