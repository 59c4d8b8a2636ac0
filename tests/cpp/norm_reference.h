// Instance norm in plain loops in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "types.h"

namespace reference {

using Values = std::vector<double>;

struct Sizes {
  int64_t n, c, h, w;
  cyclegan_fast::Layout layout;

  // Index of pixel (i, j) of an image with a border; i and j may lie on the border.
  int64_t at(int64_t image, int64_t channel, int64_t i, int64_t j, int64_t border) const {
    const int64_t height = h + 2 * border, width = w + 2 * border;
    i += border, j += border;
    return layout == cyclegan_fast::Layout::kNCHW
               ? ((image * c + channel) * height + i) * width + j
               : ((image * height + i) * width + j) * c + channel;
  }
  int64_t count(int64_t border) const { return n * c * (h + 2 * border) * (w + 2 * border); }

  // Calls f(plane, channel, index of the pixel in x, the same in an image with `border`) for every
  // pixel.
  template <typename F>
  void for_each_pixel(int64_t border, const F& f) const {
    for (int64_t plane = 0; plane < n * c; ++plane) {
      for (int64_t i = 0; i < h * w; ++i) {
        f(size_t(plane), size_t(plane % c), size_t(at(plane / c, plane % c, i / w, i % w, 0)),
          size_t(at(plane / c, plane % c, i / w, i % w, border)));
      }
    }
  }
  // Calls f(index of the position, index of the pixel that it shows) for every position of the
  // padded image.
  template <typename F>
  void for_each_position(int64_t pad, const F& f) const {
    for (int64_t plane = 0; plane < n * c; ++plane) {
      for (int64_t i = -pad; i < h + pad; ++i) {
        for (int64_t j = -pad; j < w + pad; ++j) {
          const int64_t a = i < 0 ? -i : i < h ? i : 2 * (h - 1) - i;
          const int64_t b = j < 0 ? -j : j < w ? j : 2 * (w - 1) - j;
          f(size_t(at(plane / c, plane % c, i, j, pad)), size_t(at(plane / c, plane % c, a, b, 0)));
        }
      }
    }
  }
};

struct Moments {
  Values mean, square;  // [N, C]; square = sum (x - mean)^2
};

inline Moments moments(const Sizes& s, const Values& x) {
  Moments m{Values(size_t(s.n * s.c)), Values(size_t(s.n * s.c))};
  s.for_each_pixel(0, [&](size_t plane, size_t, size_t at, size_t) {
    m.mean[plane] += x[at] / double(s.h * s.w);
  });
  s.for_each_pixel(0, [&](size_t plane, size_t, size_t at, size_t) {
    m.square[plane] += std::pow(x[at] - m.mean[plane], 2);
  });
  return m;
}

// What forward and backward share.
struct Norm {
  Values mean, rstd;    // [N, C]
  Values weight, bias;  // [C]
  double slope;

  double xhat(size_t plane, double x) const { return (x - mean[plane]) * rstd[plane]; }
  double act(double z, double v) const { return z > 0 ? v : v * slope; }
};

// y; residual may be empty.
inline Values forward(const Sizes& s, const Norm& norm, const Values& x, const Values& residual,
                      int64_t pad, int64_t border) {
  Values v(x.size()), y(size_t(s.count(pad)));
  s.for_each_pixel(border, [&](size_t plane, size_t c, size_t at, size_t bordered) {
    const double z = norm.xhat(plane, x[at]) * norm.weight[c] + norm.bias[c];
    v[at] = norm.act(z, z) + (residual.empty() ? 0 : residual[bordered]);
  });
  s.for_each_position(pad, [&](size_t position, size_t at) { y[position] = v[at]; });
  return y;
}

struct Gradients {
  Values x, residual, weight, bias;
};

// grad_inner may be empty.
inline Gradients backward(const Sizes& s, const Norm& norm, const Values& grad_y,
                          const Values& grad_inner, const Values& x, bool constant, int64_t pad) {
  const size_t planes = norm.mean.size(), channels = size_t(s.c);
  Gradients out{Values(x.size()), Values(), Values(channels), Values(channels)};
  Values g = grad_inner, gz(x.size()), sum(planes), along(planes);
  g.resize(x.size());
  s.for_each_position(pad, [&](size_t position, size_t at) { g[at] += grad_y[position]; });
  s.for_each_pixel(0, [&](size_t plane, size_t c, size_t at, size_t) {
    const double xhat = norm.xhat(plane, x[at]);
    gz[at] = norm.act(xhat * norm.weight[c] + norm.bias[c], g[at]);
    sum[plane] += gz[at], along[plane] += gz[at] * xhat;
    out.bias[c] += gz[at], out.weight[c] += gz[at] * xhat;
  });
  s.for_each_pixel(0, [&](size_t plane, size_t c, size_t at, size_t) {
    const double shared = (sum[plane] + norm.xhat(plane, x[at]) * along[plane]) / double(s.h * s.w);
    out.x[at] = norm.weight[c] * norm.rstd[plane] * (gz[at] - (constant ? 0 : shared));
  });
  out.residual = std::move(g);
  return out;
}

}  // namespace reference
