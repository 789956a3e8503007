"""Artifacts: what is in the folder, reading it, and the models that it becomes."""

from graphopt.moved import had

__getattr__ = had(__name__)
