// reflect_pad: members of a batch, concatenated, padded by reflection and converted:
//
//   y[n, c, i, j] = x[n, c, reflect(i), reflect(j)],  i < H + 2 pad, j < W + 2 pad
//
// Backward: grad_x is the sum of grad_y over the pixels that show a pixel of x, gathered and so
// without atomics, and split over the members again. First each row's are added up, then the rows',
// each time the pixel itself, the lower or right border's, the upper or left one's: on both devices
// the same bits.
//
// Both layouts are rows of [width * inner] elements: of `planes` planes an image.
#pragma once

#include "members.h"

namespace cyclegan_fast {

struct ReflectPadParams {
  Members<const void*> x;  // [in]  forward, each [n, planes, height, width, inner]
  Members<void*> grad_x;   // [out] backward, as x; null where it is not needed
  void* y;                 // [out] forward, [N, planes, height + 2 pad, width + 2 pad, inner]
  const void* grad_y;      // [in]  backward, as y
  int64_t planes, inner;   // NCHW: C and 1; NHWC: 1 and C
  int64_t height, width;
  int64_t pad;       // 0 <= pad < min(height, width)
  DType from, into;  // of x and grad_x; of y and grad_y: the same type, or 16 bits of kFloat32

  CYCLEGAN_FAST_HD int64_t row() const { return width * inner; }
  CYCLEGAN_FAST_HD int64_t padded_row() const { return (width + 2 * pad) * inner; }
  CYCLEGAN_FAST_HD int64_t padded_height() const { return height + 2 * pad; }
};

// Whether there are kernels for this pair of types.
constexpr bool converts(DType from, DType into) {
  return from == into ||
         (from == DType::kFloat32 && (into == DType::kBFloat16 || into == DType::kFloat16));
}

// Calls f(From{}, To{}) with the element types of such a pair.
template <typename F>
auto dispatch_pair(DType from, DType into, F&& f) {
  if (from == into) return dispatch(from, [&](auto element) { return f(element, element); });
  return into == DType::kBFloat16 ? f(float{}, BFloat16{}) : f(float{}, Half{});
}

// ---- CPU. Slices are rows of y, and of x; the caller spreads ranges of them over threads. ----
int64_t reflect_pad_fwd_cpu_slices(const ReflectPadParams& params);
int64_t reflect_pad_bwd_cpu_slices(const ReflectPadParams& params);
void reflect_pad_fwd_cpu(const ReflectPadParams& params, int64_t begin, int64_t end);
void reflect_pad_bwd_cpu(const ReflectPadParams& params, int64_t begin, int64_t end);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture. kInvalidArgument from 2^31 elements of a member on. ----
struct ReflectPadPlan {
  int vec;                     // elements of the output that a thread makes: 4, or 1
  int first[kMaxMembers + 1];  // blocks first[k] .. first[k + 1] - 1 work on member k
  LaunchConfig launch;
};
// Pure: reads the sizes, the types and the pointers' alignment.
ReflectPadPlan forward_plan_of(const ReflectPadParams& params);
ReflectPadPlan backward_plan_of(const ReflectPadParams& params);
Status reflect_pad_fwd_cuda(const ReflectPadParams& params, const ReflectPadPlan& plan,
                            Stream stream);
Status reflect_pad_bwd_cuda(const ReflectPadParams& params, const ReflectPadPlan& plan,
                            Stream stream);

}  // namespace cyclegan_fast
