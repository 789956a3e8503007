"""A sample of PyTorch's own operator database; `python -m bench coverage --ops` runs all of it."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("expecttest", reason="torch's operator database imports it; it is in the extra `dev`")

from bench import operators

# Operators that other tests have whole, or that take long to trace.
SLOW = {"nn.functional.linear_cross_entropy", "masked.norm"}


def _tried() -> list:
    entries = [e for e in operators.database() if not operators.left_out(e) and operators.title(e) not in SLOW]
    return random.Random(20).sample(entries, 10)


def test_a_sample_is_never_wrong() -> None:
    rows = [operators.measure(e, 1, "evaluator") for e in _tried()]
    assert {r["operator"]: r["note"] for r in rows if r["state"] == "wrong"} == {}


def test_compiled_operators_are_covered() -> None:
    names = ("lgamma", "index_reduce.mean", "cummax", "linalg.inv")
    rows = [operators.measure(e, 2, "x86") for e in operators.database(names)]
    assert {r["operator"]: r["state"] for r in rows} == dict.fromkeys(names, "covered")


def test_rules_say_why_an_operator_is_left_out() -> None:
    names = {operators.title(e): operators.left_out(e) for e in operators.database()}
    assert "factorisation" in (names["linalg.svd"] or "") and names["resize_"] == "works in place"
    assert names["nn.functional.relu"] is None and names["sqrt"] is None and names["__radd__"] is None
    assert names["view_as_real"] is None


def test_complex_results_are_compared_by_both_parts() -> None:
    entry, = operators.database(["view_as_complex"])
    assert operators.measure(entry, 2, "evaluator")["state"] == "covered"
    entry, = operators.database(["fft.rfft"])
    assert operators.measure(entry, 1, "x86")["state"] == "covered"
    import torch
    from torch import nn

    class Conjugate(nn.Module):
        def forward(self, x):
            return x.conj()

    z = torch.tensor([1 + 2j])
    assert operators.try_one(Conjugate(), [z], [z], "evaluator")[0] == "wrong"
    assert operators.try_one(Conjugate(), [z], [z.conj()], "x86")[0] == "covered"


def test_a_difference_is_wrong_and_a_refusal_is_refused() -> None:
    import torch
    from torch import nn

    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    class Values(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    x = torch.ones(2, 2)
    assert operators.try_one(Twice(), [x], [3 * x], "evaluator")[0] == "wrong"
    assert operators.try_one(Values(), [x], [x], "evaluator") == ("refused", "aten._linalg_svd.default")
