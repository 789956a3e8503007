"""onnxruntime's own operators (domain com.microsoft), a file a family. Importing this package fills the table.

Their semantics are those of onnxruntime's docs/ContribOperators.md, and of its CPU kernels where that is silent. They are
composed of the IR's ops. An attribute, operand or result that an entry does not know is refused by its name.
"""

from graphopt.capture.onnx.contrib import (  # noqa: F401
    activations,
    attention,
    blocks,
    grouped,
    integer,
    norms,
    others,
    products,
    qlinear,
    recurrent,
    rotary,
    vision,
)
