// What the mock runtime knows, streams, events, captures and allocations, and the rules that CUDA
// keeps among them. Everything is guarded by one mutex, and lives until the process ends.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace mock {

constexpr int kDevices = 2;
constexpr size_t kDeviceBytes = size_t{139} << 30;

using Clock = std::map<int, int64_t>;  // stream -> its operations that are done before this point

struct Capture;
struct Stream {
  int id, device;
  unsigned flags;
  Capture* capture = nullptr;
  int64_t operations = 0;  // of the running capture
  Clock done = {};         // likewise
};
struct Event {
  int device;
  uint64_t capture = 0;  // in which it was recorded; 0: in none
  bool recorded = false;
  Clock done = {};
  std::chrono::steady_clock::time_point time = {};  // of the host: work is done when it is enqueued
};
struct Capture {
  uint64_t id;
  Stream* origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread = std::this_thread::get_id();
  std::set<Stream*> streams = {};
  int64_t nodes = 0;
  bool broken = false;
};
struct Graph {
  int64_t nodes;
};
struct Allocation {
  size_t bytes;
  int device;  // -1: pinned host memory
};

struct State {
  std::recursive_mutex mutex;
  Stream legacy[kDevices] = {{0, 0, cudaStreamDefault}, {1, 1, cudaStreamDefault}};
  int streams = kDevices;
  uint64_t captures_begun = 0;
  std::map<uint64_t, std::unique_ptr<Capture>> captures;
  std::map<uintptr_t, Allocation> memory;
  size_t allocated[kDevices] = {};
  bool active[kDevices] = {};  // whether a device has a context: whether anything was done on it
  std::unordered_map<const void*, const char*> kernels;  // mangled names
  std::unordered_map<const void*, int> shared_memory;    // what a kernel has opted into
  bool logging = false;
  int read_back = 0;  // every byte of an array that the host reads from a device
  std::string log, faults, refused;
};

inline State& state() {
  static State* const leaked = new State;  // libraries call the runtime while the process ends
  return *leaked;
}

using Lock = std::lock_guard<std::recursive_mutex>;

inline thread_local int current_device = 0;
inline thread_local cudaError_t last_error = cudaSuccess;
inline thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

inline Stream& stream_of(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread)
    return state().legacy[current_device];
  return *reinterpret_cast<Stream*>(handle);
}

// ---- What tests read ----

// One line: kind, name, stream, device, the capture that it became part of or 0.
inline void note(const std::string& kind, const std::string& name, const Stream& s) {
  if (!state().logging) return;
  state().log += kind + "\t" + name + "\t" + std::to_string(s.id) + "\t" +
                 std::to_string(s.device) + "\t" +
                 std::to_string(s.capture != nullptr ? s.capture->id : 0) + "\n";
}

inline void fault(const std::string& what) { state().faults += what + "\n"; }

inline cudaError_t fail(cudaError_t error, const std::string& what) {
  fault(what);
  return last_error = error;
}

// ---- Rules of capture ----

// Breaks every capture that a call of this thread must not meet; returns whether there is one.
inline bool breaks_captures() {
  bool any = false;
  for (auto& [id, c] : state().captures) {
    const bool mine = c->thread == std::this_thread::get_id();
    if (thread_mode == cudaStreamCaptureModeRelaxed || c->mode == cudaStreamCaptureModeRelaxed)
      continue;
    if (!mine &&
        (thread_mode != cudaStreamCaptureModeGlobal || c->mode != cudaStreamCaptureModeGlobal))
      continue;
    any = c->broken = true;
  }
  return any;
}

// The verdict on a call that waits, allocates or frees.
inline cudaError_t check_unsafe(const std::string& call) {
  if (!breaks_captures()) return cudaSuccess;
  return fail(cudaErrorStreamCaptureUnsupported, call + " during a capture");
}

inline cudaError_t break_capture(Capture& capture, cudaError_t error, const std::string& what) {
  capture.broken = true;
  return fail(error, what);
}

// The verdict on a call that waits for, or asks about, a stream.
inline cudaError_t check_wait(const std::string& call, const Stream& s) {
  if (s.capture != nullptr)
    return break_capture(*s.capture, cudaErrorStreamCaptureUnsupported,
                         call + " of a stream that is being captured");
  return check_unsafe(call);
}

// Adds work to a stream: to its graph, if it is being captured.
inline cudaError_t enqueue(const std::string& kind, const std::string& name, Stream& s) {
  state().active[s.device] = true;
  note(kind, name, s);
  if (s.capture != nullptr) {
    s.done[s.id] = ++s.operations;
    ++s.capture->nodes;
    return cudaSuccess;
  }
  for (auto& [id, c] : state().captures) {
    if (c->thread == std::this_thread::get_id())
      fault(kind + " outside the graph while its thread captures: " + name + " on stream " +
            std::to_string(s.id));
    for (const Stream* t : c->streams) {
      if (s.id < kDevices && s.device == t->device && !(t->flags & cudaStreamNonBlocking))
        return break_capture(*c, cudaErrorStreamCaptureImplicit,
                             name + " on the legacy stream during a capture");
    }
  }
  return cudaSuccess;
}

inline void join_capture(Stream& s, Capture& capture) {
  s.capture = &capture;
  s.operations = 0;
  s.done.clear();
  capture.streams.insert(&s);
}

// `s` waits for `event`: within a capture this forks or joins.
inline cudaError_t wait_event(Stream& s, const Event& event) {
  note("wait", "cudaStreamWaitEvent", s);
  if (!event.recorded) return cudaSuccess;
  if (event.capture == 0) {
    if (s.capture == nullptr) return cudaSuccess;
    return break_capture(*s.capture, cudaErrorStreamCaptureIsolation,
                         "a captured stream waits for an event from outside its capture");
  }
  const auto found = state().captures.find(event.capture);
  if (found == state().captures.end()) return cudaSuccess;  // that capture has ended
  Capture& capture = *found->second;
  if (s.capture != nullptr && s.capture != &capture)
    return break_capture(capture, cudaErrorStreamCaptureMerge, "a wait merges two captures");
  if (s.capture == nullptr && s.id < kDevices)
    return break_capture(capture, cudaErrorStreamCaptureImplicit,
                         "the legacy stream waits for a captured event");
  if (s.capture == nullptr) join_capture(s, capture);
  for (const auto& [id, count] : event.done) s.done[id] = std::max(s.done[id], count);
  return cudaSuccess;
}

// Ends the capture that `s` is part of, and returns what was wrong with it.
inline cudaError_t end_capture(Stream& s, Graph** graph) {
  *graph = nullptr;
  if (s.capture == nullptr) return fail(cudaErrorIllegalState, "the stream is not being captured");
  Capture& capture = *s.capture;
  cudaError_t error = cudaSuccess;
  if (capture.origin != &s)
    error = fail(cudaErrorStreamCaptureUnmatched, "a capture ends on another stream");
  if (capture.mode != cudaStreamCaptureModeRelaxed && capture.thread != std::this_thread::get_id())
    error = fail(cudaErrorStreamCaptureWrongThread, "a capture ends on another thread");
  if (capture.broken)
    error = fail(cudaErrorStreamCaptureInvalidated, "the capture was invalidated");
  for (Stream* t : capture.streams) {
    if (const int64_t missed = t->operations - s.done[t->id]; t != &s && missed > 0)
      error = fail(cudaErrorStreamCaptureUnjoined,
                   "stream " + std::to_string(t->id) + " was forked and never joined: " +
                       std::to_string(missed) + " of its operations are not waited for");
    t->capture = nullptr;
  }
  if (error == cudaSuccess) *graph = new Graph{capture.nodes};
  state().captures.erase(capture.id);
  return error;
}

// ---- Memory ----

// The allocation that holds address `p`, or null: memory of the host.
inline const Allocation* allocation_of(const void* p) {
  auto& memory = state().memory;
  const auto address = reinterpret_cast<uintptr_t>(p);
  auto next = memory.upper_bound(address);
  if (next == memory.begin()) return nullptr;
  --next;
  return address < next->first + next->second.bytes ? &next->second : nullptr;
}

inline bool on_device(const Allocation* a) { return a != nullptr && a->device >= 0; }

}  // namespace mock

#define API extern "C" __attribute__((visibility("default")))
#define LOCK const mock::Lock lock(mock::state().mutex)
