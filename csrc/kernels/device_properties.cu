// Queries the properties of the current device, as seen by the machine code that runs on it.
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>

#include "cuda/device_properties.h"
#include "cuda/reductions.cuh"
#include "cuda/shared_memory.cuh"

namespace cyclegan_fast {
namespace {

__global__ void probe_kernel() {}

// Nothing where the driver does not answer.
std::optional<DeviceProperties> query(int device) {
  DeviceProperties properties{1, 1};
  int major = 0;
  cudaFuncAttributes code = {};
  if (cudaDeviceGetAttribute(&properties.multiprocessors, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaFuncGetAttributes(&code, probe_kernel) != cudaSuccess)
    return std::nullopt;
  // Code compiled for an older device has no cluster instructions, whatever the device could do.
  if (major < 9 || code.ptxVersion < 90) return properties;
  cudaLaunchConfig_t config = {};
  config.gridDim = config.blockDim = dim3(kMaxThreads);
  if (cudaOccupancyMaxPotentialClusterSize(&properties.max_cluster_size, probe_kernel, &config) !=
      cudaSuccess)
    return std::nullopt;
  properties.max_cluster_size = std::clamp(properties.max_cluster_size, 1, kMaxCluster);
  return properties;
}

}  // namespace

DeviceProperties current_device_properties() {
  constexpr int kMaxDevices = 64;
  static std::mutex mutex;
  static std::array<std::optional<DeviceProperties>, kMaxDevices> cache;
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess && device >= 0 && device < kMaxDevices) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!cache[device]) cache[device] = query(device);
    if (cache[device]) return *cache[device];
  }
  cudaGetLastError();  // the launch that follows must not find this failure
  return {1, 1};       // right on every device, if slow
}

}  // namespace cyclegan_fast
