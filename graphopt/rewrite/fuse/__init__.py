"""Ops that become one kernel."""

from graphopt.moved import had

__getattr__ = had(__name__)
