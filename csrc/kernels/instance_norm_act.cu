// The CUDA twin. Statistics pass -> (merge of the splits) -> write pass; all are one-dimensional
// grids of blocks
//
//   block = (slab, tile of channels, stretch of pixels),   thread = (pack of channels, pixel)
//
// where a slab is an image for NHWC and a plane for NCHW. A thread keeps its channels, hence their
// statistics, in registers and walks over pixels, kUnroll of them in flight. The pad's adjoint is a
// gather: no atomics anywhere.
#include <algorithm>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/tiling.cuh"
#include "instance_norm_act.h"

namespace cyclegan_fast {
namespace {

// Statistics per thread: one for each lane of the pack (NHWC), or one for all of them (NCHW).
template <int kVec, bool kPerLane>
constexpr int kStatsOf = kPerLane ? kVec : 1;

// The thread's values of a statistic [N, C].
template <int kStats, typename C>
__device__ void load_stats(const C* stats, const Place& at, C (&out)[kStats]) {
  const int64_t first = (at.slab * at.inner + at.pack) * kStats;
#pragma unroll
  for (int k = 0; k < kStats; ++k) out[k] = stats[first + k];
}

// ---- Forward: statistics ----

// Moments of a block's stretch of pixels: into mean and rstd where it is the only one, else into
// partial.
template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    moments_kernel(const T* __restrict__ x,             // [slabs, pixels, inner * kVec]
                   Moments<Compute<T>>* partial,        // [stretches, N * C]
                   Compute<T>* mean, Compute<T>* rstd,  // [N * C]
                   int64_t stats, Compute<T> eps, Place at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerLane>;
  const bool active = at.locate();
  C shift[kStats] = {}, sum[kVec] = {}, square[kVec] = {};
  C count = 0;
  const int64_t first = (at.slab * at.pixels * at.inner + at.pack) * kVec;
  const int64_t stride = int64_t{at.inner} * kVec;
  if (active && at.pixel < at.end) {
    const Pack<T, kVec> pack = load_pack<kVec>(x, first + at.pixel * stride);
#pragma unroll
    for (int k = 0; k < kStats; ++k) shift[k] = to_compute(pack.v[k]);
  }
  for (uint32_t pixel = at.pixel; active && pixel < at.end; pixel += kUnroll * at.step) {
    Pack<T, kVec> packs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) packs[u] = load_pack<kVec>(x, first + one * stride);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (pixel + u * at.step >= at.end) continue;
      count += 1;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const C d = to_compute(packs[u].v[k]) - shift[kPerLane ? k : 0];
        sum[k] += d;
        square[k] += d * d;
      }
    }
  }

  Moments<C> mine[kStats];
  if (!kPerLane) {
#pragma unroll
    for (int k = 1; k < kVec; ++k) {
      sum[0] += sum[k];
      square[0] += square[k];
    }
    count *= kVec;
  }
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    const C offset = count > 0 ? sum[k] / count : C(0), m2 = square[k] - sum[k] * offset;
    mine[k] = {count, shift[k] + offset, m2 > 0 ? m2 : C(0)};
  }
  block_reduce(mine, at.packs);
  if (static_cast<int>(threadIdx.x) >= at.packs || !active) return;
  const int64_t stat = (at.slab * at.inner + at.pack) * kStats;
  const int64_t split = blockIdx.x / at.tiles % at.stretches;
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    if (at.stretches > 1) {
      partial[split * stats + stat + k] = mine[k];
    } else {
      mean[stat + k] = mine[k].mean;
      rstd[stat + k] = 1 / sqrt(mine[k].m2 / mine[k].count + eps);
    }
  }
}

// One thread per statistic merges its splits in order.
template <typename C>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    merge_moments_kernel(const Moments<C>* __restrict__ partial, C* mean, C* rstd, int64_t stats,
                         int splits, C eps) {
  const int64_t stat = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (stat >= stats) return;
  Moments<C> total = partial[stat];
  for (int s = 1; s < splits; ++s) total.merge(partial[s * stats + stat]);
  mean[stat] = total.mean;
  rstd[stat] = 1 / sqrt(total.m2 / total.count + eps);
}

// ---- Forward: write ----

// y: every pixel of the padded output, from the source pixel that it shows.
template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    apply_kernel(const T* __restrict__ x,         // [slabs, height, width, inner * kVec]
                 const T* __restrict__ residual,  // [slabs, height + 2 border, width + 2 border,
                                                  // inner * kVec] or null
                 T* __restrict__ y,  // [slabs, height + 2 pad, width + 2 pad, inner * kVec]
                 const Compute<T>* __restrict__ mean,
                 const Compute<T>* __restrict__ rstd,  // [N * C]
                 int height, int width, int pad, int border, Compute<T> slope,
                 FastDivisor row_length, Place at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerLane>;
  if (!at.locate()) return;
  C shift[kStats], scale[kStats];
  load_stats(mean, at, shift);
  load_stats(rstd, at, scale);
  const int64_t stride = int64_t{at.inner} * kVec, lane = int64_t{at.pack} * kVec;
  const int residual_width = width + 2 * border;
  const int64_t residual_slab = at.slab * (height + 2 * border) * residual_width;
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kUnroll * at.step) {
    Pack<T, kVec> in[kUnroll], extra[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      const int row = row_length.divide(one), column = one - row * row_length.divisor;
      const int i = reflect(row, height, pad), j = reflect(column, width, pad);
      in[u] = load_pack<kVec>(x, ((at.slab * height + i) * width + j) * stride + lane);
      if (residual == nullptr) continue;
      const int64_t place = residual_slab + int64_t{i + border} * residual_width + j + border;
      extra[u] = load_pack<kVec>(residual, place * stride + lane);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      Pack<T, kVec> out;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const int s = kPerLane ? k : 0;
        C v = (to_compute(in[u].v[k]) - shift[s]) * scale[s];
        v = v > 0 ? v : v * slope;
        if (residual != nullptr) v += to_compute(extra[u].v[k]);
        out.v[k] = from_compute<T>(v);
      }
      store_pack(y, (at.slab * at.pixels + one) * stride + lane, out);
    }
  }
}

// ---- Backward ----

// grad_y of one slab: [height + 2 pad, width + 2 pad, stride], at the thread's pack.
template <typename T, int kVec>
struct PaddedGradient {
  const T* data;
  int64_t stride;
  int height, width, pad;

  __device__ Pack<T, kVec> at(int64_t row, int64_t column) const {  // of the padded image
    return load_pack<kVec>(data, (row * (width + 2 * pad) + column) * stride);
  }
  // Adds to g, which holds pixel (i, j) itself, its reflections: the adjoint of the pad.
  __device__ void add_reflections(int i, int j, Compute<T> (&g)[kVec]) const {
    if (pad == 0 || (i > pad && i < height - 1 - pad && j > pad && j < width - 1 - pad)) return;
#pragma unroll 1
    for (int r = 0; r < 3; ++r) {
      const int64_t row = mirror(r, i, height, pad);
#pragma unroll 1
      for (int s = 0; row >= 0 && s < 3; ++s) {
        const int64_t column = mirror(s, j, width, pad);
        if (column < 0 || r + s == 0) continue;
        const Pack<T, kVec> more = at(row, column);
#pragma unroll
        for (int k = 0; k < kVec; ++k) g[k] += to_compute(more.v[k]);
      }
    }
  }
};

// What both backward passes read.
template <typename T>
struct GradInputs {
  const T* grad_y;         // [slabs, height + 2 pad, width + 2 pad, inner * kVec]
  const T* x;              // [slabs, height, width, inner * kVec]
  const Compute<T>* mean;  // [N * C]
  const Compute<T>* rstd;  // [N * C]
  int height, width, pad;
  Compute<T> slope;

  template <int kVec>
  __device__ PaddedGradient<T, kVec> gradient(const Place& at) const {
    const int64_t stride = int64_t{at.inner} * kVec;
    const int64_t slab = at.slab * (height + 2 * pad) * (width + 2 * pad) * stride;
    return {grad_y + slab + int64_t{at.pack} * kVec, stride, height, width, pad};
  }
};

// Sums of gz and gz * (x - mean) over a block's stretch of pixels.
template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    grad_sums_kernel(GradInputs<T> in,
                     GradSums<Compute<T>>* partial,  // [stretches, N * C]
                     int64_t stats, FastDivisor row_length, Place at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerLane>;
  const bool active = at.locate();
  GradSums<C> mine[kStats] = {};
  C mean[kStats] = {};
  if (active) load_stats(in.mean, at, mean);
  const auto gradient = in.template gradient<kVec>(at);
  const int64_t first = at.slab * at.pixels * gradient.stride + int64_t{at.pack} * kVec;
  for (uint32_t pixel = at.pixel; active && pixel < at.end; pixel += kUnroll * at.step) {
    Pack<T, kVec> xs[kUnroll], gs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      const int i = row_length.divide(one), j = one - i * row_length.divisor;
      xs[u] = load_pack<kVec>(in.x, first + one * gradient.stride);
      gs[u] = gradient.at(i + in.pad, j + in.pad);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      C g[kVec];
#pragma unroll
      for (int k = 0; k < kVec; ++k) g[k] = to_compute(gs[u].v[k]);
      const int i = row_length.divide(one);
      gradient.add_reflections(i, one - i * row_length.divisor, g);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const int s = kPerLane ? k : 0;
        const C d = to_compute(xs[u].v[k]) - mean[s], gz = d > 0 ? g[k] : g[k] * in.slope;
        mine[s].gz += gz;
        mine[s].gzx += gz * d;
      }
    }
  }
  block_reduce(mine, at.packs);
  if (static_cast<int>(threadIdx.x) >= at.packs || !active) return;
  const int64_t split = blockIdx.x / at.tiles % at.stretches;
  const int64_t stat = (at.slab * at.inner + at.pack) * kStats;
#pragma unroll
  for (int k = 0; k < kStats; ++k) partial[split * stats + stat + k] = mine[k];
}

// One thread per statistic merges its splits, in order, into the first of them.
template <typename C>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    merge_sums_kernel(GradSums<C>* partial, int64_t stats, int splits) {
  const int64_t stat = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (stat >= stats) return;
  GradSums<C> total = partial[stat];
  for (int s = 1; s < splits; ++s) total.merge(partial[s * stats + stat]);
  partial[stat] = total;
}

// A pixel of an image with a border: where it is in the image, if it is inside.
struct Pixel {
  int i, j, index;
  bool inside;
};
__device__ inline Pixel pixel_of(uint32_t padded, const FastDivisor& row_length, int border,
                                 int height, int width) {
  const uint32_t row = row_length.divide(padded);
  const int i = int(row) - border, j = int(padded - row * row_length.divisor) - border;
  return {i, j, i * width + j, i >= 0 && i < height && j >= 0 && j < width};
}

// grad_x, and grad_residual with its border: walks over the pixels of the residual, `border` more
// on each side.
template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    grad_kernel(GradInputs<T> in, const GradSums<Compute<T>>* __restrict__ sums,  // [N * C]
                T* __restrict__ grad_x,         // [slabs, height, width, inner * kVec]
                T* __restrict__ grad_residual,  // [slabs, height + 2 border, width + 2 border,
                                                // inner * kVec] or null
                int border, FastDivisor row_length, Place at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerLane>;
  if (!at.locate()) return;
  // grad_x = scale * gz + (x - mean) * along + offset
  C mean[kStats], scale[kStats], along[kStats], offset[kStats];
  load_stats(in.mean, at, mean);
  load_stats(in.rstd, at, scale);
  const C size = C(in.height) * C(in.width) * C(kPerLane ? 1 : kVec);
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    const GradSums<C> sum = sums[(at.slab * at.inner + at.pack) * kStats + k];
    along[k] = -scale[k] * scale[k] * scale[k] * (sum.gzx / size);
    offset[k] = -scale[k] * (sum.gz / size);
  }
  const auto gradient = in.template gradient<kVec>(at);
  const int64_t lane = int64_t{at.pack} * kVec, slab = at.slab * in.height * in.width;
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kUnroll * at.step) {
    Pack<T, kVec> xs[kUnroll], gs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      const Pixel at_x = pixel_of(one, row_length, border, in.height, in.width);
      if (!at_x.inside) continue;
      xs[u] = load_pack<kVec>(in.x, (slab + at_x.index) * gradient.stride + lane);
      gs[u] = gradient.at(at_x.i + in.pad, at_x.j + in.pad);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      const Pixel at_x = pixel_of(one, row_length, border, in.height, in.width);
      C g[kVec] = {};
      Pack<T, kVec> out;
      if (at_x.inside) {
#pragma unroll
        for (int k = 0; k < kVec; ++k) g[k] = to_compute(gs[u].v[k]);
        gradient.add_reflections(at_x.i, at_x.j, g);
#pragma unroll
        for (int k = 0; k < kVec; ++k) {
          const int s = kPerLane ? k : 0;
          const C d = to_compute(xs[u].v[k]) - mean[s], gz = d > 0 ? g[k] : g[k] * in.slope;
          out.v[k] = from_compute<T>(scale[s] * gz + (d * along[s] + offset[s]));
        }
        store_pack(grad_x, (slab + at_x.index) * gradient.stride + lane, out);
      }
      if (grad_residual == nullptr) continue;
#pragma unroll
      for (int k = 0; k < kVec; ++k) out.v[k] = from_compute<T>(g[k]);
      store_pack(grad_residual, (at.slab * at.pixels + one) * gradient.stride + lane, out);
    }
  }
}

// ---- Launchers ----

template <typename Params>
View view_of(const Params& p, int vec, bool flat) {
  if (p.layout == Layout::kNHWC) return {p.n, p.h, p.w, p.c / vec, vec};
  if (flat) return {p.n * p.c, 1, p.h * p.w / vec, 1, vec};
  return {p.n * p.c, p.h, p.w, 1, 1};
}

// Calls f(T{}, vec as a constant, per lane as a constant).
template <typename F>
Status dispatch_view(DType dtype, Layout layout, int vec, F&& f) {
  return dispatch(dtype, [&](auto element) {
    using T = decltype(element);
    using Packed = std::integral_constant<int, kPackLanes<T>>;
    using Single = std::integral_constant<int, 1>;
    if (layout == Layout::kNHWC) {
      return vec > 1 ? f(element, Packed{}, std::true_type{})
                     : f(element, Single{}, std::true_type{});
    }
    return vec > 1 ? f(element, Packed{}, std::false_type{})
                   : f(element, Single{}, std::false_type{});
  });
}

NormPlan plan_from(const Tiling& tiling, int vec, int64_t stats, int64_t partial_bytes) {
  return {vec,          tiling.packs,     tiling.threads,
          tiling.tiles, tiling.stretches, tiling.stretches * stats * partial_bytes};
}

View reduction_view(const InstanceNormActParams& p) {
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : p.h * p.w;
  return view_of(p, vec_of(p.dtype, neighbours, {p.x}), true);
}

View map_view(const InstanceNormActParams& p) {
  const bool flat = p.pad == 0 && (p.residual == nullptr || p.residual_pad == 0);
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : flat ? p.h * p.w : 1;
  return view_of(p, vec_of(p.dtype, neighbours, {p.x, p.residual, p.y}), flat);
}

View map_view(const InstanceNormActBwdParams& p) {
  const bool flat = p.pad == 0 && (p.grad_residual == nullptr || p.residual_pad == 0);
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : flat ? p.h * p.w : 1;
  return view_of(p, vec_of(p.dtype, neighbours, {p.x, p.grad_y, p.grad_x, p.grad_residual}), flat);
}

template <typename T, int kVec, bool kPerLane>
Status compute_moments(const InstanceNormActParams& p, Stream stream) {
  using C = Compute<T>;
  const View view = reduction_view(p);
  const Tiling tiling = reduction_tiling(view);
  const int64_t stats = p.n * p.c;
  const auto partial = static_cast<Moments<C>*>(p.workspace);
  C *mean = static_cast<C*>(p.mean), *rstd = static_cast<C*>(p.rstd);
  const Status status = Launch(moments_kernel<T, kVec, kPerLane>, tiling.blocks(view),
                               tiling.threads, 0, stream, static_cast<const T*>(p.x), partial, mean,
                               rstd, stats, C(p.eps), place_of(view, tiling, view.pixels()));
  if (status != Status::kOk || tiling.stretches == 1) return status;
  return Launch(merge_moments_kernel<C>, ceil_div(stats, kMaxThreads), kMaxThreads, 0, stream,
                partial, mean, rstd, stats, static_cast<int>(tiling.stretches), C(p.eps));
}

template <typename T, int kVec, bool kPerLane>
Status apply(const InstanceNormActParams& p, Stream stream) {
  using C = Compute<T>;
  const View view = map_view(p);
  const int64_t row = view.width + 2 * p.pad, pixels = (view.height + 2 * p.pad) * row;
  const Tiling tiling = map_tiling(view, pixels);
  return Launch(apply_kernel<T, kVec, kPerLane>, tiling.blocks(view), tiling.threads, 0, stream,
                static_cast<const T*>(p.x), static_cast<const T*>(p.residual), static_cast<T*>(p.y),
                static_cast<const C*>(p.mean), static_cast<const C*>(p.rstd),
                static_cast<int>(view.height), static_cast<int>(view.width),
                static_cast<int>(p.pad), static_cast<int>(p.residual_pad),
                C(slope_of(p.activation, p.negative_slope)), FastDivisor(row),
                place_of(view, tiling, pixels));
}

template <typename T, int kVec, bool kPerLane>
Status backward(const InstanceNormActBwdParams& p, Stream stream) {
  using C = Compute<T>;
  const View view = map_view(p);
  const Tiling reduction = reduction_tiling(view);
  const int64_t stats = p.n * p.c, border = p.grad_residual ? p.residual_pad : 0;
  const auto partial = static_cast<GradSums<C>*>(p.workspace);
  const GradInputs<T> inputs = {
      static_cast<const T*>(p.grad_y), static_cast<const T*>(p.x),
      static_cast<const C*>(p.mean),   static_cast<const C*>(p.rstd),
      static_cast<int>(view.height),   static_cast<int>(view.width),
      static_cast<int>(p.pad),         C(slope_of(p.activation, p.negative_slope))};
  Status status = Launch(grad_sums_kernel<T, kVec, kPerLane>, reduction.blocks(view),
                         reduction.threads, 0, stream, inputs, partial, stats,
                         FastDivisor(view.width), place_of(view, reduction, view.pixels()));
  if (status == Status::kOk && reduction.stretches > 1) {
    status = Launch(merge_sums_kernel<C>, ceil_div(stats, kMaxThreads), kMaxThreads, 0, stream,
                    partial, stats, static_cast<int>(reduction.stretches));
  }
  if (status != Status::kOk) return status;
  const int64_t row = view.width + 2 * border, pixels = (view.height + 2 * border) * row;
  const Tiling map = map_tiling(view, pixels);
  return Launch(grad_kernel<T, kVec, kPerLane>, map.blocks(view), map.threads, 0, stream, inputs,
                partial, static_cast<T*>(p.grad_x), static_cast<T*>(p.grad_residual),
                static_cast<int>(border), FastDivisor(row), place_of(view, map, pixels));
}

}  // namespace

NormPlan plan_of(const InstanceNormActParams& p) {
  const View view = reduction_view(p);
  return plan_from(reduction_tiling(view), view.vec, p.n * p.c, 3 * stat_size_of(p.dtype));
}

NormPlan plan_of(const InstanceNormActBwdParams& p) {
  const View view = map_view(p);
  return plan_from(reduction_tiling(view), view.vec, p.n * p.c, 2 * stat_size_of(p.dtype));
}

Status instance_norm_act_fwd_cuda(const InstanceNormActParams& p, Stream stream) {
  if (!fits(map_view(p), std::max(p.pad, p.residual_pad)) || !fits(reduction_view(p), 0))
    return Status::kInvalidArgument;
  const Status status = dispatch_view(
      p.dtype, p.layout, reduction_view(p).vec, [&](auto element, auto vec, auto per_lane) {
        return compute_moments<decltype(element), vec(), per_lane()>(p, stream);
      });
  if (status != Status::kOk) return status;
  return dispatch_view(p.dtype, p.layout, map_view(p).vec,
                       [&](auto element, auto vec, auto per_lane) {
                         return apply<decltype(element), vec(), per_lane()>(p, stream);
                       });
}

Status instance_norm_act_bwd_cuda(const InstanceNormActBwdParams& p, Stream stream) {
  if (!fits(map_view(p), std::max(p.pad, p.residual_pad))) return Status::kInvalidArgument;
  return dispatch_view(p.dtype, p.layout, map_view(p).vec,
                       [&](auto element, auto vec, auto per_lane) {
                         return backward<decltype(element), vec(), per_lane()>(p, stream);
                       });
}

}  // namespace cyclegan_fast
