// instance_norm_act: y = reflect_pad(act(xhat * weight + bias) + residual, pad)
//
//   xhat = (x - mean) * rstd            act(v) = v > 0 ? v : slope * v
//   mean[n, c] = sum_hw x / HW          rstd[n, c] = 1 / sqrt(sum_hw (x - mean)^2 / HW + eps)
//
// or with given statistics: sums over `count` pixels that another kernel computed.
//
// Backward, with z = xhat * weight + bias, g = grad_inner + the adjoint of the pad applied to
// grad_y (a gather), gz = z > 0 ? g : slope * g:
//
//   grad_residual = g      grad_bias[c] = sum_nhw gz      grad_weight[c] = sum_nhw gz * xhat
//   grad_x = weight * rstd * (gz - mean_hw(gz) - xhat * mean_hw(gz * xhat))
//   grad_x = weight * rstd * gz          where the statistics are constants
//
// Element types: float, bfloat16 and float16 with sums in float; double with sums in double. "Stat"
// below is the type of a sum: float, or double for double.
#pragma once

#include "norm_plan.h"
#include "types.h"

namespace cyclegan_fast {

struct InstanceNormActParams {
  const void* x;           // [in]  [N, C, H, W]
  const void* residual;    // [in]  [N, C, H + 2 residual_pad, W + 2 residual_pad], or null; its
                           // border is not read
  const void* weight;      // [in]  [C] Stat, or null: 1
  const void* bias;        // [in]  [C] Stat, or null: 0
  const void* statistics;  // [in]  [3, N, C] Stat: a shift, the sum of x - shift and the sum of
                           // (x - shift)^2 over `count` pixels; or null: taken from x
  void* y;                 // [out] [N, C, H + 2 pad, W + 2 pad]
  void* mean;              // [out] [N, C] Stat
  void* rstd;              // [out] [N, C] Stat
  void* workspace;         // CUDA: plan_of().workspace_bytes, 16-byte aligned; CPU: unused
  int64_t n, c, h, w;      // of x; h * w >= 1
  int64_t pad;             // 0 <= pad < min(h, w)
  int64_t residual_pad;    // border of the residual, >= 0
  double count;            // pixels behind the statistics, > 0
  double eps;              // added to the variance
  double negative_slope;   // of kLeakyRelu
  Activation activation;
  DType dtype;    // of x, residual and y
  Layout layout;  // of x, residual and y, all dense
};

struct InstanceNormActBwdParams {
  const void* grad_y;      // [in]  [N, C, H + 2 pad, W + 2 pad]
  const void* grad_inner;  // [in]  [N, C, H, W], of y without its border; or null: 0
  const void* x;           // [in]  [N, C, H, W]
  const void* mean;        // [in]  [N, C] Stat, from the forward pass
  const void* rstd;        // [in]  [N, C] Stat, from the forward pass
  const void* weight;      // [in]  [C] Stat, or null: 1
  const void* bias;        // [in]  [C] Stat, or null: 0
  void* grad_x;            // [out] [N, C, H, W]
  void* grad_residual;     // [out] [N, C, H, W], or null: not needed
  void* grad_weight;       // [out] [C] Stat, or null: not needed (then grad_bias is null as well)
  void* grad_bias;         // [out] [C] Stat, or null: not needed
  void* workspace;         // CUDA: plan_of().workspace_bytes, 16-byte aligned; CPU: [2, N, C] Stat
                           // where grad_weight is needed, else unused
  int64_t n, c, h, w;
  int64_t pad;
  double negative_slope;
  Activation activation;
  bool constant_statistics;  // mean and rstd do not depend on x
  DType dtype;               // of x and all gradients but those of weight and bias
  Layout layout;             // of the same, all dense
};

// ---- CPU. The work falls into independent slices; the caller spreads ranges of them over threads.
// ---- A slice is a plane (NCHW) or a group of channels of one image (NHWC), computed in one order
// whoever computes it: the result has the same bits for any number of threads.
int64_t instance_norm_act_cpu_slices(int64_t n, int64_t c, DType dtype, Layout layout);
void instance_norm_act_fwd_cpu(const InstanceNormActParams& params, int64_t begin, int64_t end);
void instance_norm_act_bwd_cpu(const InstanceNormActBwdParams& params, int64_t begin, int64_t end);
// grad_weight and grad_bias, where needed, once all slices of the backward pass are done.
void instance_norm_act_affine_grads_cpu(const InstanceNormActBwdParams& params);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture. ----

// Pure: they read sizes, types and the alignment of the pointers. What they plan is what is
// launched.
NormPlan plan_of(const InstanceNormActParams& params, const DeviceProperties& device);
NormPlan plan_of(const InstanceNormActBwdParams& params, const DeviceProperties& device);

// kInvalidArgument: one padded image, or one plane, has 2^31 elements or more, or there are too
// many of them.
Status instance_norm_act_fwd_cuda(const InstanceNormActParams& params, const NormPlan& plan,
                                  Stream stream);
Status instance_norm_act_bwd_cuda(const InstanceNormActBwdParams& params, const NormPlan& plan,
                                  Stream stream);

}  // namespace cyclegan_fast
