// Binding of bias_act: check, fill the parameters, allocate, launch. See csrc/kernels/bias_act.h.
#include "bias_act.h"

#include <tuple>

#include "members.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "bias_act";

// Of a batch [N, C, H, W] in `layout`.
BiasActParams params_of(const Tensor& batch, Layout layout, bool tanh, double slope,
                        ScalarType from, ScalarType into) {
  BiasActParams p{};
  const int64_t c = batch.size(1);
  p.planes = layout == Layout::kNCHW ? c : 1, p.inner = layout == Layout::kNCHW ? 1 : c;
  p.pixels = batch.size(2) * batch.size(3);
  p.tanh = tanh, p.slope = slope;
  p.from = dtype_of(kOp, from), p.into = dtype_of(kOp, into);
  STD_TORCH_CHECK(widens(p.from, p.into), kOp, ": only 16 bits are converted, to float32");
  return p;
}

// y, one for each of `batches`, and the ticket of the backward pass.
template <bool kCuda>
std::tuple<Tensors, Tensor> forward(const Tensor& x, const std::optional<Tensor>& bias, bool tanh,
                                    double slope, ScalarType dtype, const Shape& batches) {
  STD_TORCH_CHECK(x.dim() == 4, kOp, ": x must be [N, C, H, W]");
  const Layout layout = layout_of(kOp, "x", x);
  BiasActParams p = params_of(x, layout, tanh, slope, x.scalar_type(), dtype);
  if (bias.has_value()) {
    STD_TORCH_CHECK(
        has_shape(*bias, {x.size(1)}) && bias->is_contiguous() && bias->device() == x.device(), kOp,
        ": bias must be contiguous [C] on the device of x");
    p.bias = bias->const_data_ptr(), p.bias_dtype = dtype_of(kOp, bias->scalar_type());
  }
  p.y = members_of<void*>(kOp, batches);
  STD_TORCH_CHECK(p.y.images() == x.size(0), kOp, ": the batches must hold all images of x");
  Tensors y;
  for (int k = 0; k < p.y.size; ++k) {
    y.push_back(empty_like(x, {batches[k], x.size(1), x.size(2), x.size(3)}, dtype, layout));
    p.y.data[k] = y.back().mutable_data_ptr();
  }
  const Tensor ticket = empty_like(x, {1}, ScalarType::Int, Layout::kNCHW);
  p.x = x.const_data_ptr(), p.ticket = static_cast<unsigned*>(ticket.mutable_data_ptr());
  if (x.numel() == 0) return {y, ticket};
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
    check_status(kOp, bias_act_fwd_cuda(p, forward_plan_of(p), current_stream(x)), x);
  }
#endif
  if constexpr (!kCuda) {
    *p.ticket = 0;
    parallel_slices(bias_act_cpu_slices(p, x.size(0)), x.numel(),
                    [&](int64_t begin, int64_t end) { bias_act_fwd_cpu(p, begin, end); });
  }
  return {y, ticket};
}

template <bool kCuda>
void run_backward(BiasActParams& p, const Tensor& like) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
    const BiasActPlan plan = backward_plan_of(p);
    const Tensor workspace = empty_bytes(like, plan.workspace_bytes);
    p.workspace = workspace.mutable_data_ptr();
    check_status(kOp, bias_act_bwd_cuda(p, plan, current_stream(like)), like);
  }
#endif
  if constexpr (!kCuda) {
    const Tensor workspace = empty_bytes(like, bias_act_cpu_workspace_bytes(p));
    p.workspace = workspace.mutable_data_ptr();
    const int64_t images = p.grad_y.images();
    parallel_slices(bias_act_cpu_slices(p, images), images * p.channels() * p.pixels,
                    [&](int64_t begin, int64_t end) { bias_act_bwd_cpu(p, begin, end); });
    if (p.grad_bias != nullptr) bias_act_finish_cpu(p);
  }
}

// `y` is empty where act is the identity; a member whose gradient is all zeros has none in
// `grad_y`. grad_x and grad_bias, as far as they are asked for.
template <bool kCuda>
Tensors backward(const std::vector<std::optional<Tensor>>& grad_y, const Tensors& y,
                 const Shape& batches, const Tensor& ticket, bool tanh, double slope,
                 bool channels_last, ScalarType x_dtype, ScalarType bias_dtype, bool needs_x,
                 bool needs_bias) {
  STD_TORCH_CHECK(grad_y.size() == batches.size() && (y.empty() || y.size() == batches.size()), kOp,
                  ": there must be a gradient and an output for each batch");
  const Tensor* like = nullptr;
  for (const auto& grad : grad_y)
    if (grad.has_value()) like = &*grad;
  STD_TORCH_CHECK(like != nullptr && like->dim() == 4, kOp, ": there must be a gradient");
  const Layout layout = channels_last ? Layout::kNHWC : Layout::kNCHW;
  BiasActParams p = params_of(*like, layout, tanh, slope, x_dtype, like->scalar_type());
  p.bias_dtype = dtype_of(kOp, bias_dtype);
  p.grad_y = members_of<const void*>(kOp, batches),
  p.output = members_of<const void*>(kOp, batches);
  Shape shape = shape_of(*like);
  Tensors dense;
  for (int k = 0; k < p.grad_y.size; ++k) {
    shape[0] = batches[k];
    if (!y.empty()) {
      check_like(kOp, "y", y[k], shape, *like);
      dense.push_back(in_layout(y[k], layout));
      p.output.data[k] = dense.back().const_data_ptr();
    }
    if (!grad_y[k].has_value()) continue;
    check_like(kOp, "grad_y", *grad_y[k], shape, *like);
    dense.push_back(in_layout(*grad_y[k], layout));
    p.grad_y.data[k] = dense.back().const_data_ptr();
  }
  Tensors grads;
  shape[0] = p.grad_y.images();
  if (needs_x) {
    grads.push_back(empty_like(*like, shape, x_dtype, layout));
    p.grad_x = grads.back().mutable_data_ptr();
  }
  if (needs_bias) {
    grads.push_back(empty_like(*like, {shape[1]}, bias_dtype, Layout::kNCHW));
    p.grad_bias = grads.back().mutable_data_ptr();
  }
  p.ticket = static_cast<unsigned*>(ticket.mutable_data_ptr());
  run_backward<kCuda>(p, *like);
  return grads;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def(
      "bias_act_fwd(Tensor x, Tensor? bias, bool tanh, float slope, ScalarType dtype, "
      "int[] batches) -> (Tensor[] y, Tensor ticket)");
  m.def(
      "bias_act_bwd(Tensor?[] grad_y, Tensor[] y, int[] batches, Tensor ticket, bool tanh, "
      "float slope, bool channels_last, ScalarType x_dtype, ScalarType bias_dtype, bool needs_x, "
      "bool needs_bias) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("bias_act_fwd", TORCH_BOX(&forward<false>));
  m.impl("bias_act_bwd", TORCH_BOX(&backward<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("bias_act_fwd", TORCH_BOX(&forward<true>));
  m.impl("bias_act_bwd", TORCH_BOX(&backward<true>));
}
#endif

}  // namespace cyclegan_fast
