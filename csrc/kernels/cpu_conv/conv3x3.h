// conv3x3: the 3x3 convolution of stride 1, y = conv(zero_pad(x), weight), its input gradient and
// its weight gradient, by Winograd's F(4x4, 3x3): a quarter of the multiplications. CPU only, NHWC.
//
// Each 4x4 tile of y comes from a 6x6 patch of x:
//   y = A^T [ (G w G^T) * (B^T x B) ] A,   dw = G^T [ sum over tiles (B^T x B) * (A dy A^T) ] G
// (Lavin and Gray 2016), where * multiplies the 36 positions one by one, and sums over channels (or
// tiles): 36 matrix products. They run in float; patches, tiles and weights are transformed in it.
#pragma once

#include "types.h"

namespace cyclegan_fast {

struct Conv3x3Params {
  const void* x;  // [in]  [N, H, W, C]; of the input gradient: dL/dy
  const float*
      weight;          // [in]  [K, 3, 3, C]; of the input gradient: [C, 3, 3, K], the forward one's
  void* y;             // [out] [N, H + 2 pad - 2, W + 2 pad - 2, K]; weight gradient: [in] dL/dy
  float* grad_weight;  // [out] [K, 3, 3, C], of the weight gradient only
  float* workspace;    // conv3x3_workspace() bytes, 64-byte aligned
  int64_t n, h, w, c;  // of x; h + 2 pad >= 3, w + 2 pad >= 3
  int64_t k;           // channels of y
  int64_t pad;   // zeros on each side of x, 0 to 2; of the input gradient: 2 - the forward one's
  bool flipped;  // the input gradient: weight is turned by 180 degrees and transposed
  DType dtype;   // of x and y: kFloat32 or kBFloat16
};

enum class Conv3x3Pass { kForward, kWeightGradient };  // the input gradient is a forward pass

// A pass is a sequence of phases; phase i has slices that may run in any order and at the same
// time, after all of phase i - 1. The result does not depend on how slices share out.
int64_t conv3x3_workspace(const Conv3x3Params& params);  // bytes
int64_t conv3x3_phases(const Conv3x3Params& params);
int64_t conv3x3_slices(const Conv3x3Params& params, Conv3x3Pass pass, int64_t phase);
void conv3x3_cpu(const Conv3x3Params& params, Conv3x3Pass pass, int64_t phase, int64_t begin,
                 int64_t end);

}  // namespace cyclegan_fast
