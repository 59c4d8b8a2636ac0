// The only function that launches kernels, and how wide their accesses may be.
#pragma once

#include <cuda_runtime.h>

#include <initializer_list>
#include <utility>

#include "types.h"

namespace cyclegan_fast {

// Notes the kernel and the error for last_launch_failure(), and returns kLaunchFailed.
Status launch_failed(const void* kernel, cudaError_t error);

template <typename... Params, typename... Args>
Status launch(void (*kernel)(Params...), const LaunchConfig& how, Stream stream, Args&&... args) {
  if (how.grid < 1 || how.grid > 0x7fffffff) return Status::kInvalidArgument;
  constexpr int64_t kAlwaysAllowed = 48 * 1024;  // bytes of shared memory
  if (how.shared_memory > kAlwaysAllowed) {
    const cudaError_t refused = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared_memory));
    if (refused != cudaSuccess)
      return launch_failed(reinterpret_cast<const void*>(kernel), refused);
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(how.cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(how.grid));
  config.blockDim = dim3(static_cast<unsigned>(how.block));
  config.dynamicSmemBytes = static_cast<size_t>(how.shared_memory);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = how.cluster > 1 ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  if (error == cudaSuccess) return Status::kOk;
  return launch_failed(reinterpret_cast<const void*>(kernel), error);
}

// A thread for each of `count` elements.
inline LaunchConfig thread_per_element(int64_t count, int block) {
  return {ceil_div(count, block), block};
}

inline bool aligned(std::initializer_list<const void*> pointers) {
  bool all = true;
  for (const void* pointer : pointers) all = all && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  return all;
}

// 16 bytes' worth of elements where `elements` neighbours divide into such vectors and all pointers
// are aligned, or 1.
inline int vec_of(DType dtype, int64_t elements, std::initializer_list<const void*> pointers) {
  const int vec = static_cast<int>(16 / size_of(dtype));
  return elements % vec == 0 && aligned(pointers) ? vec : 1;
}

}  // namespace cyclegan_fast
