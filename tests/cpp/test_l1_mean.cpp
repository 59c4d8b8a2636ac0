// l1_mean against plain loops in double.
#include "l1_mean.h"

#include <cmath>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

#ifdef CYCLEGAN_FAST_CUDA_TWIN
void forward(L1MeanParams p, const std::string& what) {
  Guarded<double> workspace(ceil_div(plan_of(p).workspace_bytes, 8));
  p.workspace = workspace.data();
  expect(l1_mean_fwd_cuda(p, nullptr) == Status::kOk, what + ": launch");
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
void backward(const L1MeanBwdParams& p, const std::string& what) {
  expect(l1_mean_bwd_cuda(p, nullptr) == Status::kOk, what + ": launch");
}
#else
void forward(L1MeanParams p, const std::string&) {
  Guarded<double> workspace(l1_mean_cpu_slices(p.count));
  p.workspace = workspace.data();
  run_slices(p, workspace.size(), l1_mean_fwd_cpu);
  l1_mean_finish_cpu(p);
}
void backward(const L1MeanBwdParams& p, const std::string&) {
  run_slices(p, l1_mean_cpu_slices(p.count), l1_mean_bwd_cpu);
}
#endif

template <typename T>
void test_l1(int64_t count, int64_t shift, bool with_sign) {
  using C = Compute<T>;
  const std::string name = "l1 " + std::to_string(count) + " shift " + std::to_string(shift) +
                           " dtype " + std::to_string(int(kDType<T>));
  std::mt19937 random(11);
  Guarded<T> a(count, shift), b(count, shift), grad_a(count, shift);
  Guarded<C> value(1), grad(1);
  std::vector<int8_t> sign(size_t(count) + 2, 77);
  auto a_values = a.randomize(random, 0);
  const auto b_values = b.randomize(random, 0);
  if (count > 2) a.data()[2] = b.data()[2], a_values[2] = b_values[2];  // sgn(0) = 0
  L1MeanParams p{a.data(), b.data(), with_sign ? sign.data() + 1 : nullptr, value.data(), nullptr,
                 count,    kDType<T>};
  forward(p, name);
  double sum = 0;
  std::vector<double> expected_grad;
  grad.data()[0] = C(1.5);
  for (int64_t i = 0; i < count; ++i) {
    const double d = a_values[size_t(i)] - b_values[size_t(i)];
    sum += std::abs(d);
    expected_grad.push_back(1.5 / double(count) * ((d > 0) - (d < 0)));
  }
  expect_close(value, {sum / double(count)}, sizeof(C) == 8 ? 1e-13 : 1e-6, name + ": value");
  if (!with_sign) return;
  for (int64_t i = 0; i < count; ++i) {
    const double d = a_values[size_t(i)] - b_values[size_t(i)];
    expect(sign[size_t(i) + 1] == (d > 0) - (d < 0), name + ": sign");
  }
  expect(sign.front() == 77 && sign.back() == 77, name + ": wrote outside sign");
  backward(L1MeanBwdParams{grad.data(), sign.data() + 1, grad_a.data(), count, kDType<T>}, name);
  expect_close(grad_a, expected_grad, tolerance<T>() / double(count), name + ": grad");
}

}  // namespace

void test_l1_mean() {
  for_each_type([](auto element) {
    using T = decltype(element);
    for (int64_t count : {1, 7, 64, 4096, 40003}) {
      test_l1<T>(count, 0, true);
      test_l1<T>(count, 1, true);
      test_l1<T>(count, 0, false);
    }
  });
}
