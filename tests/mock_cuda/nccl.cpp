// NCCL, as far as training uses it: every collective is a kernel on the stream that it is given, as
// NCCL's own is, and so keeps the rules of streams and captures. Ranks other than this process need
// not be there: nothing is exchanged.
#include <cstddef>
#include <cstring>
#include <string>

#include "model.h"

API int mock_launch(const char* name, void* stream);

namespace {

struct Communicator {
  int ranks, rank;
};
struct UniqueId {
  char bytes[128];
};

constexpr int kSuccess = 0, kUnhandledCudaError = 1;
constexpr int kVersion = 22809;  // 2.28.9

// Of ncclDataType_t: int8, uint8, int32, uint32, int64, uint64, float16, 32, 64, bfloat16.
constexpr size_t kBytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

int collective(const char* name, size_t count, int type, cudaStream_t stream) {
  const std::string what =
      std::string(name) + " of " + std::to_string(count * kBytes[type]) + " bytes";
  return mock_launch(what.c_str(), stream) == 0 ? kSuccess : kUnhandledCudaError;
}

}  // namespace

API int ncclGetVersion(int* version) {
  *version = kVersion;
  return kSuccess;
}
API int ncclGetUniqueId(UniqueId* id) {
  std::memset(id, 1, sizeof *id);
  return kSuccess;
}
API int ncclCommInitRankConfig(Communicator** comm, int ranks, UniqueId, int rank, void*) {
  *comm = new Communicator{ranks, rank};
  return kSuccess;
}
API int ncclCommInitRank(Communicator** comm, int ranks, UniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, ranks, id, rank, nullptr);
}
API int ncclCommCount(const Communicator* comm, int* ranks) {
  *ranks = comm->ranks;
  return kSuccess;
}
API int ncclCommUserRank(const Communicator* comm, int* rank) {
  *rank = comm->rank;
  return kSuccess;
}
API int ncclCommGetAsyncError(Communicator*, int* error) {
  *error = kSuccess;
  return kSuccess;
}
API int ncclCommFinalize(Communicator*) { return kSuccess; }
API int ncclCommDestroy(Communicator* comm) {
  delete comm;
  return kSuccess;
}
API int ncclCommAbort(Communicator* comm) { return ncclCommDestroy(comm); }
API int ncclGroupStart() { return kSuccess; }
API int ncclGroupEnd() { return kSuccess; }
API const char* ncclGetErrorString(int) { return "an error of the mock"; }
API const char* ncclGetLastError(Communicator*) { return ""; }

API int ncclAllReduce(const void*, void*, size_t count, int type, int, Communicator*,
                      cudaStream_t stream) {
  return collective("all-reduce", count, type, stream);
}
API int ncclBroadcast(const void*, void*, size_t count, int type, int, Communicator*,
                      cudaStream_t stream) {
  return collective("broadcast", count, type, stream);
}
