"""How values lie in memory, and batches in parts."""

from graphopt.moved import had

__getattr__ = had(__name__)
