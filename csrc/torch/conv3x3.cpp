// Binding of conv3x3: check, fill the parameters, allocate, run phase by phase. See
// csrc/kernels/conv3x3.h.
#include "conv3x3.h"

#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "conv3x3";

void check_dense(const char* name, const Tensor& t) {
  STD_TORCH_CHECK(is_channels_last(t), "conv3x3: ", name, " must be channels_last, got strides ",
                  to_string(Shape(t.strides().begin(), t.strides().end())), " for shape ",
                  to_string(shape_of(t)));
}

Conv3x3Params params_of(const Tensor& x, int64_t k, int64_t pad) {
  check_dense("x", x);
  Conv3x3Params p{};
  p.x = x.const_data_ptr();
  p.n = x.size(0), p.c = x.size(1), p.h = x.size(2), p.w = x.size(3), p.k = k, p.pad = pad;
  p.dtype = dtype_of(kOp, x.scalar_type());
  STD_TORCH_CHECK(p.dtype == DType::kFloat32 || p.dtype == DType::kBFloat16,
                  "conv3x3: x must be float32 or bfloat16");
  STD_TORCH_CHECK(pad >= 0 && pad <= 2 && p.h + 2 * pad >= 3 && p.w + 2 * pad >= 3,
                  "conv3x3: pad must be 0, 1 or 2 and leave 3x3 pixels, got ", pad, " for x ",
                  to_string(shape_of(x)));
  return p;
}

Shape output_shape(const Conv3x3Params& p) {
  return {p.n, p.k, p.h + 2 * p.pad - 2, p.w + 2 * p.pad - 2};
}

void run(Conv3x3Params& p, Conv3x3Pass pass, const Tensor& like) {
  constexpr int64_t kSerialProducts = 1 << 17;  // less work than this is not worth a second thread
  const Tensor workspace = empty_bytes(like, conv3x3_workspace(p));
  p.workspace = static_cast<float*>(workspace.mutable_data_ptr());
  for (int64_t phase = 0; phase < conv3x3_phases(p); ++phase) {
    const int64_t slices = conv3x3_slices(p, pass, phase);
    const int64_t grain = p.n * p.h * p.w * p.c * p.k < kSerialProducts ? slices : 1;
    torch::stable::parallel_for(0, slices, grain, [&](int64_t begin, int64_t end) {
      conv3x3_cpu(p, pass, phase, begin, end);
    });
  }
}

// `flipped`: x is dL/dy, the result dL/dx, and pad is 2 less the forward one's.
Tensor conv3x3(const Tensor& x, const Tensor& weight, int64_t pad, bool flipped) {
  const int from = flipped ? 0 : 1;  // the axis of weight that is summed over
  STD_TORCH_CHECK(weight.dim() == 4, "conv3x3: weight must have 4 axes");
  Conv3x3Params p = params_of(x, weight.size(1 - from), pad);
  const Shape wanted = flipped ? Shape{p.c, p.k, 3, 3} : Shape{p.k, p.c, 3, 3};
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float && has_shape(weight, wanted),
                  "conv3x3: weight must be float32 ", to_string(wanted), ", got ",
                  to_string(shape_of(weight)));
  check_dense("weight", weight);
  p.flipped = flipped;
  p.weight = static_cast<const float*>(weight.const_data_ptr());
  const Tensor y = empty_like(x, output_shape(p), x.scalar_type(), Layout::kNHWC);
  p.y = y.mutable_data_ptr();
  if (y.numel() > 0) run(p, Conv3x3Pass::kForward, x);
  return y;
}

// grad_weight [K, C, 3, 3] in float32, channels_last.
Tensor conv3x3_weight_grad(const Tensor& x, const Tensor& grad_y, int64_t pad) {
  Conv3x3Params p = params_of(x, grad_y.size(1), pad);
  check_like(kOp, "grad_y", grad_y, output_shape(p), x);
  check_dense("grad_y", grad_y);
  const Tensor grad = empty_like(x, {p.k, p.c, 3, 3}, ScalarType::Float, Layout::kNHWC);
  p.y = const_cast<void*>(grad_y.const_data_ptr());
  p.grad_weight = static_cast<float*>(grad.mutable_data_ptr());
  if (p.n == 0) torch::stable::zero_(const_cast<Tensor&>(grad));
  if (p.n * grad.numel() > 0) run(p, Conv3x3Pass::kWeightGradient, x);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def("conv3x3(Tensor x, Tensor weight, int pad, bool flipped) -> Tensor");
  m.def("conv3x3_weight_grad(Tensor x, Tensor grad_y, int pad) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&conv3x3));
  m.impl("conv3x3_weight_grad", TORCH_BOX(&conv3x3_weight_grad));
}

}  // namespace cyclegan_fast
