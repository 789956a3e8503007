"""How matrix products are cut: everything is covered, tiles fit the registers, what is shared is nearly even."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86 import costs
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.blocking import Product, aliases, blockings
from graphopt.targets.x86 import X86

BIG = X86("x86", "x86:a", "a", frozenset(("avx512f", "avx2")), 2, 48 << 10, 2 << 20, 2)
SMALL = X86("x86", "x86:b", "b", frozenset(("avx2",)), 2, 32 << 10, 256 << 10, 2)


@given(st.integers(1, 30), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 2, 3, 4, 6, 16]),
       st.sampled_from([BIG, SMALL]))
def test_shares_cover_everything(batches: int, m: int, n: int, k: int, threads: int, machine: X86) -> None:
    found = best_of(blockings(Product(batches, m, n, k, 4), machine.lanes, machine, threads))[1]
    tile = found.tile
    assert tile.rows <= m and tile.rows * tile.vectors + tile.vectors + 1 <= max(machine.registers, 3)
    assert found.workers <= threads
    for workers, share, of in zip(found.grid, found.share, (batches, -(-m // tile.rows), -(-n // tile.columns))):
        assert workers * share >= of and share <= of
    assert 1 <= found.row_blocks <= found.share[1] and k % found.depths == 0
    assert found.depths == 1 or found.row_blocks == 1


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("shape", [(128, 768, 768), (3136, 384, 96), (197, 768, 3072), (784, 768, 192)])
def test_threads_have_equal_work(shape: tuple[int, int, int], threads: int) -> None:
    m, k, n = shape
    found = best_of(blockings(Product(1, m, n, k, 4), BIG.lanes, BIG, threads))[1]
    most = found.share[1] * found.tile.rows * found.share[2] * found.tile.columns
    assert found.workers == threads and most <= 1.1 * m * n / threads


@given(st.integers(1, 512), st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([1, 2, 4]), st.booleans(), st.booleans())
def test_cycles_are_no_fewer_than_multiplying_and_reading_take(m: int, n: int, k: int, threads: int, packed: bool,
                                                               copied: bool) -> None:
    product = Product(1, m, n, k, 4, packed=packed, copied=copied)
    for cycles, _ in blockings(product, BIG.lanes, BIG, threads):
        assert cycles >= m * n * k / (BIG.lanes * BIG.fma * threads)
        assert cycles >= (m + n) * k * 4 / costs_of(BIG).bytes_from_l3 / threads


@pytest.mark.parametrize("m", [1, 4, 8, 16])
def test_weights_that_few_rows_multiply_are_read_by_one_thread_each(m: int) -> None:
    assert best_of(blockings(Product(1, m, 3072, 768, 4), BIG.lanes, BIG, 2))[1].grid == (1, 1, 2)


def test_long_rows_that_would_be_copied_by_both_threads_are_shared_out() -> None:
    found = best_of(blockings(Product(1, 197, 768, 3072, 4), BIG.lanes, BIG, 2))[1]
    assert found.grid == (1, 2, 1)


def test_where_storing_rows_costs_tiles_of_large_results_are_low_and_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = lambda m, n: best_of(blockings(Product(1, m, n, 384, 4), BIG.lanes, BIG, 1))[1].tile
    usual, small = chosen(1500, 1536), chosen(96, 96)
    monkeypatch.setitem(costs.FAMILIES, "generic", replace(costs.GENERIC, stored_row=200.0))
    assert chosen(1500, 1536).rows < usual.rows and chosen(96, 96) == small


def test_rows_a_page_apart_alias() -> None:
    assert aliases(4096, 13, BIG) and aliases(12288, 13, BIG) and aliases(4096, 6, SMALL)
    assert not aliases(768 * 4, 13, BIG) and not aliases(4096, 1, BIG) and not aliases(4096 + 64, 14, SMALL)
