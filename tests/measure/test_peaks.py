"""The roofline's arithmetic against sums by hand, and this machine's peaks as they are measured and kept."""

import json
import shutil

import pytest

from graphopt import CodegenError
from graphopt.measure import peaks
from graphopt.measure.peaks import Peaks, Work, buffer_sizes
from graphopt.runtime.host.machine import byte_count

PEAKS = Peaks(2, {"fma": 100.0, "fma_l1": 50.0}, {"l1": 40.0, "l2": 20.0, "dram": 5.0}, {"l1": 64, "l2": 1024})


@pytest.mark.parametrize("nbytes, seconds", [
    (0, 0), (40, 1), (64, 1.6), (84, 1.6 + 1), (1024, 1.6 + 48), (1034, 1.6 + 48 + 2),
])
def test_bytes_come_from_the_innermost_levels_that_hold_them(nbytes, seconds):
    assert PEAKS.reading(nbytes) == pytest.approx(seconds)


def test_the_floor_is_the_larger_of_arithmetic_and_memory_for_each_contraction():
    arithmetic, memory = Work(1000, 0, 40), Work(100, 0, 1024)
    assert PEAKS.floor([arithmetic]) == 10  # 1000 / 100, more than 40 / 40
    assert PEAKS.floor([memory]) == pytest.approx(49.6)  # more than 100 / 100
    assert PEAKS.floor([arithmetic, memory]) == pytest.approx(59.6)
    assert PEAKS.floor([arithmetic], "fma_l1") == 20


def test_weights_are_read_as_part_of_those_of_the_whole_model():
    one = Work(0, 517, 0)
    alone, together = 1.6 + (517 - 64) / 20, 1.6 + 48 + 2
    assert PEAKS.floor([one]) == pytest.approx(alone)
    assert PEAKS.floor([one, one]) == pytest.approx(together)
    assert PEAKS.floor([Work(0, 517, 0, count=2)]) == pytest.approx(together)
    assert PEAKS.floor([one], all_weights=1034) == pytest.approx(together / 2)


def test_no_work_takes_no_time():
    assert PEAKS.floor([]) == 0


@pytest.mark.parametrize("text, size", [("48K", 48 << 10), ("2M", 2 << 20), ("512", 512), ("1G", 1 << 30)])
def test_cache_sizes_as_linux_writes_them(text, size):
    assert byte_count(text) == size


def test_buffers_lie_in_their_level_and_in_no_inner_one():
    caches = {"l1": 48 << 10, "l2": 2 << 20, "l3": 480 << 20}
    for threads in (1, 2):
        found = buffer_sizes(caches, 24 << 30, threads)
        assert found["l1"] <= caches["l1"] and caches["l1"] < found["l2"] <= caches["l2"]
        assert caches["l2"] < found["l3"] <= caches["l3"] // threads
        assert caches["l3"] < found["dram"] * threads <= 24 << 30
        assert all(n % 4096 == 0 for n in found.values())


def test_a_share_of_l3_that_l2_would_hold_is_not_measured():
    assert "l3" not in buffer_sizes({"l1": 32 << 10, "l2": 1 << 20, "l3": 8 << 20}, 8 << 30, 8)
    assert set(buffer_sizes({"l1": 32 << 10, "l2": 1 << 20}, 8 << 30, 2)) == {"l1", "l2", "dram"}


@pytest.mark.skipif(shutil.which("cc") is None, reason="peaks are measured by a C program")
def test_peaks_are_measured_kept_and_only_ever_grow(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    first = peaks.here(1)
    assert first.rates["fma"] > 0 and first.bandwidths["l1"] > 0 and first.threads == 1
    second = peaks.here(1)
    assert all(second.rates[k] >= v for k, v in first.rates.items())
    peaks.here(1)
    (kept,) = (tmp_path / "peaks").glob("*.json")
    assert json.loads(kept.read_text())["runs"] == 3
    monkeypatch.setattr(peaks, "measure", lambda *args, **kwargs: pytest.fail("measured once more"))
    assert peaks.here(1).rates["fma"] >= second.rates["fma"]


def test_without_a_compiler_there_are_no_peaks(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    monkeypatch.setattr("graphopt.codegen.x86.native.compiler", lambda: None)
    with pytest.raises(CodegenError, match="no C compiler"):
        peaks.here(1)
