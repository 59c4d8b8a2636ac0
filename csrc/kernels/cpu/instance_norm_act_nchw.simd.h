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
  for_each_pair<T>(size, [&](int64_t i, int64_t count) {
    Pair<T> value = load_pair<T>(x + i, count);
    for (VecOf<T>& v : value.v) {
      const VecOf<T> z = affine(v - affine.mean);
      v = activate(z, z, slope);
    }
    if (kResidual) {
      const Pair<T> extra = load_pair<T>(residual + i, count);
      for (int half = 0; half < 2; ++half) value.v[half] += extra.v[half];
    }
    store_pair(y + i, value, count);
  });
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

// Pixels of a plane that are worked on together: whole rows, or a piece of one.
struct Block {
  int64_t row, rows, column, columns;
};

// Elements of a block: what stays in the first-level cache.
constexpr int64_t kBlock = 4096;

template <typename F>
void for_each_block(int64_t h, int64_t w, const F& f) {
  const int64_t rows = std::max<int64_t>(kBlock / w, 1);
  for (int64_t row = 0; row < h; row += rows) {
    for (int64_t column = 0; column < w; column += kBlock) {
      f(Block{row, std::min(rows, h - row), column, std::min(kBlock, w - column)});
    }
  }
}

// Adds to g [columns] what a row of grad_y [W + 2 pad] shows of a row's pixels from `column` on:
// the pixels themselves, and the mirrored ones at both ends. The first row is stored, not added.
template <typename T>
void add_folded_row(const T* source, const Block& block, int64_t w, int64_t pad, bool first,
                    Compute<T>* g) {
  const int64_t begin = block.column, end = begin + block.columns;
  const T* inner = source + pad + begin;
  const auto add = [&](int64_t j, int64_t count) {
    const VecOf<T> v = load(inner + j, count);
    store(g + j, first ? v : v + load(g + j, count), count);
  };
  int64_t j = 0;
  for (; j + kVectorLanes<T> <= block.columns; j += kVectorLanes<T>) add(j, kVectorLanes<T>);
  if (j < block.columns) add(j, block.columns - j);
  for (int64_t i = std::max<int64_t>(begin, 1); i < std::min(end, pad + 1); ++i) {
    g[i - begin] += widen(source[pad - i]);
  }
  for (int64_t i = std::max(begin, w - 1 - pad); i < std::min(end, w - 1); ++i) {
    g[i - begin] += widen(source[pad + 2 * (w - 1) - i]);
  }
}

// The adjoint of the pad: g [rows, columns] of a block is the sum of grad_y [H + 2 pad, W + 2 pad]
// over the padded positions that show each pixel.
template <typename T>
void fold(const T* grad_y, const Block& block, int64_t h, int64_t w, int64_t pad, Compute<T>* g) {
  for (int64_t i = 0; i < block.rows; ++i) {
    const Mirrors rows = mirrors(block.row + i, h, pad);
    for (int r = 0; r < rows.count; ++r) {
      add_folded_row(grad_y + rows.at[r] * (w + 2 * pad), block, w, pad, r == 0,
                     g + i * block.columns);
    }
  }
}

// Adds a block of `inner` [rows * columns], which lies dense, to g.
template <typename T>
void add_inner(const T* inner, int64_t size, Compute<T>* g) {
  int64_t i = 0;
  for (; i + kVectorLanes<T> <= size; i += kVectorLanes<T>) {
    store(g + i, load(inner + i, kVectorLanes<T>) + load(g + i, kVectorLanes<T>), kVectorLanes<T>);
  }
  for (; i < size; ++i) g[i] += widen(inner[i]);
}

struct GradSums {
  double gz, gzx;  // of gz, and of gz * (x - mean)
};

// Adds the sums over x and g [size], size <= kBlock. G is T, or Compute<T> for a folded gradient.
template <typename T, typename G>
void add_grad_sums(const T* x, const G* g, int64_t size, Affine<Compute<T>> affine,
                   Compute<T> slope, GradSums& total) {
  constexpr int kPairs = 2;
  Pair<T> sum_gz[kPairs] = {}, sum_gzx[kPairs] = {};
  int64_t i = 0;
  for (; i + kPairs * kPair<T> <= size; i += kPairs * kPair<T>) {
#pragma GCC unroll 2
    for (int k = 0; k < kPairs; ++k) {
      const Pair<T> value = load_pair<T>(x + i + k * kPair<T>);
      const Pair<T> grad = load_pair<T>(g + i + k * kPair<T>);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const VecOf<T> d = value.v[half] - affine.mean;
        const VecOf<T> gz = activate(grad.v[half], affine(d), slope);
        sum_gz[k].v[half] += gz;
        sum_gzx[k].v[half] += gz * d;
      }
    }
  }
  for (; i < size; ++i) {
    const Compute<T> d = widen(x[i]) - affine.mean;
    const Compute<T> gz = activate(widen(g[i]), affine(d), slope);
    total.gz += gz;
    total.gzx += gz * d;
  }
  total.gz += sum_pairs<T>(sum_gz[0], sum_gz[1]);
  total.gzx += sum_pairs<T>(sum_gzx[0], sum_gzx[1]);
}

// grad_x = scale * gz + (x - mean) * along + offset over `size` elements
template <typename T, typename G>
void write_grad(const T* x, const G* g, T* grad_x, int64_t size, Affine<Compute<T>> affine,
                Compute<T> slope, Compute<T> along, Compute<T> offset) {
  for_each_pair<T>(size, [&](int64_t i, int64_t count) {
    Pair<T> value = load_pair<T>(x + i, count);
    const Pair<T> grad = load_pair<T>(g + i, count);
    for (int half = 0; half < 2; ++half) {
      const VecOf<T> d = value.v[half] - affine.mean;
      const VecOf<T> gz = activate(grad.v[half], affine(d), slope);
      value.v[half] = affine.scale * gz + (d * along + offset);
    }
    store_pair(grad_x + i, value, count);
  });
}

template <typename T, typename G>
void write_residual_grad(const G* g, int64_t size, T* grad_residual) {
  for_each_pair<T>(size, [&](int64_t i, int64_t count) {
    store_pair(grad_residual + i, load_pair<T>(g + i, count), count);
  });
}

template <typename T>
void run_plane(const InstanceNormActBwdParams& p, int64_t plane) {
  using C = Compute<T>;
  alignas(64) C folded[kBlock];
  const int64_t size = p.h * p.w;
  const T* x = static_cast<const T*>(p.x) + plane * size;
  const T* grad_y = static_cast<const T*>(p.grad_y) + plane * (p.h + 2 * p.pad) * (p.w + 2 * p.pad);
  const T* inner = static_cast<const T*>(p.grad_inner);
  if (inner) inner += plane * size;
  T* grad_x = static_cast<T*>(p.grad_x) + plane * size;
  T* grad_residual = static_cast<T*>(p.grad_residual);
  if (grad_residual) grad_residual += plane * size;
  const C rstd = static_cast<const C*>(p.rstd)[plane];
  const auto affine =
      affine_of(static_cast<const C*>(p.mean)[plane], rstd, p.weight, p.bias, plane % p.c);
  const C slope = C(slope_of(p.activation, p.negative_slope));
  // Calls f(block, x of it, g of it): g as it lies in grad_y, or summed.
  const auto for_each = [&](bool fresh, const auto& f) {
    for_each_block(p.h, p.w, [&](const Block& block) {
      const int64_t begin = block.row * p.w + block.column;
      if (p.pad == 0 && !inner) return f(block, begin, grad_y + begin);
      if (fresh) {
        fold(grad_y, block, p.h, p.w, p.pad, folded);
        if (inner) add_inner(inner + begin, block.rows * block.columns, folded);
      }
      f(block, begin, static_cast<const C*>(folded));
    });
  };

  GradSums sums = {0, 0};
  const bool sum = p.grad_weight || !p.constant_statistics;
  if (sum) {
    for_each(true, [&](const Block& block, int64_t begin, const auto* g) {
      add_grad_sums(x + begin, g, block.rows * block.columns, affine, slope, sums);
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
  const bool fresh = !sum || size > kBlock;  // else the first pass left it folded
  for_each(fresh, [&](const Block& block, int64_t begin, const auto* g) {
    write_grad(x + begin, g, grad_x + begin, block.rows * block.columns, affine, slope, along,
               offset);
    if (grad_residual) {
      write_residual_grad(g, block.rows * block.columns, grad_residual + begin);
    }
  });
}
