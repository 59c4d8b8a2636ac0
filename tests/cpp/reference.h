// The operators as plain loops in double: what the kernels are compared with.
#pragma once

#include <cmath>
#include <vector>

#include "instance_norm_act.h"
#include "l1_mean.h"

namespace reference {

using cyclegan_fast::Layout;
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
