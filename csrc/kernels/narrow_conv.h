// narrow_conv: convolutions with few channels on one side, C = 1 .. 8 beside K = 16 .. 128: the 7x7
// stem and head of a generator, the first layer of a discriminator. Both tensors are NHWC in 16
// bits; sums are in float.
//
// One bilinear form has all three passes. With U the weight, rounded to the type of the tensors,
// and q a pixel of the wide one,
//
//   to wide:         wide[q, k]   = sum over tap, c of narrow[stride q + tap - pad, c] U[tap, c, k]
//   to narrow:       narrow[m, c] = sum over tap, q, k where stride q + tap - pad = m
//                                   of wide[q, k] U[tap, c, k]
//   weight gradient: U[tap, c, k] = sum over q of wide[q, k] narrow[stride q + tap - pad, c]
//
// A convolution from narrow to wide runs the first one forward and the second one for its input's
// gradient. One from wide to narrow (stride 1) is the second one forward, its weight read with the
// taps in reverse order and pad R - 1 minus its own, and the first one for its input's gradient.
#pragma once

#include "types.h"

namespace cyclegan_fast {

struct NarrowConvParams {
  void* narrow;        // [N, HN, WN, C]: [out] of to narrow, else [in]
  void* wide;          // [N, HW, WW, K], 16-byte aligned: [out] of to wide, else [in]
  const void* weight;  // [K, R, S, C], or with wide_input [C, R, S, K], taps in reverse order
  void* grad_weight;   // [out] as weight
  int64_t n, c, k;     // images, narrow and wide channels
  int64_t hn, wn, hw, ww, r, s, stride, pad;
  DType dtype;         // of narrow and wide: kBFloat16 or kFloat16
  DType weight_dtype;  // of weight and grad_weight: kFloat32 or dtype
  bool wide_input;     // the convolution runs from wide to narrow
  void* workspace;     // plan.workspace_bytes: partial sums of the weight gradient
};

// Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under graph
// capture.
struct NarrowConvPlan {
  LaunchConfig main;         // a grid of 0: the kernels do not fit these sizes
  LaunchConfig merge;        // the weight gradient's second kernel
  int64_t tiles_y, tiles_x;  // of an image
  int64_t parts;  // blocks that share a tile (to wide) or split the pixels (weight gradient)
  int64_t workspace_bytes;
};

// Whether the kernels fit: the sizes above, kernels of up to 7x7, stride 1 or 2 (1 with
// wide_input), K a multiple of 8 and, beside more than 3 narrow channels, up to 64.
bool narrow_conv_fits(const NarrowConvParams& params);

NarrowConvPlan narrow_conv_to_wide_plan(const NarrowConvParams&, const DeviceProperties&);
NarrowConvPlan narrow_conv_to_narrow_plan(const NarrowConvParams&, const DeviceProperties&);
NarrowConvPlan narrow_conv_weight_grad_plan(const NarrowConvParams&, const DeviceProperties&);

Status narrow_conv_to_wide_cuda(const NarrowConvParams&, const NarrowConvPlan&, Stream);
Status narrow_conv_to_narrow_cuda(const NarrowConvParams&, const NarrowConvPlan&, Stream);
Status narrow_conv_weight_grad_cuda(const NarrowConvParams&, const NarrowConvPlan&, Stream);

}  // namespace cyclegan_fast
