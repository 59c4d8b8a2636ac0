// The slices of instance_norm_act on the CPU. Included through cpu/for_each_isa.h.

#include "cpu/statistics.simd.h"

// Element `i` of an optional array.
template <typename C>
inline C value_or(const void* values, int64_t i, C otherwise) {
  return values == nullptr ? otherwise : static_cast<const C*>(values)[i];
}

// v > 0 ? v : slope * v, where `sign` stands for v's sign
template <typename V, typename C>
inline V activate(V v, V sign, C slope) {
  return sign > 0 ? v : v * slope;
}

// mean[at] and rstd[at], where at = image * C + channel
template <typename C>
void write_moments(const InstanceNormActParams& p, int64_t at, const Moments& moments) {
  static_cast<C*>(p.mean)[at] = C(moments.mean);
  static_cast<C*>(p.rstd)[at] = C(1 / std::sqrt(moments.variance + p.eps));
}

// Those of the ready statistics.
template <typename C>
Moments ready_moments(const InstanceNormActParams& p, int64_t at) {
  const C* statistics = static_cast<const C*>(p.statistics) + at;
  const int64_t stride = p.n * p.c;
  return moments_of(
      {double(statistics[0]), double(statistics[stride]), double(statistics[2 * stride])}, p.count);
}

// What one plane, or one group of channels, is normalised by. V is a scalar or a vector.
template <typename V>
struct Affine {
  V mean, scale, bias;  // scale = rstd * weight

  // Forward and backward share this expression: its sign is the activation's mask.
  template <typename X>
  X operator()(X d) const {  // d = x - mean
    return d * scale + bias;
  }
};

#include "cpu/instance_norm_act_nchw.simd.h"
#include "cpu/instance_norm_act_nhwc.simd.h"
#include "cpu/slices.simd.h"
