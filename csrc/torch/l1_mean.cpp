// Binding of l1_mean: check, fill the parameters, allocate, launch. See csrc/kernels/l1_mean.h.
//
// b in another layout than a is copied into that of a.
#include "l1_mean.h"

#include <tuple>

#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "l1_mean";

template <bool kCuda>
void run(L1MeanParams& p, const Tensor& a) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
    const Tensor workspace = empty_bytes(a, plan_of(p).workspace_bytes);
    p.workspace = workspace.mutable_data_ptr();
    check_status(kOp, l1_mean_fwd_cuda(p, current_stream(a)));
  }
#endif
  if constexpr (!kCuda) {
    const int64_t slices = l1_mean_cpu_slices(p.count);
    std::vector<double> workspace(slices);
    p.workspace = workspace.data();
    parallel_slices(slices, p.count,
                    [&](int64_t begin, int64_t end) { l1_mean_fwd_cpu(p, begin, end); });
    l1_mean_finish_cpu(p);
  }
}

template <bool kCuda>
std::tuple<Tensor, Tensor> forward(const Tensor& a, const Tensor& b,
                                   bool with_sign) {  // value, sign
  L1MeanParams p{};
  p.dtype = dtype_of(kOp, a.scalar_type());
  p.count = a.numel();
  const Layout layout = layout_of(kOp, "a", a);
  check_like(kOp, "b", b, shape_of(a), a);
  const Tensor other = in_layout(b, layout);
  const Tensor value = empty_like(a, {}, stat_type_of(p.dtype), Layout::kNCHW);
  const Tensor sign = with_sign ? empty_like(a, shape_of(a), ScalarType::Char, layout)
                                : empty_like(a, {0}, ScalarType::Char, Layout::kNCHW);
  p.a = a.const_data_ptr(), p.b = other.const_data_ptr(), p.value = value.mutable_data_ptr();
  p.sign = with_sign ? static_cast<int8_t*>(sign.mutable_data_ptr()) : nullptr;
  run<kCuda>(p, a);
  return {value, sign};
}

template <bool kCuda>
Tensor backward(const Tensor& grad, const Tensor& sign, ScalarType dtype) {
  L1MeanBwdParams p{};
  p.dtype = dtype_of(kOp, dtype);
  p.count = sign.numel();
  const Layout layout = layout_of(kOp, "sign", sign);
  STD_TORCH_CHECK(sign.scalar_type() == ScalarType::Char, "l1_mean: sign must be int8");
  STD_TORCH_CHECK(grad.numel() == 1 && grad.scalar_type() == stat_type_of(p.dtype) &&
                      grad.device() == sign.device(),
                  "l1_mean: grad must be a scalar of the type and on the device of the value");
  const Tensor grad_a = empty_like(sign, shape_of(sign), dtype, layout);
  p.grad = grad.const_data_ptr();
  p.sign = static_cast<const int8_t*>(sign.const_data_ptr());
  p.grad_a = grad_a.mutable_data_ptr();
  if (p.count == 0) return grad_a;
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(sign.get_device_index());
    check_status(kOp, l1_mean_bwd_cuda(p, current_stream(sign)));
  }
#endif
  if constexpr (!kCuda) {
    parallel_slices(l1_mean_cpu_slices(p.count), p.count,
                    [&](int64_t begin, int64_t end) { l1_mean_bwd_cpu(p, begin, end); });
  }
  return grad_a;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def("l1_mean_fwd(Tensor a, Tensor b, bool with_sign) -> (Tensor value, Tensor sign)");
  m.def("l1_mean_bwd(Tensor grad, Tensor sign, ScalarType dtype) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("l1_mean_fwd", TORCH_BOX(&forward<false>));
  m.impl("l1_mean_bwd", TORCH_BOX(&backward<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("l1_mean_fwd", TORCH_BOX(&forward<true>));
  m.impl("l1_mean_bwd", TORCH_BOX(&backward<true>));
}
#endif

}  // namespace cyclegan_fast
