// The CUDA implementation: the sums pass of cuda/norm.cuh, and a second kernel that merges its
// chunks.
#include "plane_statistics.h"

#include "cuda/norm.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kMergedStats = 32;  // of a block of merge_kernel: its other threads share the chunks

// statistics [3, N * C]: the mean as the shift, and the sums about it.
template <typename C>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    merge_kernel(MomentPartials<C> partials, C* statistics) {
  const int64_t stats = partials.stats, first = int64_t{blockIdx.x} * kMergedStats;
  const int64_t left = stats - first;
  const Columns columns = {first, kMergedStats,
                           left < kMergedStats ? static_cast<int>(left) : kMergedStats};
  const Moments<C> moments = partials.merge(columns);
  if (threadIdx.x >= kMergedStats || !columns.active()) return;
  const int64_t stat = columns.stat();
  statistics[stat] = moments.mean;
  statistics[stats + stat] = C(0);
  statistics[2 * stats + stat] = moments.m2;
}

}  // namespace

PlaneStatisticsPlan plan_of(const PlaneStatisticsParams& p, const DeviceProperties& device) {
  const TiledPass sums = moments_pass(p, device);
  return {sums, {ceil_div(p.n * p.c, kMergedStats), kMaxThreads}, moments_bytes(p, sums)};
}

Status plane_statistics_cuda(const PlaneStatisticsParams& p, const PlaneStatisticsPlan& plan,
                             Stream stream) {
  if (!fits(reading_view(p), 0)) return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using C = Compute<decltype(element)>;
    const Status status = sum_moments<decltype(element)>(p, plan.sums, stream);
    if (status != Status::kOk) return status;
    return launch(merge_kernel<C>, plan.merge, stream, moment_partials<C>(p, plan.sums),
                  static_cast<C*>(p.statistics));
  });
}

}  // namespace cyclegan_fast
