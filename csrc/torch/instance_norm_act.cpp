// Binding of instance_norm_act: check, fill the parameters, allocate, launch. See
// csrc/kernels/instance_norm_act.h.
//
// The output has the layout of x. A residual or a gradient in another layout is copied into that of
// x; a residual that is the inside of a padded tensor is read where it is.
#include "instance_norm_act.h"

#include <algorithm>
#include <tuple>

#ifdef CYCLEGAN_FAST_WITH_CUDA
#include "cuda/device_properties.h"
#endif
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

// The border of the dense tensor whose inside `t` is, a view of [N, C, H, W]; nothing where it is
// another view.
std::optional<int64_t> border_around(const Tensor& t, Layout layout) {
  const int64_t pixel = layout == Layout::kNHWC ? t.size(1) : 1;
  const int64_t border = t.size(2) > 1 ? (t.stride(2) / pixel - t.size(3)) / 2 : 0;
  if (border < 0) return std::nullopt;
  const Shape strides = strides_of(bordered(t, border), layout);
  for (size_t axis = 0; axis < strides.size(); ++axis) {
    if (t.size(axis) > 1 && t.stride(axis) != strides[axis]) return std::nullopt;
  }
  return border;
}

// The residual as the kernels read it: with its border. `kept` owns a copy.
void fill_residual(InstanceNormActParams& p, const Tensor& residual, const Tensor& x,
                   std::optional<Tensor>& kept) {
  check_like(kOp, "residual", residual, shape_of(x), x);
  p.residual_pad = border_around(residual, p.layout).value_or(0);
  if (p.residual_pad == 0) {
    kept = in_layout(residual, p.layout);
    p.residual = kept->const_data_ptr();
    return;
  }
  const int64_t pixel = p.layout == Layout::kNHWC ? p.c : 1;
  const int64_t before = (p.residual_pad * (p.w + 2 * p.residual_pad) + p.residual_pad) * pixel;
  p.residual = static_cast<const char*>(residual.const_data_ptr()) - before * size_of(p.dtype);
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

// The values of `t`, or null where there is none. Sums and parameters are small: any other strides
// are copied, and `kept` owns the copy.
const void* stat_data(const char* name, const std::optional<Tensor>& t, const Shape& shape,
                      const Tensor& x, std::optional<Tensor>& kept) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(has_shape(*t, shape), "instance_norm_act: ", name, " must have shape ",
                  to_string(shape), ", got ", to_string(shape_of(*t)));
  STD_TORCH_CHECK(
      t->scalar_type() == stat_type_of(dtype_of(kOp, x.scalar_type())) && t->device() == x.device(),
      "instance_norm_act: ", name, " must have the type of the sums and be on the ", "device of x");
  kept = in_layout(*t, Layout::kNCHW);
  return kept->const_data_ptr();
}

template <typename Params>
void run_cpu(const Params& p, void (*slices)(const Params&, int64_t, int64_t)) {
  const int64_t count = instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout);
  parallel_slices(count, p.n * p.c * p.h * p.w,
                  [&](int64_t begin, int64_t end) { slices(p, begin, end); });
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
template <typename Params>
void run_cuda(Params& p, const Tensor& x,
              Status (*launch)(const Params&, const NormPlan&, Stream)) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const NormPlan plan = plan_of(p, current_device_properties());
  std::optional<Tensor> workspace;
  if (plan.workspace_bytes > 0) {
    workspace = empty_bytes(x, plan.workspace_bytes);
    p.workspace = workspace->mutable_data_ptr();
  }
  check_status(kOp, launch(p, plan, current_stream(x)), x);
}
#endif

// `out` where it can hold a result of that shape, laid out as x; a new tensor where there is none.
Tensor result_for(const Tensor& x, const Shape& shape, Layout layout,
                  const std::optional<Tensor>& out) {
  if (!out.has_value()) return empty_like(x, shape, x.scalar_type(), layout);
  check_like(kOp, "the output", *out, shape, x);
  const bool fits = layout == Layout::kNCHW ? out->is_contiguous() : is_channels_last(*out);
  STD_TORCH_CHECK(fits, "instance_norm_act: the output must have the layout of x");
  return *out;
}

using Forward = std::tuple<Tensor, Tensor, Tensor>;  // y, mean, rstd

template <bool kCuda>
Forward compute(const Tensor& x, const std::optional<Tensor>& residual,
                const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                const std::optional<Tensor>& statistics, std::optional<double> statistics_count,
                int64_t activation, double negative_slope, double eps, int64_t pad,
                const std::optional<Tensor>& out) {
  InstanceNormActParams p{};
  fill(p, x, activation, negative_slope, pad);
  p.eps = eps;
  p.count = statistics_count.value_or(static_cast<double>(p.h * p.w));
  STD_TORCH_CHECK(p.count > 0, "instance_norm_act: statistics_count must be above 0, got ",
                  p.count);
  std::optional<Tensor> extra, scale, shift, sums;
  p.weight = stat_data("weight", weight, {p.c}, x, scale);
  p.bias = stat_data("bias", bias, {p.c}, x, shift);
  p.statistics = stat_data("statistics", statistics, {3, p.n, p.c}, x, sums);
  if (residual.has_value()) fill_residual(p, *residual, x, extra);
  const Tensor y = result_for(x, bordered(x, pad), p.layout, out);
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

// `constant_statistics` is for the gradient alone: autograd hands it to the backward pass.
template <bool kCuda>
Forward forward(const Tensor& x, const std::optional<Tensor>& residual,
                const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                const std::optional<Tensor>& statistics, std::optional<double> statistics_count,
                bool /*constant_statistics*/, int64_t activation, double negative_slope, double eps,
                int64_t pad) {
  return compute<kCuda>(x, residual, weight, bias, statistics, statistics_count, activation,
                        negative_slope, eps, pad, std::nullopt);
}

template <bool kCuda>
std::tuple<Tensor, Tensor> forward_into(
    const Tensor& x, const std::optional<Tensor>& residual, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& statistics,
    std::optional<double> statistics_count, bool /*constant_statistics*/, int64_t activation,
    double negative_slope, double eps, int64_t pad, const Tensor& y) {
  auto [_, mean, rstd] = compute<kCuda>(x, residual, weight, bias, statistics, statistics_count,
                                        activation, negative_slope, eps, pad, y);
  return {mean, rstd};
}

// On the CPU the sums of each image come first, then those of all images in a fixed order.
void run_backward_cpu(InstanceNormActBwdParams& p, const Tensor& x) {
  std::optional<Tensor> workspace;
  if (p.grad_weight != nullptr) {
    workspace = empty_like(x, {2, p.n, p.c}, stat_type_of(p.dtype), Layout::kNCHW);
    p.workspace = workspace->mutable_data_ptr();
  }
  run_cpu(p, instance_norm_act_bwd_cpu);
  if (p.grad_weight != nullptr) instance_norm_act_affine_grads_cpu(p);
}

// The gradients that are needed: of x, of the residual, of weight and bias.
template <bool kCuda>
std::vector<Tensor> differentiate(const Tensor& grad_y, const std::optional<Tensor>& grad_inner,
                                  const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                  const std::optional<Tensor>& weight,
                                  const std::optional<Tensor>& bias, bool constant_statistics,
                                  int64_t activation, double negative_slope, int64_t pad,
                                  bool needs_residual_grad, bool needs_affine_grad,
                                  const std::optional<Tensor>& out) {
  InstanceNormActBwdParams p{};
  fill(p, x, activation, negative_slope, pad);
  p.constant_statistics = constant_statistics;
  check_like(kOp, "grad_y", grad_y, bordered(x, pad), x);
  const Tensor gradient = in_layout(grad_y, p.layout);
  p.grad_y = gradient.const_data_ptr();
  std::optional<Tensor> inner, means, rstds, scale, shift;
  if (grad_inner.has_value()) {
    check_like(kOp, "grad_inner", *grad_inner, shape_of(x), x);
    inner = in_layout(*grad_inner, p.layout);
    p.grad_inner = inner->const_data_ptr();
  }
  p.mean = stat_data("mean", mean, {p.n, p.c}, x, means);
  p.rstd = stat_data("rstd", rstd, {p.n, p.c}, x, rstds);
  p.weight = stat_data("weight", weight, {p.c}, x, scale);
  p.bias = stat_data("bias", bias, {p.c}, x, shift);

  std::vector<Tensor> grads = {result_for(x, shape_of(x), p.layout, out)};
  p.grad_x = grads[0].mutable_data_ptr();
  const auto output = [&](const Shape& shape, ScalarType type, Layout layout) {
    grads.push_back(empty_like(x, shape, type, layout));
    return grads.back().mutable_data_ptr();
  };
  if (needs_residual_grad) p.grad_residual = output(shape_of(x), x.scalar_type(), p.layout);
  if (needs_affine_grad) {
    p.grad_weight = output({p.c}, stat_type_of(p.dtype), Layout::kNCHW);
    p.grad_bias = output({p.c}, stat_type_of(p.dtype), Layout::kNCHW);
  }
  if (p.n * p.c == 0) {
    for (Tensor& grad : grads) torch::stable::zero_(grad);
    return grads;
  }
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) run_cuda(p, x, instance_norm_act_bwd_cuda);
#endif
  if constexpr (!kCuda) run_backward_cpu(p, x);
  return grads;
}

template <bool kCuda>
std::vector<Tensor> backward(const Tensor& grad_y, const std::optional<Tensor>& grad_inner,
                             const Tensor& x, const Tensor& mean, const Tensor& rstd,
                             const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                             bool constant_statistics, int64_t activation, double negative_slope,
                             int64_t pad, bool needs_residual_grad, bool needs_affine_grad) {
  return differentiate<kCuda>(grad_y, grad_inner, x, mean, rstd, weight, bias, constant_statistics,
                              activation, negative_slope, pad, needs_residual_grad,
                              needs_affine_grad, std::nullopt);
}

// The other gradients, without that of x.
template <bool kCuda>
std::vector<Tensor> backward_into(const Tensor& grad_y, const std::optional<Tensor>& grad_inner,
                                  const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                  const std::optional<Tensor>& weight,
                                  const std::optional<Tensor>& bias, bool constant_statistics,
                                  int64_t activation, double negative_slope, int64_t pad,
                                  bool needs_residual_grad, bool needs_affine_grad,
                                  const Tensor& grad_x) {
  std::vector<Tensor> grads = differentiate<kCuda>(
      grad_y, grad_inner, x, mean, rstd, weight, bias, constant_statistics, activation,
      negative_slope, pad, needs_residual_grad, needs_affine_grad, grad_x);
  grads.erase(grads.begin());
  return grads;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def(
      "instance_norm_act_fwd(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, "
      "Tensor? statistics, float? statistics_count, bool constant_statistics, int activation, "
      "float negative_slope, float eps, int pad)"
      " -> (Tensor y, Tensor mean, Tensor rstd)");
  m.def(
      "instance_norm_act_bwd(Tensor grad_y, Tensor? grad_inner, Tensor x, Tensor mean, "
      "Tensor rstd, Tensor? weight, Tensor? bias, bool constant_statistics, int activation, "
      "float negative_slope, int pad, bool needs_residual_grad, bool needs_affine_grad)"
      " -> Tensor[]");
  // The same into memory of the caller's, which may be part of a larger tensor.
  m.def(
      "instance_norm_act_fwd_into(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, "
      "Tensor? statistics, float? statistics_count, bool constant_statistics, int activation, "
      "float negative_slope, float eps, int pad, Tensor(a!) y)"
      " -> (Tensor mean, Tensor rstd)");
  m.def(
      "instance_norm_act_bwd_into(Tensor grad_y, Tensor? grad_inner, Tensor x, Tensor mean, "
      "Tensor rstd, Tensor? weight, Tensor? bias, bool constant_statistics, int activation, "
      "float negative_slope, int pad, bool needs_residual_grad, bool needs_affine_grad, "
      "Tensor(a!) grad_x)"
      " -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("instance_norm_act_fwd", TORCH_BOX(&forward<false>));
  m.impl("instance_norm_act_bwd", TORCH_BOX(&backward<false>));
  m.impl("instance_norm_act_fwd_into", TORCH_BOX(&forward_into<false>));
  m.impl("instance_norm_act_bwd_into", TORCH_BOX(&backward_into<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("instance_norm_act_fwd", TORCH_BOX(&forward<true>));
  m.impl("instance_norm_act_bwd", TORCH_BOX(&backward<true>));
  m.impl("instance_norm_act_fwd_into", TORCH_BOX(&forward_into<true>));
  m.impl("instance_norm_act_bwd_into", TORCH_BOX(&backward_into<true>));
}
#endif

}  // namespace cyclegan_fast
