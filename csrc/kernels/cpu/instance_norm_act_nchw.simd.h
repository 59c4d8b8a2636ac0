// The CPU kernel of instance_norm_act for NCHW: a slice is one plane. Included through
// cpu/for_each_isa.h.

template <typename C>
Affine<C> affine_of(C mean, C rstd, const void* weight, const void* bias, int64_t channel) {
  return {mean, rstd * value_or(weight, channel, C(1)), value_or(bias, channel, C(0))};
}

// y = act(affine(x)) + residual over `size` elements; residual is read where kResidual.
template <bool kResidual, typename T>
void apply_row(const T* x, const T* residual, T* y, int64_t size, Affine<Compute<T>> affine,
               Compute<T> slope) {
  const auto apply = [&](int64_t i, int64_t count) {
    const VecOf<T> z = affine(load(x + i, count) - affine.mean);
    VecOf<T> v = activate(z, z, slope);
    if (kResidual) v += load(residual + i, count);
    store(y + i, v, count);
  };
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) apply(i, kLanes<T>);
  if (i < size) apply(i, size - i);
}

// The columns of the pad beside a row [W] of y.
template <typename T>
void mirror_columns(T* row, int64_t w, int64_t pad) {
  for (int64_t j = 1; j <= pad; ++j) {
    row[-j] = row[j];
    row[w - 1 + j] = row[w - 1 - j];
  }
}

// The rows of the pad above and below y [H + 2 pad, W + 2 pad].
template <typename T>
void mirror_rows(T* y, int64_t h, int64_t width, int64_t pad) {
  for (int64_t i = 0; i < h + 2 * pad; i += (i == pad - 1 ? h + 1 : 1)) {
    std::memcpy(y + i * width, y + (pad + reflect(i, h, pad)) * width, width * sizeof(T));
  }
}

template <bool kResidual, typename T>
void apply_plane(const InstanceNormActParams& p, int64_t plane, Affine<Compute<T>> affine) {
  const Compute<T> slope = Compute<T>(slope_of(p.activation, p.negative_slope));
  const int64_t width = p.w + 2 * p.pad, border = p.residual_pad, extra_width = p.w + 2 * border;
  const T* x = static_cast<const T*>(p.x) + plane * p.h * p.w;
  T* y = static_cast<T*>(p.y) + plane * (p.h + 2 * p.pad) * width;
  const T* residual = nullptr;
  if (kResidual) {
    residual = static_cast<const T*>(p.residual) +
               (plane * (p.h + 2 * border) + border) * extra_width + border;
  }
  if (p.pad == 0 && (border == 0 || !kResidual)) {
    return apply_row<kResidual>(x, residual, y, p.h * p.w, affine, slope);
  }
  for (int64_t i = 0; i < p.h; ++i) {
    T* row = y + (i + p.pad) * width + p.pad;
    apply_row<kResidual>(x + i * p.w, kResidual ? residual + i * extra_width : nullptr, row, p.w,
                         affine, slope);
    mirror_columns(row, p.w, p.pad);
  }
  mirror_rows(y, p.h, width, p.pad);
}

template <typename T>
void run_plane(const InstanceNormActParams& p, int64_t plane) {
  using C = Compute<T>;
  const int64_t size = p.h * p.w;
  const T* x = static_cast<const T*>(p.x) + plane * size;
  write_moments<C>(
      p, plane,
      p.statistics ? ready_moments<C>(p, plane) : moments_of(plane_sums(x, size), double(size)));
  const auto affine =
      affine_of(static_cast<const C*>(p.mean)[plane], static_cast<const C*>(p.rstd)[plane],
                p.weight, p.bias, plane % p.c);
  p.residual ? apply_plane<true, T>(p, plane, affine) : apply_plane<false, T>(p, plane, affine);
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

// The same for `count` pixels of the plane from the pixel `begin` on: pieces of rows.
template <typename T>
void fold_range(const T* grad_y, int64_t begin, int64_t count, int64_t h, int64_t w, int64_t pad,
                Compute<T>* g) {
  for (int64_t done = 0; done < count;) {
    const int64_t row = (begin + done) / w, column = (begin + done) % w;
    const int64_t piece = std::min(w - column, count - done);
    fold_row(grad_y, row, column, piece, h, w, pad, g + done);
    done += piece;
  }
}

struct GradSums {
  double gz, gzx;  // of gz, and of gz * (x - mean)
};

// Adds the sums over x and g [size], size <= kBlock. G is T, or Compute<T> for a folded gradient.
template <typename T, typename G>
void add_grad_sums(const T* x, const G* g, int64_t size, Affine<Compute<T>> affine,
                   Compute<T> slope, GradSums& total) {
  constexpr int kUnroll = 4, kStep = kLanes<T>;
  VecOf<T> sum_gz[kUnroll] = {}, sum_gzx[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kStep <= size; i += kUnroll * kStep) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; ++k) {
      const VecOf<T> d = load(x + i + k * kStep) - affine.mean;
      const VecOf<T> gz = activate(load(g + i + k * kStep), affine(d), slope);
      sum_gz[k] += gz;
      sum_gzx[k] += gz * d;
    }
  }
  for (; i < size; i += kStep) {
    const VecOf<T> d = keep_first(load(x + i, size - i) - affine.mean, size - i);
    const VecOf<T> gz = activate(load(g + i, size - i), affine(d), slope);
    sum_gz[0] += gz;
    sum_gzx[0] += gz * d;
  }
  total.gz += sum_lanes<Compute<T>>((sum_gz[0] + sum_gz[1]) + (sum_gz[2] + sum_gz[3]));
  total.gzx += sum_lanes<Compute<T>>((sum_gzx[0] + sum_gzx[1]) + (sum_gzx[2] + sum_gzx[3]));
}

// grad_x = scale * gz + (x - mean) * along + offset over `size` elements
template <typename T, typename G>
void write_grad(const T* x, const G* g, T* grad_x, int64_t size, Affine<Compute<T>> affine,
                Compute<T> slope, Compute<T> along, Compute<T> offset) {
  const auto write = [&](int64_t i, int64_t count) {
    const VecOf<T> d = load(x + i, count) - affine.mean;
    const VecOf<T> gz = activate(load(g + i, count), affine(d), slope);
    store(grad_x + i, affine.scale * gz + (d * along + offset), count);
  };
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) write(i, kLanes<T>);
  if (i < size) write(i, size - i);
}

// Elements of a plane between two folds: what stays in the first-level cache.
constexpr int64_t kBlock = 4096;

// Calls f(begin, count, g) for each block of a plane: g [count] is the gradient of the pixels from
// `begin` on, as it lies in grad_y or folded.
template <typename T, typename F>
void for_each_block(const InstanceNormActBwdParams& p, const T* grad_y, Compute<T>* folded,
                    bool fold, const F& f) {
  const int64_t size = p.h * p.w;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = std::min(kBlock, size - begin);
    if (p.pad == 0) {
      f(begin, count, grad_y + begin);
      continue;
    }
    if (fold) fold_range(grad_y, begin, count, p.h, p.w, p.pad, folded);
    f(begin, count, folded);
  }
}

// Row pieces of the pixels from `begin` on into the plane [H + 2 residual_pad, W + 2 residual_pad].
template <typename T, typename G>
void write_residual_grad(const InstanceNormActBwdParams& p, int64_t begin, int64_t count,
                         const G* g, T* grad_residual) {
  const int64_t border = p.residual_pad, width = p.w + 2 * border;
  for (int64_t done = 0; done < count;) {
    const int64_t row = (begin + done) / p.w, column = (begin + done) % p.w;
    const int64_t piece = std::min(p.w - column, count - done);
    T* out = grad_residual + (row + border) * width + border + column;
    for (int64_t i = 0; i < piece; i += kLanes<T>) {
      store(out + i, VecOf<T>(load(g + done + i, piece - i)), piece - i);
    }
    done += piece;
  }
}

template <typename T>
void run_plane(const InstanceNormActBwdParams& p, int64_t plane) {
  using C = Compute<T>;
  alignas(64) C folded[kBlock];
  const int64_t size = p.h * p.w, border = p.residual_pad;
  const int64_t residual_size = (p.h + 2 * border) * (p.w + 2 * border);
  const T* x = static_cast<const T*>(p.x) + plane * size;
  const T* grad_y = static_cast<const T*>(p.grad_y) + plane * (p.h + 2 * p.pad) * (p.w + 2 * p.pad);
  T* grad_x = static_cast<T*>(p.grad_x) + plane * size;
  T* grad_residual = static_cast<T*>(p.grad_residual);
  if (grad_residual) grad_residual += plane * residual_size;
  if (grad_residual && border > 0) std::memset(grad_residual, 0, residual_size * sizeof(T));
  const C rstd = static_cast<const C*>(p.rstd)[plane];
  const auto affine =
      affine_of(static_cast<const C*>(p.mean)[plane], rstd, p.weight, p.bias, plane % p.c);
  const C slope = C(slope_of(p.activation, p.negative_slope));

  GradSums sums = {0, 0};
  const bool sum = p.grad_weight || !p.constant_statistics;
  if (sum) {
    for_each_block(p, grad_y, folded, true, [&](int64_t begin, int64_t count, const auto* g) {
      add_grad_sums(x + begin, g, count, affine, slope, sums);
    });
  }
  if (p.grad_weight) {
    C* workspace = static_cast<C*>(p.workspace) + plane;
    workspace[0] = C(sums.gz);
    workspace[p.n * p.c] = C(sums.gzx * double(rstd));
  }
  if (p.constant_statistics) sums = {0, 0};
  const double scale = double(affine.scale) / double(size);
  const C along = C(-scale * double(rstd) * double(rstd) * sums.gzx), offset = C(-scale * sums.gz);
  const bool fold = !sum || size > kBlock;  // else the first pass has left it
  for_each_block(p, grad_y, folded, fold, [&](int64_t begin, int64_t count, const auto* g) {
    write_grad(x + begin, g, grad_x + begin, count, affine, slope, along, offset);
    if (grad_residual) write_residual_grad(p, begin, count, g, grad_residual);
  });
}
