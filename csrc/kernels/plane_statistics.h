// plane_statistics: the statistics that instance_norm_act takes ready: statistics[0] = mean_hw(x),
// statistics[1] = 0, statistics[2] = sum_hw (x - mean)^2; that is a shift, the sum of x - shift and
// the sum of (x - shift)^2, where the shift is the mean.
#pragma once

#include "norm_plan.h"
#include "types.h"

namespace cyclegan_fast {

struct PlaneStatisticsParams {
  const void* x;       // [in]  [N, C, H, W]
  void* statistics;    // [out] [3, N, C], float (double for kFloat64)
  void* workspace;     // CUDA: plan_of().workspace_bytes, 16-byte aligned; CPU: unused
  int64_t n, c, h, w;  // h * w >= 1
  DType dtype;         // of x
  Layout layout;       // of x, dense
};

// ---- CPU. Slices as in instance_norm_act.h. ----
int64_t plane_statistics_cpu_slices(int64_t n, int64_t c, DType dtype, Layout layout);
void plane_statistics_cpu(const PlaneStatisticsParams& params, int64_t begin, int64_t end);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics. ----
struct PlaneStatisticsPlan {
  TiledPass sums;      // of a chunk of pixels each
  LaunchConfig merge;  // of the chunks
  int64_t workspace_bytes;
};
// Pure, as for instance_norm_act.
PlaneStatisticsPlan plan_of(const PlaneStatisticsParams& params, const DeviceProperties& device);
// kInvalidArgument: as for instance_norm_act.
Status plane_statistics_cuda(const PlaneStatisticsParams& params, const PlaneStatisticsPlan& plan,
                             Stream stream);

}  // namespace cyclegan_fast
