"""Random numbers. A seed makes an op repeatable; without one every evaluation differs."""

from __future__ import annotations

import numpy as np

from graphopt.ir.table import Operands, Trait, op, same_shape


def _generator(seed: float | None) -> np.random.RandomState:
    """numpy's Mersenne Twister: the numbers that ONNX's own reference draws from a whole-numbered seed."""
    if seed is None or (np.isfinite(seed) and seed == int(seed) and 0 <= seed < 2 ** 32):
        return np.random.RandomState(None if seed is None else int(seed))
    return np.random.RandomState(np.frombuffer(np.float64(seed).tobytes(), np.uint32))


def _given_shape(o: Operands) -> tuple:
    if not o.dtype.is_float:
        raise o.fail(f"dtype={o.dtype} must be a float")
    return o.shape


@op("random_uniform(; shape: dims, low: float = 0, high: float = 1, dtype: dtype = f32, seed: float?) -> @dtype",
    shape=_given_shape, traits=Trait.RANDOM)
def random_uniform(*, shape, low, high, dtype, seed):
    """Independent samples, uniform on [low, high)."""
    y = _generator(seed).uniform(low, high, shape).astype(dtype.numpy)
    # Rounding to a narrow dtype can reach the excluded end.
    return np.where(y < np.asarray(high, dtype.numpy), y, np.asarray(low, dtype.numpy))


@op("random_normal(; shape: dims, mean: float = 0, scale: float = 1, dtype: dtype = f32, seed: float?) -> @dtype",
    shape=_given_shape, traits=Trait.RANDOM)
def random_normal(*, shape, mean, scale, dtype, seed):
    """Independent samples of the normal distribution with this mean and standard deviation."""
    return np.asarray(_generator(seed).normal(mean, scale, shape)).astype(dtype.numpy)


@op("bernoulli(x: T; dtype: dtype, seed: float?) -> @dtype", T="float", shape=same_shape, traits=Trait.RANDOM)
def bernoulli(x, *, dtype, seed):
    """1 with the probability that x gives, else 0, independently for each element."""
    return (_generator(seed).uniform(size=x.shape) < x.astype(np.float64)).astype(dtype.numpy)
