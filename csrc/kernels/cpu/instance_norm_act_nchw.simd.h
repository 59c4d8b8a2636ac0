// The CPU kernel of instance_norm_act for NCHW: a slice is one plane. Included through
// cpu/for_each_isa.h.
//
// Statistics are sums of x - shift, where shift is the mean of the first few hundred pixels, in two
// levels (a chunk, then the chunks): an image far from zero loses nothing, unlike with E[x^2] -
// E[x]^2.

// Vectors (NCHW) or pixels (NHWC) that are summed before the sums join the total.
constexpr int64_t kChunk = 256;

// v > 0 ? v : slope * v, where `sign` stands for v's sign
template <typename V, typename C>
inline V activate(V v, V sign, C slope) {
  return sign > 0 ? v : v * slope;
}

template <typename C>
struct PlaneStats {
  C mean, rstd;
};

struct PlaneSums {
  double sum, square;
};

// Sums of (x - shift) and (x - shift)^2 over x [size], size <= kChunk * kLanes.
template <typename T>
PlaneSums shifted_sums(const T* x, int64_t size, Compute<T> shift) {
  constexpr int kUnroll = 4, kStep = kLanes<T>;
  VecOf<T> sum[kUnroll] = {}, square[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kStep <= size; i += kUnroll * kStep) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; ++k) {
      const VecOf<T> d = load(x + i + k * kStep) - shift;
      sum[k] += d;
      square[k] += d * d;
    }
  }
  for (; i < size; i += kStep) {
    const VecOf<T> d = keep_first(load(x + i, size - i) - shift, size - i);
    sum[0] += d;
    square[0] += d * d;
  }
  return {double(sum_lanes<Compute<T>>((sum[0] + sum[1]) + (sum[2] + sum[3]))),
          double(sum_lanes<Compute<T>>((square[0] + square[1]) + (square[2] + square[3])))};
}

// Mean and 1 / sqrt(variance + eps) of x [size].
template <typename T>
PlaneStats<Compute<T>> plane_stats(const T* x, int64_t size, double eps) {
  using C = Compute<T>;
  constexpr int64_t kStep = kChunk * kLanes<T>;
  const int64_t first = std::min(size, kStep);
  const C shift = widen(x[0]) + C(shifted_sums(x, first, widen(x[0])).sum / double(first));
  double sum = 0, square = 0;
  for (int64_t i = 0; i < size; i += kStep) {
    const PlaneSums chunk = shifted_sums(x + i, std::min(kStep, size - i), shift);
    sum += chunk.sum;
    square += chunk.square;
  }
  const double offset = sum / double(size);
  const double variance = std::max(square / double(size) - offset * offset, 0.0);
  return {C(shift + offset), C(1 / std::sqrt(variance + eps))};
}

// y = act((x - mean) * rstd) + residual over `size` elements; residual may be null.
template <typename T>
void apply_row(const T* x, const T* residual, T* y, int64_t size, PlaneStats<Compute<T>> stats,
               Compute<T> slope) {
  constexpr int kStep = kLanes<T>;
  int64_t i = 0;
  if (residual == nullptr) {
    for (; i + kStep <= size; i += kStep) {
      const VecOf<T> v = (load(x + i) - stats.mean) * stats.rstd;
      store(y + i, activate(v, v, slope));
    }
  } else {
    for (; i + kStep <= size; i += kStep) {
      const VecOf<T> v = (load(x + i) - stats.mean) * stats.rstd;
      store(y + i, activate(v, v, slope) + load(residual + i));
    }
  }
  if (i == size) return;
  const VecOf<T> v = (load(x + i, size - i) - stats.mean) * stats.rstd;
  const VecOf<T> r = residual == nullptr ? VecOf<T>{} : load(residual + i, size - i);
  store(y + i, activate(v, v, slope) + r, size - i);
}

// y [H + 2 pad, W + 2 pad]: the rows and columns of the pad from those inside.
template <typename T>
void mirror_border(T* y, int64_t h, int64_t w, int64_t pad) {
  const int64_t width = w + 2 * pad;
  for (int64_t i = pad; i < h + pad; ++i) {
    T* row = y + i * width + pad;
    for (int64_t j = 1; j <= pad; ++j) {
      row[-j] = row[j];
      row[w - 1 + j] = row[w - 1 - j];
    }
  }
  for (int64_t i = 0; i < h + 2 * pad; i += (i == pad - 1 ? h + 1 : 1)) {
    std::memcpy(y + i * width, y + (pad + reflect(i, h, pad)) * width, width * sizeof(T));
  }
}

template <typename T>
void run_plane(const InstanceNormActParams& p, int64_t plane) {
  using C = Compute<T>;
  const int64_t size = p.h * p.w, width = p.w + 2 * p.pad, border = p.residual_pad;
  const int64_t residual_width = p.w + 2 * border;
  const T* x = static_cast<const T*>(p.x) + plane * size;
  T* y = static_cast<T*>(p.y) + plane * (p.h + 2 * p.pad) * width;
  const T* residual = static_cast<const T*>(p.residual);
  if (residual) residual += (plane * (p.h + 2 * border) + border) * residual_width + border;

  const PlaneStats<C> stats = plane_stats(x, size, p.eps);
  static_cast<C*>(p.mean)[plane] = stats.mean;
  static_cast<C*>(p.rstd)[plane] = stats.rstd;

  const C slope = C(slope_of(p.activation, p.negative_slope));
  if (p.pad == 0 && (border == 0 || !residual))
    return apply_row(x, residual, y, size, stats, slope);
  for (int64_t i = 0; i < p.h; ++i) {
    const T* residual_row = residual ? residual + i * residual_width : nullptr;
    apply_row(x + i * p.w, residual_row, y + (i + p.pad) * width + p.pad, p.w, stats, slope);
  }
  if (p.pad > 0) mirror_border(y, p.h, p.w, p.pad);
}

// The adjoint of the pad: g[j] = sum of grad_y over the padded places that show pixel (row, column
// + j), j < count.
template <typename T>
void fold_row(const T* grad_y, int64_t row, int64_t column, int64_t count, int64_t h, int64_t w,
              int64_t pad, Compute<T>* g) {
  const Mirrors rows = mirrors(row, h, pad);
  const int64_t width = w + 2 * pad;
  for (int64_t j = 0; j < count; j += kLanes<T>) {
    VecOf<T> sum = {};
    for (int r = 0; r < rows.count; ++r) {
      sum += load(grad_y + rows.at[r] * width + pad + column + j, count - j);
    }
    store(g + j, sum, count - j);
  }
  const int64_t end = column + count;
  for (int r = 0; r < rows.count; ++r) {
    const T* source = grad_y + rows.at[r] * width;
    for (int64_t j = std::max<int64_t>(column, 1); j < std::min(end, pad + 1); ++j) {
      g[j - column] += widen(source[pad - j]);
    }
    for (int64_t j = std::max(column, w - 1 - pad); j < std::min(end, w - 1); ++j) {
      g[j - column] += widen(source[pad + 2 * (w - 1) - j]);
    }
  }
}

// Sums over a row of gz and gz * (x - mean), lane by lane.
template <typename T>
struct GradSums {
  VecOf<T> gz = {}, gzx = {};
};

template <typename T, typename G>
void add_row_sums(const T* x, const G* g, int64_t size, Compute<T> mean, Compute<T> slope,
                  GradSums<T>& total) {
  constexpr int kUnroll = 4, kStep = kLanes<T>;
  GradSums<T> part[kUnroll];
  int64_t i = 0;
  for (; i + kUnroll * kStep <= size; i += kUnroll * kStep) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; ++k) {
      const VecOf<T> d = load(x + i + k * kStep) - mean;
      const VecOf<T> gz = activate(load(g + i + k * kStep), d, slope);
      part[k].gz += gz;
      part[k].gzx += gz * d;
    }
  }
  for (; i < size; i += kStep) {
    const VecOf<T> d = keep_first(load(x + i, size - i) - mean, size - i);
    const VecOf<T> gz = activate(load(g + i, size - i), d, slope);
    part[0].gz += gz;
    part[0].gzx += gz * d;
  }
  total.gz += (part[0].gz + part[1].gz) + (part[2].gz + part[3].gz);
  total.gzx += (part[0].gzx + part[1].gzx) + (part[2].gzx + part[3].gzx);
}

// grad_x = scale * gz + (x - mean) * along + offset
template <typename C>
struct GradMap {
  C mean, slope, scale, along, offset;
};

template <typename C>
GradMap<C> grad_map(C mean, C rstd, C slope, double sum_gz, double sum_gzx, int64_t size) {
  const double scale = rstd, mean_gz = sum_gz / double(size), mean_gzx = sum_gzx / double(size);
  return {mean, slope, rstd, C(-scale * scale * scale * mean_gzx), C(-scale * mean_gz)};
}

template <typename T, typename G>
void write_row(const T* x, const G* g, T* grad_x, int64_t size, GradMap<Compute<T>> map) {
  constexpr int kStep = kLanes<T>;
  int64_t i = 0;
  for (; i + kStep <= size; i += kStep) {
    const VecOf<T> d = load(x + i) - map.mean;
    const VecOf<T> gz = activate(load(g + i), d, map.slope);
    store(grad_x + i, map.scale * gz + (d * map.along + map.offset));
  }
  if (i == size) return;
  const VecOf<T> d = load(x + i, size - i) - map.mean;
  const VecOf<T> gz = activate(load(g + i, size - i), d, map.slope);
  store(grad_x + i, map.scale * gz + (d * map.along + map.offset), size - i);
}

template <typename T>
void narrow_row(const Compute<T>* g, T* out, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes<T>) {
    store(out + i, load(g + i, size - i), size - i);
  }
}

// A plane whose gradient needs no folding and no copy: a single row of H * W elements.
template <typename T>
void backward_plain_plane(const InstanceNormActBwdParams& p, int64_t plane) {
  using C = Compute<T>;
  const int64_t size = p.h * p.w;
  const T* x = static_cast<const T*>(p.x) + plane * size;
  const T* g = static_cast<const T*>(p.grad_y) + plane * size;
  const C mean = static_cast<const C*>(p.mean)[plane], rstd = static_cast<const C*>(p.rstd)[plane];
  const C slope = C(slope_of(p.activation, p.negative_slope));
  double gz = 0, gzx = 0;
  for (int64_t i = 0; i < size; i += kChunk * kLanes<T>) {
    GradSums<T> sums;
    add_row_sums(x + i, g + i, std::min(size - i, kChunk * kLanes<T>), mean, slope, sums);
    gz += sum_lanes<C>(sums.gz);
    gzx += sum_lanes<C>(sums.gzx);
  }
  write_row(x, g, static_cast<T*>(p.grad_x) + plane * size, size,
            grad_map(mean, rstd, slope, gz, gzx, size));
}

// One plane, row by row, in blocks of a folded gradient that stay in the first-level cache.
template <typename T>
void backward_folded_plane(const InstanceNormActBwdParams& p, int64_t plane) {
  using C = Compute<T>;
  constexpr int64_t kBlock = 1024;
  alignas(64) C g[kBlock];
  const int64_t size = p.h * p.w, border = p.residual_pad, residual_width = p.w + 2 * border;
  const T* x = static_cast<const T*>(p.x) + plane * size;
  const T* grad_y = static_cast<const T*>(p.grad_y) + plane * (p.h + 2 * p.pad) * (p.w + 2 * p.pad);
  T* grad_x = static_cast<T*>(p.grad_x) + plane * size;
  T* grad_residual = static_cast<T*>(p.grad_residual);
  if (grad_residual) {
    const int64_t padded = (p.h + 2 * border) * residual_width;
    grad_residual += plane * padded;
    if (border > 0) std::memset(grad_residual, 0, padded * sizeof(T));
    grad_residual += border * residual_width + border;
  }
  const C mean = static_cast<const C*>(p.mean)[plane], rstd = static_cast<const C*>(p.rstd)[plane];
  const C slope = C(slope_of(p.activation, p.negative_slope));

  double gz = 0, gzx = 0;
  for (int64_t i = 0; i < p.h; ++i) {
    GradSums<T> sums;
    for (int64_t j = 0; j < p.w; j += kBlock) {
      const int64_t count = std::min(kBlock, p.w - j);
      fold_row(grad_y, i, j, count, p.h, p.w, p.pad, g);
      add_row_sums(x + i * p.w + j, g, count, mean, slope, sums);
    }
    gz += sum_lanes<C>(sums.gz);
    gzx += sum_lanes<C>(sums.gzx);
  }
  const GradMap<C> map = grad_map(mean, rstd, slope, gz, gzx, size);
  for (int64_t i = 0; i < p.h; ++i) {
    for (int64_t j = 0; j < p.w; j += kBlock) {
      const int64_t count = std::min(kBlock, p.w - j);
      fold_row(grad_y, i, j, count, p.h, p.w, p.pad, g);
      write_row(x + i * p.w + j, g, grad_x + i * p.w + j, count, map);
      if (grad_residual) narrow_row(g, grad_residual + i * residual_width + j, count);
    }
  }
}

template <typename T>
void run_plane(const InstanceNormActBwdParams& p, int64_t plane) {
  p.pad == 0 && p.grad_residual == nullptr ? backward_plain_plane<T>(p, plane)
                                           : backward_folded_plane<T>(p, plane);
}
