"""Calibrating: coefficients from what kernels said, stored beside measured, and a tiny run. Nothing asserts a time."""

from __future__ import annotations

import json

import pytest

from bench import calibrate
from bench.__main__ import main
from graphopt.codegen.x86.costs import AMX, coefficients

SAID = {"clock": 3e9, "waiting": 4.0, "register_add": 1 / 64, "l1_byte": 1 / 128, "l2_byte": 1 / 40, "lanes": 16, "rows": 8,
        "columns": 48, "deep": 96, "shallow": 24, "held": 96 * 12 + 30, "held_shallow": 24 * 12 + 30,
        "panels_from_l2": 96 * 12 + 30 + 0.2 * 96 * 3, "rows_from_l2": 96 * 12 + 30 + 0.5 * 48, "thin_held": 600.0,
        "thin_from_l2": 600.0 + 0.25 * 96 * 3, "thin_from_memory": 96 * 48 * 4 / 5}


def test_coefficients_are_what_differs_between_tiles_by_what_they_read() -> None:
    found = calibrate.of_core(SAID)
    want = {"latency": 4, "sums": 8, "loads": 2, "tile_start": 30, "bytes_from_l2": 40, "panel_line": 0.2, "rows_line": 0.5,
            "line_from_l2": 0.25, "bytes_from_memory": 5}
    assert found == pytest.approx(want)  # nothing of an L3 that was not read


def test_every_coefficient_that_says_so_is_measured() -> None:
    here = set(calibrate.of_core({**SAID, "thin_from_l3": 1.0})) | set(calibrate.WAYS)
    assert here == set(calibrate.MEASURED) <= set(coefficients())


def test_stored_stands_beside_the_median_of_the_rounds() -> None:
    rows = calibrate.compare(AMX, [{"latency": 4.0, "turned": 0.5}, {"latency": 5.0}, {"latency": 6.0}])
    assert [(r["name"], r["stored"], r["measured"], len(r["runs"])) for r in rows] == [
        ("latency", AMX.latency, 5.0, 3), ("turned", AMX.turned, 0.5, 1)]
    said = calibrate.show(rows).splitlines()
    assert "off" in said[0] and "1.25" in said[1] and "4 to 6" in said[1] and "cycles a byte" in said[2]


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate.machine, "cores", lambda: 1)
    assert calibrate.of_kernels(["wait"], 1e9) == {"costs": {}, "failed": {"wait": "it takes two cores"}}


@pytest.mark.parametrize("given, said", [("--only latencies", "unknown: latencies"), ("--only ,", "no name given"),
                                         ("--rounds 0", "'0' is not a whole number")])
def test_wrong_arguments(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["calibrate", *given.split()])
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_a_run_writes_stored_and_measured(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from graphopt.codegen.x86 import native
    from graphopt.targets.x86 import X86

    if native.compiler() is None or X86.named(None).lanes < 8:
        pytest.skip("it takes a C compiler and AVX2")
    monkeypatch.setattr(calibrate, "TRIES", 1)
    assert main(["calibrate", "--rounds", "1", "--only", "latency,copied", "--json", str(tmp_path / "costs.json")]) == 0
    out, data = capsys.readouterr().out, json.loads((tmp_path / "costs.json").read_text())
    assert {r["name"] for r in data["coefficients"]} == {"latency", "copied"} and data["clock"] > 0
    assert all(r["measured"] > 0 and r["unit"] and r["of"] for r in data["coefficients"])
    assert "latency" in out and data["family"] in out
