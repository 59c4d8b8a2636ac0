// A CUDA runtime without a GPU, loaded with LD_PRELOAD in the place of libcudart.so.
//
// Two devices. Kernels compute nothing and leave their names. Device memory is reserved address
// space that nobody may touch, so that a host access ends the program; what is copied from there is
// zero. Work is done as soon as it is enqueued; streams, events, captures and launches keep CUDA's
// rules (model.h), and what breaks one is reported to the caller as CUDA does, and noted as a
// fault. Functions of the runtime that are missing here are generated (__main__.py): each is a
// fault.
//
// This file: devices, errors, the driver, and what the tests read. The rest is beside it.
#include <cstdio>
#include <cstring>
#include <utility>

#include "model.h"

using namespace mock;

// ---- Devices ----
API cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
API cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
API cudaError_t cudaSetDevice(int device) {
  LOCK;
  if (device < 0 || device >= kDevices)
    return fail(cudaErrorInvalidDevice, "there is no device " + std::to_string(device));
  current_device = device;
  return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
API cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// Those of an H200, as far as anybody asks.
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "Mock H200");
  p->major = 9, p->minor = 0, p->multiProcessorCount = 132, p->warpSize = 32;
  p->totalGlobalMem = kDeviceBytes, p->l2CacheSize = 60 << 20, p->memoryBusWidth = 6144;
  p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = 227 << 10;
  p->sharedMemPerMultiprocessor = 228 << 10;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->unifiedAddressing = 1, p->textureAlignment = 512;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  static const std::map<cudaDeviceAttr, int> values = {
      {cudaDevAttrMultiProcessorCount, 132},
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrComputeCapabilityMinor, 0},
      {cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 << 10},
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMaxGridDimX, 0x7fffffff},
  };
  const auto found = values.find(attribute);
  *value = found == values.end() ? 0 : found->second;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  std::snprintf(text, size_t(size), "0000:%02x:00.0", unsigned(device));
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  if (lowest != nullptr) *lowest = 0;
  if (highest != nullptr) *highest = -5;
  return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}
API cudaError_t cudaDeviceSynchronize() {
  LOCK;
  note("sync", "cudaDeviceSynchronize", stream_of(nullptr));
  for (auto& [id, c] : state().captures) {
    if (c->origin->device == current_device)
      return break_capture(*c, cudaErrorStreamCaptureUnsupported,
                           "cudaDeviceSynchronize during a capture");
  }
  return cudaSuccess;
}
API cudaError_t cudaProfilerStart() { return cudaSuccess; }
API cudaError_t cudaProfilerStop() { return cudaSuccess; }

// ---- Errors ----
API cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
API cudaError_t cudaPeekAtLastError() { return last_error; }

namespace {

struct ErrorText {
  cudaError_t error;
  const char *name, *text;
};
#define ERROR(name, text) {name, #name, text}
const ErrorText kErrors[] = {
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorInvalidClusterSize, "cluster misconfiguration"),
    ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorCapturedEvent,
          "operation not permitted on an event last recorded in a "
          "capturing stream"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated,
          "operation failed due to a previous error during "
          "capture"),
    ERROR(cudaErrorStreamCaptureMerge,
          "operation would result in a merge of separate capture "
          "sequences"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR(cudaErrorStreamCaptureIsolation,
          "dependency created on uncaptured work in another "
          "stream"),
    ERROR(cudaErrorStreamCaptureImplicit,
          "operation would make the legacy stream depend on a "
          "capturing blocking stream"),
    ERROR(cudaErrorStreamCaptureWrongThread,
          "attempt to terminate a thread-local capture "
          "sequence from another thread"),
};

const ErrorText& text_of(cudaError_t error) {
  static const ErrorText unknown = {error, "cudaErrorUnknown", "unknown error"};
  for (const ErrorText& e : kErrors)
    if (e.error == error) return e;
  return unknown;
}

}  // namespace

API const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
API const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }

// ---- The driver, as far as torch asks for it: by way of the runtime, and of driver.c ----
API int mock_context_state(int device, unsigned* flags, int* active) {
  LOCK;
  *flags = 0, *active = state().active[device];
  return 0;
}

namespace {

int driver_success() { return 0; }

}  // namespace

API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                 unsigned long long,
                                                 cudaDriverEntryPointQueryResult* result) {
  const bool is_state = std::strcmp(name, "cuDevicePrimaryCtxGetState") == 0;
  *function = is_state ? reinterpret_cast<void*>(mock_context_state)
                       : reinterpret_cast<void*>(driver_success);
  if (result != nullptr) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// ---- For the tests (runtime.py) ----
API int mock_unsupported(const char* function) {
  LOCK;
  return fail(cudaErrorNotSupported, std::string(function) + " is missing in the mock runtime");
}
API void mock_log(int on) {
  LOCK;
  state().logging = on != 0;
}
// Both return what was collected since their last call; it lives until the next one.
API const char* mock_take_log() {
  LOCK;
  static std::string taken;
  return (taken = std::exchange(state().log, "")).c_str();
}
API const char* mock_take_faults() {
  LOCK;
  static std::string taken;
  return (taken = std::exchange(state().faults, "")).c_str();
}
API int64_t mock_allocated(int device) {
  LOCK;
  return int64_t(state().allocated[device]);
}
// Captures that this thread has begun.
API int mock_capturing() {
  LOCK;
  int count = 0;
  for (const auto& [id, c] : state().captures) count += c->thread == std::this_thread::get_id();
  return count;
}
API int mock_active(int device) {
  LOCK;
  return state().active[device];
}
// Every byte of an array that the host reads from a device.
API void mock_read_back(int byte) {
  LOCK;
  state().read_back = byte;
}
// Launches of kernels whose name contains `part` fail; "": none.
API void mock_refuse(const char* part) {
  LOCK;
  state().refused = part;
}
