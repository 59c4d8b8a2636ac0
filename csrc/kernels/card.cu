// Asks the driver what the current device is, as seen by the machine code that it runs.
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>

#include "cuda/card.h"
#include "cuda/reduce.cuh"
#include "cuda/shared.cuh"

namespace cyclegan_fast {
namespace {

__global__ void probe_kernel() {}

// Nothing where the driver does not answer.
std::optional<Card> ask(int device) {
  Card card{1, 1};
  int major = 0;
  cudaFuncAttributes code = {};
  if (cudaDeviceGetAttribute(&card.multiprocessors, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaFuncGetAttributes(&code, probe_kernel) != cudaSuccess)
    return std::nullopt;
  // Code compiled for an older card has no cluster instructions, whatever the card could do.
  if (major < 9 || code.ptxVersion < 90) return card;
  cudaLaunchConfig_t config = {};
  config.gridDim = config.blockDim = dim3(kMaxThreads);
  if (cudaOccupancyMaxPotentialClusterSize(&card.max_cluster, probe_kernel, &config) != cudaSuccess)
    return std::nullopt;
  card.max_cluster = std::clamp(card.max_cluster, 1, kMaxCluster);
  return card;
}

}  // namespace

Card current_card() {
  constexpr int kMaxDevices = 64;
  static std::mutex mutex;
  static std::array<std::optional<Card>, kMaxDevices> cards;
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess && device >= 0 && device < kMaxDevices) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!cards[device]) cards[device] = ask(device);
    if (cards[device]) return *cards[device];
  }
  cudaGetLastError();  // the launch that follows must not find this failure
  return {1, 1};       // right on every card, if slow
}

}  // namespace cyclegan_fast
