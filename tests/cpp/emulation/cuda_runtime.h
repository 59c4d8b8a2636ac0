// Stands in for the CUDA toolkit's header, so that g++ compiles the .cu files unchanged and runs
// them on the CPU.
//
// Clusters of blocks run one after another. The threads of a cluster are fibers: each runs until it
// ends or meets a shuffle, __syncthreads or a cluster's barrier, and goes on once all of its warp,
// block or cluster are there. Four schedules take turns, so that a missing barrier shows: threads
// run upwards or downwards, warps in step or each as far as it gets before the next one moves. A
// barrier that not all reach ends the program.
// Shared memory is a block's own, filled with NaN when the block begins and freed when it ends.
#pragma once

#include <math.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define CYCLEGAN_FAST_EMULATED

// Instead of `__shared__ Type name[count]`.
#define CYCLEGAN_FAST_SHARED(Type, name, count) \
  static const char name##_key = 0;             \
  Type* const name = static_cast<Type*>(emulation::shared(&name##_key, sizeof(Type) * (count)))

// Instead of `extern __shared__ unsigned char name[]`.
#define CYCLEGAN_FAST_DYNAMIC_SHARED(name) \
  static const char name##_key = 0;        \
  unsigned char* const name =              \
      static_cast<unsigned char*>(emulation::shared(&name##_key, emulation::dynamic_shared))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x) : x(x) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    dim3 clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum class State { kReady, kAtShuffle, kAtBarrier, kAtClusterBarrier, kDone };

// A copy that runs beside its thread: as late as it may, so that a missing wait shows.
struct Copy {
  void* target;
  const void* source;
  size_t bytes, zeros;
  int group;
};

struct Fiber {
  static constexpr size_t kStack = 48 * 1024;
  std::unique_ptr<char[]> stack{new char[kStack]};
  ucontext_t context;
  State state = State::kReady;
  unsigned char shuffled[2][24] = {};  // two, because a fast thread may be one shuffle ahead
  int shuffles = 0;
  std::vector<Copy> copies;
  int groups = 0;  // of copies that have ended
  void* fake_stack = nullptr;
};

// What has been launched: tests compare it with the plan.
struct Launch {
  unsigned grid, block;
  int cluster;
  size_t shared_memory;
};
inline std::vector<Launch> launches;

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline const std::function<void()>* body;
inline unsigned first_block;             // of the running cluster
inline int current, cluster_blocks = 1;  // the running fiber; blocks of a cluster
inline size_t dynamic_shared;
inline std::map<const void*, size_t> allowed_shared;  // of a kernel, above the usual 48 KiB
#if defined(__SANITIZE_ADDRESS__)
inline const void* scheduler_stack;
inline size_t scheduler_stack_size;
#endif

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s (block %u of %u threads)\n", what, blockIdx.x, blockDim.x);
  std::abort();
}

inline void leave_fiber(State state) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(state == State::kDone ? nullptr : &fiber.fake_stack,
                                 scheduler_stack, scheduler_stack_size);
#endif
  swapcontext(&fiber.context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

// ---- Shared memory: [block of the cluster][array] ----
using Arrays = std::map<const char*, std::vector<unsigned char>>;
inline std::vector<Arrays> memory;

inline int rank() { return current / static_cast<int>(blockDim.x); }

inline std::vector<unsigned char>& array_of(int block, const char* key, size_t bytes) {
  auto& array = memory[static_cast<size_t>(block)][key];
  if (array.empty()) array.assign(bytes, 0xff);
  return array;
}
inline void* shared(const char* key, size_t bytes) { return array_of(rank(), key, bytes).data(); }

// The same address in another block's memory.
inline void* shared_of(const void* p, int block) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  for (auto& [key, mine] : memory[static_cast<size_t>(rank())]) {
    const auto begin = reinterpret_cast<uintptr_t>(mine.data());
    if (address < begin || address >= begin + mine.size()) continue;
    if (block < 0 || block >= cluster_blocks) fail("no such block in the cluster");
    const int first = block * static_cast<int>(blockDim.x);
    bool alive = false;
    for (unsigned i = 0; i < blockDim.x; ++i)
      alive |= fibers[static_cast<size_t>(first) + i].state != State::kDone;
    if (!alive) fail("a block's memory is used after its end");
    return array_of(block, key, mine.size()).data() + (address - begin);
  }
  fail("a pointer into another block's memory must start from shared memory");
}

inline void enter_fiber(int index) {
  current = index;
  const int threads = static_cast<int>(blockDim.x);
  threadIdx.x = static_cast<unsigned>(index % threads);
  blockIdx.x = first_block + static_cast<unsigned>(index / threads);
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fibers[index].stack.get(), Fiber::kStack);
#endif
  swapcontext(&scheduler, &fibers[index].context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  // The sanitizer wipes its notes on this stack at each switch to it: once, as it starts, is
  // enough, and the other times cost more than the kernel.
  fibers[index].context.uc_stack.ss_size = 0;
#endif
}

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  (*body)();
  leave_fiber(State::kDone);
}

inline void start_fiber(Fiber& fiber) {
  fiber.state = State::kReady;
  fiber.shuffles = fiber.groups = 0;
  fiber.copies.clear();
  fiber.fake_stack = nullptr;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = Fiber::kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
}

// Lets fibers [begin, end) go on if all of them wait in `state`. Returns whether they did.
inline bool release(int begin, int end, State state) {
  for (int i = begin; i < end; ++i) {
    if (fibers[i].state != state) return false;
  }
  for (int i = begin; i < end; ++i) fibers[i].state = State::kReady;
  return true;
}

// Runs the fibers [begin, end) that are ready, upwards or downwards.
inline void run_ready(int begin, int end, bool up) {
  for (int k = begin; k < end; ++k) {
    const int i = up ? k : begin + end - 1 - k;
    if (fibers[static_cast<size_t>(i)].state == State::kReady) enter_fiber(i);
  }
}

inline void run_cluster(int threads) {
  static unsigned runs = 0;
  const bool up = runs % 2 == 0, greedy = runs / 2 % 2 == 0;
  ++runs;
  const int total = cluster_blocks * threads, warps = total / 32;
  memory.assign(static_cast<size_t>(cluster_blocks), {});
  for (int i = 0; i < total; ++i) start_fiber(fibers[static_cast<size_t>(i)]);
  for (bool alive = true; alive;) {
    bool moved = false;
    for (int k = 0; k < warps; ++k) {
      const int warp = 32 * (up ? k : warps - 1 - k);
      bool further = true;
      while (further) {
        run_ready(warp, warp + 32, up);
        const bool shuffled = release(warp, warp + 32, State::kAtShuffle);
        moved |= shuffled;
        further = shuffled && greedy;
      }
    }
    for (int block = 0; block < total; block += threads)
      moved |= release(block, block + threads, State::kAtBarrier);
    moved |= release(0, total, State::kAtClusterBarrier);
    alive = false;
    for (int i = 0; i < total; ++i) alive |= fibers[static_cast<size_t>(i)].state != State::kDone;
    if (alive && !moved)
      fail("some threads wait at a barrier or a shuffle that others never reach");
  }
}

inline void run_grid(const cudaLaunchConfig_t& config, const void* function,
                     const std::function<void()>& kernel) {
  if (config.dynamicSmemBytes > std::max(allowed_shared[function], size_t{48} * 1024))
    fail("more shared memory than the kernel may have");
  dynamic_shared = config.dynamicSmemBytes;
  const int threads = static_cast<int>(config.blockDim.x);
  if (threads % 32 != 0 || threads < 32) fail("a block must have whole warps");
  cluster_blocks = config.numAttrs > 0 ? static_cast<int>(config.attrs[0].val.clusterDim.x) : 1;
  if (cluster_blocks < 1 || cluster_blocks > 8) fail("a cluster has 1 to 8 blocks");
  if (config.gridDim.x % static_cast<unsigned>(cluster_blocks) != 0)
    fail("the grid is not a multiple of the cluster");
  launches.push_back(
      {config.gridDim.x, config.blockDim.x, cluster_blocks, config.dynamicSmemBytes});
  const auto needed = static_cast<size_t>(threads * cluster_blocks);
  if (fibers.size() < needed) fibers = std::vector<Fiber>(needed);
  body = &kernel;
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  for (first_block = 0; first_block < gridDim.x;
       first_block += static_cast<unsigned>(cluster_blocks))
    run_cluster(threads);
}

}  // namespace emulation

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  if (config->blockDim.x > 1024) return cudaErrorInvalidValue;  // as an H200 does
  emulation::run_grid(*config, reinterpret_cast<const void*>(kernel),
                      [&] { kernel(Params(args)...); });
  return cudaSuccess;
}

template <typename... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute, int bytes) {
  if (bytes > 99 * 1024) return cudaErrorInvalidValue;  // what every device since sm_80 allows
  emulation::allowed_shared[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "another";
}
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }

inline unsigned __clusterSizeInBlocks() { return static_cast<unsigned>(emulation::cluster_blocks); }
inline unsigned __clusterRelativeBlockRank() { return static_cast<unsigned>(emulation::rank()); }
inline void __cluster_barrier_arrive() {}
inline void __cluster_barrier_wait() {
  emulation::leave_fiber(emulation::State::kAtClusterBarrier);
}
inline void* __cluster_map_shared_rank(const void* p, unsigned block) {
  return emulation::shared_of(p, static_cast<int>(block));
}

inline void __syncthreads() { emulation::leave_fiber(emulation::State::kAtBarrier); }

// Fibers take turns at barriers alone.
inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* p, unsigned value) {
  const unsigned before = *p;
  *p = before + value;
  return before;
}

namespace emulation {

// What the lanes of a warp show each other: each calls `show`, then reads what any lane has shown.
template <typename T>
int show(const T& value) {
  static_assert(sizeof(T) <= sizeof(Fiber::shuffled[0]));
  Fiber& mine = fibers[static_cast<size_t>(current)];
  const int slot = mine.shuffles++ % 2;
  std::memcpy(mine.shuffled[slot], &value, sizeof value);
  leave_fiber(State::kAtShuffle);
  return slot;
}
template <typename T>
T shown(int slot, int lane) {
  T value;
  const int first = current / 32 * 32;
  std::memcpy(&value, fibers[static_cast<size_t>(first + lane)].shuffled[slot], sizeof value);
  return value;
}

}  // namespace emulation

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
  if (mask != 0xffffffffu) emulation::fail("only whole warps may shuffle");
  const int slot = emulation::show(value);
  return emulation::shown<T>(slot, (emulation::current % 32) ^ offset);
}

#include "mma_emulation.h"
