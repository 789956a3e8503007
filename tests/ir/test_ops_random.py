"""Random numbers: distributions by their moments, seeds by repetition."""

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import IRError
from graphopt.ir import TABLE, Trait, evaluate
from tests.ir.one_op import graph_of, run_op


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_uniform_fills_its_range(dtype):
    y = run_op("random_uniform", shape=(100, 200), low=-2, high=3, dtype=dtype, seed=1.5).astype(np.float64)
    assert y.shape == (100, 200) and y.min() >= -2 and y.max() < 3
    assert abs(y.mean() - 0.5) < 0.05 and abs(y.std() - 5 / 12**0.5) < 0.05


def test_normal_has_its_moments():
    y = run_op("random_normal", shape=(100, 200), mean=4, scale=0.5, dtype="f32", seed=2)
    assert y.dtype == np.float32 and abs(y.mean() - 4) < 0.02 and abs(y.std() - 0.5) < 0.02


def test_bernoulli_follows_its_probabilities():
    p = np.repeat(np.array([[0.0], [0.25], [1.0]], np.float32), 4000, axis=1)
    y = run_op("bernoulli", p, dtype="i8", seed=3)
    assert y.dtype == np.int8 and (y[0] == 0).all() and (y[2] == 1).all() and abs(y[1].mean() - 0.25) < 0.03
    assert run_op("bernoulli", p.astype(ml_dtypes.bfloat16), dtype="bool", seed=3).dtype == np.bool_


@pytest.mark.parametrize("name", ["random_uniform", "random_normal"])
def test_seeds_repeat_and_their_absence_does_not(name):
    draw = lambda seed: run_op(name, shape=(50,), dtype="f32", seed=seed, symbolic=False)
    np.testing.assert_array_equal(draw(7), draw(7))
    assert (draw(7) != draw(8)).any()
    assert TABLE[name].has(Trait.RANDOM)


def test_unseeded_draws_differ_and_sizes_zero_and_one_work():
    once = lambda shape: evaluate(graph_of("random_normal", (), {"shape": shape, "dtype": "f32"}), [])[0]
    assert (once((50,)) != once((50,))).any()
    assert once((0, 3)).shape == (0, 3) and once(()).shape == ()
    with pytest.raises(IRError, match="must be a float"):
        run_op("random_uniform", shape=(2,), dtype="i32")
