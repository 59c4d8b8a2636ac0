// Shared memory. Blocks of a cluster (sm_90 and later) write into each other's; elsewhere a cluster
// is one block and its barrier does nothing.
#pragma once

#include <cuda_runtime.h>

#include "types.h"

namespace cyclegan_fast {

#ifndef CYCLEGAN_FAST_EMULATED
// An array in the block's shared memory.
#define CYCLEGAN_FAST_SHARED(Type, name, count) __shared__ Type name[count]
// What LaunchConfig::shared_memory allocates, 16-byte aligned.
#define CYCLEGAN_FAST_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

constexpr int kMaxCluster = 8;  // the largest that every device with clusters supports

#if defined(CYCLEGAN_FAST_EMULATED) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
__device__ inline int cluster_size() { return __clusterSizeInBlocks(); }
__device__ inline int cluster_rank() { return __clusterRelativeBlockRank(); }
__device__ inline void cluster_sync() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
// The address in block `rank` of what lies at `p` in this block's shared memory.
template <typename T>
__device__ T* shared_of(int rank, T* p) {
  return static_cast<T*>(__cluster_map_shared_rank(p, static_cast<unsigned>(rank)));
}
#else
__device__ inline int cluster_size() { return 1; }
__device__ inline int cluster_rank() { return 0; }
__device__ inline void cluster_sync() {}
template <typename T>
__device__ T* shared_of(int, T* p) {
  return p;
}
#endif

}  // namespace cyclegan_fast
