// Binding of narrow_conv: what conv2d, conv2d_input_grad and conv2d_weight_grad (schemas in
// conv2d.cpp) are on CUDA. See csrc/kernels/narrow_conv.h.
//
// A wide tensor that is not 16-byte aligned is copied.
#ifdef CYCLEGAN_FAST_WITH_CUDA
#include "narrow_conv.h"

#include "cuda/device_properties.h"
#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "conv2d";
constexpr int64_t kMaxNarrow = 8;

void check_dense(const char* name, const Tensor& t) {
  STD_TORCH_CHECK(is_channels_last(t), "conv2d: ", name,
                  " must have 4 axes and be channels_last, got strides ",
                  to_string(Shape(t.strides().begin(), t.strides().end())), " for shape ",
                  to_string(shape_of(t)));
}

Tensor aligned(const Tensor& t) {
  const bool fits = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
  return fits ? t : torch::stable::clone(t);
}

// A convolution by its tensors: two of them hold values, the third one is computed.
struct Convolution {
  Shape x, y, weight;
  int64_t stride, pad;
  bool wide_input() const { return weight[1] > kMaxNarrow; }
};

NarrowConvParams params_of(const Convolution& conv, const Tensor& like, ScalarType weight_type) {
  const bool swapped = conv.wide_input();
  const Shape &narrow = swapped ? conv.y : conv.x, &wide = swapped ? conv.x : conv.y;
  NarrowConvParams p{};
  p.n = narrow[0], p.c = narrow[1], p.hn = narrow[2], p.wn = narrow[3];
  p.k = wide[1], p.hw = wide[2], p.ww = wide[3];
  p.r = conv.weight[2], p.s = conv.weight[3], p.stride = conv.stride;
  p.pad = swapped ? p.r - 1 - conv.pad : conv.pad;
  p.wide_input = swapped;
  p.dtype = dtype_of(kOp, like.scalar_type());
  p.weight_dtype = dtype_of(kOp, weight_type);
  const auto fits = [&](size_t axis) {
    return (conv.y[axis] - 1) * conv.stride + conv.weight[axis] <= conv.x[axis] + 2 * conv.pad;
  };
  STD_TORCH_CHECK(conv.x[0] == conv.y[0] && conv.x[1] == conv.weight[1] &&
                      conv.y[1] == conv.weight[0] && fits(2) && fits(3),
                  "conv2d: x ", to_string(conv.x), ", weight ", to_string(conv.weight), " and y ",
                  to_string(conv.y), " do not fit, with stride ", conv.stride, " and padding ",
                  conv.pad);
  STD_TORCH_CHECK(narrow_conv_fits(p), "conv2d: no CUDA kernel for x ", to_string(conv.x),
                  " and weight ", to_string(conv.weight), " with stride ", conv.stride,
                  ", padding ", conv.pad,
                  ": one side must have 1 to 8 channels and the other one 16 to 128, a multiple of "
                  "8, in 16 bits");
  return p;
}

void run(const NarrowConvParams& p, const Tensor& like, bool to_wide) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const auto plan_of = to_wide ? narrow_conv_to_wide_plan : narrow_conv_to_narrow_plan;
  const auto launch = to_wide ? narrow_conv_to_wide_cuda : narrow_conv_to_narrow_cuda;
  check_status(kOp, launch(p, plan_of(p, current_device_properties()), current_stream(like)), like);
}

Tensor conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              int64_t stride, int64_t pad, bool) {
  check_dense("x", x);
  check_dense("weight", weight);
  STD_TORCH_CHECK(!bias.has_value(), "conv2d: the CUDA kernels add no bias");
  STD_TORCH_CHECK(stride >= 1, "conv2d: stride must be at least 1, got ", stride);
  const auto out = [&](int axis) {
    return (x.size(axis) + 2 * pad - weight.size(axis)) / stride + 1;
  };
  const Tensor y =
      empty_like(x, {x.size(0), weight.size(0), out(2), out(3)}, x.scalar_type(), Layout::kNHWC);
  if (y.numel() == 0) return y;
  const Convolution conv = {shape_of(x), shape_of(y), shape_of(weight), stride, pad};
  NarrowConvParams p = params_of(conv, x, weight.scalar_type());
  const Tensor input = p.wide_input ? aligned(x) : x;
  void *in = const_cast<void*>(input.const_data_ptr()), *result = y.mutable_data_ptr();
  p.narrow = p.wide_input ? result : in, p.wide = p.wide_input ? in : result;
  p.weight = weight.const_data_ptr();
  run(p, x, !p.wide_input);
  return y;
}

// dL/dx [N, C, h, w].
Tensor conv2d_input_grad(const Tensor& grad_y, const Tensor& weight, int64_t h, int64_t w,
                         int64_t stride, int64_t pad, bool) {
  check_dense("grad_y", grad_y);
  check_dense("weight", weight);
  const Shape shape = {grad_y.size(0), weight.size(1), h, w};
  const Tensor grad_x = empty_like(grad_y, shape, grad_y.scalar_type(), Layout::kNHWC);
  if (grad_x.numel() == 0) return grad_x;
  const Convolution conv = {shape, shape_of(grad_y), shape_of(weight), stride, pad};
  NarrowConvParams p = params_of(conv, grad_y, weight.scalar_type());
  const Tensor input = p.wide_input ? grad_y : aligned(grad_y);
  void *in = const_cast<void*>(input.const_data_ptr()), *result = grad_x.mutable_data_ptr();
  p.narrow = p.wide_input ? in : result, p.wide = p.wide_input ? result : in;
  p.weight = weight.const_data_ptr();
  run(p, grad_y, p.wide_input);
  return grad_x;
}

// dL/dweight [K, C, r, s].
Tensor conv2d_weight_grad(const Tensor& x, const Tensor& grad_y, int64_t r, int64_t s,
                          int64_t stride, int64_t pad, bool, ScalarType dtype) {
  check_dense("x", x);
  check_dense("grad_y", grad_y);
  check_like(kOp, "grad_y", grad_y, shape_of(grad_y), x);
  const Shape shape = {grad_y.size(1), x.size(1), r, s};
  Tensor grad = empty_like(x, shape, dtype, Layout::kNHWC);
  if (x.numel() == 0 || grad_y.numel() == 0) {
    torch::stable::zero_(grad);
    return grad;
  }
  const Convolution conv = {shape_of(x), shape_of(grad_y), shape, stride, pad};
  NarrowConvParams p = params_of(conv, x, dtype);
  const Tensor narrow = p.wide_input ? grad_y : x, wide = aligned(p.wide_input ? x : grad_y);
  p.narrow = const_cast<void*>(narrow.const_data_ptr());
  p.wide = const_cast<void*>(wide.const_data_ptr());
  p.grad_weight = grad.mutable_data_ptr();
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const NarrowConvPlan plan = narrow_conv_weight_grad_plan(p, current_device_properties());
  const Tensor workspace = empty_bytes(x, plan.workspace_bytes);
  p.workspace = workspace.mutable_data_ptr();
  check_status(kOp, narrow_conv_weight_grad_cuda(p, plan, current_stream(x)), x);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_input_grad", TORCH_BOX(&conv2d_input_grad));
  m.impl("conv2d_weight_grad", TORCH_BOX(&conv2d_weight_grad));
}

}  // namespace cyclegan_fast
#endif
