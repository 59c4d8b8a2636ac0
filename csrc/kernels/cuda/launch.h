// The one place that launches kernels, and how wide their accesses may be.
#pragma once

#include <cuda_runtime.h>

#include <initializer_list>
#include <utility>

#include "types.h"

namespace cyclegan_fast {

// `cluster` neighbouring blocks, of which the grid is a multiple, share their memory.
template <typename... Params, typename... Args>
Status LaunchClusters(void (*kernel)(Params...), int64_t grid, int block, int cluster, size_t smem,
                      Stream stream, Args&&... args) {
  if (grid < 1 || grid > 0x7fffffff) return Status::kInvalidArgument;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = smem;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  return error == cudaSuccess ? Status::kOk : Status::kLaunchFailed;
}

template <typename... Params, typename... Args>
Status Launch(void (*kernel)(Params...), int64_t grid, int block, size_t smem, Stream stream,
              Args&&... args) {
  return LaunchClusters(kernel, grid, block, 1, smem, stream, std::forward<Args>(args)...);
}

// 16 bytes' worth of elements where `elements` neighbours divide into such packs and all pointers
// are aligned, or 1.
inline int vec_of(DType dtype, int64_t elements, std::initializer_list<const void*> pointers) {
  const int vec = static_cast<int>(16 / size_of(dtype));
  bool fits = elements % vec == 0;
  for (const void* pointer : pointers)
    fits = fits && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  return fits ? vec : 1;
}

}  // namespace cyclegan_fast
