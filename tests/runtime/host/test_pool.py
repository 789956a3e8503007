"""The pool of threads beneath a call: right for every number of threads, from several threads at once, and after a fork."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.ir import Builder, Graph, tensor

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="without a C compiler the pool is TVM's")
N = 263  # a prime: no number of threads divides it
W = np.random.default_rng(5).standard_normal((N, 301)).astype(np.float32)


@cache
def model(threads: int):
    """tanh(x @ W), then its row sums: more than one parallel loop."""
    graph = Graph()
    b = Builder(graph)
    y = b.tanh(b.matmul(graph.add_input(tensor("f32", N, N), "x"), b.const(W)))
    graph.outputs = [y, b.reduce_sum(b.exp(y), axes=[1])]
    return graphopt.compile(graph, threads=threads)


def given(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, N)).astype(np.float32) / 8


def right(compiled, x: np.ndarray) -> bool:
    y, total = compiled(x)
    want = np.tanh(x.astype(np.float64) @ W)
    return np.allclose(y, want, atol=1e-5) and np.allclose(total, np.exp(want).sum(1), rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(threads: int) -> None:
    for seed in range(20):
        assert right(model(threads), given(seed))
        if seed % 5 == 0:
            time.sleep(0.01)  # the workers fall asleep and are woken


def test_a_parallel_loop_is_in_it() -> None:
    """Else the others would show nothing."""
    assert "parallel" in model(3).source("tir")


@pytest.mark.parametrize("threads", [2, 3])
def test_callers_in_several_threads_share_the_pool(threads: int) -> None:
    compiled, wrong = model(threads), []
    gate = threading.Barrier(4)

    def work(seed: int) -> None:
        x = given(seed)
        gate.wait()
        for _ in range(30):
            if not right(compiled, x):
                wrong.append(seed)

    callers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert not wrong


def run(code: str) -> str:
    """What a process of its own prints. numpy's BLAS has one thread there: its pool does not survive a fork in a product."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parents[3], capture_output=True,
                          text=True, timeout=60, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_children_of_a_fork_have_workers_of_their_own() -> None:
    """Also where another thread of the parent was in the middle of a call."""
    assert run("""
import os, threading
from tests.runtime.host.test_pool import given, model, right
compiled, stop = model(3), threading.Event()
assert right(compiled, given(0))
def busy():
    while not stop.is_set():
        assert right(compiled, given(1))
caller = threading.Thread(target=busy)
caller.start()
for k in range(5):
    child = os.fork()
    if child == 0:
        before = len(os.listdir("/proc/self/task"))
        ok = right(compiled, given(k)) and right(compiled, given(k + 1))
        os._exit(0 if ok and before == 1 and len(os.listdir("/proc/self/task")) == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
caller.join()
assert right(compiled, given(2))
print("well")
""") == "well\n"


def test_workers_that_have_nothing_to_do_take_no_time() -> None:
    used = float(run("""
import time
from tests.runtime.host.test_pool import given, model, right
assert right(model(2), given(0))
before = time.process_time()
time.sleep(1)
print(time.process_time() - before)
"""))
    assert used < 0.2, "of a second in which nobody called"


def test_models_of_a_process_share_workers() -> None:
    assert run("""
import os
from tests.runtime.host.test_pool import given, model, right
from tests.runtime.small_models import linear, inputs
count = lambda: sum(open(f"/proc/self/task/{t}/comm").read().startswith("graphopt-") for t in os.listdir("/proc/self/task"))
for threads in (3, 3):
    model.cache_clear()
    assert right(model(threads), given(0))
print(count())
""") == "2\n"


def test_a_limited_process_may_use_what_it_is_given() -> None:
    """On one processor several threads still give the answer."""
    cpu = min(os.sched_getaffinity(0))
    assert run(f"""
import os
os.sched_setaffinity(0, {{{cpu}}})
from tests.runtime.host.test_pool import given, model, right
assert all(right(model(3), given(k)) for k in range(5))
for t in os.listdir("/proc/self/task"):
    assert os.sched_getaffinity(int(t)) == {{{cpu}}}
print("well")
""") == "well\n"
