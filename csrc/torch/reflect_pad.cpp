// Binding of reflect_pad: check, fill the parameters, allocate, launch. See
// csrc/kernels/reflect_pad.h.
//
// Members in another layout than the first are copied into its layout.
#include "reflect_pad.h"

#include "members.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "reflect_pad";

// Of images [*, c, h, w].
ReflectPadParams params_of(int64_t c, int64_t h, int64_t w, int64_t pad, Layout layout,
                           ScalarType from, ScalarType into) {
  ReflectPadParams p{};
  STD_TORCH_CHECK(pad >= 0 && (pad == 0 || pad < std::min(h, w)), kOp,
                  ": pad must be at least 0 and less than min(H, W)");
  p.planes = layout == Layout::kNCHW ? c : 1, p.inner = layout == Layout::kNCHW ? 1 : c;
  p.height = h, p.width = w, p.pad = pad;
  p.from = dtype_of(kOp, from), p.into = dtype_of(kOp, into);
  STD_TORCH_CHECK(converts(p.from, p.into), kOp, ": only float32 is converted, to 16 bits");
  return p;
}

template <bool kCuda>
Tensor forward(const Tensors& x, int64_t pad, ScalarType dtype) {
  STD_TORCH_CHECK(!x.empty() && x[0].dim() == 4, kOp, ": x must hold [N, C, H, W]");
  const Layout layout = layout_of(kOp, "x", x[0]);
  Shape batches, shape = shape_of(x[0]);
  Tensors dense;
  for (const Tensor& t : x) {
    STD_TORCH_CHECK(t.dim() == 4, kOp, ": x must hold [N, C, H, W]");
    shape[0] = t.size(0);
    check_like(kOp, "every member", t, shape, x[0]);
    batches.push_back(t.size(0));
    dense.push_back(in_layout(t, layout));
  }
  ReflectPadParams p =
      params_of(shape[1], shape[2], shape[3], pad, layout, x[0].scalar_type(), dtype);
  p.x = members_of<const void*>(kOp, batches);
  for (int k = 0; k < p.x.size; ++k) p.x.data[k] = dense[k].const_data_ptr();
  const Tensor y = empty_like(
      x[0], {p.x.images(), shape[1], shape[2] + 2 * pad, shape[3] + 2 * pad}, dtype, layout);
  p.y = y.mutable_data_ptr();
  if (y.numel() == 0) return y;
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
    check_status(kOp, reflect_pad_fwd_cuda(p, forward_plan_of(p), current_stream(y)), y);
  }
#endif
  if constexpr (!kCuda) {
    parallel_slices(reflect_pad_fwd_cpu_slices(p), y.numel(),
                    [&](int64_t begin, int64_t end) { reflect_pad_fwd_cpu(p, begin, end); });
  }
  return y;
}

// The gradients of the members that need one, in their order.
template <bool kCuda>
Tensors backward(const Tensor& grad_y, int64_t pad, const Shape& batches,
                 const std::vector<bool>& needed, ScalarType dtype) {
  STD_TORCH_CHECK(grad_y.dim() == 4 && needed.size() == batches.size(), kOp,
                  ": grad_y must be [N, C, H, W], and each member needs a gradient or does not");
  const Layout layout = layout_of(kOp, "grad_y", grad_y);
  const int64_t c = grad_y.size(1), h = grad_y.size(2) - 2 * pad, w = grad_y.size(3) - 2 * pad;
  ReflectPadParams p = params_of(c, h, w, pad, layout, dtype, grad_y.scalar_type());
  p.grad_x = members_of<void*>(kOp, batches);
  STD_TORCH_CHECK(p.grad_x.images() == grad_y.size(0), kOp, ": grad_y must hold all members");
  p.grad_y = grad_y.const_data_ptr();
  Tensors grads;
  int64_t elements = 0;
  for (int k = 0; k < p.grad_x.size; ++k) {
    if (!needed[k]) continue;
    grads.push_back(empty_like(grad_y, {batches[k], c, h, w}, dtype, layout));
    p.grad_x.data[k] = grads.back().mutable_data_ptr();
    elements += grads.back().numel();
  }
  if (elements == 0) return grads;
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(grad_y.get_device_index());
    check_status(kOp, reflect_pad_bwd_cuda(p, backward_plan_of(p), current_stream(grad_y)), grad_y);
  }
#endif
  if constexpr (!kCuda) {
    parallel_slices(reflect_pad_bwd_cpu_slices(p), elements,
                    [&](int64_t begin, int64_t end) { reflect_pad_bwd_cpu(p, begin, end); });
  }
  return grads;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def("reflect_pad_fwd(Tensor[] x, int pad, ScalarType dtype) -> Tensor");
  m.def(
      "reflect_pad_bwd(Tensor grad_y, int pad, int[] batches, bool[] needed, ScalarType dtype) -> "
      "Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("reflect_pad_fwd", TORCH_BOX(&forward<false>));
  m.impl("reflect_pad_bwd", TORCH_BOX(&backward<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("reflect_pad_fwd", TORCH_BOX(&forward<true>));
  m.impl("reflect_pad_bwd", TORCH_BOX(&backward<true>));
}
#endif

}  // namespace cyclegan_fast
