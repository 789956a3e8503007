"""The headers of AMD's arbitrary-precision types, as the hls4ml package carries them (Apache-2.0)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from graphopt.errors import TargetError


def folder() -> Path | None:
    """Where ap_fixed.h and its like are; None where hls4ml is not installed. hls4ml itself is not imported."""
    spec = importlib.util.find_spec("hls4ml")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        found = Path(root, "templates", "vivado", "ap_types")
        if (found / "ap_fixed.h").exists():
            return found
    return None


def include_flags() -> tuple[str, str]:
    """Compiler flags that find the headers, without warnings from within them. TargetError where there are none."""
    found = folder()
    if found is None:
        raise TargetError("the ap_types headers were not found", hint="Install hls4ml, which carries them, or use number='float'")
    return "-isystem", str(found)


__all__ = ["folder", "include_flags"]
