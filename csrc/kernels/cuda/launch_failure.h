// What is known of a launch that failed, for the message. No CUDA headers.
#pragma once

#include <string>

namespace cyclegan_fast {

struct LaunchFailure {
  std::string kernel;  // "resident_kernel"
  std::string error;   // "cudaErrorInvalidValue (invalid argument)"
};

// Of the last launch on this thread that gave Status::kLaunchFailed.
const LaunchFailure& last_launch_failure();

// The name that a kernel has in its source, without namespaces and template arguments.
std::string kernel_name_of(const char* mangled);

}  // namespace cyclegan_fast
