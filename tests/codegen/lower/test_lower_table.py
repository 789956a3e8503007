"""Every op of the table has a lowering, or a stated reason for having none; and the loop language's own checks."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.codegen.kernel.expr import INDEX, Buffer, Var, const, load, reduce, select
from graphopt.codegen.kernel.interpret import Evaluation
from graphopt.codegen.kernel.loops import For, Kernel, loop, seq, statements, store
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.interpret import loop_kernel
from graphopt.codegen.lower.registry import COMPUTE, LOOPS, why_not
from graphopt.errors import CodegenError
from graphopt.ir.table import TABLE, Trait
from tests.codegen.lower.lowering import make

NO_LOWERING = {
    "const": "data, not a computation",
    "return": "a pseudo-op",
    "fused": "its body is lowered",
    "attention": "a template on x86; elsewhere decomposed at graph level, so that its products use the contraction templates",
    **dict.fromkeys(("fft", "rfft", "irfft"), "decomposed into matrix products, whatever the size"),
    "split_to_seq": "its result is a sequence",
    "deferred": "runs the source operator in Python",
    "string_concat": "strings", "string_split": "strings", "regex_full_match": "strings", "string_normalize": "strings",
    "label_encode": "strings", "tfidf": "strings", "zip_map": "maps", "dict_vectorize": "maps", "cast_map": "maps",
}
REASONS = {Trait.CONTROL: "runs regions", Trait.RANDOM: "random numbers come from numpy's generator",
           Trait.DATA_DEPENDENT: "the result's shape is known only after running"}


def _reason(name: str) -> str | None:
    d = TABLE[name]
    if any(p.type in ("seq", "opt") for p in (*d.operands, *d.results)) or name.startswith(("seq_", "optional_")):
        return "sequences and optionals live in the evaluator"
    return NO_LOWERING.get(name) or next((why for trait, why in REASONS.items() if d.has(trait)), None)


def test_every_op_is_lowered_or_says_why_not() -> None:
    lowered = set(COMPUTE) | set(LOOPS)
    assert {name for name in TABLE if name not in lowered and _reason(name) is None} == set()
    assert {name for name in lowered if name in NO_LOWERING} == set()


def test_why_not_names_the_reason() -> None:
    assert why_not(make("relu", [np.zeros(3, np.float32)])) is None
    assert "no lowering" in (why_not(make("attention", [np.zeros((1, 1, 2, 2), np.float32)] * 3, scale=1.0)) or "")


def test_a_load_outside_its_buffer_is_found() -> None:
    x = Buffer("x", "f32", (3,))
    i = Var("i", INDEX, 0, 3)
    e = select(i < 3, load(x, [i]), const(0, "f32"))
    with pytest.raises(CodegenError, match="leaves"):
        Evaluation({i: np.arange(4)}, {x: np.zeros(3, np.float32)}, 1)(e)


def test_a_store_outside_its_buffer_is_found() -> None:
    y = Buffer("y", "f32", (3,))
    body = loop(4, lambda i: store(y, i, const(1, "f32")))
    with pytest.raises(CodegenError, match="leaves"):
        run_kernel(Kernel("k", (y,), body, 0, 1), [])


def test_division_by_zero_is_found() -> None:
    x = Buffer("x", "i32", (2,))
    with pytest.raises(CodegenError, match="zero"):
        Evaluation({}, {x: np.array([1, 0], np.int32)})(x[0] / x[1])


def test_kernels_read_what_they_wrote() -> None:
    x, y = Buffer("x", "f32", (5,)), Buffer("y", "f32", (5,))
    body = seq(store(y, 0, x[0]), loop(4, lambda i: store(y, i + 1, y[i] + x[i + 1])))
    (got,) = run_kernel(Kernel("prefix", (x, y), body, 1, 1), [np.arange(5, dtype=np.float32)])
    np.testing.assert_array_equal(got, [0, 1, 3, 6, 10])


def test_nested_reductions() -> None:
    x = Buffer("x", "f32", (3, 4))
    i = Var("i", INDEX, 0, 2)
    e = reduce("max", [4], lambda k: x[i, k] - reduce("sum", [3], lambda j: x[j, k]))
    data = np.random.default_rng(0).random((3, 4), np.float32)
    got = Evaluation({i: np.arange(3)}, {x: data}, 1)(e).reshape(-1)
    np.testing.assert_allclose(got, (data - data.sum(0)).max(1), rtol=1e-6)


def test_much_work_is_shared_among_threads() -> None:
    kinds = []
    for rows in (2, 4096):
        kernel = loop_kernel(make("cumsum", [np.zeros((rows, 64), np.float32)], axis=1))
        kinds.append({s.scope for s in statements(kernel.body) if isinstance(s, For)})
    assert kinds == [{Scope.SERIAL}, {Scope.SERIAL, Scope.PARALLEL}]
