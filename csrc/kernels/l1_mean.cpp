// The CPU twin: cuts the work into slices and chooses the instruction set. The kernel is
// cpu/l1_mean.simd.h.
#include "l1_mean.h"

#include <algorithm>

#include "cpu/isa.h"

namespace cyclegan_fast {

constexpr int64_t kSlice = 16384;  // elements

int64_t l1_mean_cpu_slices(int64_t count) { return ceil_div(count, kSlice); }

}  // namespace cyclegan_fast

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/l1_mean.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

void l1_mean_fwd_cpu(const L1MeanParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_slices, params, begin, end);
}

void l1_mean_finish_cpu(const L1MeanParams& params) {
  double total = 0;
  for (int64_t i = 0; i < l1_mean_cpu_slices(params.count); ++i) {
    total += static_cast<const double*>(params.workspace)[i];
  }
  const double mean = total / double(params.count);
  if (params.dtype == DType::kFloat64) {
    *static_cast<double*>(params.value) = mean;
  } else {
    *static_cast<float*>(params.value) = float(mean);
  }
}

void l1_mean_bwd_cpu(const L1MeanBwdParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_slices, params, begin, end);
}

}  // namespace cyclegan_fast
