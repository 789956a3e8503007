"""The files around a design: self-checking test bench, Vitis configuration, Tcl script, Makefile."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.codegen.c.emit import BITS, STORED
from graphopt.ir.types import TensorType
from graphopt.targets.fpga import Fpga

Port = tuple[str, int, TensorType]
PER_LINE = 12


def count(t: TensorType) -> int:
    return math.prod(t.static_shape)


def initialiser(array: np.ndarray) -> str:
    """The elements, row-major, as a C initialiser of their stored type."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.itemsize == 2 and flat.dtype.kind not in "iu":
        flat = flat.view(np.uint16)
    texts = [_literal(v) for v in flat] or ["0"]
    lines = [", ".join(texts[k:k + PER_LINE]) for k in range(0, len(texts), PER_LINE)]
    return "{" + lines[0] + "}" if len(lines) == 1 else "{\n  " + ",\n  ".join(lines) + "}"


def _literal(v: np.generic) -> str:
    if v.dtype.kind == "b":
        return str(int(v))
    if v.dtype.kind in "iu":
        if v == np.iinfo(np.int64).min:
            return "(-9223372036854775807LL - 1)"
        return f"{v}{'LL' if v.dtype == np.int64 else 'ULL' if v.dtype == np.uint64 else ''}"
    if np.isnan(v):
        return "NAN"
    if np.isinf(v):
        return "-INFINITY" if np.signbit(v) else "INFINITY"
    text = str(v) if any(c in str(v) for c in ".e") else f"{v}.0"
    return f"{text}f" if v.dtype == np.float32 else text


def test_bench(top: str, ports: Sequence[Port], samples: Sequence[Sequence[np.ndarray]], expected: Sequence[Sequence[np.ndarray]],
               rtol: float, atol: float) -> dict[str, str]:
    """testbench.cpp and stimulus.h, which holds what goes in and what the reference evaluator says comes out."""
    data = ["#pragma once", "#include <cmath>", "#include <cstdint>", f"static const int SAMPLES = {len(samples)};"]
    body: list[str] = []
    ins, outs = [p for p in ports if p[0] == "input"], [p for p in ports if p[0] == "output"]
    for values, group in ((samples, ins), (expected, outs)):
        for space, k, t in group:
            rows = ",\n".join(initialiser(np.asarray(v[k])) for v in values)
            size = max(count(t), 1)
            data.append(f"static const {STORED[t.dtype.name]} {space}{k}_data[][{size}] = {{\n{rows}\n}};")
    for space, k, t in outs:
        body.append(f"    static {STORED[t.dtype.name]} {space}{k}[{max(count(t), 1)}];")
    body.append(f"    {top}({', '.join([f'input{k}_data[s]' for _, k, _ in ins] + [f'output{k}' for _, k, _ in outs])});")
    for _, k, t in outs:
        real = f"go_from_{t.dtype.name}" if t.dtype.name in BITS else "(double)"
        body.append(f"    for (int i = 0; i < {count(t)}; ++i)\n"
                    f"      check({k}, s, i, {real}(output{k}[i]), {real}(output{k}_data[s][i]));")
    bench = f"""\
// Runs the design on the samples of stimulus.h and compares with the reference evaluator's results. Exits with 1 where an
// element is further off than {atol:g} + {rtol:g} * |expected|.
#include "top.h"
#include "stimulus.h"
#include <cstdio>

static int failures = 0;
static double worst = 0;

static void check(int output, int sample, int index, double got, double want) {{
  if (got == want || (got != got && want != want)) return;
  const double error = std::fabs(got - want);
  if (error > worst) worst = error;
  if (error <= {atol!r} + {rtol!r} * std::fabs(want)) return;
  if (failures++ < 10)
    std::printf("output %d, sample %d, element %d: got %.9g, expected %.9g\\n", output, sample, index, got, want);
}}

int main() {{
  for (int s = 0; s < SAMPLES; ++s) {{
{chr(10).join(body)}
  }}
  std::printf("%s: %d samples, %d wrong elements, largest error %g\\n", failures ? "FAIL" : "PASS", SAMPLES, failures, worst);
  return failures ? 1 : 0;
}}
"""
    return {"testbench.cpp": bench, "stimulus.h": "\n".join(data) + "\n"}


def config(top: str, target: Fpga) -> str:
    """For Vitis 2023.2 and later: `v++ -c --mode hls --config hls_config.cfg --work_dir build`."""
    return f"""\
part={target.part}

[hls]
flow_target=vivado
package.output.format=ip_catalog
package.output.syn=false
syn.top={top}
syn.file=top.cpp
tb.file=testbench.cpp
clock={target.clock_ns}ns
csim.code_analyzer=0
"""


def tcl(top: str, target: Fpga) -> str:
    """For vitis_hls -f build.tcl, and later versions' vitis-run --mode hls --tcl build.tcl."""
    return f"""\
# C simulation, synthesis and export. Co-simulation takes longer: COSIM=1 in the environment asks for it.
open_project -reset build
set_top {top}
add_files top.cpp
add_files -tb testbench.cpp
open_solution -reset solution -flow_target vivado
set_part {{{target.part}}}
create_clock -period {target.clock_ns}
csim_design
csynth_design
if {{[info exists ::env(COSIM)]}} {{ cosim_design }}
export_design -format ip_catalog
exit
"""


def makefile() -> str:
    return """\
# Builds and runs the test bench with the host's compiler. AP_TYPES: the folder of ap_fixed.h, where the design uses it.
CXX ?= g++
AP_TYPES ?= .

test: testbench
\t./testbench

testbench: testbench.cpp top.cpp top.h graphopt.h weights.h stimulus.h
\t$(CXX) -std=c++17 -O1 -Wno-unknown-pragmas -isystem $(AP_TYPES) testbench.cpp top.cpp -o $@

clean:
\trm -f testbench

.PHONY: test clean
"""


__all__ = ["config", "count", "initialiser", "makefile", "tcl", "test_bench"]
