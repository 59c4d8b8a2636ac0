// conv2d: y = conv(zero_pad(x), weight) + bias for any kernel size and stride, its input gradient
// and its weight gradient, as sums over rows of pixels. CPU only, NHWC: there the pixels under one
// row of the kernel, S x C numbers, lie side by side. A transposed convolution is the input
// gradient.
#pragma once

#include "types.h"

namespace cyclegan_fast {

struct Conv2dParams {
  void* x;              // [N, H, W, C]; [in], of the input gradient [out]: dL/dx
  void* y;              // [N, OH, OW, K]; [out], of the gradients [in]: dL/dy
  const float* weight;  // [in]  [K, R, S, C]; of the weight gradient unused
  const float* bias;    // [in]  [K] or null; of the forward pass only
  float* grad_weight;   // [out] [K, R, S, C]; of the weight gradient only
  float* workspace;     // conv2d_workspace() bytes, 64-byte aligned
  int64_t n, h, w, c, k;
  int64_t r, s;    // kernel size: rows and columns
  int64_t oh, ow;  // pixel (oy, ox) of y sees those of x from (oy stride - pad, ox stride - pad)
  int64_t stride, pad;
  DType dtype;  // of x and y: kFloat32 or kBFloat16; sums are in float
};

enum class Conv2dPass { kForward, kInputGradient, kWeightGradient };

// As in conv3x3.h: phases one after the other, their slices in any order.
constexpr int64_t kConv2dPhases = 3;
int64_t conv2d_workspace(const Conv2dParams& params, Conv2dPass pass);  // bytes
int64_t conv2d_slices(const Conv2dParams& params, Conv2dPass pass, int64_t phase);
void conv2d_cpu(const Conv2dParams& params, Conv2dPass pass, int64_t phase, int64_t begin,
                int64_t end);

}  // namespace cyclegan_fast
