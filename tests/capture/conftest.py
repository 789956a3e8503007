"""Tests of the PyTorch side need torch, which is an extra."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_torch*.py"]
