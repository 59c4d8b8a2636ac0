// Partial results that merge, and their reduction over a block in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include "shared_memory.cuh"
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
  __device__ Moments from_warp_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, count, offset), __shfl_xor_sync(0xffffffffu, mean, offset),
            __shfl_xor_sync(0xffffffffu, m2, offset)};
  }
};

// Two sums: of gz and of gz * (x - mean).
template <typename C>
struct alignas(2 * sizeof(C)) GradSums {
  C gz, gzx;

  __device__ void merge(const GradSums& other) {
    gz += other.gz;
    gzx += other.gzx;
  }
  __device__ GradSums from_warp_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, gz, offset), __shfl_xor_sync(0xffffffffu, gzx, offset)};
  }
};

// Two sums: of d = x - shift and of d^2.
template <typename C>
struct ShiftedSums {
  C d, square;

  __device__ void merge(const ShiftedSums& other) {
    d += other.d;
    square += other.square;
  }
  __device__ ShiftedSums from_warp_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, d, offset), __shfl_xor_sync(0xffffffffu, square, offset)};
  }
};

template <typename C>
struct Sum {
  C value;

  __device__ void merge(const Sum& other) { value += other.value; }
  __device__ Sum from_warp_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, value, offset)};
  }
};

constexpr int kMaxThreads = 256;
constexpr int kMaxWarps = kMaxThreads / 32;
constexpr int kMinBlocks =
    2;  // resident on a multiprocessor: 128 registers a thread, which no kernel spills

constexpr int kMaxColumns = 8;  // of group_merge and cluster_merge

// Merges `mine` [kStats] over the threads whose index is the same modulo `columns` (a power of two
// <= 32): within a warp by shuffles, then over the warps through shared memory. Valid on return in
// threads 0 .. columns - 1 only.
template <int kStats, typename Partial>
__device__ void block_reduce(Partial (&mine)[kStats], int columns) {
  CYCLEGAN_FAST_SHARED(Partial, shared, kMaxWarps * 32 * kStats);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, warps = blockDim.x / 32;
  for (int offset = 16; offset >= columns; offset /= 2) {
#pragma unroll
    for (int k = 0; k < kStats; ++k) mine[k].merge(mine[k].from_warp_lane(offset));
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

// The sum of `value` over the block's threads whose index is the same modulo `columns` (a power of
// two <= blockDim), in all of them: within a warp by shuffles, then each thread over the warps.
template <typename C>
__device__ C column_sum(C value, int columns) {
  CYCLEGAN_FAST_SHARED(C, shared, kMaxThreads);
  for (int offset = 16; offset >= columns; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  shared[threadIdx.x] = value;
  __syncthreads();
  const int step = columns > 32 ? columns : 32;
  C total = 0;
  for (int i = static_cast<int>(threadIdx.x) % columns; i < static_cast<int>(blockDim.x); i += step)
    total += shared[i];
  __syncthreads();  // before the next call writes
  return total;
}

// Merges `mine` [kStats] over the threads of a group (32, 64, ... neighbours, which divide the
// block) whose index is the same modulo `columns` (a power of two <= kMaxColumns). Valid in all of
// them.
template <int kStats, typename Partial>
__device__ void group_merge(Partial (&mine)[kStats], int columns, int group) {
  CYCLEGAN_FAST_SHARED(Partial, shared, kMaxWarps * kStats * kMaxColumns);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  for (int offset = 16; offset >= columns; offset /= 2) {
#pragma unroll
    for (int k = 0; k < kStats; ++k) mine[k].merge(mine[k].from_warp_lane(offset));
  }
  if (group == 32) return;
  if (lane < columns) {
#pragma unroll
    for (int k = 0; k < kStats; ++k) shared[(warp * kStats + k) * kMaxColumns + lane] = mine[k];
  }
  __syncthreads();
  // The warps' results, merged by a thread each into those of the group's first warp.
  Partial* first = shared + thread / group * (group / 32) * kStats * kMaxColumns;
  for (int i = thread % group; i < kStats * columns; i += group) {
    Partial* total = first + i / columns * kMaxColumns + i % columns;
    for (int other = 1; other < group / 32; ++other)
      total->merge(total[other * kStats * kMaxColumns]);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kStats; ++k) mine[k] = first[k * kMaxColumns + lane % columns];
  __syncthreads();  // before the next call writes
}

// Merges the blocks' results, which all of a column's threads hold in `mine` [kStats], over the
// cluster, in the order of the blocks. Valid in all threads.
template <int kStats, typename Partial>
__device__ void cluster_merge(Partial (&mine)[kStats], int columns) {
  CYCLEGAN_FAST_SHARED(Partial, shared, kMaxCluster * kStats * kMaxColumns);
  const int blocks = cluster_size(), thread = threadIdx.x;
  if (blocks == 1) return;
  cluster_sync();  // a block's memory is there once the block runs
  for (int rank = thread / columns; rank < blocks; rank += blockDim.x / columns) {
    Partial* target = shared_of(rank, shared) + cluster_rank() * kStats * kMaxColumns;
#pragma unroll
    for (int k = 0; k < kStats; ++k) target[k * kMaxColumns + thread % columns] = mine[k];
  }
  cluster_sync();
  for (int i = thread; i < kStats * columns; i += blockDim.x) {
    Partial* total = shared + i / columns * kMaxColumns + i % columns;
    for (int rank = 1; rank < blocks; ++rank) total->merge(total[rank * kStats * kMaxColumns]);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kStats; ++k) mine[k] = shared[k * kMaxColumns + thread % columns];
}

}  // namespace cyclegan_fast
