"""What the roofline is read from, and how it is shown."""

import json

from bench.peaks import parse, read
from bench.roofline import show


def written(tmp_path, cpu):
    path = tmp_path / "roofline.json"
    peaks = {"1": {"rates": {"fma": 2e11}, "bandwidths": {"l1": 3e11}, "sizes": {"l1": 49152}}}
    path.write_text(json.dumps({"machine": {"cpu": cpu}, "peaks": peaks}))
    return path


def test_a_roofline_is_of_its_machine_and_its_numbers_of_threads(tmp_path):
    data, reason = read(written(tmp_path, "this"), "this")
    assert reason == "" and parse(data, 1).rates == {"fma": 2e11} and parse(data, 2) is None
    assert "200.0" in show(data["peaks"]) and "300.0" in show(data["peaks"])
    data, reason = read(written(tmp_path, "other"), "this")
    assert data is None and "another machine" in reason and "bench roofline" in reason
    data, reason = read(tmp_path / "none.json", "this")
    assert data is None and "bench roofline" in reason
