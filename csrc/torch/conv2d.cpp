// Binding of conv2d and conv3x3: check, fill the parameters, allocate, run phase by phase. See
// csrc/kernels/cpu_conv/conv2d.h; with `winograd`, kernels of 3x3 with stride 1 run by
// csrc/kernels/cpu_conv/conv3x3.h.
#include "cpu_conv/conv2d.h"

#include "cpu_conv/conv3x3.h"
#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "conv2d";
constexpr int64_t kMinChannels = 16;  // fewer do not fill the vectors of Winograd's algorithm
constexpr int64_t kSerialProducts = 1 << 17;  // less work than this is not worth a second thread

void check_dense(const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4 && is_channels_last(t), "conv2d: ", name,
                  " must have 4 axes and be channels_last, got strides ",
                  to_string(Shape(t.strides().begin(), t.strides().end())), " for shape ",
                  to_string(shape_of(t)));
}

void check_weight(const Tensor& weight) {
  check_dense("weight", weight);
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, "conv2d: weight must be float32");
}

// The sizes of all three tensors; `like` has their type.
Conv2dParams params_of(const Tensor& like, const Shape& x, const Shape& y, const Shape& weight,
                       int64_t stride, int64_t pad) {
  Conv2dParams p{};
  p.n = x[0], p.c = x[1], p.h = x[2], p.w = x[3];
  p.k = weight[0], p.r = weight[2], p.s = weight[3];
  p.oh = y[2], p.ow = y[3], p.stride = stride, p.pad = pad;
  p.dtype = dtype_of(kOp, like.scalar_type());
  STD_TORCH_CHECK(p.dtype == DType::kFloat32 || p.dtype == DType::kBFloat16,
                  "conv2d: the type must be float32 or bfloat16");
  STD_TORCH_CHECK(stride >= 1 && pad >= 0 && p.r >= 1 && p.s >= 1, "conv2d: stride ", stride,
                  ", padding ", pad, " and a kernel of ", p.r, "x", p.s, " do not fit");
  // A pixel of y more would see only zeros beyond the far edge of x.
  const auto fits = [&](int64_t in, int64_t out, int64_t kernel) {
    return out >= 1 && (out - 1) * stride + kernel <= in + 2 * pad;
  };
  STD_TORCH_CHECK(x[1] == weight[1] && y[0] == x[0] && y[1] == weight[0] && fits(p.h, p.oh, p.r) &&
                      fits(p.w, p.ow, p.s),
                  "conv2d: x ", to_string(x), ", weight ", to_string(weight), " and y ",
                  to_string(y), " do not fit, with stride ", stride, " and padding ", pad);
  return p;
}

Conv3x3Params winograd_params(const Conv2dParams& p, Conv2dPass pass) {
  Conv3x3Params q{};
  const bool back = pass == Conv2dPass::kInputGradient;
  q.x = back ? p.y : p.x, q.y = back ? p.x : p.y;
  q.weight = p.weight, q.grad_weight = p.grad_weight;
  q.n = p.n, q.h = back ? p.oh : p.h, q.w = back ? p.ow : p.w;
  q.c = back ? p.k : p.c, q.k = back ? p.c : p.k;
  q.pad = back ? 2 - p.pad : p.pad;
  q.flipped = back, q.dtype = p.dtype;
  return q;
}

bool fits_winograd(const Conv2dParams& p) {
  return p.r == 3 && p.s == 3 && p.stride == 1 && p.pad <= 2 && p.bias == nullptr &&
         p.oh == p.h + 2 * p.pad - 2 && p.ow == p.w + 2 * p.pad - 2 && p.c >= kMinChannels &&
         p.k >= kMinChannels;
}

// Calls f(phase, begin, end) for all slices of every phase.
template <typename Slices, typename F>
void run_phases(const Conv2dParams& p, int64_t phases, const Slices& slices_of, const F& f) {
  const bool serial = p.n * p.oh * p.ow * p.r * p.s * p.c * p.k < kSerialProducts;
  for (int64_t phase = 0; phase < phases; ++phase) {
    const int64_t slices = slices_of(phase);
    if (slices == 0) continue;
    torch::stable::parallel_for(0, slices, serial ? slices : 1,
                                [&](int64_t begin, int64_t end) { f(phase, begin, end); });
  }
}

void run(Conv2dParams& p, Conv2dPass pass, bool winograd, const Tensor& like) {
  if (winograd && fits_winograd(p)) {
    Conv3x3Params q = winograd_params(p, pass);
    const auto kind =
        pass == Conv2dPass::kWeightGradient ? Conv3x3Pass::kWeightGradient : Conv3x3Pass::kForward;
    const Tensor workspace = empty_bytes(like, conv3x3_workspace(q));
    q.workspace = static_cast<float*>(workspace.mutable_data_ptr());
    return run_phases(
        p, conv3x3_phases(q), [&](int64_t phase) { return conv3x3_slices(q, kind, phase); },
        [&](int64_t phase, int64_t begin, int64_t end) {
          conv3x3_cpu(q, kind, phase, begin, end);
        });
  }
  const Tensor workspace = empty_bytes(like, conv2d_workspace(p, pass));
  p.workspace = static_cast<float*>(workspace.mutable_data_ptr());
  run_phases(
      p, kConv2dPhases, [&](int64_t phase) { return conv2d_slices(p, pass, phase); },
      [&](int64_t phase, int64_t begin, int64_t end) { conv2d_cpu(p, pass, phase, begin, end); });
}

Tensor conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              int64_t stride, int64_t pad, bool winograd) {
  check_dense("x", x);
  check_weight(weight);
  STD_TORCH_CHECK(stride >= 1, "conv2d: stride must be at least 1, got ", stride);
  const auto out = [&](int axis) {
    return (x.size(axis) + 2 * pad - weight.size(axis)) / stride + 1;
  };
  const Tensor y =
      empty_like(x, {x.size(0), weight.size(0), out(2), out(3)}, x.scalar_type(), Layout::kNHWC);
  Conv2dParams p = params_of(x, shape_of(x), shape_of(y), shape_of(weight), stride, pad);
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float && has_shape(*bias, {p.k}) &&
                        bias->is_contiguous(),
                    "conv2d: bias must be ", p.k, " float32 numbers");
    p.bias = static_cast<const float*>(bias->const_data_ptr());
  }
  p.x = const_cast<void*>(x.const_data_ptr()), p.y = y.mutable_data_ptr();
  p.weight = static_cast<const float*>(weight.const_data_ptr());
  if (y.numel() > 0) run(p, Conv2dPass::kForward, winograd, x);
  return y;
}

// dL/dx [N, C, h, w].
Tensor conv2d_input_grad(const Tensor& grad_y, const Tensor& weight, int64_t h, int64_t w,
                         int64_t stride, int64_t pad, bool winograd) {
  check_dense("grad_y", grad_y);
  check_weight(weight);
  const Shape shape = {grad_y.size(0), weight.size(1), h, w};
  Conv2dParams p = params_of(grad_y, shape, shape_of(grad_y), shape_of(weight), stride, pad);
  const Tensor grad_x = empty_like(grad_y, shape, grad_y.scalar_type(), Layout::kNHWC);
  p.x = grad_x.mutable_data_ptr(), p.y = const_cast<void*>(grad_y.const_data_ptr());
  p.weight = static_cast<const float*>(weight.const_data_ptr());
  if (grad_x.numel() > 0) run(p, Conv2dPass::kInputGradient, winograd, grad_y);
  return grad_x;
}

// dL/dweight [K, C, r, s] in float32.
Tensor conv2d_weight_grad(const Tensor& x, const Tensor& grad_y, int64_t r, int64_t s,
                          int64_t stride, int64_t pad, bool winograd, ScalarType dtype) {
  STD_TORCH_CHECK(dtype == ScalarType::Float,
                  "conv2d: on the CPU the weight's gradient is float32");
  check_dense("x", x);
  check_dense("grad_y", grad_y);
  STD_TORCH_CHECK(grad_y.scalar_type() == x.scalar_type(),
                  "conv2d: grad_y must have the type of x");
  const Shape shape = {grad_y.size(1), x.size(1), r, s};
  Conv2dParams p = params_of(x, shape_of(x), shape_of(grad_y), shape, stride, pad);
  Tensor grad = empty_like(x, shape, ScalarType::Float, Layout::kNHWC);
  p.x = const_cast<void*>(x.const_data_ptr()), p.y = const_cast<void*>(grad_y.const_data_ptr());
  p.grad_weight = static_cast<float*>(grad.mutable_data_ptr());
  if (p.n == 0) torch::stable::zero_(grad);
  if (p.n > 0) run(p, Conv2dPass::kWeightGradient, winograd, x);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def(
      "conv2d(Tensor x, Tensor weight, Tensor? bias, int stride, int pad, bool winograd)"
      " -> Tensor");
  m.def(
      "conv2d_input_grad(Tensor grad_y, Tensor weight, int h, int w, int stride, int pad, "
      "bool winograd) -> Tensor");
  m.def(
      "conv2d_weight_grad(Tensor x, Tensor grad_y, int r, int s, int stride, int pad, "
      "bool winograd, ScalarType dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_input_grad", TORCH_BOX(&conv2d_input_grad));
  m.impl("conv2d_weight_grad", TORCH_BOX(&conv2d_weight_grad));
}

}  // namespace cyclegan_fast
