"""What the tables say of rows: ratios, the fastest peer, failures and wrong results."""

import pytest

from bench import tables
from bench.compare import find, floors, right

PEERS = ["onnxruntime", "openvino"]


def times(ms, equal=True):
    return {"median": ms / 1e3, "q1": 0.99 * ms / 1e3, "q3": 1.01 * ms / 1e3, "calls": 9, "equal": equal, "error": "1e-06"}


def row(model="resnet18", ours=(10, 12), theirs=(20, 15), batch=1, **more):
    pairs = {peer: {"graphopt": times(a), peer: times(b)} for peer, a, b in zip(PEERS, ours, theirs)}
    return {"model": model, "batch": batch, "threads": 2, "case": f"{model}-b{batch}", "pairs": pairs} | more


def test_ratios_are_of_times_from_one_process():
    assert tables.ratios(row()) == {"onnxruntime": pytest.approx(2), "openvino": pytest.approx(1.25)}
    assert tables.best(row()) == ("openvino", pytest.approx(1.25))
    assert tables.ours(row())["median"] == 0.012


def test_a_wrong_peer_is_marked_and_beats_nobody():
    r = row()
    r["pairs"]["openvino"]["openvino"] |= {"equal": False, "error": "3e-01"}
    assert tables.best(r) == ("onnxruntime", pytest.approx(2))
    assert tables.wrong(r) == ["openvino (3e-01)"]
    assert "(WRONG)" in " ".join(tables.timing_cells(r, PEERS)) and "WRONG: openvino" in tables.line(r)
    assert right(r)


def test_graphopt_being_wrong_is_a_failure():
    r = row()
    r["pairs"]["openvino"]["graphopt"] |= {"equal": False}
    assert not right(r) and "WRONG: graphopt" in tables.line(r)


def test_a_peer_that_failed_is_named_with_its_reason():
    r = row()
    r["pairs"]["openvino"] = {"error": "RuntimeError: no such layer"}
    assert tables.failures(r) == ["openvino: RuntimeError: no such layer"]
    assert tables.best(r)[0] == "onnxruntime" and right(r)
    assert "failed" in tables.timing_cells(r, PEERS)
    r["pairs"]["openvino"] = {"error": "CodegenError: ...", "side": "graphopt"}
    assert tables.failures(r) == ["graphopt: CodegenError: ..."] and not right(r)


def test_a_row_without_any_time_still_prints():
    r = row() | {"pairs": {}, "error": "the case could not be made: OSError"}
    assert "failed" in tables.timing_cells(r, PEERS) and tables.failures(r) == ["the case could not be made: OSError"]
    assert "OSError" in tables.report({"rows": [r], "peers": PEERS}) and not right(r)


def test_geometric_means_are_over_the_best_peer_of_each():
    rows = [row("a", ours=(10, 10), theirs=(20, 40)), row("b", ours=(10, 10), theirs=(20, 5)), row("b", batch=8)]
    said = "\n".join(tables.means(rows, PEERS))
    assert "batch 1, threads 2: geometric mean 1.00" in said and "ahead in 1 of 2" in said
    assert "batch 8, threads 2: geometric mean 1.25" in said and "all: " in said and "onnxruntime 2.00" in said


def test_columns_line_up():
    lines = tables.table(["name", "value"], [["a", "1.00"], ["long name", "12345.00"]]).splitlines()
    assert lines == ["name          value", "a              1.00", "long name  12345.00"]
    assert tables.table(["name"], []) == "name"


@pytest.mark.parametrize("ms, text", [(0.02214, "0.022 ±2.0%"), (42.123, "42.12 ±2.0%"), (1943.21, "1943.2 ±2.0%")])
def test_milliseconds_show_what_was_measured(ms, text):
    assert tables.milliseconds(times(ms)) == text


def test_costs_show_what_each_side_has():
    r = row(costs={"graphopt": {"cold": 3.456, "cached": 0.4, "peak": 300 << 20, "imports": 100 << 20},
                   "onnxruntime": {"cold": 0.5, "cached": None, "peak": 80 << 20, "imports": 50 << 20},
                   "openvino": {"error": "crashed"}})
    cells = tables.costs_cells(r, ["graphopt", *PEERS])
    assert cells[3:] == ["3.46 / 0.40", "0.50 / -", "- / -", "300 (200)", "80 (30)", "-"]


def test_the_percentage_of_the_roofline_is_of_our_time():
    peaks = {"rates": {"fma": 2e11, "fma_l1": 1e11}, "bandwidths": {"l1": 1e11, "dram": 1e10}, "sizes": {"l1": 1 << 15}}
    r = row(work=[[10**9, 0, 0, 1]])
    r["floor"] = floors(r, {"peaks": {"2": peaks}})
    assert r["floor"] == {"fma": 0.005, "fma_l1": 0.01}
    assert tables.timing_cells(r, PEERS)[-3:-1] == ["42%", "83%"]
    assert floors(r, {"peaks": {"1": peaks}}) == {} and floors(r, None) == {}


def test_resuming_finds_whole_rows_only():
    case = type("Case", (), {"folder": type("Folder", (), {"name": "resnet18-b1"})})
    good = row()
    assert find([good], case, 2, PEERS) is good
    assert find([good], case, 1, PEERS) is None
    assert find([good], case, 2, [*PEERS, "inductor"]) is None
    good["pairs"]["openvino"] = {"error": "crashed"}
    assert find([good], case, 2, PEERS) is None


def test_kernels_are_listed_with_their_rate():
    kernels = [{"kernel": "k0_conv", "seconds": 1e-3, "operations": 2e8, "loc": ["conv1"]},
               {"kernel": "k1", "seconds": 0.0, "operations": 0, "loc": []}]
    said = tables.kernel_table(kernels, 5)
    assert "2 kernel calls, 1.00 ms together" in said and "200.0" in said and "conv1" in said
