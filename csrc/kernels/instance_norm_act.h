// instance_norm_act: y = reflect_pad(act((x - mean) * rstd) + residual, pad), act(v) = v > 0 ? v :
// slope * v
//
//   mean[n, c] = sum_hw x / HW          rstd[n, c] = 1 / sqrt(sum_hw (x - mean)^2 / HW + eps)
//
// Backward, with g = the adjoint of the pad applied to grad_y (a gather), xhat = (x - mean) * rstd,
// gz = xhat > 0 ? g : slope * g:
//
//   grad_residual = g      grad_x = rstd * (gz - mean_hw(gz) - xhat * mean_hw(gz * xhat))
//
// Element types: float, bfloat16 and float16 with sums in float; double with sums in double.
#pragma once

#include "types.h"

namespace cyclegan_fast {

struct InstanceNormActParams {
  const void* x;          // [in]  [N, C, H, W]
  const void* residual;   // [in]  [N, C, H + 2 residual_pad, W + 2 residual_pad], or null; its
                          // border is not read
  void* y;                // [out] [N, C, H + 2 pad, W + 2 pad]
  void* mean;             // [out] [N, C], float (double for kFloat64)
  void* rstd;             // [out] [N, C], likewise
  void* workspace;        // CUDA: plan_of().workspace_bytes, 16-byte aligned; CPU: unused
  int64_t n, c, h, w;     // of x; h * w >= 1
  int64_t pad;            // 0 <= pad < min(h, w)
  int64_t residual_pad;   // border of the residual, >= 0
  double eps;             // added to the variance
  double negative_slope;  // of kLeakyRelu
  Activation activation;
  DType dtype;    // of x, residual and y
  Layout layout;  // of x, residual and y, all dense
};

struct InstanceNormActBwdParams {
  const void* grad_y;   // [in]  [N, C, H + 2 pad, W + 2 pad]
  const void* x;        // [in]  [N, C, H, W]
  const void* mean;     // [in]  [N, C], from the forward pass
  const void* rstd;     // [in]  [N, C], from the forward pass
  void* grad_x;         // [out] [N, C, H, W]
  void* grad_residual;  // [out] [N, C, H + 2 residual_pad, W + 2 residual_pad], border zero; or
                        // null: not wanted
  void* workspace;      // CUDA: plan_of().workspace_bytes, 16-byte aligned; CPU: unused
  int64_t n, c, h, w;
  int64_t pad;
  int64_t residual_pad;
  double negative_slope;
  Activation activation;
  DType dtype;    // of grad_y, x, grad_x and grad_residual
  Layout layout;  // of grad_y, x, grad_x and grad_residual, all dense
};

// ---- CPU. The work falls into independent slices; the caller spreads ranges of them over threads.
// ---- A slice is a plane (NCHW) or a group of channels of one image (NHWC), computed in one order
// whoever computes it: the result has the same bits for any number of threads.
int64_t instance_norm_act_cpu_slices(int64_t n, int64_t c, DType dtype, Layout layout);
void instance_norm_act_fwd_cpu(const InstanceNormActParams& params, int64_t begin, int64_t end);
void instance_norm_act_bwd_cpu(const InstanceNormActBwdParams& params, int64_t begin, int64_t end);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture. ----
struct NormPlan {
  int vec;    // elements per access in the statistics pass: 16 bytes' worth, or 1
  int packs;  // neighbouring packs of channels that a block covers (1 for NCHW): a power of two <=
              // 32
  int threads;    // of a block: a multiple of 32, at most 256
  int64_t tiles;  // blocks across the channels of an image (1 for NCHW)
  int64_t
      splits;  // blocks that share a statistic; their partial results are merged in a fixed order
  int64_t workspace_bytes;  // splits * N * C partial results
};
// Pure: they read sizes, types and the alignment of the pointers.
NormPlan plan_of(const InstanceNormActParams& params);
NormPlan plan_of(const InstanceNormActBwdParams& params);
// kInvalidArgument: one padded image, or one plane, has 2^31 elements or more, or there are too
// many of them.
Status instance_norm_act_fwd_cuda(const InstanceNormActParams& params, Stream stream);
Status instance_norm_act_bwd_cuda(const InstanceNormActBwdParams& params, Stream stream);

}  // namespace cyclegan_fast
