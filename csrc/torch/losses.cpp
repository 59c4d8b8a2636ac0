// Binding of losses: check, fill the parameters, allocate, launch. See
// csrc/kernels/losses.h.
//
// b in another layout than a is copied into that of a.
#include "losses.h"

#include <tuple>

#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "losses";

using Tensors = std::vector<Tensor>;
using Numbers = std::vector<double>;

// The terms' sizes and constants; `like` has the shape of each term.
LossesParams params_of(int64_t loss, const Tensors& like, ScalarType dtype, const Numbers& targets,
                       const Numbers& weights) {
  LossesParams p{};
  STD_TORCH_CHECK(loss >= 0 && loss <= int64_t(Loss::kHinge),
                  "losses: loss must be 0 (l1), 1 (square) or 2 (hinge), got ", loss);
  STD_TORCH_CHECK(!like.empty() && like.size() <= kMaxTerms, "losses: from 1 to ", kMaxTerms,
                  " terms, got ", like.size());
  p.loss = Loss(loss), p.size = int(like.size()), p.dtype = dtype_of(kOp, dtype);
  STD_TORCH_CHECK(
      targets.size() == (p.loss == Loss::kL1 ? 0 : like.size()) && weights.size() == like.size(),
      "losses: one weight per term, and but for l1 one target");
  for (int k = 0; k < p.size; ++k) {
    check_like(kOp, "every term", like[k], shape_of(like[k]), like[0]);
    p.terms[k].count = like[k].numel();
    p.terms[k].target = targets.empty() ? 0 : targets[k];
    p.terms[k].weight = weights[k];
  }
  return p;
}

int64_t elements_of(const LossesParams& p) {
  int64_t count = 0;
  for (int k = 0; k < p.size; ++k) count += p.terms[k].count;
  return count;
}

template <bool kCuda>
void run_forward(LossesParams& p, const Tensor& like) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
    const LossesPlan plan = plan_of(p);
    const Tensor workspace = empty_bytes(like, plan.workspace_bytes);
    p.workspace = workspace.mutable_data_ptr();
    check_status(kOp, losses_fwd_cuda(p, plan, current_stream(like)), like);
  }
#endif
  if constexpr (!kCuda) {
    const int64_t slices = losses_cpu_slices(p);
    Numbers workspace(slices);
    p.workspace = workspace.data();
    parallel_slices(slices, elements_of(p),
                    [&](int64_t begin, int64_t end) { losses_fwd_cpu(p, begin, end); });
    losses_finish_cpu(p);
  }
}

template <bool kCuda>
std::tuple<Tensor, Tensors> forward(int64_t loss, const Tensors& a, const Tensors& b,
                                    const Numbers& targets, const Numbers& weights,
                                    bool with_sign) {  // values, signs
  STD_TORCH_CHECK(!a.empty(), "losses: a must have a term");
  LossesParams p = params_of(loss, a, a[0].scalar_type(), targets, weights);
  const bool pairs = p.loss == Loss::kL1;
  STD_TORCH_CHECK(b.size() == (pairs ? a.size() : 0), "losses: l1, and no other, takes b");
  const Tensor values = empty_like(a[0], {p.size}, stat_type_of(p.dtype), Layout::kNCHW);
  p.values = values.mutable_data_ptr();
  Tensors others, signs;
  for (int k = 0; k < p.size; ++k) {
    const Layout layout = layout_of(kOp, "a", a[k]);
    p.terms[k].a = a[k].const_data_ptr();
    if (!pairs) continue;
    check_like(kOp, "b", b[k], shape_of(a[k]), a[k]);
    others.push_back(in_layout(b[k], layout));
    p.terms[k].b = others.back().const_data_ptr();
    if (!with_sign) continue;
    signs.push_back(empty_like(a[k], shape_of(a[k]), ScalarType::Char, layout));
    p.terms[k].sign = static_cast<int8_t*>(signs.back().mutable_data_ptr());
  }
  run_forward<kCuda>(p, a[0]);
  return {values, signs};
}

template <bool kCuda>
void run_backward(const LossesParams& p, const Tensor& like) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
    check_status(kOp, losses_bwd_cuda(p, plan_of(p), current_stream(like)), like);
  }
#endif
  if constexpr (!kCuda) {
    parallel_slices(losses_cpu_slices(p), elements_of(p),
                    [&](int64_t begin, int64_t end) { losses_bwd_cpu(p, begin, end); });
  }
}

// `saved` are the signs of l1, a of the others.
template <bool kCuda>
Tensors backward(int64_t loss, const Tensor& grad, const Tensors& saved, const Numbers& targets,
                 const Numbers& weights, ScalarType dtype) {  // grad_a
  LossesParams p = params_of(loss, saved, dtype, targets, weights);
  const bool signs = p.loss == Loss::kL1;
  STD_TORCH_CHECK(saved[0].scalar_type() == (signs ? ScalarType::Char : dtype),
                  "losses: saved must be the int8 signs of l1, or a");
  STD_TORCH_CHECK(shape_of(grad) == Shape({p.size}) &&
                      grad.scalar_type() == stat_type_of(p.dtype) &&
                      grad.device() == saved[0].device(),
                  "losses: grad must have the shape, the type and the device of the values");
  p.grad = grad.const_data_ptr(), p.grad_stride = grad.stride(0);
  Tensors grads;
  for (int k = 0; k < p.size; ++k) {
    LossTerm& term = p.terms[k];
    const Layout layout = layout_of(kOp, "saved", saved[k]);
    grads.push_back(empty_like(saved[k], shape_of(saved[k]), dtype, layout));
    term.grad_a = grads.back().mutable_data_ptr();
    if (signs) {
      term.sign = static_cast<int8_t*>(saved[k].mutable_data_ptr());
    } else {
      term.a = saved[k].const_data_ptr();
    }
  }
  run_backward<kCuda>(p, saved[0]);
  return grads;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def(
      "losses_fwd(int loss, Tensor[] a, Tensor[] b, float[] targets, float[] weights, "
      "bool with_sign) -> (Tensor values, Tensor[] signs)");
  m.def(
      "losses_bwd(int loss, Tensor grad, Tensor[] saved, float[] targets, float[] weights, "
      "ScalarType dtype) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("losses_fwd", TORCH_BOX(&forward<false>));
  m.impl("losses_bwd", TORCH_BOX(&backward<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("losses_fwd", TORCH_BOX(&forward<true>));
  m.impl("losses_bwd", TORCH_BOX(&backward<true>));
}
#endif

}  // namespace cyclegan_fast
