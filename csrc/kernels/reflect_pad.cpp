// The CPU implementation: cuts the work into rows and chooses the instruction set. The kernel is
// cpu/reflect_pad.simd.h.
#include "reflect_pad.h"

#include <algorithm>
#include <vector>

#include "cpu/isa.h"

namespace cyclegan_fast {

int64_t reflect_pad_fwd_cpu_slices(const ReflectPadParams& p) {
  return p.x.images() * p.planes * p.padded_height();
}
int64_t reflect_pad_bwd_cpu_slices(const ReflectPadParams& p) {
  return p.grad_x.images() * p.planes * p.height;
}

}  // namespace cyclegan_fast

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/reflect_pad.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

void reflect_pad_fwd_cpu(const ReflectPadParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_forward, params, begin, end);
}

void reflect_pad_bwd_cpu(const ReflectPadParams& params, int64_t begin, int64_t end) {
  std::vector<double> sums(static_cast<size_t>(2 * params.row()));  // or floats
  CYCLEGAN_FAST_CALL(run_backward, params, sums.data(), begin, end);
}

}  // namespace cyclegan_fast
