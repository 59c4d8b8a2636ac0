// Launches: checked, noted, and nothing else.
#include <cxxabi.h>

#include <cstdlib>

#include "model.h"

using namespace mock;

// ---- Kernels ----
API void** __cudaRegisterFatBinary(void* binary) {
  return reinterpret_cast<void**>(new void*(binary));
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*,
                                uint3*, dim3*, dim3*, int*) {
  LOCK;
  state().kernels[host] = name;
}

namespace {

struct CallConfiguration {
  dim3 grid, block;
  size_t shared_memory;
  cudaStream_t stream;
};
thread_local std::vector<CallConfiguration> configurations;

std::string demangled(const void* kernel) {
  const auto found = state().kernels.find(kernel);
  if (found == state().kernels.end()) return "a kernel that is not registered";
  int status = 0;
  char* const text = abi::__cxa_demangle(found->second, nullptr, nullptr, &status);
  const std::string name = status == 0 ? text : found->second;
  std::free(text);
  return name;
}

bool fits(dim3 grid, dim3 block) {
  return grid.x > 0 && grid.x <= 0x7fffffff && grid.y > 0 && grid.y <= 65535 && grid.z > 0 &&
         grid.z <= 65535 && block.x > 0 && block.y > 0 && block.z > 0 && block.z <= 64 &&
         block.x <= 1024 && block.y <= 1024 && block.x * block.y * block.z <= 1024;
}

cudaError_t run(const std::string& name, Stream& s) {
  if (s.device != current_device)
    return fail(cudaErrorInvalidResourceHandle,
                "a launch on a stream of device " + std::to_string(s.device) + " while device " +
                    std::to_string(current_device) + " is current: " + name);
  return enqueue("kernel", name, s);
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared_memory,
                   cudaStream_t stream, unsigned cluster = 1) {
  LOCK;
  const std::string name = demangled(kernel);
  if (!state().refused.empty() && name.find(state().refused) != std::string::npos)
    return last_error = cudaErrorInvalidConfiguration;
  if (!fits(grid, block))
    return fail(cudaErrorInvalidConfiguration, "grid or block out of range: " + name);
  if (cluster == 0 || cluster > 8 || grid.x % cluster != 0)
    return fail(cudaErrorInvalidClusterSize, "clusters that do not fit: " + name);
  const auto opted = state().shared_memory.find(kernel);
  if (shared_memory > size_t(opted == state().shared_memory.end() ? 48 << 10 : opted->second))
    return fail(cudaErrorInvalidValue, "more shared memory than was opted into: " + name);
  return run(name, stream_of(stream));
}

}  // namespace

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_memory,
                                         cudaStream_t stream) {
  configurations.push_back({grid, block, shared_memory, stream});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_memory,
                                           void* stream) {
  const CallConfiguration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared_memory = c.shared_memory;
  *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
API cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void**,
                                 size_t shared_memory, cudaStream_t stream) {
  return launch(kernel, grid, block, shared_memory, stream);
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**,
                                   size_t shared_memory, cudaStream_t stream) {
  return launch(kernel, grid, block, shared_memory, stream);
}
API cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void**,
                                            size_t shared_memory, cudaStream_t stream) {
  return launch(kernel, grid, block, shared_memory, stream);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* kernel, void**) {
  unsigned cluster = 1;
  for (unsigned i = 0; i < c->numAttrs; ++i) {
    if (c->attrs[i].id == cudaLaunchAttributeClusterDimension)
      cluster = c->attrs[i].val.clusterDim.x;
  }
  return launch(kernel, c->gridDim, c->blockDim, c->dynamicSmemBytes, c->stream, cluster);
}
API cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  LOCK;
  const auto found = state().kernels.find(kernel);
  if (found == state().kernels.end()) return cudaErrorInvalidDeviceFunction;
  *name = found->second;
  return cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024, attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  return cudaSuccess;
}
API cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  LOCK;
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > 227 << 10)
      return fail(cudaErrorInvalidValue, "too much shared memory for " + demangled(kernel));
    state().shared_memory[kernel] = value;
  }
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*,
                                                                       int, size_t, unsigned) {
  *blocks = 4;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int,
                                                              size_t) {
  *blocks = 4;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, const void*,
                                                     const cudaLaunchConfig_t*) {
  *size = 8;
  return cudaSuccess;
}

// ---- For the tests (runtime.py) ----
// What a library without a mock of its own would launch.
API int mock_launch(const char* name, void* stream) {
  LOCK;
  const cudaError_t error = run(name, stream_of(static_cast<cudaStream_t>(stream)));
  last_error = cudaSuccess;
  return error;
}
