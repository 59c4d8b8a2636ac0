// The one place that launches kernels.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "types.h"

namespace cyclegan_fast {

template <typename... Params, typename... Args>
Status Launch(void (*kernel)(Params...), int64_t grid, int block, size_t smem, Stream stream,
              Args&&... args) {
  if (grid < 1 || grid > 0x7fffffff) return Status::kInvalidArgument;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = smem;
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  return error == cudaSuccess ? Status::kOk : Status::kLaunchFailed;
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

}  // namespace cyclegan_fast
