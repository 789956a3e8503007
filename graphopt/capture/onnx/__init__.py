"""ONNX in: files and protos to graphs, operators through one table (`table.py`, filled by `ops/`)."""

from graphopt.capture.onnx.model import capture_onnx

__all__ = ["capture_onnx"]
