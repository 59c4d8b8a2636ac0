// Asks the driver what the current device is, as seen by the machine code that it runs.
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <mutex>

#include "cuda/card.h"
#include "cuda/reduce.cuh"
#include "cuda/shared.cuh"

namespace cyclegan_fast {
namespace {

__global__ void probe_kernel() {}

Card ask(int device) {
  int multiprocessors = 0, major = 0;
  cudaFuncAttributes code = {};
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaFuncGetAttributes(&code, probe_kernel);
  Card card{std::max(multiprocessors, 1), 1};
  // Code compiled for an older card has no cluster instructions, whatever the card could do.
  if (major >= 9 && code.ptxVersion >= 90) {
    cudaLaunchConfig_t config = {};
    config.gridDim = config.blockDim = dim3(kMaxThreads);
    // Less than kMaxCluster on a part of a card.
    cudaOccupancyMaxPotentialClusterSize(&card.max_cluster, probe_kernel, &config);
    card.max_cluster = std::clamp(card.max_cluster, 1, kMaxCluster);
  }
  cudaGetLastError();  // what could not be asked is answered with the least
  return card;
}

}  // namespace

Card current_card() {
  constexpr int kMaxDevices = 64;
  static std::array<std::once_flag, kMaxDevices> asked;
  static std::array<Card, kMaxDevices> cards;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kMaxDevices) return {1, 1};
  std::call_once(asked[device], [device] { cards[device] = ask(device); });
  return cards[device];
}

}  // namespace cyclegan_fast
