"""The op table's entries, a file a family. Importing this package fills the table."""

from graphopt.ir.ops import core  # noqa: F401
