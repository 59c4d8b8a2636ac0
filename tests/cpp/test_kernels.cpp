// One body of tests for both twins: compiled against the CPU kernels, and, with
// CYCLEGAN_FAST_CUDA_TWIN, against the CUDA kernels under emulation. Every case compares all
// outputs with loops in double, unwritten elements being NaN.
#include <cstdio>
#include <string>

#include "guarded.h"
#include "reference.h"

#ifndef CYCLEGAN_FAST_CUDA_TWIN
#include "cpu/isa.h"
#endif

using namespace cyclegan_fast;

namespace {

int failures = 0, checks = 0;

template <typename T>
constexpr DType kDType = DType::kFloat32;
template <>
constexpr DType kDType<BFloat16> = DType::kBFloat16;
template <>
constexpr DType kDType<Half> = DType::kFloat16;
template <>
constexpr DType kDType<double> = DType::kFloat64;

// Relative to 1 + |expected|: a rounding to T, and what sums in float cost.
template <typename T>
double tolerance() {
  return kDType<T> == DType::kBFloat16  ? 6e-3
         : kDType<T> == DType::kFloat16 ? 1e-3
         : sizeof(T) == 8               ? 1e-11
                                        : 4e-6;
}

void expect(bool ok, const std::string& what) {
  ++checks;
  if (ok) return;
  if (++failures <= 20) std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

template <typename T>
void expect_close(const Guarded<T>& got, const std::vector<double>& expected, double limit,
                  const std::string& what) {
  double worst = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error =
        std::abs(got[i] - expected[size_t(i)]) / (1 + std::abs(expected[size_t(i)]));
    if (!(error <= worst)) worst = error;  // a NaN stays
    if (worst != worst) break;
  }
  expect(worst <= limit, what + ": error " + std::to_string(worst));
  expect(got.intact(), what + ": wrote outside");
}

// ---- Running a twin ----
#ifdef CYCLEGAN_FAST_CUDA_TWIN
template <typename Params>
void run(Params p, Status (*launch)(const Params&, Stream), const std::string& what) {
  const int64_t bytes = plan_of(p).workspace_bytes;
  Guarded<double> workspace(ceil_div(bytes, 8));
  p.workspace = workspace.data();
  expect(launch(p, nullptr) == Status::kOk, what + ": launch");
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
void forward(const InstanceNormActParams& p, const std::string& what) {
  run(p, instance_norm_act_fwd_cuda, what);
}
void backward(const InstanceNormActBwdParams& p, const std::string& what) {
  run(p, instance_norm_act_bwd_cuda, what);
}
void forward(const L1MeanParams& p, const std::string& what) { run(p, l1_mean_fwd_cuda, what); }
void backward(const L1MeanBwdParams& p, const std::string& what) {
  expect(l1_mean_bwd_cuda(p, nullptr) == Status::kOk, what + ": launch");
}
#else
template <typename Params>
void run(const Params& p, int64_t slices, void (*kernel)(const Params&, int64_t, int64_t)) {
  kernel(p, slices / 2, slices);  // in any order and in any ranges
  kernel(p, 0, slices / 2);
}
void forward(const InstanceNormActParams& p, const std::string&) {
  run(p, instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout), instance_norm_act_fwd_cpu);
}
void backward(const InstanceNormActBwdParams& p, const std::string&) {
  run(p, instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout), instance_norm_act_bwd_cpu);
}
void forward(L1MeanParams p, const std::string&) {
  Guarded<double> workspace(l1_mean_cpu_slices(p.count));
  p.workspace = workspace.data();
  run(p, workspace.size(), l1_mean_fwd_cpu);
  l1_mean_finish_cpu(p);
}
void backward(const L1MeanBwdParams& p, const std::string&) {
  run(p, l1_mean_cpu_slices(p.count), l1_mean_bwd_cpu);
}
#endif

// ---- instance_norm_act ----
struct NormCase {
  int64_t n, c, h, w;
  int64_t pad = 0;
  int64_t residual = -1;  // its border, or -1: no residual
  double mean = 0;
  int64_t shift = 0;  // elements off alignment
};

std::string name_of(const NormCase& k, DType dtype, Layout layout, Activation activation) {
  char text[200];
  std::snprintf(
      text, sizeof text,
      "norm %ldx%ldx%ldx%ld pad %ld residual %ld mean %g shift %ld dtype %d layout %d act %d",
      long(k.n), long(k.c), long(k.h), long(k.w), long(k.pad), long(k.residual), k.mean,
      long(k.shift), int(dtype), int(layout), int(activation));
  return text;
}

template <typename T>
void test_norm(const NormCase& k, Layout layout, Activation activation) {
  using C = Compute<T>;
  const std::string name = name_of(k, kDType<T>, layout, activation);
  const reference::Sizes s{k.n, k.c, k.h, k.w, layout};
  const int64_t border = k.residual < 0 ? 0 : k.residual;
  const double slope = slope_of(activation, 0.2), eps = 1e-5;
  std::mt19937 random(7);

  Guarded<T> x(s.count(0), k.shift), residual(k.residual < 0 ? 0 : s.count(border), k.shift),
      y(s.count(k.pad), k.shift);
  Guarded<C> mean(k.n * k.c), rstd(k.n * k.c);
  const auto x_values = x.randomize(random, k.mean);
  const auto residual_values = residual.randomize(random, 0);
  InstanceNormActParams p{x.data(),    k.residual < 0 ? nullptr : residual.data(),
                          y.data(),    mean.data(),
                          rstd.data(), nullptr,
                          k.n,         k.c,
                          k.h,         k.w,
                          k.pad,       border,
                          eps,         0.2,
                          activation,  kDType<T>,
                          layout};
  forward(p, name);
  const auto expected = reference::forward(s, x_values, residual_values, slope, eps, k.pad, border);
  // The mean itself is rounded to C: far from zero that is all of the error.
  const double rounding = std::abs(k.mean) * (sizeof(C) == 8 ? 4e-16 : 2.4e-7),
               limit = tolerance<T>() + rounding;
  expect_close(y, expected.y, limit, name + ": y");
  expect_close(mean, expected.mean, sizeof(C) == 8 ? 1e-12 : 1e-6, name + ": mean");
  expect_close(rstd, expected.rstd, sizeof(C) == 8 ? 1e-9 : 2e-5, name + ": rstd");

  Guarded<T> grad_y(s.count(k.pad), k.shift), grad_x(s.count(0), k.shift);
  Guarded<T> grad_residual(k.residual < 0 ? 0 : s.count(border), k.shift);
  const auto grad_values = grad_y.randomize(random, 0);
  std::vector<double> mean_values, rstd_values;
  for (int64_t i = 0; i < k.n * k.c; ++i)
    mean_values.push_back(mean[i]), rstd_values.push_back(rstd[i]);
  InstanceNormActBwdParams b{
      grad_y.data(), x.data(),      mean.data(),
      rstd.data(),   grad_x.data(), k.residual < 0 ? nullptr : grad_residual.data(),
      nullptr,       k.n,           k.c,
      k.h,           k.w,           k.pad,
      border,        0.2,           activation,
      kDType<T>,     layout};
  backward(b, name);
  const auto grads =
      reference::backward(s, grad_values, x_values, mean_values, rstd_values, slope, k.pad, border);
  double scale = 1;  // gradients grow with rstd, which is large for planes of few pixels
  for (double r : rstd_values) scale = std::max(scale, r);
  expect_close(grad_x, grads.grad_x, limit * scale, name + ": grad_x");
  if (k.residual >= 0)
    expect_close(grad_residual, grads.grad_residual, tolerance<T>(), name + ": grad_residual");
}

template <typename T>
void test_norm_cases() {
  const NormCase cases[] = {
      {1, 1, 1, 1},                 // one pixel
      {2, 3, 1, 1, 0, 0},           //
      {2, 3, 1, 1, 0, 2},           //
      {1, 5, 1, 7, 0, 1},           // one row
      {2, 3, 9, 1},                 // one column
      {2, 3, 2, 2, 1},              // the smallest that reflects
      {2, 3, 5, 4, 3, 2},           // rows and columns shown three times
      {1, 8, 7, 9, 1, 0},           //
      {2, 16, 6, 8, 0, 0},          // whole packs
      {1, 16, 8, 8, 2, 1, 0, 1},    // misaligned
      {1, 16, 8, 8, 0, 0, 0, 3},    //
      {1, 24, 5, 6, 1, 1},          // packs that no power of two counts
      {1, 37, 5, 11, 2, 1},         // channels that fill no vector
      {1, 70, 3, 5, 1, -1},         //
      {1, 264, 3, 4, 1, 0},         // several tiles of channels
      {1, 3, 40, 37, 3, -1, 1000},  // far from zero, several splits
      {1, 8, 33, 40, 1, 3, 1000},   //
      {1, 2, 64, 64, 0, -1, 1000},  //
      {1, 1, 2, 2600, 1, 0},        // a row longer than a block of the CPU's
  };
  for (const NormCase& k : cases) {
    if (kDType<T> == DType::kFloat16 && k.mean != 0) continue;  // half has 3 digits there
    for (Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
      for (Activation a : {Activation::kNone, Activation::kRelu, Activation::kLeakyRelu})
        test_norm<T>(k, layout, a);
    }
  }
}

// ---- l1_mean ----
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

template <typename T>
void test_all() {
  test_norm_cases<T>();
  for (int64_t count : {1, 7, 64, 4096, 40003}) {
    test_l1<T>(count, 0, true);
    test_l1<T>(count, 1, true);
    test_l1<T>(count, 0, false);
  }
}

template <typename T>
void test_rounding() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const T value{static_cast<uint16_t>(bits)};
    const T back = narrow<T>(widen(value));
    expect(back.bits == bits || widen(value) != widen(value), "rounding: a value does not survive");
  }
}

}  // namespace

int main() {
  test_all<float>();
  test_all<double>();
  test_all<BFloat16>();
  test_all<Half>();
  test_rounding<BFloat16>();
  test_rounding<Half>();
#ifndef CYCLEGAN_FAST_CUDA_TWIN
  std::printf("isa %s: ", isa_name(cpu_isa()));
#endif
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
