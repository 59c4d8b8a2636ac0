// narrow_conv against plain loops in double: the three passes of convolutions that begin or end
// with few channels, with borders, strides, tiles cut short, and either type of weight. There is no
// CPU implementation.
#include "harness.h"

#ifndef CYCLEGAN_FAST_TEST_CUDA
void test_narrow_conv() {}
#else

#include <cmath>

#include "narrow_conv.h"

using namespace cyclegan_fast;

namespace {

struct Sizes {
  int64_t n, c, k, hn, wn, kernel, stride, pad;
  bool wide_input;
  int64_t unseen;  // rows and columns of narrow that no wide pixel meets
  int64_t side(int64_t narrow) const { return (narrow - unseen + 2 * pad - kernel) / stride + 1; }
  int64_t hw() const { return side(hn); }
  int64_t ww() const { return side(wn); }
  int64_t taps() const { return kernel * kernel; }
};

std::string name_of(const Sizes& s) {
  std::string name = "narrow_conv";
  for (int64_t number : {s.n, s.c, s.k, s.hn, s.wn, s.kernel, s.stride, s.pad})
    name += " " + std::to_string(number);
  return name + (s.wide_input ? " from wide" : " to wide");
}

NarrowConvParams params_of(const Sizes& s) {
  NarrowConvParams p = {};
  p.n = s.n, p.c = s.c, p.k = s.k, p.hn = s.hn, p.wn = s.wn, p.hw = s.hw(), p.ww = s.ww();
  p.r = p.s = s.kernel, p.stride = s.stride, p.pad = s.pad, p.wide_input = s.wide_input;
  return p;
}

// Index of U[tap, c, k] in the weight.
int64_t weight_index(const Sizes& s, int64_t tap, int64_t c, int64_t k) {
  return s.wide_input ? (c * s.taps() + s.taps() - 1 - tap) * s.k + k
                      : (k * s.taps() + tap) * s.c + c;
}

// Calls f(narrow pixel, wide pixel, tap) wherever they meet.
template <typename F>
void for_each_meeting(const Sizes& s, const F& f) {
  for (int64_t q = 0; q < s.n * s.hw() * s.ww(); ++q) {
    for (int64_t tap = 0; tap < s.taps(); ++tap) {
      const int64_t y = q / s.ww() % s.hw() * s.stride + tap / s.kernel - s.pad;
      const int64_t x = q % s.ww() * s.stride + tap % s.kernel - s.pad;
      if (y < 0 || y >= s.hn || x < 0 || x >= s.wn) continue;
      f((q / s.ww() / s.hw() * s.hn + y) * s.wn + x, q, tap);
    }
  }
}

// Calls f(index into narrow, into wide, into the weight) for every product.
template <typename F>
void for_each_product(const Sizes& s, const F& f) {
  for_each_meeting(s, [&](int64_t m, int64_t q, int64_t tap) {
    for (int64_t c = 0; c < s.c; ++c) {
      for (int64_t k = 0; k < s.k; ++k)
        f(size_t(m * s.c + c), size_t(q * s.k + k), size_t(weight_index(s, tap, c, k)));
    }
  });
}

// The matrices read since the last call met no bank conflict. Only the emulation counts them.
void expect_no_bank_conflict([[maybe_unused]] const std::string& what) {
#ifdef CYCLEGAN_FAST_EMULATED
  expect(emulation::matrices_read > 0 && emulation::bank_conflicts == 0,
         what + ": bank conflicts: " + std::to_string(emulation::bank_conflicts));
  emulation::matrices_read = emulation::bank_conflicts = 0;
#endif
}

template <typename T, typename W>
void test_passes(const Sizes& s, const DeviceProperties& device) {
  const std::string name = name_of(s) + ", dtypes " + std::to_string(int(kDType<T>)) + " and " +
                           std::to_string(int(kDType<W>));
  std::mt19937 random(5 + seed);
  Guarded<T> narrow(s.n * s.hn * s.wn * s.c, 1), wide(s.n * s.hw() * s.ww() * s.k);
  Guarded<W> weight(s.k * s.taps() * s.c, 1), grad(weight.size(), 1);
  auto us = weight.randomize(random, 0);
  for (double& u : us) u = double(widen(cyclegan_fast::narrow<T>(float(u))));
  NarrowConvParams p = params_of(s);
  p.weight = weight.data(), p.grad_weight = grad.data();
  p.dtype = kDType<T>, p.weight_dtype = kDType<W>;
  const auto limit = [](int64_t terms) {
    return std::max(1e-6 * std::sqrt(double(terms)), tolerance<T>());
  };

  // Each pass writes an output of its own: what it does not write stays NaN.
  const auto ns = narrow.randomize(random, 0);
  std::vector<double> to_wide(size_t(wide.size()));
  for_each_product(s, [&](size_t m, size_t q, size_t u) { to_wide[q] += ns[m] * us[u]; });
  p.narrow = narrow.data(), p.wide = wide.data();
  NarrowConvPlan plan = narrow_conv_to_wide_plan(p, device);
  expect_launch(narrow_conv_to_wide_cuda(p, plan, nullptr), name);
  expect_launched({plan.main}, name + ": to wide");
  expect_close(wide, to_wide, limit(s.taps() * s.c), name + ": to wide");

  const auto ws = wide.randomize(random, 0);
  std::vector<double> to_narrow(size_t(narrow.size())), gradient(size_t(weight.size()));
  for_each_product(s, [&](size_t m, size_t q, size_t u) {
    to_narrow[m] += ws[q] * us[u];
    gradient[u] += ws[q] * ns[m];
  });
  Guarded<T> result(narrow.size(), 1);
  p.narrow = result.data();
  plan = narrow_conv_to_narrow_plan(p, device);
  expect_launch(narrow_conv_to_narrow_cuda(p, plan, nullptr), name);
  expect_launched({plan.main}, name + ": to narrow");
  expect_no_bank_conflict(name + ": to narrow");
  expect_close(result, to_narrow, limit(s.taps() * s.k), name + ": to narrow");

  p.narrow = narrow.data();
  plan = narrow_conv_weight_grad_plan(p, device);
  Workspace workspace(plan.workspace_bytes);
  p.workspace = workspace.data();
  expect_launch(narrow_conv_weight_grad_cuda(p, plan, nullptr), name);
  expect_launched({plan.main, plan.merge}, name + ": weight gradient");
  expect_no_bank_conflict(name + ": weight gradient");
  const double sums = 1e-6 * std::sqrt(double(s.n * s.hw() * s.ww())) + 1e-6;
  expect_close(grad, gradient, sizeof(W) == 4 ? sums : tolerance<W>(), name + ": weight gradient");
  expect(workspace.intact(), name + ": wrote outside the workspace");
}

// A narrow pixel that is not finite reaches the wide pixels that meet it and no others.
void test_not_finite() {
  const Sizes s = {1, 3, 32, 11, 12, 3, 1, 1, false, 0};
  constexpr int64_t kPixel = 4 * 12 + 7;
  std::mt19937 random(5 + seed);
  Guarded<BFloat16> narrow(s.hn * s.wn * s.c), wide(s.hw() * s.ww() * s.k);
  Guarded<float> weight(s.k * s.taps() * s.c);
  narrow.randomize(random, 0), weight.randomize(random, 0);
  narrow.data()[kPixel * s.c + 1] = {0x7f80};  // infinity
  NarrowConvParams p = params_of(s);
  p.narrow = narrow.data(), p.wide = wide.data(), p.weight = weight.data();
  p.dtype = DType::kBFloat16;
  expect_launch(narrow_conv_to_wide_cuda(p, narrow_conv_to_wide_plan(p, {1, 1}), nullptr),
                "narrow_conv, not finite");
  std::vector<bool> reached(size_t(s.hw() * s.ww()));
  for_each_meeting(s, [&](int64_t m, int64_t q, int64_t) {
    if (m == kPixel) reached[size_t(q)] = true;
  });
  for (int64_t i = 0; i < wide.size(); ++i)
    expect(std::isfinite(wide[i]) != reached[size_t(i / s.k)],
           [] { return "narrow_conv: an infinity is not where it belongs"; });
#ifdef CYCLEGAN_FAST_EMULATED
  emulation::launches.clear();
#endif
}

// Every size that fits gets the shared memory that all devices since sm_80 have.
void test_plans() {
  constexpr int64_t kShared = 99 * 1024;
  for (int64_t i = 0; i < 8 * 16 * 7 * 2 * 2; ++i) {
    const int64_t c = i % 8 + 1, k = i / 8 % 16 * 8 + 8, kernel = i / 128 % 7 + 1;
    const int64_t stride = i / 896 % 2 + 1;
    NarrowConvParams p = params_of({1, c, k, 64, 64, kernel, stride, 0, i / 1792 == 1, 0});
    p.dtype = DType::kBFloat16;
    const bool fits = k >= 16 && k <= (c <= 3 ? 128 : 64) && (stride == 1 || !p.wide_input);
    for (const auto plan_of :
         {narrow_conv_to_wide_plan, narrow_conv_to_narrow_plan, narrow_conv_weight_grad_plan}) {
      const NarrowConvPlan plan = plan_of(p, {132, 8});
      expect(fits == (plan.main.grid > 0) && plan.main.shared_memory <= kShared, [&] {
        return "narrow_conv: plan of " + std::to_string(c) + " and " + std::to_string(k);
      });
    }
  }
  // The stem and the head of a generator on one image of 256 px.
  NarrowConvParams stem = params_of({1, 3, 64, 262, 262, 7, 1, 0, false, 0});
  stem.dtype = DType::kBFloat16;
  const DeviceProperties hopper = {132, 8};
  const NarrowConvPlan wide = narrow_conv_to_wide_plan(stem, hopper);
  expect(wide.main.grid == 256 && wide.main.block == 256 && wide.main.shared_memory == 30704,
         "narrow_conv: the stem's 256 tiles are resident at once");
  NarrowConvParams head = params_of({1, 3, 64, 256, 256, 7, 1, 6, true, 0});
  head.dtype = DType::kBFloat16;
  const NarrowConvPlan narrow = narrow_conv_to_narrow_plan(head, hopper);
  expect(narrow.main.grid == 320 && narrow.main.block == 128 && narrow.main.shared_memory == 50176,
         "narrow_conv: the head has small blocks, more than two for each multiprocessor");
  head.n = 4;
  expect(narrow_conv_to_narrow_plan(head, hopper).main.block == 256,
         "narrow_conv: many images have large blocks");
  const NarrowConvPlan gradient = narrow_conv_weight_grad_plan(stem, hopper);
  expect(gradient.main.grid == 132 && gradient.merge.grid == 294 &&
             gradient.workspace_bytes == 132 * 64 * 160 * 4,
         "narrow_conv: a partial weight gradient for each multiprocessor");
}

template <typename T>
void test_type() {
  const DeviceProperties large = {132, 8}, small = {2, 1};  // small: several tiles to a block
  test_passes<T, float>({2, 3, 64, 21, 19, 7, 1, 0, false, 0}, large);  // a stem
  test_passes<T, float>({1, 3, 64, 24, 37, 7, 1, 6, true, 0}, small);   // a head
  test_passes<T, T>({2, 3, 64, 22, 36, 4, 2, 1, false, 0}, large);      // a discriminator
  test_passes<T, T>({1, 1, 16, 9, 33, 7, 1, 3, true, 0}, small);
  test_passes<T, float>({1, 2, 16, 33, 50, 3, 1, 1, true, 0}, small);
  test_passes<T, float>({1, 8, 24, 13, 11, 7, 2, 3, false, 1}, small);
  test_passes<T, T>({1, 5, 40, 9, 8, 5, 1, 4, true, 0}, large);
  test_passes<T, float>({3, 2, 128, 5, 6, 3, 2, 1, false, 1}, small);
  test_passes<T, float>({1, 6, 64, 4, 3, 3, 1, 1, false, 0}, large);
  test_passes<T, float>({1, 4, 16, 1, 1, 7, 1, 6, true, 0}, small);
}

}  // namespace

void test_narrow_conv() {
  test_type<BFloat16>();
  test_not_finite();
  test_plans();
  if (quick) return;
  test_type<Half>();
}

#endif
