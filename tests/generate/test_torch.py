"""Random PyTorch modules give what eager PyTorch gives, within the distance of its f32 from its f64.

The long run over many more of them is `python -m tests.generate torch`.
"""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generate.torch_draft import Skip
from tests.generate.torch_modules import draw
from tests.generate.torch_run import judge_torch

SEEDS = st.integers(0, 2**32 - 1)


def right(seed: int, compiled: bool) -> None:
    try:
        case = draw(random.Random(seed))
    except Skip:
        return
    verdict = judge_torch(case, compiled)
    assert verdict.kind in ("right", "skipped"), f"{verdict}\n{case.source}\ninputs {case.inputs}\nright {case.expected}"


@settings(max_examples=8, derandomize=True)
@given(SEEDS)
def test_modules_after_all_passes(seed: int) -> None:
    right(seed, compiled=False)


@settings(max_examples=2, derandomize=True)
@given(SEEDS)
def test_modules_compiled(seed: int) -> None:
    right(seed, compiled=True)
