// The CPU kernel of instance_norm_act for NHWC: a slice is a group of channels of one image.
// Included through cpu/for_each_isa.h, after the NCHW one.

// kVecs vectors of channels, or one partial vector: the first `count` channels of it.
template <typename T, int kVecs>
struct Group {
  VecOf<T> v[kVecs];

  template <typename U>  // T, or Compute<T> for statistics
  static Group load_from(const U* p, int64_t count) {
    Group group;
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k) {
      group.v[k] = kVecs == 1 ? load(p, count) : load(p + k * kLanes<T>);
    }
    return group;
  }
  template <typename U>
  void store_to(U* p, int64_t count) const {
    if (kVecs == 1) return store(p, v[0], count);
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k) store(p + k * kLanes<T>, v[k]);
  }
};

// Adds to sum and square those of x - shift over `pixels` pixels, `stride` elements apart.
template <typename T, int kVecs>
void add_shifted_sums(const T* x, int64_t pixels, int64_t stride, int64_t count,
                      const Group<T, kVecs>& shift, Group<T, kVecs>& sum, Group<T, kVecs>& square) {
  Group<T, kVecs> s = {}, q = {};
  for (int64_t i = 0; i < pixels; ++i) {
    const auto value = Group<T, kVecs>::load_from(x + i * stride, count);
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k) {
      const VecOf<T> d = value.v[k] - shift.v[k];
      s.v[k] += d;
      q.v[k] += d * d;
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kVecs; ++k) {
    sum.v[k] += s.v[k];
    square.v[k] += q.v[k];
  }
}

template <typename T, int kVecs>
void group_stats(const T* x, int64_t size, int64_t stride, int64_t count, double eps,
                 Group<T, kVecs>& mean, Group<T, kVecs>& rstd) {
  using C = Compute<T>;
  const int64_t first = std::min(size, kChunk);
  Group<T, kVecs> shift = Group<T, kVecs>::load_from(x, count), sum = {}, square = {};
  add_shifted_sums(x, first, stride, count, shift, sum, square);
  for (int k = 0; k < kVecs; ++k) shift.v[k] += sum.v[k] / C(first);
  sum = square = {};
  for (int64_t i = 0; i < size; i += kChunk) {
    add_shifted_sums(x + i * stride, std::min(kChunk, size - i), stride, count, shift, sum, square);
  }
  for (int k = 0; k < kVecs; ++k) {
    const VecOf<T> offset = sum.v[k] / C(size);
    const VecOf<T> variance = square.v[k] / C(size) - offset * offset;
    mean.v[k] = shift.v[k] + offset;
    for (int i = 0; i < kLanes<T>; ++i) {
      rstd.v[k][i] = C(1 / std::sqrt(std::max(double(variance[i]), 0.0) + eps));
    }
  }
}

// A view of [H, W, stride] elements with a border around it, at the first channel of the group.
template <typename T>
struct Image {
  T* data;
  int64_t height, width, border, stride;

  T* at(int64_t i, int64_t j) const {  // of the image inside the border
    return data + ((i + border) * (width + 2 * border) + j + border) * stride;
  }
};

template <typename T, typename P>
Image<T> image_of(P* pointer, int64_t n, int64_t channel, int64_t h, int64_t w, int64_t c,
                  int64_t border) {
  if (pointer == nullptr) return {nullptr, h, w, border, c};
  T* data = static_cast<T*>(pointer) + n * (h + 2 * border) * (w + 2 * border) * c + channel;
  return {data, h, w, border, c};
}

template <typename T>
void mirror_border(const Image<T>& y, int64_t count) {
  const size_t bytes = count * sizeof(T);
  for (int64_t i = 0; i < y.height; ++i) {
    for (int64_t j = 1; j <= y.border; ++j) {
      std::memcpy(y.at(i, -j), y.at(i, j), bytes);
      std::memcpy(y.at(i, y.width - 1 + j), y.at(i, y.width - 1 - j), bytes);
    }
  }
  for (int64_t i = 1; i <= y.border; ++i) {
    for (int64_t j = -y.border; j < y.width + y.border; ++j) {
      std::memcpy(y.at(-i, j), y.at(i, j), bytes);
      std::memcpy(y.at(y.height - 1 + i, j), y.at(y.height - 1 - i, j), bytes);
    }
  }
}

template <typename T, int kVecs, bool kResidual>
void apply_group(const Image<const T>& x, const Image<const T>& residual, const Image<T>& y,
                 int64_t count, const Group<T, kVecs>& mean, const Group<T, kVecs>& rstd,
                 Compute<T> slope) {
  for (int64_t i = 0; i < x.height; ++i) {
    const T* in = x.at(i, 0);
    const T* extra = kResidual ? residual.at(i, 0) : nullptr;
    T* out = y.at(i, 0);
    for (int64_t j = 0; j < x.width; ++j, in += x.stride, out += y.stride) {
      auto value = Group<T, kVecs>::load_from(in, count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) {
        const VecOf<T> v = (value.v[k] - mean.v[k]) * rstd.v[k];
        value.v[k] = activate(v, v, slope);
      }
      if (kResidual) {
        const auto r = Group<T, kVecs>::load_from(extra + j * x.stride, count);
#pragma GCC unroll 4
        for (int k = 0; k < kVecs; ++k) value.v[k] += r.v[k];
      }
      value.store_to(out, count);
    }
  }
}

template <typename T, int kVecs>
void run_group(const InstanceNormActParams& p, int64_t n, int64_t channel, int64_t count) {
  using C = Compute<T>;
  const auto x = image_of<const T>(p.x, n, channel, p.h, p.w, p.c, 0);
  const auto residual = image_of<const T>(p.residual, n, channel, p.h, p.w, p.c, p.residual_pad);
  const auto y = image_of<T>(p.y, n, channel, p.h, p.w, p.c, p.pad);
  Group<T, kVecs> mean, rstd;
  group_stats(x.data, p.h * p.w, p.c, count, p.eps, mean, rstd);
  mean.store_to(static_cast<C*>(p.mean) + n * p.c + channel, count);
  rstd.store_to(static_cast<C*>(p.rstd) + n * p.c + channel, count);
  const C slope = C(slope_of(p.activation, p.negative_slope));
  if (p.residual) {
    apply_group<T, kVecs, true>(x, residual, y, count, mean, rstd, slope);
  } else {
    apply_group<T, kVecs, false>(x, residual, y, count, mean, rstd, slope);
  }
  if (p.pad > 0) mirror_border(y, count);
}

// Zeroes the border of y.
template <typename T>
void zero_border(const Image<T>& y, int64_t count) {
  const size_t bytes = count * sizeof(T);
  for (int64_t i = -y.border; i < y.height + y.border; ++i) {
    const bool outside = i < 0 || i >= y.height;
    for (int64_t j = -y.border; j < y.width + y.border; ++j) {
      if (!outside && j == 0) j = y.width;  // skips the image itself
      std::memset(y.at(i, j), 0, bytes);
    }
  }
}

// The adjoint of the pad at one pixel: the sum of grad_y over the padded places that show it.
template <typename T, int kVecs>
inline Group<T, kVecs> gather(const Image<const T>& grad_y, const Mirrors& rows,
                              const Mirrors& columns, int64_t count) {
  const int64_t width = grad_y.width + 2 * grad_y.border;
  Group<T, kVecs> sum = {};
  for (int r = 0; r < rows.count; ++r) {
    for (int s = 0; s < columns.count; ++s) {
      const T* place = grad_y.data + (rows.at[r] * width + columns.at[s]) * grad_y.stride;
      const auto g = Group<T, kVecs>::load_from(place, count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) sum.v[k] += g.v[k];
    }
  }
  return sum;
}

template <typename T, int kVecs>
void run_group(const InstanceNormActBwdParams& p, int64_t n, int64_t channel, int64_t count) {
  using C = Compute<T>;
  using G = Group<T, kVecs>;
  const auto x = image_of<const T>(p.x, n, channel, p.h, p.w, p.c, 0);
  const auto grad_y = image_of<const T>(p.grad_y, n, channel, p.h, p.w, p.c, p.pad);
  const auto grad_x = image_of<T>(p.grad_x, n, channel, p.h, p.w, p.c, 0);
  const auto grad_residual =
      image_of<T>(p.grad_residual, n, channel, p.h, p.w, p.c, p.residual_pad);
  const int64_t at = n * p.c + channel;
  const G mean = G::load_from(static_cast<const C*>(p.mean) + at, count);
  const G rstd = G::load_from(static_cast<const C*>(p.rstd) + at, count);
  const C slope = C(slope_of(p.activation, p.negative_slope)), size = C(p.h * p.w);

  G sum_gz = {}, sum_gzx = {};
  for (int64_t i = 0; i < p.h; ++i) {
    const Mirrors rows = mirrors(i, p.h, p.pad);
    G gz_row = {}, gzx_row = {};
    for (int64_t j = 0; j < p.w; ++j) {
      const G g = gather<T, kVecs>(grad_y, rows, mirrors(j, p.w, p.pad), count);
      const G value = G::load_from(x.at(i, j), count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) {
        const VecOf<T> d = value.v[k] - mean.v[k], gz = activate(g.v[k], d, slope);
        gz_row.v[k] += gz;
        gzx_row.v[k] += gz * d;
      }
    }
    for (int k = 0; k < kVecs; ++k) {
      sum_gz.v[k] += gz_row.v[k];
      sum_gzx.v[k] += gzx_row.v[k];
    }
  }

  G along, offset;  // grad_x = rstd * gz + (x - mean) * along + offset
  for (int k = 0; k < kVecs; ++k) {
    along.v[k] = -rstd.v[k] * rstd.v[k] * rstd.v[k] * (sum_gzx.v[k] / size);
    offset.v[k] = -rstd.v[k] * (sum_gz.v[k] / size);
  }
  for (int64_t i = 0; i < p.h; ++i) {
    const Mirrors rows = mirrors(i, p.h, p.pad);
    for (int64_t j = 0; j < p.w; ++j) {
      const G g = gather<T, kVecs>(grad_y, rows, mirrors(j, p.w, p.pad), count);
      G value = G::load_from(x.at(i, j), count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) {
        const VecOf<T> d = value.v[k] - mean.v[k], gz = activate(g.v[k], d, slope);
        value.v[k] = rstd.v[k] * gz + (d * along.v[k] + offset.v[k]);
      }
      value.store_to(grad_x.at(i, j), count);
      if (grad_residual.data) g.store_to(grad_residual.at(i, j), count);
    }
  }
  if (grad_residual.data && p.residual_pad > 0) zero_border(grad_residual, count);
}
