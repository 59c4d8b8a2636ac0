// instance_norm_act against plain loops in double, unwritten elements being NaN.
#include "instance_norm_act.h"

#include <cmath>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

// ---- The reference ----
namespace reference {

using Values = std::vector<double>;

struct Sizes {
  int64_t n, c, h, w;
  Layout layout;

  // Index of pixel (i, j) of an image with a border; i and j may lie on the border.
  int64_t at(int64_t image, int64_t channel, int64_t i, int64_t j, int64_t border) const {
    const int64_t height = h + 2 * border, width = w + 2 * border;
    i += border, j += border;
    return layout == Layout::kNCHW ? ((image * c + channel) * height + i) * width + j
                                   : ((image * height + i) * width + j) * c + channel;
  }
  int64_t count(int64_t border) const { return n * c * (h + 2 * border) * (w + 2 * border); }
};

struct Forward {
  Values y, mean, rstd;
};

inline double act(double v, double slope) { return v > 0 ? v : v * slope; }

// residual may be empty.
inline Forward forward(const Sizes& s, const Values& x, const Values& residual, double slope,
                       double eps, int64_t pad, int64_t border) {
  Forward out{Values(s.count(pad)), Values(s.n * s.c), Values(s.n * s.c)};
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t c = 0; c < s.c; ++c) {
      double mean = 0, square = 0;
      for (int64_t i = 0; i < s.h; ++i) {
        for (int64_t j = 0; j < s.w; ++j) mean += x[s.at(n, c, i, j, 0)] / double(s.h * s.w);
      }
      for (int64_t i = 0; i < s.h; ++i) {
        for (int64_t j = 0; j < s.w; ++j) square += std::pow(x[s.at(n, c, i, j, 0)] - mean, 2);
      }
      const double rstd = 1 / std::sqrt(square / double(s.h * s.w) + eps);
      out.mean[n * s.c + c] = mean, out.rstd[n * s.c + c] = rstd;
      for (int64_t i = -pad; i < s.h + pad; ++i) {
        for (int64_t j = -pad; j < s.w + pad; ++j) {
          const int64_t a = i < 0 ? -i : i < s.h ? i : 2 * (s.h - 1) - i;
          const int64_t b = j < 0 ? -j : j < s.w ? j : 2 * (s.w - 1) - j;
          double v = act((x[s.at(n, c, a, b, 0)] - mean) * rstd, slope);
          if (!residual.empty()) v += residual[s.at(n, c, a, b, border)];
          out.y[s.at(n, c, i, j, pad)] = v;
        }
      }
    }
  }
  return out;
}

struct Backward {
  Values grad_x, grad_residual;
};

inline Backward backward(const Sizes& s, const Values& grad_y, const Values& x, const Values& mean,
                         const Values& rstd, double slope, int64_t pad, int64_t border) {
  Backward out{Values(s.count(0)), Values(s.count(border))};
  Values g(s.count(0));
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t c = 0; c < s.c; ++c) {
      for (int64_t i = -pad; i < s.h + pad; ++i) {  // the adjoint of the pad as a scatter
        for (int64_t j = -pad; j < s.w + pad; ++j) {
          const int64_t a = i < 0 ? -i : i < s.h ? i : 2 * (s.h - 1) - i;
          const int64_t b = j < 0 ? -j : j < s.w ? j : 2 * (s.w - 1) - j;
          g[s.at(n, c, a, b, 0)] += grad_y[s.at(n, c, i, j, pad)];
        }
      }
      const double size = double(s.h * s.w), m = mean[n * s.c + c], r = rstd[n * s.c + c];
      double sum = 0, along = 0;
      const auto gz = [&](int64_t at) { return x[at] - m > 0 ? g[at] : g[at] * slope; };
      for (int64_t i = 0; i < s.h; ++i) {
        for (int64_t j = 0; j < s.w; ++j) {
          const int64_t at = s.at(n, c, i, j, 0);
          sum += gz(at) / size, along += gz(at) * (x[at] - m) * r / size;
        }
      }
      for (int64_t i = 0; i < s.h; ++i) {
        for (int64_t j = 0; j < s.w; ++j) {
          const int64_t at = s.at(n, c, i, j, 0);
          out.grad_x[at] = r * (gz(at) - sum - (x[at] - m) * r * along);
          out.grad_residual[s.at(n, c, i, j, border)] = g[at];
        }
      }
    }
  }
  return out;
}

}  // namespace reference

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
#else
void forward(const InstanceNormActParams& p, const std::string&) {
  run_slices(p, instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout),
             instance_norm_act_fwd_cpu);
}
void backward(const InstanceNormActBwdParams& p, const std::string&) {
  run_slices(p, instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout),
             instance_norm_act_bwd_cpu);
}
#endif

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

}  // namespace

void test_instance_norm_act() {
  for_each_type([](auto element) { test_norm_cases<decltype(element)>(); });
}
