// The CPU twin: cuts the work into slices and chooses the instruction set. The kernel is
// cpu/instance_norm_act.simd.h.
#include "instance_norm_act.h"

#include <algorithm>
#include <cmath>

#include "cpu/isa.h"

namespace cyclegan_fast {

// Channels of an NHWC slice, in bytes: whole cache lines, so that no two threads write to the same
// one.
constexpr int64_t kGroupBytes = 128;

int64_t instance_norm_act_cpu_slices(int64_t n, int64_t c, DType dtype, Layout layout) {
  return n * (layout == Layout::kNCHW ? c : ceil_div(c * size_of(dtype), kGroupBytes));
}

}  // namespace cyclegan_fast

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/instance_norm_act.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

void instance_norm_act_fwd_cpu(const InstanceNormActParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_slices, params, begin, end);
}

void instance_norm_act_bwd_cpu(const InstanceNormActBwdParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_slices, params, begin, end);
}

}  // namespace cyclegan_fast
