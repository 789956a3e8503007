"""Composite ops out of primitives and back, and what has a better form."""

from graphopt.moved import had

__getattr__ = had(__name__)
