"""C++: what CUDA, HLS and the host emulation print by."""

from graphopt.moved import had

__getattr__ = had(__name__)
