"""The file that `bench roofline` writes, in which this machine's peaks stand (graphopt.measure.peaks measures them)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.measure.peaks import LEVELS, Peaks, Work, from_json


def parse(data: Mapping[str, Any], threads: int) -> Peaks | None:
    """The peaks for so many threads from what `bench roofline` wrote, None where it did not measure them."""
    found = data["peaks"].get(str(threads))
    return from_json(found, threads) if found else None


def read(path: Path, cpu: str) -> tuple[dict[str, Any] | None, str]:
    """A roofline file's contents, or None and why it cannot be used here."""
    if not path.exists():
        return None, f"{path} is not there: run python -m bench roofline"
    data = json.loads(path.read_text())
    if data["machine"]["cpu"] != cpu:
        return None, f"{path} is of another machine ({data['machine']['cpu']}): run python -m bench roofline"
    return data, ""


__all__ = ["LEVELS", "Peaks", "Work", "parse", "read"]
