// The CPU implementation: cuts the work into slices and chooses the instruction set. The kernel is
// cpu/instance_norm_act.simd.h.
#include "instance_norm_act.h"

#include <algorithm>
#include <cmath>

#include "cpu/isa.h"
#include "cpu/slices.h"

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/instance_norm_act.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

namespace {

// out [C] = the sum over the images of part [N, C].
template <typename C>
void sum_images(const C* part, int64_t n, int64_t c, void* out) {
  for (int64_t channel = 0; channel < c; ++channel) {
    double sum = 0;
    for (int64_t image = 0; image < n; ++image) sum += part[image * c + channel];
    static_cast<C*>(out)[channel] = C(sum);
  }
}

}  // namespace

int64_t instance_norm_act_cpu_slices(int64_t n, int64_t c, DType dtype, Layout layout) {
  return slices_of(n, c, dtype, layout);
}

void instance_norm_act_fwd_cpu(const InstanceNormActParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_slices, params, begin, end);
}

void instance_norm_act_bwd_cpu(const InstanceNormActBwdParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_slices, params, begin, end);
}

void instance_norm_act_affine_grads_cpu(const InstanceNormActBwdParams& params) {
  dispatch(params.dtype, [&](auto element) {
    const auto* sums = static_cast<const Compute<decltype(element)>*>(params.workspace);
    const int64_t n = params.n, c = params.c;
    if (params.grad_bias) sum_images(sums, n, c, params.grad_bias);
    if (params.grad_weight) sum_images(sums + n * c, n, c, params.grad_weight);
  });
}

}  // namespace cyclegan_fast
