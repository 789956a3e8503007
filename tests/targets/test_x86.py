"""What a machine has, and what code for a CPU asks of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.ir import Builder, Graph, tensor
from graphopt.runtime.host import machine
from graphopt.targets import parse_target
from graphopt.targets.x86 import X86


def test_this_machine_lacks_nothing_of_its_own() -> None:
    assert machine.missing(parse_target("x86").instructions) == []


@pytest.mark.parametrize("cpu,uses,not_used", [("haswell", "avx2 fma f16c bmi2 lzcnt movbe", "avx512f"),
                                               ("skylake-avx512", "avx512f avx512vl avx512bw", "avx512vnni"),
                                               ("x86-64", "sse2", "avx")])
def test_instructions_are_llvms_names(cpu: str, uses: str, not_used: str) -> None:
    """As Intel's manual has them for these cores."""
    found = parse_target(f"x86:{cpu}").instructions
    assert set(uses.split()) <= set(found) and not_used not in found


def test_the_systems_names_are_llvms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Sapphire Rapids server as Linux lists it has all that LLVM's sapphirerapids uses."""
    flags = ("fpu sse sse2 pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt avx f16c abm bmi1 avx2 bmi2 avx512f avx512dq avx512ifma "
             "avx512cd avx512bw avx512vl avx_vnni avx512_bf16 avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg "
             "avx512_vpopcntdq amx_bf16 avx512_fp16 amx_tile amx_int8")
    monkeypatch.setattr(machine, "_fields", lambda: {"flags": flags})
    machine.features.cache_clear()
    try:
        assert machine.missing(parse_target("x86:sapphirerapids").instructions) == []
        assert machine.missing(["avx10.2", "avx2"]) == ["avx10.2"]
    finally:
        machine.features.cache_clear()


@pytest.mark.skipif(bool(machine.missing(["avx2"])), reason="there is nothing to hide")
def test_what_a_virtual_machine_hides_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = frozenset(f for f in machine.features() if not f.startswith("avx512"))
    monkeypatch.setattr(machine, "features", lambda: seen)
    target = parse_target("x86", 1)
    assert isinstance(target, X86) and target.lanes == 8 and not any(f.startswith("avx512") for f in target.instructions)
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.exp(graph.add_input(tensor("f32", 1000), "x"))]
    x = np.linspace(-5, 5, 1000, dtype=np.float32)
    model = graphopt.compile(graph, target=target)
    np.testing.assert_allclose(model(x), np.exp(x.astype(np.float64)), rtol=1e-6)
    assert "zmm" not in model.source("asm")
