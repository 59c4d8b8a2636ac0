// A CUDA runtime without a GPU, loaded with LD_PRELOAD in the place of libcudart.so.
//
// Two devices. Kernels compute nothing and leave their names. Device memory is reserved address
// space that nobody may touch, so that a host access ends the program; what is copied from there is
// zero. Work is done as soon as it is enqueued; streams, events, captures and launches keep CUDA's
// rules (model.h), and what breaks one is reported to the caller as CUDA does, and noted as a
// fault. Functions of the runtime that are missing here are generated (__main__.py): each is a
// fault.
#include <cxxabi.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "model.h"

#define API extern "C" __attribute__((visibility("default")))
#define LOCK const mock::Lock lock(mock::state().mutex)

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

// ---- Memory ----
namespace {

// Device memory is reserved and may not be touched; pinned memory is the host's.
cudaError_t allocate(const char* call, void** p, size_t bytes, int device) {
  LOCK;
  if (const cudaError_t error = check_unsafe(call)) return error;
  state().active[current_device] = true;
  note("alloc", call, state().legacy[current_device]);
  if (device >= 0 && state().allocated[device] + bytes > kDeviceBytes)
    return last_error = cudaErrorMemoryAllocation;
  const int access = device < 0 ? PROT_READ | PROT_WRITE : PROT_NONE;
  void* const memory = mmap(nullptr, std::max<size_t>(bytes, 1), access,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return last_error = cudaErrorMemoryAllocation;
  state().memory[reinterpret_cast<uintptr_t>(memory)] = {bytes, device};
  if (device >= 0) state().allocated[device] += bytes;
  *p = memory;
  return cudaSuccess;
}

cudaError_t release(const char* call, void* p) {
  LOCK;
  if (p == nullptr) return cudaSuccess;
  if (const cudaError_t error = check_unsafe(call)) return error;
  const auto found = state().memory.find(reinterpret_cast<uintptr_t>(p));
  if (found == state().memory.end())
    return fail(cudaErrorInvalidValue, std::string(call) + " of memory that is not allocated");
  const auto [bytes, device] = found->second;
  note("free", call, state().legacy[device < 0 ? current_device : device]);
  if (device >= 0) state().allocated[device] -= bytes;
  state().memory.erase(found);
  munmap(p, std::max<size_t>(bytes, 1));
  return cudaSuccess;
}

cudaError_t copy(const std::string& call, void* to, const void* from, size_t bytes,
                 cudaMemcpyKind kind, Stream& s) {
  const Allocation *target = allocation_of(to), *source = allocation_of(from);
  const bool to_device = on_device(target), from_device = on_device(source);
  const bool as_named =
      kind == cudaMemcpyDefault || (to_device == (kind & 1) && from_device == (kind >= 2));
  const std::string what = call + (from_device ? " D" : " H") + (to_device ? "2D" : "2H") +
                           (target && source ? "" : " pageable");
  if (bytes > 0 && !as_named)
    return fail(cudaErrorInvalidValue, what + ": not the memory that the call names");
  if (s.capture != nullptr && !(target && source))
    return break_capture(*s.capture, cudaErrorStreamCaptureUnsupported, what + " in a capture");
  const cudaError_t error = enqueue("memcpy", what + " " + std::to_string(bytes), s);
  if (from_device && target == nullptr) note("sync", what, s);
  if (!to_device && from_device) std::memset(to, 0, bytes);
  if (!to_device && !from_device) std::memcpy(to, from, bytes);
  return error;
}

}  // namespace

API cudaError_t cudaMalloc(void** p, size_t bytes) {
  return allocate("cudaMalloc", p, bytes, current_device);
}
API cudaError_t cudaFree(void* p) { return release("cudaFree", p); }
API cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  return allocate("cudaHostAlloc", p, bytes, -1);
}
API cudaError_t cudaFreeHost(void* p) { return release("cudaFreeHost", p); }
API cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  LOCK;
  *total = kDeviceBytes;
  *free = kDeviceBytes - state().allocated[current_device];
  return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  LOCK;
  const Allocation* const a = allocation_of(p);
  *attributes = {};
  attributes->type = a == nullptr   ? cudaMemoryTypeUnregistered
                     : on_device(a) ? cudaMemoryTypeDevice
                                    : cudaMemoryTypeHost;
  attributes->device = on_device(a) ? a->device : a == nullptr ? -2 : 0;
  if (a != nullptr) attributes->devicePointer = const_cast<void*>(p);
  if (a != nullptr && !on_device(a)) attributes->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  LOCK;
  if (const cudaError_t error = check_unsafe("cudaMemcpy")) return error;
  note("sync", "cudaMemcpy", stream_of(nullptr));
  return copy("cudaMemcpy", to, from, bytes, kind, stream_of(nullptr));
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                cudaStream_t stream) {
  LOCK;
  return copy("cudaMemcpyAsync", to, from, bytes, kind, stream_of(stream));
}
API cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                    cudaStream_t stream) {
  LOCK;
  return copy("cudaMemcpyPeerAsync", to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(stream));
}
API cudaError_t cudaMemsetAsync(void* to, int, size_t bytes, cudaStream_t stream) {
  LOCK;
  if (!on_device(allocation_of(to)))
    return fail(cudaErrorInvalidValue, "cudaMemsetAsync of memory that is not the device's");
  return enqueue("memset", std::to_string(bytes), stream_of(stream));
}

// ---- Streams ----
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  LOCK;
  state().active[current_device] = true;
  *stream = reinterpret_cast<cudaStream_t>(new Stream{state().streams++, current_device, flags});
  return cudaSuccess;
}
API cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
API cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}
API cudaError_t cudaStreamQuery(cudaStream_t stream) {
  LOCK;
  return check_wait("cudaStreamQuery", stream_of(stream));
}
API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  LOCK;
  note("sync", "cudaStreamSynchronize", stream_of(stream));
  return check_wait("cudaStreamSynchronize", stream_of(stream));
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  {
    LOCK;
    if (const cudaError_t error = enqueue("host function", "", stream_of(stream))) return error;
    if (stream_of(stream).capture != nullptr) return cudaSuccess;
  }
  function(data);
  return cudaSuccess;
}

// ---- Events ----
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event{current_device});
  return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
API cudaError_t cudaEventDestroy(cudaEvent_t event) {
  LOCK;
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t handle, cudaStream_t stream, unsigned) {
  LOCK;
  auto& event = *reinterpret_cast<Event*>(handle);
  const Stream& s = stream_of(stream);
  if (event.device != s.device)
    return fail(cudaErrorInvalidResourceHandle,
                "an event of device " + std::to_string(event.device) +
                    " is recorded on a stream of device " + std::to_string(s.device));
  event = {event.device, s.capture != nullptr ? s.capture->id : 0, true, s.done};
  note("record", "cudaEventRecord", s);
  return cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}

namespace {

cudaError_t check_event(const std::string& call, cudaEvent_t handle) {
  const auto& event = *reinterpret_cast<Event*>(handle);
  const auto found = state().captures.find(event.capture);
  if (found == state().captures.end()) return check_unsafe(call);
  return break_capture(*found->second, cudaErrorCapturedEvent, call + " of a captured event");
}

}  // namespace

API cudaError_t cudaEventQuery(cudaEvent_t event) {
  LOCK;
  return check_event("cudaEventQuery", event);
}
API cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  LOCK;
  note("sync", "cudaEventSynchronize", state().legacy[reinterpret_cast<Event*>(event)->device]);
  return check_event("cudaEventSynchronize", event);
}
API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0.1f;
  return cudaSuccess;
}
API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  LOCK;
  return wait_event(stream_of(stream), *reinterpret_cast<Event*>(event));
}

// ---- Capture ----
API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  LOCK;
  Stream& s = stream_of(stream);
  if (s.id < kDevices)
    return fail(cudaErrorStreamCaptureUnsupported, "a capture of the legacy stream");
  if (s.capture != nullptr)
    return fail(cudaErrorIllegalState, "the stream is being captured already");
  const uint64_t id = ++state().captures_begun;
  auto& capture = state().captures[id];
  capture.reset(new Capture{id, &s, mode});
  join_capture(s, *capture);
  note("capture", "begin", s);
  return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  LOCK;
  note("capture", "end", stream_of(stream));
  return end_capture(stream_of(stream), reinterpret_cast<Graph**>(graph));
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  LOCK;
  const Capture* const capture = stream_of(stream).capture;
  *status = capture == nullptr ? cudaStreamCaptureStatusNone
            : capture->broken  ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                         unsigned long long* id, cudaGraph_t* graph,
                                         const cudaGraphNode_t** dependencies,
                                         const cudaGraphEdgeData** edges, size_t* count) {
  LOCK;
  cudaStreamIsCapturing(stream, status);
  const Capture* const capture = stream_of(stream).capture;
  if (id != nullptr) *id = capture != nullptr ? capture->id : 0;
  if (graph != nullptr) *graph = nullptr;
  if (dependencies != nullptr) *dependencies = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = 0;
  return cudaSuccess;
}
API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(thread_mode, *mode);
  return cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                              unsigned long long) {
  *executable =
      reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<const Graph*>(graph)));
  return cudaSuccess;
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  LOCK;
  const int64_t nodes = reinterpret_cast<const Graph*>(executable)->nodes;
  return enqueue("graph", std::to_string(nodes), stream_of(stream));
}
API cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = graph != nullptr ? size_t(reinterpret_cast<const Graph*>(graph)->nodes) : 0;
  return cudaSuccess;
}
API cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}

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
// Launches of kernels whose name contains `part` fail; "": none.
API void mock_refuse(const char* part) {
  LOCK;
  state().refused = part;
}
// What a library without a mock of its own would launch.
API int mock_launch(const char* name, void* stream) {
  LOCK;
  const cudaError_t error = run(name, stream_of(static_cast<cudaStream_t>(stream)));
  last_error = cudaSuccess;
  return error;
}
