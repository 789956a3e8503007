"""Every test starts with nothing traced, and reasons for falling back not given yet."""

import pytest
import torch


@pytest.fixture(autouse=True)
def afresh():
    torch.manual_seed(0)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()
