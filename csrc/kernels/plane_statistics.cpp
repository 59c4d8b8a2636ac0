// The CPU implementation: cuts the work into slices and chooses the instruction set. The kernel is
// cpu/plane_statistics.simd.h.
#include "plane_statistics.h"

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/slices.h"

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/plane_statistics.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

int64_t plane_statistics_cpu_slices(int64_t n, int64_t c, DType dtype, Layout layout) {
  return slices_of(n, c, dtype, layout);
}

void plane_statistics_cpu(const PlaneStatisticsParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_slices, params, begin, end);
}

}  // namespace cyclegan_fast
