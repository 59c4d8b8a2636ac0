// Memory of the devices and of the host. What lies on a device is address space that nobody may
// touch.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "model.h"

using namespace mock;

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
  if (!to_device && from_device) std::memset(to, state().read_back, bytes);
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
