// conv3x3 against plain loops in double: both passes, the turned weights, and every edge of tiles
// and panels. There is no CUDA implementation.
#include "harness.h"

#ifdef CYCLEGAN_FAST_TEST_CUDA
void test_conv3x3() {}
#else

#include "cpu_conv/conv3x3.h"

using namespace cyclegan_fast;

namespace {

struct Sizes {
  int64_t n, h, w, c, k, pad;
  int64_t out_h() const { return h + 2 * pad - 2; }
  int64_t out_w() const { return w + 2 * pad - 2; }
};

// Calls f(index into x, index into y, tap, channel, output) for every product of the convolution.
template <typename F>
void for_each_product(const Sizes& s, const F& f) {
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t i = 0; i < s.out_h() * s.out_w() * 9; ++i) {
      const int64_t tap = i % 9, y = i / 9 / s.out_w(), x = i / 9 % s.out_w();
      const int64_t from_y = y + tap / 3 - s.pad, from_x = x + tap % 3 - s.pad;
      if (from_y < 0 || from_y >= s.h || from_x < 0 || from_x >= s.w) continue;
      for (int64_t c = 0; c < s.c; ++c) {
        for (int64_t k = 0; k < s.k; ++k) {
          f(((n * s.h + from_y) * s.w + from_x) * s.c + c,
            ((n * s.out_h() + y) * s.out_w() + x) * s.k + k, tap, c, k);
        }
      }
    }
  }
}

void run(Conv3x3Params p, Conv3x3Pass pass, const std::string& what) {
  Guarded<float> workspace(conv3x3_workspace(p) / int64_t(sizeof(float)));
  p.workspace = workspace.data();
  for (int64_t phase = 0; phase < conv3x3_phases(p); ++phase) {
    const int64_t slices = conv3x3_slices(p, pass, phase);
    conv3x3_cpu(p, pass, phase, slices / 2, slices);
    conv3x3_cpu(p, pass, phase, 0, slices / 2);
  }
  expect(workspace.intact(), what + ": wrote outside the workspace");
}

template <typename T>
void test_passes(const Sizes& s, int64_t shift) {
  const std::string name = "conv3x3 " + std::to_string(s.n) + "x" + std::to_string(s.h) + "x" +
                           std::to_string(s.w) + "x" + std::to_string(s.c) + " to " +
                           std::to_string(s.k) + " pad " + std::to_string(s.pad) + " dtype " +
                           std::to_string(int(kDType<T>));
  std::mt19937 random(7 + seed);
  Guarded<T> x(s.n * s.h * s.w * s.c, shift), y(s.n * s.out_h() * s.out_w() * s.k, shift);
  Guarded<float> weight(s.k * 9 * s.c), turned(s.k * 9 * s.c), grad_weight(s.k * 9 * s.c);
  const auto x_values = x.randomize(random, 0), w_values = weight.randomize(random, 0);
  std::vector<double> forward(size_t(y.size()));
  // The input gradient's weights are stored in the other order: [C, 3, 3, K], turned.
  for (int64_t k = 0; k < s.k; ++k) {
    for (int64_t i = 0; i < 9 * s.c; ++i) {
      turned.data()[(i % s.c * 9 + 8 - i / s.c) * s.k + k] = weight.data()[k * 9 * s.c + i];
    }
  }
  for_each_product(s, [&](int64_t in, int64_t out, int64_t tap, int64_t c, int64_t k) {
    forward[size_t(out)] += x_values[size_t(in)] * w_values[size_t((k * 9 + tap) * s.c + c)];
  });
  Conv3x3Params p = {};
  p.x = x.data(), p.weight = weight.data(), p.y = y.data(), p.grad_weight = grad_weight.data();
  p.n = s.n, p.h = s.h, p.w = s.w, p.c = s.c, p.k = s.k, p.pad = s.pad, p.dtype = kDType<T>;
  const double limit = std::max(4e-6 * std::sqrt(9.0 * double(s.c)), tolerance<T>());
  run(p, Conv3x3Pass::kForward, name);
  expect_close(y, forward, limit, name + ": forward");
  p.weight = turned.data(), p.flipped = true;
  run(p, Conv3x3Pass::kForward, name);
  expect_close(y, forward, limit, name + ": forward with turned weights");

  const auto y_values = y.randomize(random, 0);
  std::vector<double> gradient(size_t(grad_weight.size()));
  for_each_product(s, [&](int64_t in, int64_t out, int64_t tap, int64_t c, int64_t k) {
    gradient[size_t((k * 9 + tap) * s.c + c)] += x_values[size_t(in)] * y_values[size_t(out)];
  });
  run(p, Conv3x3Pass::kWeightGradient, name);
  const double pixels = double(s.n * s.out_h() * s.out_w());
  expect_close(grad_weight, gradient, 1e-5 * std::sqrt(pixels), name + ": weight gradient");
}

template <typename T>
void test_type() {
  for (int64_t shift : {0, 1}) {
    test_passes<T>({1, 3, 3, 1, 1, 0}, shift);
    test_passes<T>({1, 1, 1, 3, 5, 1}, shift);
    test_passes<T>({2, 7, 9, 17, 33, 1}, shift);
    test_passes<T>({1, 6, 6, 32, 32, 0}, shift);
    test_passes<T>({2, 5, 4, 40, 70, 2}, shift);
  }
  test_passes<T>({1, 71, 69, 16, 8, 0}, 0);  // more than one chunk of tiles
}

}  // namespace

void test_conv3x3() {
  test_type<float>();
  test_type<BFloat16>();
}

#endif
