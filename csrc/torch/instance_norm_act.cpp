// Binding of instance_norm_act: check, fill the parameters, allocate, launch. See
// csrc/kernels/instance_norm_act.h.
//
// The output has the layout of x. A residual or a gradient in another layout is copied into that of
// x.
#include "instance_norm_act.h"

#include <algorithm>
#include <tuple>

#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "instance_norm_act";

Activation activation_of(int64_t activation) {
  STD_TORCH_CHECK(
      activation >= 0 && activation <= 2,
      "instance_norm_act: activation must be 0 (none), 1 (relu) or 2 (leaky_relu), got ",
      activation);
  return static_cast<Activation>(activation);
}

// [N, C, H, W] of x with a border on each side.
Shape bordered(const Tensor& x, int64_t border) {
  return {x.size(0), x.size(1), x.size(2) + 2 * border, x.size(3) + 2 * border};
}

// Fills what forward and backward share: sizes, types, layout.
template <typename Params>
void fill(Params& p, const Tensor& x, int64_t activation, double negative_slope, int64_t pad) {
  STD_TORCH_CHECK(x.dim() == 4, "instance_norm_act: x must have shape [N, C, H, W], got ",
                  to_string(shape_of(x)));
  p.n = x.size(0), p.c = x.size(1), p.h = x.size(2), p.w = x.size(3);
  STD_TORCH_CHECK(pad >= 0 && pad < std::min(p.h, p.w),
                  "instance_norm_act: pad must be at least 0 and less than min(H, W) of x ",
                  to_string(shape_of(x)), ", got ", pad);
  p.pad = pad;
  p.x = x.const_data_ptr();
  p.activation = activation_of(activation);
  p.negative_slope = negative_slope;
  p.dtype = dtype_of(kOp, x.scalar_type());
  p.layout = layout_of(kOp, "x", x);
}

template <typename Params>
void run_cpu(const Params& p, void (*slices)(const Params&, int64_t, int64_t)) {
  const int64_t count = instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout);
  parallel_slices(count, p.n * p.c * p.h * p.w,
                  [&](int64_t begin, int64_t end) { slices(p, begin, end); });
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
template <typename Params>
void run_cuda(Params& p, const Tensor& x, Status (*launch)(const Params&, Stream)) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor workspace = empty_bytes(x, plan_of(p).workspace_bytes);
  p.workspace = workspace.mutable_data_ptr();
  check_status(kOp, launch(p, current_stream(x)));
}
#endif

using Forward = std::tuple<Tensor, Tensor, Tensor>;  // y, mean, rstd
using Backward = std::tuple<Tensor, Tensor>;         // grad_x, grad_residual

template <bool kCuda>
Forward forward(const Tensor& x, const std::optional<Tensor>& residual, int64_t activation,
                double negative_slope, double eps, int64_t pad) {
  InstanceNormActParams p{};
  fill(p, x, activation, negative_slope, pad);
  p.eps = eps;
  Tensor extra;
  if (residual.has_value()) {
    STD_TORCH_CHECK(residual->dim() == 4, "instance_norm_act: residual must have 4 axes, got ",
                    to_string(shape_of(*residual)));
    p.residual_pad = std::max<int64_t>((residual->size(2) - p.h) / 2, 0);
    check_like(kOp, "residual", *residual, bordered(x, p.residual_pad), x);
    extra = in_layout(*residual, p.layout);
    p.residual = extra.const_data_ptr();
  }
  const Tensor y = empty_like(x, bordered(x, pad), x.scalar_type(), p.layout);
  const Tensor mean = empty_like(x, {p.n, p.c}, stat_type_of(p.dtype), Layout::kNCHW);
  const Tensor rstd = empty_like(x, {p.n, p.c}, stat_type_of(p.dtype), Layout::kNCHW);
  p.y = y.mutable_data_ptr(), p.mean = mean.mutable_data_ptr(), p.rstd = rstd.mutable_data_ptr();
  if (p.n * p.c == 0) return {y, mean, rstd};
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) run_cuda(p, x, instance_norm_act_fwd_cuda);
#endif
  if constexpr (!kCuda) run_cpu(p, instance_norm_act_fwd_cpu);
  return {y, mean, rstd};
}

template <bool kCuda>
Backward backward(const Tensor& grad_y, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                  int64_t activation, double negative_slope, int64_t pad, int64_t residual_pad,
                  bool needs_residual_grad) {
  InstanceNormActBwdParams p{};
  fill(p, x, activation, negative_slope, pad);
  STD_TORCH_CHECK(residual_pad >= 0, "instance_norm_act: residual_pad must be at least 0, got ",
                  residual_pad);
  p.residual_pad = residual_pad;
  check_like(kOp, "grad_y", grad_y, bordered(x, pad), x);
  for (const Tensor* stat : {&mean, &rstd}) {
    STD_TORCH_CHECK(shape_of(*stat) == Shape({p.n, p.c}) &&
                        stat->scalar_type() == stat_type_of(p.dtype) && stat->is_contiguous() &&
                        stat->device() == x.device(),
                    "instance_norm_act: mean and rstd must be those of the forward pass");
  }
  const Tensor gradient = in_layout(grad_y, p.layout);
  const Tensor grad_x = empty_like(x, shape_of(x), x.scalar_type(), p.layout);
  const Tensor grad_residual =
      needs_residual_grad ? empty_like(x, bordered(x, residual_pad), x.scalar_type(), p.layout)
                          : empty_like(x, {0}, x.scalar_type(), Layout::kNCHW);
  p.grad_y = gradient.const_data_ptr(), p.mean = mean.const_data_ptr(),
  p.rstd = rstd.const_data_ptr();
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_residual = needs_residual_grad ? grad_residual.mutable_data_ptr() : nullptr;
  if (p.n * p.c == 0) return {grad_x, grad_residual};
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) run_cuda(p, x, instance_norm_act_bwd_cuda);
#endif
  if constexpr (!kCuda) run_cpu(p, instance_norm_act_bwd_cpu);
  return {grad_x, grad_residual};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def(
      "instance_norm_act_fwd(Tensor x, Tensor? residual, int activation, float negative_slope, "
      "float eps, int pad)"
      " -> (Tensor y, Tensor mean, Tensor rstd)");
  m.def(
      "instance_norm_act_bwd(Tensor grad_y, Tensor x, Tensor mean, Tensor rstd, int activation, "
      "float negative_slope,"
      " int pad, int residual_pad, bool needs_residual_grad) -> (Tensor grad_x, Tensor "
      "grad_residual)");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("instance_norm_act_fwd", TORCH_BOX(&forward<false>));
  m.impl("instance_norm_act_bwd", TORCH_BOX(&backward<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("instance_norm_act_fwd", TORCH_BOX(&forward<true>));
  m.impl("instance_norm_act_bwd", TORCH_BOX(&backward<true>));
}
#endif

}  // namespace cyclegan_fast
