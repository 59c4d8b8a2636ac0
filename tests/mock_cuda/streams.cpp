// Streams, events and captures: the rules are those of model.h.
#include <utility>

#include "model.h"

using namespace mock;

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
  event = {event.device, s.capture != nullptr ? s.capture->id : 0, true, s.done,
           std::chrono::steady_clock::now()};
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
API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  LOCK;
  const std::chrono::duration<float, std::milli> elapsed =
      reinterpret_cast<Event*>(end)->time - reinterpret_cast<Event*>(begin)->time;
  *milliseconds = elapsed.count();
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
