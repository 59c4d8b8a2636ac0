// Notes what CUDA reports of a launch that failed.
#include "cuda/launch_failure.h"

#include <cuda_runtime.h>
#include <cxxabi.h>

#include <cstdlib>

#include "cuda/launch.h"

namespace cyclegan_fast {
namespace {

LaunchFailure& noted() {
  static thread_local LaunchFailure failure;
  return failure;
}

}  // namespace

const LaunchFailure& last_launch_failure() { return noted(); }

std::string kernel_name_of(const char* mangled) {
  int status = 0;
  char* const demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : mangled;
  std::free(demangled);
  const std::string anonymous = "(anonymous namespace)::";
  if (const size_t at = name.find(anonymous); at != std::string::npos)
    name.erase(at, anonymous.size());
  name = name.substr(0, name.find_first_of("<("));
  return name.substr(name.find_last_of(": ") + 1);
}

Status launch_failed(const void* kernel, cudaError_t error) {
  const char* mangled = nullptr;
#if CUDART_VERSION >= 12030
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess) mangled = nullptr;
#else
  static_cast<void>(kernel);
#endif
  noted() = {mangled != nullptr ? kernel_name_of(mangled) : "a kernel",
             std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")"};
  cudaGetLastError();  // reported here, and not once more at the next launch
  return Status::kLaunchFailed;
}

}  // namespace cyclegan_fast
