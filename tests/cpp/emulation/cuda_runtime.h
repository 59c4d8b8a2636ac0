// Stands in for the CUDA toolkit's header, so that g++ compiles the .cu files unchanged and runs
// them on the CPU.
//
// Blocks run one after another. The threads of a block are fibers: each runs until it ends or meets
// __syncthreads or a shuffle, and goes on once all of its block, or of its warp, are there. Threads
// run in ascending order in even blocks and in descending order in odd ones, so that a missing
// barrier shows. A barrier that not all reach ends the program.
#pragma once

#include <math.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block at a time
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x) : x(x) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum class State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  static constexpr size_t kStack = 256 * 1024;
  std::unique_ptr<char[]> stack{new char[kStack]};
  ucontext_t context;
  State state = State::kReady;
  uint64_t shuffled[2] = {};  // two, because a fast lane may be one shuffle ahead
  int shuffles = 0;
  void* fake_stack = nullptr;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline const std::function<void()>* body;
inline int current;
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

inline void enter_fiber(int index) {
  current = index;
  threadIdx.x = static_cast<unsigned>(index);
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fibers[index].stack.get(), Fiber::kStack);
#endif
  swapcontext(&scheduler, &fibers[index].context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
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
  fiber.shuffles = 0;
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

inline void run_block(int threads) {
  for (int i = 0; i < threads; ++i) start_fiber(fibers[i]);
  for (bool alive = true; alive;) {
    for (int k = 0; k < threads; ++k) {
      const int i = blockIdx.x % 2 == 0 ? k : threads - 1 - k;
      if (fibers[i].state == State::kReady) enter_fiber(i);
    }
    bool moved = release(0, threads, State::kAtBarrier);
    for (int warp = 0; warp < threads; warp += 32)
      moved |= release(warp, warp + 32, State::kAtShuffle);
    alive = false;
    for (int i = 0; i < threads; ++i) alive |= fibers[i].state != State::kDone;
    if (alive && !moved)
      fail("some threads wait at a barrier or a shuffle that others never reach");
  }
}

inline void run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& kernel) {
  const int threads = static_cast<int>(config.blockDim.x);
  if (threads % 32 != 0 || threads < 32 || threads > 1024) fail("a block must have whole warps");
  if (fibers.size() < static_cast<size_t>(threads))
    fibers = std::vector<Fiber>(static_cast<size_t>(threads));
  body = &kernel;
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) run_block(threads);
}

}  // namespace emulation

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  emulation::run_grid(*config, [&] { kernel(Params(args)...); });
  return cudaSuccess;
}

inline void __syncthreads() { emulation::leave_fiber(emulation::State::kAtBarrier); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (mask != 0xffffffffu) emulation::fail("only whole warps may shuffle");
  emulation::Fiber& mine = emulation::fibers[emulation::current];
  const int slot = mine.shuffles++ % 2, partner = emulation::current ^ offset;
  std::memcpy(&mine.shuffled[slot], &value, sizeof value);
  emulation::leave_fiber(emulation::State::kAtShuffle);
  std::memcpy(&value, &emulation::fibers[partner].shuffled[slot], sizeof value);
  return value;
}
