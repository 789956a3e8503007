"""Emitted CUDA on the host's compiler: a header that runs blocks and threads one after the other."""

from __future__ import annotations

HEADER = """\
// Runs CUDA kernels on the host, one thread after the other: enough for kernels whose threads do not talk to each other.
// GRAPHOPT_REVERSE runs them backwards, so that a kernel whose result depends on the order is found out.
#pragma once
#include <cmath>
#include <cstdint>
#include <utility>
using std::abs;
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
struct dim3 { unsigned x, y, z; dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {} };
typedef void* cudaStream_t;
static inline int cudaGetLastError() { return 0; }
static thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

template <class F> static void go_emulate(dim3 grid, dim3 block, F kernel) {
  gridDim = grid;
  blockDim = block;
  const unsigned long long threads = (unsigned long long)block.x * block.y * block.z;
  const unsigned long long all = (unsigned long long)grid.x * grid.y * grid.z * threads;
  for (unsigned long long k = 0; k < all; ++k) {
#if defined(GRAPHOPT_REVERSE)
    const unsigned long long id = all - 1 - k;
#else
    const unsigned long long id = k;
#endif
    const unsigned long long b = id / threads, t = id % threads;
    blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
    threadIdx = dim3(t % block.x, t / block.x % block.y, t / block.x / block.y);
    kernel();
  }
}
#define GO_LAUNCH(kernel, blocks, threads, stream, ...) go_emulate(blocks, threads, [&] { kernel(__VA_ARGS__); })
"""

__all__ = ["HEADER"]
