"""Costs by families of CPUs: every coefficient says what it is, a target has its family's, and nobody else has any."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from graphopt.codegen.x86 import costs
from graphopt.codegen.x86.costs import FAMILIES, GENERIC, Costs, coefficients, costs_of, lanes_of
from graphopt.ir.types import BF16, F16, F32, F64, I64
from graphopt.targets import parse_target, x86
from graphopt.targets.x86 import X86

AVX512 = X86("x86", "x86:a", "a", frozenset(("avx512f", "avx2")))
CODE = Path(costs.__file__).parent


def test_every_coefficient_says_its_unit_what_it_is_and_how_it_is_measured_again() -> None:
    found = coefficients()
    assert set(found) == {f.name for f in fields(Costs)} - {"family", "measured"}
    for name, said in found.items():
        assert said["unit"] and said["what"] and said["again"].startswith("python -m bench "), name
    for name, family in FAMILIES.items():
        assert family.family == name and "" in family.measured and set(family.measured) <= {"", *found}
        assert all(re.search(r"20\d\d-\d\d-\d\d", text) for text in family.measured.values())
        assert all(getattr(family, c) >= 0 for c in found)


@pytest.mark.parametrize("cpu, family", [("znver4", "zen4"), ("znver5", "zen5"), ("sapphirerapids", "amx"),
                                         ("haswell", "generic")])
def test_targets_have_the_costs_of_their_family(cpu: str, family: str) -> None:
    target = parse_target(f"x86:{cpu}")
    assert isinstance(target, X86) and costs_of(target) is FAMILIES[family]
    assert costs_of(target.with_threads(3)) is FAMILIES[family]


@pytest.mark.parametrize("tiles, family, fma", [(True, "amx", 2), (False, "generic", 1)])
def test_a_server_that_llvm_takes_for_a_client_is_known_by_its_tile_registers(monkeypatch: pytest.MonkeyPatch, tiles: bool,
                                                                             family: str, fma: int) -> None:
    from graphopt.targets.toolchain import llvm

    monkeypatch.setattr(llvm, "llvm_get_system_cpu", lambda: "rocketlake")
    monkeypatch.setattr(x86, "missing", lambda names: [n for n in names if n == "amx-tile" and not tiles])
    target = X86.named(None, 2)
    assert (target.cpu, target.family, target.fma) == ("rocketlake", family, fma)


def test_another_family_makes_other_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.codegen.lower.tuning import best_of
    from graphopt.codegen.x86.kernels.blocking import Product, blockings

    chosen = lambda: best_of(blockings(Product(1, 196, 768, 3072, 4), 16, AVX512, 1))[1]
    usual = chosen()
    monkeypatch.setitem(costs.FAMILIES, "generic", replace(GENERIC, rows_line=30.0, panel_line=0.0))
    assert chosen().tile.rows < usual.tile.rows


def test_lanes_and_effort_are_of_the_dtype_that_is_computed_in() -> None:
    assert [lanes_of(AVX512, d) for d in (F32, F16, BF16, F64, I64)] == [16, 16, 16, 8, 8]
    assert GENERIC.effort(1 << 20, F64) == 2 * GENERIC.effort(1 << 20, F32) == 2 * GENERIC.effort(1 << 20, F16)


def test_pixels_that_would_crowd_into_few_sets_lie_apart() -> None:
    assert GENERIC.room_between(256, 4) == 16 and GENERIC.room_between(512, 2) == 32
    assert GENERIC.room_between(255, 4) == GENERIC.room_between(256, 2) == 0


def test_cycles_stand_in_no_other_file() -> None:
    constant = re.compile(r"^[A-Z_]+ *= *[\d(].*#.*\b(cycles?|measured)\b", re.M)
    for file in CODE.rglob("*.py"):
        assert not constant.search(file.read_text()), file
