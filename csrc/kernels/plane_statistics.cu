// The CUDA implementation: the statistics pass of cuda/norm.cuh.
#include "plane_statistics.h"

#include "cuda/norm.cuh"

namespace cyclegan_fast {
namespace {

// statistics [3, N * C] of one plane: the mean as the shift, and the sums about it.
template <typename C>
struct WriteStatistics {
  C* statistics;
  int64_t stats;

  __device__ void operator()(int64_t stat, const Moments<C>& moments) const {
    statistics[stat] = moments.mean;
    statistics[stats + stat] = C(0);
    statistics[2 * stats + stat] = moments.m2;
  }
};

}  // namespace

ReductionPlan plan_of(const PlaneStatisticsParams& p) { return moments_plan(p); }

Status plane_statistics_cuda(const PlaneStatisticsParams& p, const ReductionPlan& plan,
                             Stream stream) {
  if (!fits(reading_view(p), 0)) return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    return compute_moments<T>(p, plan, stream,
                              WriteStatistics<C>{static_cast<C*>(p.statistics), p.n * p.c});
  });
}

}  // namespace cyclegan_fast
