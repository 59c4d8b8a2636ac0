// The CPU kernel of instance_norm_act for NHWC: a slice is a group of channels of one image.
// Included through cpu/for_each_isa.h.

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

// A parameter [C] at the channels of the group, or `otherwise` where there is none.
template <typename T, int kVecs>
Group<T, kVecs> group_or(const void* values, int64_t channel, int64_t count, Compute<T> otherwise) {
  using G = Group<T, kVecs>;
  if (values) return G::load_from(static_cast<const Compute<T>*>(values) + channel, count);
  G group;
  for (int k = 0; k < kVecs; ++k) group.v[k] = VecOf<T>{} + otherwise;
  return group;
}

template <typename T, int kVecs>
struct GroupAffine {
  Affine<VecOf<T>> v[kVecs];
};

template <typename T, int kVecs, typename Params>
GroupAffine<T, kVecs> group_affine(const Params& p, int64_t n, int64_t channel, int64_t count) {
  using C = Compute<T>;
  using G = Group<T, kVecs>;
  const int64_t at = n * p.c + channel;
  const G mean = G::load_from(static_cast<const C*>(p.mean) + at, count);
  const G rstd = G::load_from(static_cast<const C*>(p.rstd) + at, count);
  const G weight = group_or<T, kVecs>(p.weight, channel, count, C(1));
  const G bias = group_or<T, kVecs>(p.bias, channel, count, C(0));
  GroupAffine<T, kVecs> affine;
  for (int k = 0; k < kVecs; ++k) {
    affine.v[k] = {mean.v[k], rstd.v[k] * weight.v[k], bias.v[k]};
  }
  return affine;
}

template <bool kResidual, typename T, int kVecs>
void apply_group(const Image<const T>& x, const Image<const T>& residual, const Image<T>& y,
                 int64_t count, const GroupAffine<T, kVecs>& affine, Compute<T> slope) {
  for (int64_t i = 0; i < x.height; ++i) {
    const T* in = x.at(i, 0);
    const T* extra = kResidual ? residual.at(i, 0) : nullptr;
    T* out = y.at(i, 0);
    for (int64_t j = 0; j < x.width; ++j, in += x.stride, out += y.stride) {
      auto value = Group<T, kVecs>::load_from(in, count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) {
        const VecOf<T> z = affine.v[k](value.v[k] - affine.v[k].mean);
        value.v[k] = activate(z, z, slope);
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
void write_group_moments(const InstanceNormActParams& p, int64_t n, int64_t channel,
                         int64_t count) {
  using C = Compute<T>;
  const int64_t size = p.h * p.w, at = n * p.c + channel;
  if (p.statistics) {
    for (int64_t i = 0; i < count; ++i) write_moments<C>(p, at + i, ready_moments<C>(p, at + i));
    return;
  }
  Sums sums[kVecs * kVectorLanes<T>];
  group_sums<T, kVecs>(static_cast<const T*>(p.x) + n * size * p.c + channel, size, p.c, count,
                       sums);
  for (int64_t i = 0; i < count; ++i) {
    write_moments<C>(p, at + i, moments_of(sums[i], double(size)));
  }
}

template <typename T, int kVecs>
void run_group(const InstanceNormActParams& p, int64_t n, int64_t channel, int64_t count) {
  const auto x = image_of<const T>(p.x, n, channel, p.h, p.w, p.c, 0);
  const auto residual = image_of<const T>(p.residual, n, channel, p.h, p.w, p.c, p.residual_pad);
  const auto y = image_of<T>(p.y, n, channel, p.h, p.w, p.c, p.pad);
  write_group_moments<T, kVecs>(p, n, channel, count);
  const auto affine = group_affine<T, kVecs>(p, n, channel, count);
  const auto slope = Compute<T>(slope_of(p.activation, p.negative_slope));
  if (p.residual) {
    apply_group<true>(x, residual, y, count, affine, slope);
  } else {
    apply_group<false>(x, residual, y, count, affine, slope);
  }
  if (p.pad > 0) mirror_border(y, count);
}

// What the backward pass takes gradients from: grad_y with its border, and grad_inner or null.
template <typename T>
struct GradY {
  Image<const T> y, inner;
};

// g at a pixel (i, j): the sum of grad_y over the padded positions that show it, and grad_inner.
template <typename T, int kVecs>
inline Group<T, kVecs> gather(const GradY<T>& gradients, int64_t i, int64_t j, const Mirrors& rows,
                              const Mirrors& columns, int64_t count) {
  const Image<const T>& grad_y = gradients.y;
  const int64_t width = grad_y.width + 2 * grad_y.border;
  Group<T, kVecs> sum = {};
  if (gradients.inner.data) sum = Group<T, kVecs>::load_from(gradients.inner.at(i, j), count);
  for (int r = 0; r < rows.count; ++r) {
    for (int s = 0; s < columns.count; ++s) {
      const T* source = grad_y.data + (rows.at[r] * width + columns.at[s]) * grad_y.stride;
      const auto g = Group<T, kVecs>::load_from(source, count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) sum.v[k] += g.v[k];
    }
  }
  return sum;
}

template <typename T, int kVecs>
struct GroupGradSums {
  Group<T, kVecs> gz = {}, gzx = {};  // of gz, and of gz * (x - mean)
};

template <typename T, int kVecs>
GroupGradSums<T, kVecs> group_grad_sums(const Image<const T>& x, const GradY<T>& gradients,
                                        int64_t count, const GroupAffine<T, kVecs>& affine,
                                        Compute<T> slope) {
  GroupGradSums<T, kVecs> total;
  for (int64_t i = 0; i < x.height; ++i) {
    const Mirrors rows = mirrors(i, x.height, gradients.y.border);
    GroupGradSums<T, kVecs> row;
    for (int64_t j = 0; j < x.width; ++j) {
      const Mirrors columns = mirrors(j, x.width, gradients.y.border);
      const auto g = gather<T, kVecs>(gradients, i, j, rows, columns, count);
      const auto value = Group<T, kVecs>::load_from(x.at(i, j), count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) {
        const VecOf<T> d = value.v[k] - affine.v[k].mean;
        const VecOf<T> gz = activate(g.v[k], affine.v[k](d), slope);
        row.gz.v[k] += gz;
        row.gzx.v[k] += gz * d;
      }
    }
    for (int k = 0; k < kVecs; ++k) {
      total.gz.v[k] += row.gz.v[k];
      total.gzx.v[k] += row.gzx.v[k];
    }
  }
  return total;
}

// grad_x = scale * gz + (x - mean) * along + offset; grad_residual = g where it is needed
template <typename T, int kVecs>
void write_group_grad(const Image<const T>& x, const GradY<T>& gradients, const Image<T>& grad_x,
                      const Image<T>& grad_residual, int64_t count,
                      const GroupAffine<T, kVecs>& affine, Compute<T> slope,
                      const Group<T, kVecs>& along, const Group<T, kVecs>& offset) {
  for (int64_t i = 0; i < x.height; ++i) {
    const Mirrors rows = mirrors(i, x.height, gradients.y.border);
    for (int64_t j = 0; j < x.width; ++j) {
      const Mirrors columns = mirrors(j, x.width, gradients.y.border);
      const auto g = gather<T, kVecs>(gradients, i, j, rows, columns, count);
      auto value = Group<T, kVecs>::load_from(x.at(i, j), count);
#pragma GCC unroll 4
      for (int k = 0; k < kVecs; ++k) {
        const VecOf<T> d = value.v[k] - affine.v[k].mean;
        const VecOf<T> gz = activate(g.v[k], affine.v[k](d), slope);
        value.v[k] = affine.v[k].scale * gz + (d * along.v[k] + offset.v[k]);
      }
      value.store_to(grad_x.at(i, j), count);
      if (grad_residual.data) g.store_to(grad_residual.at(i, j), count);
    }
  }
}

template <typename T, int kVecs>
void run_group(const InstanceNormActBwdParams& p, int64_t n, int64_t channel, int64_t count) {
  using C = Compute<T>;
  const auto x = image_of<const T>(p.x, n, channel, p.h, p.w, p.c, 0);
  const GradY<T> gradients = {image_of<const T>(p.grad_y, n, channel, p.h, p.w, p.c, p.pad),
                              image_of<const T>(p.grad_inner, n, channel, p.h, p.w, p.c, 0)};
  const auto grad_x = image_of<T>(p.grad_x, n, channel, p.h, p.w, p.c, 0);
  const auto grad_residual = image_of<T>(p.grad_residual, n, channel, p.h, p.w, p.c, 0);
  const int64_t at = n * p.c + channel;
  const auto affine = group_affine<T, kVecs>(p, n, channel, count);
  const auto rstd = Group<T, kVecs>::load_from(static_cast<const C*>(p.rstd) + at, count);
  const C slope = C(slope_of(p.activation, p.negative_slope)), size = C(p.h * p.w);

  GroupGradSums<T, kVecs> sums;
  if (p.grad_weight || !p.constant_statistics) {
    sums = group_grad_sums<T, kVecs>(x, gradients, count, affine, slope);
  }
  for (int k = 0; k < kVecs; ++k) sums.gzx.v[k] *= rstd.v[k];  // now of gz * xhat
  if (p.grad_weight) {
    sums.gz.store_to(static_cast<C*>(p.workspace) + at, count);
    sums.gzx.store_to(static_cast<C*>(p.workspace) + p.n * p.c + at, count);
  }
  Group<T, kVecs> along = {}, offset = {};
  if (!p.constant_statistics) {
    for (int k = 0; k < kVecs; ++k) {
      along.v[k] = -affine.v[k].scale * rstd.v[k] * (sums.gzx.v[k] / size);
      offset.v[k] = -affine.v[k].scale * (sums.gz.v[k] / size);
    }
  }
  write_group_grad<T, kVecs>(x, gradients, grad_x, grad_residual, count, affine, slope, along,
                             offset);
}
