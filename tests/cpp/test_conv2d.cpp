// conv2d against plain loops in double: every pass, kernels larger and smaller than the stride,
// pixels that no output sees, and every edge of panels. There is no CUDA implementation.
#include "harness.h"

#ifdef CYCLEGAN_FAST_TEST_CUDA
void test_conv2d() {}
#else

#include "cpu_conv/conv2d.h"

using namespace cyclegan_fast;

namespace {

struct Sizes {
  int64_t n, h, w, c, k, r, s, stride, pad;
  int64_t extra;  // rows and columns of x that no output sees
  int64_t oh() const { return (h + 2 * pad - r - extra) / stride + 1; }
  int64_t ow() const { return (w + 2 * pad - s - extra) / stride + 1; }
};

// Calls f(index into x, index into y, index into weight) for every product of the convolution.
template <typename F>
void for_each_product(const Sizes& s, const F& f) {
  for (int64_t i = 0; i < s.n * s.oh() * s.ow() * s.r * s.s; ++i) {
    const int64_t column = i % s.s, row = i / s.s % s.r, pixel = i / s.s / s.r;
    const int64_t y = pixel / s.ow() % s.oh() * s.stride + row - s.pad;
    const int64_t x = pixel % s.ow() * s.stride + column - s.pad;
    if (y < 0 || y >= s.h || x < 0 || x >= s.w) continue;
    for (int64_t c = 0; c < s.c; ++c) {
      for (int64_t k = 0; k < s.k; ++k) {
        f(((pixel / s.ow() / s.oh() * s.h + y) * s.w + x) * s.c + c, pixel * s.k + k,
          ((k * s.r + row) * s.s + column) * s.c + c);
      }
    }
  }
}

void run(Conv2dParams p, Conv2dPass pass, const std::string& what) {
  Guarded<float> workspace(conv2d_workspace(p, pass) / int64_t(sizeof(float)));
  p.workspace = workspace.data();
  for (int64_t phase = 0; phase < kConv2dPhases; ++phase) {
    const int64_t slices = conv2d_slices(p, pass, phase);
    conv2d_cpu(p, pass, phase, slices / 2, slices);
    conv2d_cpu(p, pass, phase, 0, slices / 2);
  }
  expect(workspace.intact(), what + ": wrote outside the workspace");
}

template <typename T>
void test_passes(const Sizes& s, int64_t shift) {
  const std::string name = "conv2d " + std::to_string(s.n) + "x" + std::to_string(s.h) + "x" +
                           std::to_string(s.w) + "x" + std::to_string(s.c) + " to " +
                           std::to_string(s.k) + " kernel " + std::to_string(s.r) + "x" +
                           std::to_string(s.s) + " stride " + std::to_string(s.stride) + " pad " +
                           std::to_string(s.pad) + " dtype " + std::to_string(int(kDType<T>));
  std::mt19937 random(9 + seed);
  Guarded<T> x(s.n * s.h * s.w * s.c, shift), y(s.n * s.oh() * s.ow() * s.k, shift);
  Guarded<float> weight(s.k * s.r * s.s * s.c), grad(weight.size()), bias(s.k);
  const auto xs = x.randomize(random, 0), ws = weight.randomize(random, 0);
  const auto bs = bias.randomize(random, 0);
  Conv2dParams p = {};
  p.x = x.data(), p.y = y.data(), p.weight = weight.data(), p.grad_weight = grad.data();
  p.n = s.n, p.h = s.h, p.w = s.w, p.c = s.c, p.k = s.k, p.r = s.r, p.s = s.s;
  p.oh = s.oh(), p.ow = s.ow(), p.stride = s.stride, p.pad = s.pad, p.dtype = kDType<T>;
  const auto limit = [](int64_t terms) {
    return std::max(1e-6 * std::sqrt(double(terms)), tolerance<T>());
  };

  std::vector<double> forward(size_t(y.size()));
  for (size_t i = 0; i < forward.size(); ++i) forward[i] = bs[i % size_t(s.k)];
  for_each_product(s, [&](int64_t in, int64_t out, int64_t w) {
    forward[size_t(out)] += xs[size_t(in)] * ws[size_t(w)];
  });
  p.bias = bias.data();
  run(p, Conv2dPass::kForward, name);
  expect_close(y, forward, limit(s.r * s.s * s.c), name + ": forward");

  const auto ys = y.randomize(random, 0);
  std::vector<double> grad_x(size_t(x.size())), grad_w(size_t(weight.size()));
  for_each_product(s, [&](int64_t in, int64_t out, int64_t w) {
    grad_x[size_t(in)] += ys[size_t(out)] * ws[size_t(w)];
    grad_w[size_t(w)] += ys[size_t(out)] * xs[size_t(in)];
  });
  run(p, Conv2dPass::kWeightGradient, name);
  expect_close(grad, grad_w, 1e-6 * std::sqrt(double(s.n * s.oh() * s.ow())) + 1e-6,
               name + ": weight gradient");
  Guarded<T> dx(x.size(), shift);
  p.x = dx.data();
  run(p, Conv2dPass::kInputGradient, name);
  expect_close(dx, grad_x, limit(s.r * s.s * s.k), name + ": input gradient");
}

template <typename T>
void test_type() {
  for (int64_t shift : {0, 1}) {
    test_passes<T>({1, 1, 1, 1, 1, 1, 1, 1, 0, 0}, shift);
    test_passes<T>({2, 9, 11, 3, 16, 7, 7, 1, 0, 0}, shift);   // a stem
    test_passes<T>({2, 9, 11, 16, 3, 7, 7, 1, 0, 0}, shift);   // a head
    test_passes<T>({2, 8, 10, 17, 33, 3, 3, 2, 1, 0}, shift);  // down, and up as its gradient
    test_passes<T>({1, 9, 7, 5, 2, 4, 4, 2, 1, 0}, shift);     // a discriminator
    test_passes<T>({1, 6, 7, 40, 1, 4, 4, 1, 1, 0}, shift);
    test_passes<T>({1, 9, 9, 4, 70, 1, 2, 3, 0, 2}, shift);   // a kernel smaller than its stride
    test_passes<T>({1, 3, 2, 32, 64, 5, 3, 1, 4, 0}, shift);  // more zeros than pixels
  }
}

}  // namespace

void test_conv2d() {
  test_type<float>();
  test_type<BFloat16>();
}

#endif
