// bias_act: what follows a convolution without a norm, for all of a batch, split into its members:
//
//   y[n, c, :] = act(x[n, c, :] + bias[c]),  act(v) = tanh(v), or v > 0 ? v : slope * v
//
// Backward, from y alone: grad_x = act' * grad_y, with act' = 1 - y^2 or (y > 0 ? 1 : slope), and
// grad_bias[c] = the sum of grad_x over n and pixels, before it is rounded, in a fixed order.
//
// Both layouts are planes of [pixels * inner] elements: of `planes` planes an image.
#pragma once

#include "members.h"

namespace cyclegan_fast {

struct BiasActParams {
  const void* x;                // [in]  forward, [N, planes, pixels, inner]
  const void* bias;             // [in]  forward, [C], or null: 0
  Members<void*> y;             // [out] forward, each [n, planes, pixels, inner]
  Members<const void*> output;  // [in]  backward, the same y; all null where act is the identity
  Members<const void*> grad_y;  // [in]  backward, as y; null: zeros
  void* grad_x;                 // [out] backward, as x, or null: not needed
  void* grad_bias;              // [out] backward, [C], or null: not needed
  void* workspace;              // backward with grad_bias: bias_act_cpu_workspace_bytes() on the
                                // CPU, plan_of().workspace_bytes on CUDA
  unsigned* ticket;       // CUDA: the forward pass writes 0, or null; the backward pass counts
                          // the blocks that are done, and leaves 0. Needed for grad_bias
  int64_t planes, inner;  // NCHW: C and 1; NHWC: 1 and C
  int64_t pixels;
  double slope;      // of v <= 0: 1 is the identity, 0 relu
  bool tanh;         // instead of the slope
  DType from;        // of x and grad_x
  DType into;        // of y and grad_y: that of x, or kFloat32 for 16 bits
  DType bias_dtype;  // of bias and grad_bias

  CYCLEGAN_FAST_HD int64_t plane_size() const { return pixels * inner; }
  CYCLEGAN_FAST_HD int64_t channels() const { return planes * inner; }
};

// Whether there are kernels for this pair of types.
constexpr bool widens(DType from, DType into) {
  return from == into ||
         (into == DType::kFloat32 && (from == DType::kBFloat16 || from == DType::kFloat16));
}

// Calls f(From{}, Into{}) with the element types of such a pair.
template <typename F>
auto dispatch_widening(DType from, DType into, F&& f) {
  if (from == into) return dispatch(from, [&](auto element) { return f(element, element); });
  return from == DType::kBFloat16 ? f(BFloat16{}, float{}) : f(Half{}, float{});
}

// ---- CPU. Slices are planes; the caller spreads ranges of them over threads. ----
int64_t bias_act_cpu_slices(const BiasActParams& params, int64_t images);
int64_t bias_act_cpu_workspace_bytes(const BiasActParams& params);
void bias_act_fwd_cpu(const BiasActParams& params, int64_t begin, int64_t end);
void bias_act_bwd_cpu(const BiasActParams& params, int64_t begin, int64_t end);
void bias_act_finish_cpu(const BiasActParams& params);  // grad_bias, once all slices are done

// ---- CUDA, one launch each. Asynchronous on `stream`; no allocation, no synchronisation, no
// atomics but the ticket: safe under graph capture. ----
struct BiasActPlan {
  int vec;         // elements per access: 4, or 1
  int64_t chunks;  // blocks that share a plane
  LaunchConfig launch;
  int64_t workspace_bytes;  // backward: one partial sum a block and channel of its plane
};
// Pure: read the sizes, the types and the pointers' alignment.
BiasActPlan forward_plan_of(const BiasActParams& params);
BiasActPlan backward_plan_of(const BiasActParams& params);
Status bias_act_fwd_cuda(const BiasActParams& params, const BiasActPlan& plan, Stream stream);
Status bias_act_bwd_cuda(const BiasActParams& params, const BiasActPlan& plan, Stream stream);

}  // namespace cyclegan_fast
