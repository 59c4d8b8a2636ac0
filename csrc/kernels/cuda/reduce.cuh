// Partial results that merge, and their reduction over a block in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include "types.h"

namespace cyclegan_fast {

// Count, mean and sum of squared differences from the mean, merged as Chan does.
template <typename C>
struct Moments {
  C count, mean, m2;

  __device__ void merge(const Moments& other) {
    const C total = count + other.count;
    if (total == C(0)) return;
    const C delta = other.mean - mean, share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }
  __device__ Moments from_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, count, offset), __shfl_xor_sync(0xffffffffu, mean, offset),
            __shfl_xor_sync(0xffffffffu, m2, offset)};
  }
};

// Two sums: of gz and of gz * (x - mean).
template <typename C>
struct GradSums {
  C gz, gzx;

  __device__ void merge(const GradSums& other) {
    gz += other.gz;
    gzx += other.gzx;
  }
  __device__ GradSums from_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, gz, offset), __shfl_xor_sync(0xffffffffu, gzx, offset)};
  }
};

template <typename C>
struct Sum {
  C value;

  __device__ void merge(const Sum& other) { value += other.value; }
  __device__ Sum from_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, value, offset)};
  }
};

constexpr int kMaxThreads = 256;
constexpr int kMaxWarps = kMaxThreads / 32;
constexpr int kMinBlocks =
    2;  // resident on a multiprocessor: 128 registers a thread, which no kernel spills

// Merges `mine` [kStats] over the threads whose index is the same modulo `columns` (a power of two
// <= 32): within a warp by shuffles, then over the warps through shared memory. Valid on return in
// threads 0 .. columns - 1 only.
template <int kStats, typename Partial>
__device__ void block_reduce(Partial (&mine)[kStats], int columns) {
  __shared__ Partial shared[kMaxWarps * 32 * kStats];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, warps = blockDim.x / 32;
  for (int offset = 16; offset >= columns; offset /= 2) {
#pragma unroll
    for (int k = 0; k < kStats; ++k) mine[k].merge(mine[k].from_lane(offset));
  }
  if (lane < columns) {
#pragma unroll
    for (int k = 0; k < kStats; ++k) shared[(warp * kStats + k) * 32 + lane] = mine[k];
  }
  __syncthreads();
  if (thread >= columns) return;
  for (int other = 1; other < warps; ++other) {
#pragma unroll
    for (int k = 0; k < kStats; ++k) mine[k].merge(shared[(other * kStats + k) * 32 + thread]);
  }
}

}  // namespace cyclegan_fast
