"""Each row of the table of x86 instructions: its meaning, its machine code here, its mnemonic everywhere."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from gemm import gemm, meant, operands, pack
from running import cpu_for, run

import graphopt
from graphopt.codegen.c.emit import print_kernel
from graphopt.codegen.kernel.dot import INSTRUCTIONS, bf16_pairs, flushed_fma, fma, rows_of
from graphopt.codegen.kernel.expr import INDEX, Buffer, Var, const
from graphopt.codegen.kernel.loops import For, Kernel, TileDot, TileLoad, Tiles, TileZero, dot, seq, statements, store
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.kernel.text import parse_kernel
from graphopt.codegen.kernel.text import print_kernel as print_text
from graphopt.codegen.kernel.verify import verify
from graphopt.codegen.x86.isa import FAMILIES, ROWS, Row, family, multiply_add, rows
from graphopt.codegen.x86.listing import kernel_texts
from graphopt.errors import CodegenError
from graphopt.ir import Builder, Graph, dtype, tensor
from graphopt.runtime.host.machine import permit_tiles
from graphopt.targets import parse_target

BY_NAME = {row.name: row for row in ROWS}
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

# What each CPU's code for the row has in it. LLVM takes better instructions where there are some, so a row stands with the CPUs
# that have no better one for the same.
CODE = {
    "x86-64": ("mulps+addps", "mulpd+addpd", "pmuludq.i32.128", "pmuludq.i64.128", "pmaddwd.128"),
    "nehalem": ("pmulld.128",),
    "bdver1": ("vfmaddps.fma4", "vfmaddpd.fma4"),
    "haswell": ("vfmaddps.128", "vfmaddps.256", "vfmaddpd.128", "vfmaddpd.256", "vpmulld.256", "vpmuludq.i64.256",
                "vpmaddwd.256"),
    "skylake-avx512": ("vfmaddps.512", "vfmaddpd.512", "vpmulld.512", "vpmullq.256", "vpmullq.512", "vpmaddwd.512"),
    "cascadelake": ("vfmaddps.512", "vpdpbusd.256", "vpdpbusd.512", "vpdpwssd.256", "vpdpwssd.512"),
    "alderlake": ("vfmaddps.256", "vpdpbusd.256.vex", "vpdpwssd.256.vex"),
    "sapphirerapids": ("vfmaddps.512", "vpdpbusd.512", "vpdpbusd.256.vex", "vpdpwssd.512", "vdpbf16ps.256", "vdpbf16ps.512",
                       "tdpbusd", "tdpbssd", "tdpbsud", "tdpbuud", "tdpbf16ps"),
    "znver4": ("vfmaddps.512", "vpdpbusd.512", "vpdpwssd.512", "vdpbf16ps.512"),
    "znver5": ("vfmaddps.512", "vpdpbusd.512", "vpdpwssd.512", "vdpbf16ps.512", "vpdpwssd.256.vex"),
    "knl": ("vpmuludq.i64.512",),
}
REGISTER = {128: "xmm", 256: "ymm", 512: "zmm"}


@cache
def machine(cpu: str):
    return parse_target(f"x86:{cpu}", 1)


@pytest.mark.parametrize("cpu,name", [(cpu, name) for cpu, names in CODE.items() for name in names])
def test_the_instruction_is_in_the_assembly(cpu: str, name: str) -> None:
    row = BY_NAME[name]
    assert row.features <= machine(cpu).features
    asm = kernel_texts(gemm(row, 5, 2 * row.lanes + 1, 9), machine(cpu))[1]
    for mnemonic in row.mnemonics:
        register = "tmm" if row.tile else REGISTER[row.lanes * row.acc.bits]
        assert re.search(rf"\b{mnemonic}\b.*%{register}", asm), mnemonic
    if cpu == "alderlake" and "vnni" in "".join(row.features):
        assert re.search(rf"{{vex}}\s+{row.mnemonics[0]}\b", asm)
    if row.tile:
        assert asm.count("ldtilecfg") == asm.count("tilerelease") > 0


def test_every_row_stands_with_a_cpu_and_has_its_cycles() -> None:
    assert {name for names in CODE.values() for name in names} == set(BY_NAME) and len(BY_NAME) == len(ROWS)
    for row in ROWS:
        assert INSTRUCTIONS[row.name] is row and set(row.cycles) <= set(FAMILIES) and row.cycles
        assert all(0 < pace <= 16 and latency >= 1 for pace, latency in row.cycles.values())
        assert row.acc.bits * row.lanes in (128, 256, 512)
        assert row.depth * row.a.bits == row.acc.bits or row.depth == 1


# Meaning ------------------------------------------------------------------------------------------
def shapes(row: Row) -> list[tuple[int, int, int]]:
    return [(1, 1, 1), (5, row.lanes + 3, 7), (2, 2 * row.lanes, 64), (27, 3, 70)]


def independent(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """c + a @ b in wide arithmetic, and how far off it a sum in f32 may be."""
    if c.dtype.kind == "i":
        with np.errstate(over="ignore"):
            return (c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64)).astype(c.dtype), np.zeros(c.shape)
    wide = [x.astype(np.float64) for x in (a, b, c)]
    size = np.abs(wide[2]) + np.abs(wide[0]) @ np.abs(wide[1])
    return wide[2] + wide[0] @ wide[1], (a.shape[1] + 2) * size * np.finfo(c.dtype).eps + a.shape[1] * 2.0**-125


@each_row
def test_the_interpreter_does_what_the_row_means(row: Row) -> None:
    rng = np.random.default_rng(3)
    for m, n, k in ((1, 1, 1), (3, row.lanes + 3, 7)):
        for start in (False, True):
            a, b, c = operands(row, m, n, k, rng)
            want = meant(row, a, b, c if start else np.zeros_like(c))
            kernel = gemm(row, m, n, k, start)
            text = print_text(kernel)
            assert print_text(parse_kernel(text)) == text
            wide, off = independent(a, b, c if start else np.zeros_like(c))
            assert (np.abs(want - wide) <= off).all() if off.any() else np.array_equal(want, wide)
            got, = run_kernel(parse_kernel(text), [a.ravel(), pack(row, b), c.ravel()])
            np.testing.assert_array_equal(got.reshape(m, n), want)




@each_row
def test_machine_code_does_what_the_row_means_to_the_bit(row: Row) -> None:
    cpu = cpu_for(row)
    if cpu is None:
        pytest.skip(f"this machine has not {', '.join(sorted(row.features))}")
    if row.tile and not permit_tiles():
        pytest.skip("Linux permits no tiles here")
    rng = np.random.default_rng(5)
    jobs, wanted = [], []
    for m, n, k in shapes(row):
        for start in (False, True):
            a, b, c = operands(row, m, n, k, rng)
            jobs.append((gemm(row, m, n, k, start), [a.ravel(), pack(row, b), c.ravel()]))
            wanted.append(meant(row, a, b, c if start else np.zeros_like(c)))
    for got, want in zip(run(jobs, cpu), wanted, strict=True):
        np.testing.assert_array_equal(got.reshape(want.shape).view(np.uint8), want.view(np.uint8))


WAYS = {"in blocks of k": {"blocks": 2}, "drained": {"drained": True}, "both": {"blocks": 2, "drained": True, "start": True},
        "in turns": {"turns": (3, 2)}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["vfmaddps.256", "vpmaddwd.256", "vpdpbusd.512", "vdpbf16ps.512", "tdpbssd", "tdpbf16ps"])
def test_every_way_of_the_register_block_takes_every_kind_of_row(name: str, way: str) -> None:
    row, rng = BY_NAME[name], np.random.default_rng(8)
    if row.tile and "turns" in WAYS[way]:
        pytest.skip("tiles take no turns")
    m, n, k = (5, row.lanes + 3, 128 if row.tile else 8 * row.depth)
    a, b, c = operands(row, m, n, k, rng)
    kernel = gemm(row, m, n, k, **WAYS[way])
    want = meant(row, a, b, c if WAYS[way].get("start") else np.zeros_like(c))
    given = [a.ravel(), pack(row, b), c.ravel()]
    here = cpu_for(row)
    found = [run_kernel(kernel, given)[0]]
    if here is not None and not (row.tile and not permit_tiles()):
        found.append(run([(kernel, given)], here)[0])
    for got in found:
        if "turns" in WAYS[way] and not row.exact:  # in another order
            wide, off = independent(a, b, np.zeros_like(c))
            assert (np.abs(got.reshape(m, n) - wide) <= off).all()
        else:
            np.testing.assert_array_equal(got.reshape(m, n), want)


def _to_f32(x: Fraction, flush: bool) -> float:
    """The exact value rounded to f32, to nearest even; without denormals where `flush`. Written from IEEE 754, with integers."""
    if x == 0:
        return 0.0
    exponent = max(abs(x.numerator).bit_length() - x.denominator.bit_length() - 25, -400)
    quantum = Fraction(2) ** exponent
    while abs(x) >= quantum * 2**24:
        quantum *= 2
    if flush and abs(round(x / quantum)) * quantum < Fraction(2) ** -126:
        return 0.0 if x > 0 else -0.0
    quantum = max(quantum, Fraction(2) ** -149)
    return float(round(x / quantum) * quantum)  # Python rounds halves to even


@pytest.mark.parametrize("flush", [False, True])
def test_a_fused_multiply_add_is_rounded_once(flush: bool) -> None:
    rng = np.random.default_rng(11)
    a, b = ((rng.standard_normal(4000) * 2.0 ** rng.integers(-70, -55, 4000)).astype(np.float32) for _ in range(2))
    c = (rng.standard_normal(4000) * 2.0 ** rng.integers(-127, -110, 4000)).astype(np.float32)
    a[:2000:2] *= np.float32(2.0**60)  # and far from the denormals
    c[::5] = -(a * b)[::5]
    if flush:
        c[np.abs(c) < 2.0**-126] = 0
    got = (flushed_fma if flush else fma)(a, b, c)
    want = [_to_f32(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), flush) for x, y, z in zip(a, b, c)]
    np.testing.assert_array_equal(got, np.array(want, np.float32))
    near = np.float32(2.0**-126)
    edge = np.array([1 - 2.0**-25, 1 - 2.0**-24, 1 - 2.0**-26, 1], np.float64)  # which of them are tiny once rounded to 24 bits
    if flush:
        x = edge.astype(np.float32)
        np.testing.assert_array_equal(flushed_fma(x, np.full(4, near), np.zeros(4, np.float32)) > 0, x >= 1)


def test_pairs_of_bf16_are_added_one_after_the_other_without_denormals() -> None:
    bf16 = ml_dtypes.bfloat16
    big, small = np.float32(2.0**24), np.float32(1)
    pair = lambda *x: np.array([x], np.float32).astype(bf16)
    assert bf16_pairs(np.array([big]), pair(1, 1), pair(1, 1)) == big  # 2^24 + 1 is 2^24, twice; at once it were 2^24 + 2
    assert bf16_pairs(np.array([-big]), pair(1, big), pair(1, 1)) == small  # the second of the pair first
    assert bf16_pairs(np.zeros(1, np.float32), pair(2.0**-130, 0), pair(2.0**20, 0)) == 0  # a denormal operand is 0
    assert bf16_pairs(np.full(1, 2.0**-140, np.float32), pair(0, 0), pair(0, 0)) == 0  # so is an accumulator
    assert bf16_pairs(np.zeros(1, np.float32), pair(2.0**-70, 0), pair(2.0**-60, 0)) == 0  # and a result


def test_rows_of_a_packed_operand() -> None:
    b = np.arange(24).reshape(8, 3)
    packed = b.reshape(2, 4, 3).transpose(0, 2, 1).reshape(2, 12)
    np.testing.assert_array_equal(rows_of(packed, 8), b)


def test_vnni_and_tiles_wrap_where_others_saturate() -> None:
    for name in ("vpdpbusd.512", "vpdpwssd.512", "vpmaddwd.512", "tdpbusd"):
        row = BY_NAME[name]
        low, high = np.iinfo(row.a.numpy).max, np.iinfo(row.b.numpy).max
        a, b = (np.full(s, v, d.numpy) for s, v, d in (((1, 4), low, row.a), ((4, 1), high, row.b)))
        c = np.full((1, 1), np.iinfo(np.int32).max, np.int32)
        assert meant(row, a, b, c)[0, 0] == np.array(2**31 - 1 + 4 * int(low) * int(high)).astype(np.int32)
    least = np.full((1, 2), -32768, np.int16)
    assert meant(BY_NAME["vpmaddwd.256"], least, least.T, np.zeros((1, 1), np.int32))[0, 0] == -2**31


# Choosing -----------------------------------------------------------------------------------------
def test_rows_come_best_first() -> None:
    names = lambda cpu, *of: [r.name for r in rows(machine(cpu), *of)]
    assert names("sapphirerapids", "u8", "i8")[0] == "tdpbusd" and names("sapphirerapids", "i8")[0] == "tdpbssd"
    assert names("sapphirerapids", "bf16")[0] == "tdpbf16ps"
    assert names("znver4", "u8", "i8")[0] == "vpdpbusd.512" and names("znver4", "i8", "u8") == names("znver4", "u8", "i8")
    assert names("alderlake", "u8", "i8") == ["vpdpbusd.256.vex"]
    assert names("haswell", "i16")[0] == "vpmaddwd.256" and names("cascadelake", "i16")[0] == "vpdpwssd.512"
    assert names("sapphirerapids", "i8", "u8")[0] == "tdpbsud" and "tdpbusd" not in names("sapphirerapids", "i8", "u8")
    assert names("haswell", "bf16") == names("haswell", "u8", "i8") == []
    assert all(r.features <= machine("znver5").features for r in rows(machine("znver5"), "f32"))
    assert family(machine("znver5")) == "zen5" and family(machine("broadwell")) == "haswell"


@pytest.mark.parametrize("cpu", ["haswell", "skylake-avx512", "cascadelake", "icelake-client", "alderlake", "sapphirerapids",
                                 "znver3", "znver4", "znver5"])
def test_the_table_starts_as_many_multiply_adds_a_cycle_as_the_target_says(cpu: str) -> None:
    row = multiply_add(machine(cpu), dtype("f32"), machine(cpu).lanes)
    assert 1 / row.on(machine(cpu))[0] == machine(cpu).fma and row.registers == machine(cpu).registers


@pytest.mark.parametrize("cpu,f32,f64", [
    ("x86-64", "mulps+addps", "mulpd+addpd"), ("haswell", "vfmaddps.256", "vfmaddpd.256"),
    ("bdver1", "vfmaddps.fma4", "vfmaddpd.fma4"), ("znver5", "vfmaddps.512", "vfmaddpd.512")])
def test_the_register_block_of_floats_takes_the_row_of_depth_one(cpu: str, f32: str, f64: str) -> None:
    graph = Graph()
    b = Builder(graph)
    for d, name in (("f32", f32), ("f64", f64)):
        row = multiply_add(machine(cpu), dtype(d), machine(cpu).lanes // (1 if d == "f32" else 2))
        assert row.name == name
        y = b.matmul(graph.add_input(tensor(d, 40, 40), f"x{d}"), graph.add_input(tensor(d, 40, 64), f"w{d}"))
        graph.outputs = [*graph.outputs, y]
    asm = graphopt.compile(graph, target=f"x86:{cpu}", threads=1).source("asm")
    for name in (f32, f64):
        assert all(re.search(rf"\b{m}\b", asm) for m in BY_NAME[name].mnemonics)


def test_there_is_no_row_for_what_no_instruction_multiplies() -> None:
    with pytest.raises(CodegenError, match="multiplies f16 and adds"):
        multiply_add(machine("znver4"), dtype("f16"), 16)


# Refusals -----------------------------------------------------------------------------------------
def test_code_for_a_machine_without_the_instruction_is_refused() -> None:
    with pytest.raises(CodegenError, match="need avx512vnni, and x86:haswell has not"):
        kernel_texts(gemm(BY_NAME["vpdpbusd.512"], 2, 20, 8), machine("haswell"))
    with pytest.raises(CodegenError, match="need amx-int8, amx-tile"):
        kernel_texts(gemm(BY_NAME["tdpbusd"], 2, 20, 8), machine("znver5"))


def test_operands_that_do_not_lie_as_the_instruction_takes_them_are_refused() -> None:
    row = BY_NAME["vpdpbusd.512"]
    a, b, acc = Buffer("a", "u8", (64,)), Buffer("b", "i8", (256,)), Buffer("acc", "i32", (16,))
    lane = Var("l", INDEX, 0, 15)
    cases = {"strided": lambda k, l: b[k * 2 + l * 8], "by row": lambda k, l: b[k * 16 + l],
             "computed": lambda k, l: b[l * 4 + k] + b[0], "modulo": lambda k, l: b[(l * 4 + k) % 7]}
    for right in cases.values():
        kernel = Kernel("k", (a, b, acc), dot(acc[lane], lambda k: a[k], right, lane, 16, row), 2, 1)
        with pytest.raises(CodegenError, match=r"vpdpbusd.512 takes"):
            kernel_texts(kernel, machine("znver4"))
    whole = Kernel("k", (a, b, acc), dot(acc[lane], lambda k: a[k], lambda k, l: b[l * 4 + k], lane, 16, row), 2, 1)
    assert "vpdpbusd" in kernel_texts(whole, machine("znver4"))[1]
    half = Kernel("k", (a, b, acc), dot(acc[lane], lambda k: a[k], lambda k, l: b[l * 4 + k], lane, 8, row), 2, 1)
    with pytest.raises(CodegenError, match="16 lanes, not 8"):
        kernel_texts(half, machine("znver4"))


def test_either_operand_may_be_what_the_lanes_have_in_common() -> None:
    row = BY_NAME["vpdpbusd.256"]
    w, x, out = Buffer("w", "i8", (4,)), Buffer("x", "u8", (32,)), Buffer("out", "i32", (8,))
    lane = Var("l", INDEX, 0, 7)
    zero = For(lane, const(8, INDEX), store(out, lane, const(0, "i32")), Scope.VECTOR)
    kernel = Kernel("k", (w, x, out), seq(zero, dot(out[lane], lambda k: w[k], lambda k, l: x[l * 4 + k], lane, 8, row)), 2, 1)
    verify(kernel)
    rng = np.random.default_rng(1)
    given = [rng.integers(-128, 128, 4).astype(np.int8), rng.integers(0, 256, 32).astype(np.uint8)]
    want = given[1].reshape(8, 4).astype(int) @ given[0].astype(int)
    np.testing.assert_array_equal(run_kernel(kernel, given)[0], want)
    assert "vpdpbusd" in kernel_texts(kernel, machine("cascadelake"))[1]
    if (here := cpu_for(row)) is not None:
        np.testing.assert_array_equal(run([(kernel, given)], here)[0], want)


def test_tiles_of_the_wrong_shape_are_refused() -> None:
    row = BY_NAME["tdpbusd"]
    memory = Buffer("m", "u8", (4096,))
    acc, a, b = Buffer("c", "i32", (16, 16), Space.TILE), Buffer("a", "u8", (16, 64), Space.TILE), \
        Buffer("b", "i8", (16, 64), Space.TILE)
    long, flat = Buffer("long", "u8", (17, 64), Space.TILE), Buffer("flat", "i8", (8, 64), Space.TILE)
    zero = const(0, INDEX)
    for body, message in ((Tiles((acc, a, flat), TileDot(acc, a, flat, row)), "tdpbusd of"),
                          (Tiles((long,), TileZero(long)), "a tile of 17 rows"),
                          (Tiles((acc,), TileZero(a)), "is no tile here"),
                          (Tiles((acc,), Tiles((a,), TileZero(a))), "tiles within tiles"),
                          (Tiles((acc,), TileLoad(acc, memory, zero, const(64, INDEX))), "of m: u8"),
                          (Tiles((acc,) * 9, TileZero(acc)), "9 tiles")):
        kernel = Kernel("k", (memory,), body, 1, 0)
        with pytest.raises(CodegenError, match=message):
            kernel_texts(kernel, machine("sapphirerapids"))
        if not message.startswith(("a tile of", "9 tiles")):  # which another machine may have
            with pytest.raises(CodegenError):
                verify(kernel)
    good = Tiles((acc, a, b), seq(TileZero(acc), TileDot(acc, a, b, row)))
    assert sum(isinstance(s, TileDot) for s in statements(good)) == 1
    kernel = Kernel("k", (memory,), good, 1, 0)
    assert "tdpbusd" in kernel_texts(kernel, machine("sapphirerapids"))[1] and verify(kernel)
    many = For(Var("i", INDEX, 0, 3), const(4, INDEX), TileZero(acc), Scope.PARALLEL)
    with pytest.raises(CodegenError, match="run at once within tiles"):
        verify(Kernel("k", (memory,), Tiles((acc,), many), 1, 0))
    beyond = Tiles((a,), TileLoad(a, memory, const(4096 - 15 * 64 - 60, INDEX), const(64, INDEX)))
    with pytest.raises(CodegenError, match="leaves m"):
        verify(Kernel("k", (memory,), beyond, 1, 0))


def test_other_targets_print_what_has_a_plain_meaning_and_refuse_the_rest() -> None:
    assert "for (" in print_kernel(gemm(BY_NAME["vpdpbusd.512"], 2, 20, 8))
    with pytest.raises(CodegenError, match=r"no other instructions round as vdpbf16ps.512 does"):
        print_kernel(gemm(BY_NAME["vdpbf16ps.512"], 2, 20, 8))
    assert "for (" in print_kernel(gemm(BY_NAME["tdpbusd"], 2, 20, 8))
    with pytest.raises(CodegenError, match=r"no C\+\+ rounds as tdpbf16ps does"):
        print_kernel(gemm(BY_NAME["tdpbf16ps"], 2, 20, 8))


def test_tiles_of_two_kernels_come_into_one_program_and_run_on_the_pool() -> None:
    """The functions of tile instructions are imported once a kernel; objects of several kernels are linked."""
    row = BY_NAME["tdpbusd"]
    cpu = cpu_for(row)
    if cpu is None or not permit_tiles():
        pytest.skip("no tiles here")
    rng = np.random.default_rng(2)
    jobs, wanted = [], []
    for m, n, k in ((33, 50, 100), (4, 16, 64), (33, 50, 100)):
        a, b, c = operands(row, m, n, k, rng)
        jobs.append((gemm(row, m, n, k), [a.ravel(), pack(row, b), c.ravel()]))
        wanted.append(meant(row, a, b, np.zeros_like(c)))
    for got, want in zip(run(jobs, cpu, in_memory=False), wanted, strict=True):
        np.testing.assert_array_equal(got.reshape(want.shape), want)
