// Chooses the instruction set. The kernel is cpu/conv2d.simd.h.
#include "cpu_conv/conv2d.h"

#include <algorithm>
#include <type_traits>

#include "cpu/isa.h"

#define CYCLEGAN_FAST_KERNEL_FILE "cpu_conv/conv2d.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

int64_t conv2d_workspace(const Conv2dParams& params, Conv2dPass pass) {
  const auto floats = [&]() -> int64_t { CYCLEGAN_FAST_CALL(workspace_floats, params, pass); };
  return floats() * int64_t(sizeof(float));
}

int64_t conv2d_slices(const Conv2dParams& params, Conv2dPass pass, int64_t phase) {
  CYCLEGAN_FAST_CALL(slices_of_phase, params, pass, phase);
}

void conv2d_cpu(const Conv2dParams& params, Conv2dPass pass, int64_t phase, int64_t begin,
                int64_t end) {
  CYCLEGAN_FAST_CALL(run_phase, params, pass, phase, begin, end);
}

}  // namespace cyclegan_fast
