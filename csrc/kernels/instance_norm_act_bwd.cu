// The CUDA twin of the backward pass, in one of three regimes:
//
//   resident   one kernel: a thread keeps its packs of x and grad_y in registers, the two sums are
//              taken over its group and its cluster
//   split      grad_sums_kernel -> merge_sums_kernel -> grad_kernel
//   map        grad_kernel alone: constant statistics
//
// and, where they are wanted, a last kernel for the gradients of weight and bias. The pad's adjoint
// is a gather: no atomics anywhere.
#include <algorithm>

#include "cuda/norm.cuh"
#include "instance_norm_act.h"

namespace cyclegan_fast {
namespace {

constexpr int kGradUnroll = 2;  // pixels in flight per thread, each two packs

// What all backward passes read.
template <typename T>
struct Inputs {
  const T* grad_y;         // [slabs, height + 2 pad, width + 2 pad, inner * kVec]
  const T* x;              // [slabs, height, width, inner * kVec]
  const Compute<T>* mean;  // [N * C]
  const Compute<T>* rstd;  // [N * C]
  Affine<Compute<T>> affine;
  Image image;
  int pad;
  Compute<T> slope;

  template <int kVec>
  __device__ void load(const Place& at, uint32_t pixel, Pack<T, kVec>& own_x,
                       Pack<T, kVec>& own_gradient) const {
    const Pixel p = image.pixel(pixel);
    own_x = load_pack<kVec>(x, at.element(pixel, kVec));
    own_gradient = gradient<kVec>(at, p.i, p.j);
  }
  template <int kVec>
  __device__ Pack<T, kVec> gradient(const Place& at, int i, int j) const {
    const int64_t place = image.at(at.slab, i, j, pad) * at.inner + at.pack;
    return load_pack<kVec>(grad_y, place * kVec);
  }
  // The adjoint of the pad: g [kVec] at a pixel, whose own pack of grad_y is `own`.
  template <int kVec>
  __device__ void fold(const Place& at, const Pixel& p, const Pack<T, kVec>& own,
                       Compute<T> (&g)[kVec]) const {
#pragma unroll
    for (int k = 0; k < kVec; ++k) g[k] = to_compute(own.v[k]);
    image.for_each_reflection(p, pad, [&](int i, int j) {
      const Pack<T, kVec> more = gradient<kVec>(at, i, j);
#pragma unroll
      for (int k = 0; k < kVec; ++k) g[k] += to_compute(more.v[k]);
    });
  }
  template <bool kPerLane, int kStats>
  __device__ ChannelMap<Compute<T>, kStats> map(const Place& at) const {
    Compute<T> means[kStats] = {}, rstds[kStats] = {};
#pragma unroll
    for (int k = 0; k < kStats; ++k) {
      if (!at.active) continue;
      means[k] = mean[first_stat<kStats>(at) + k];
      rstds[k] = rstd[first_stat<kStats>(at) + k];
    }
    return channel_map<kPerLane>(means, rstds, affine, at);
  }
};

// Adds a pixel's gz and gz * (x - mean).
template <bool kPerLane, typename T, int kVec, int kStats>
__device__ void add_sums(const Inputs<T>& in, const Place& at, const Pixel& p,
                         const Pack<T, kVec>& x, const Pack<T, kVec>& own,
                         const ChannelMap<Compute<T>, kStats>& map,
                         GradSums<Compute<T>> (&sums)[kStats]) {
  using C = Compute<T>;
  C g[kVec];
  in.fold(at, p, own, g);
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const int s = kPerLane ? k : 0;
    const C value = to_compute(x.v[k]), gz = map.z(value, s) > 0 ? g[k] : g[k] * in.slope;
    sums[s].gz += gz;
    sums[s].gzx += gz * (value - map.mean[s]);
  }
}

// Sums over a block's stretch of pixels.
template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    grad_sums_kernel(Inputs<T> in, GradSums<Compute<T>>* partial,  // [stretches, N * C]
                     int64_t stats, Place at) {
  constexpr int kStats = kStatsOf<kVec, kPerLane>;
  at.locate();
  GradSums<Compute<T>> mine[kStats] = {};
  const auto map = in.template map<kPerLane, kStats>(at);
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kGradUnroll * at.step) {
    Pack<T, kVec> xs[kGradUnroll], gs[kGradUnroll];
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) in.template load<kVec>(at, one, xs[u], gs[u]);
    }
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) add_sums<kPerLane>(in, at, in.image.pixel(one), xs[u], gs[u], map, mine);
    }
  }
  block_reduce(mine, at.packs);
  if (static_cast<int>(threadIdx.x) >= at.packs || !at.active) return;
  const int64_t stat = first_stat<kStats>(at), split = blockIdx.x % at.stretches;
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

// grad_x = scale * gz + (x - mean) * along + offset
template <typename C, int kStats>
struct GradMap {
  ChannelMap<C, kStats> z;
  C along[kStats] = {}, offset[kStats] = {};

  // `size`: pixels of the plane. Without this the statistics are constants.
  __device__ void follow_statistics(const C* rstd, const GradSums<C> (&sums)[kStats], C size,
                                    const Place& at) {
#pragma unroll
    for (int k = 0; k < kStats; ++k) {
      const C r = rstd[first_stat<kStats>(at) + k];
      along[k] = -z.scale[k] * r * r * (sums[k].gzx / size);
      offset[k] = -z.scale[k] * (sums[k].gz / size);
    }
  }
};

// grad_x and grad_residual.
template <typename T>
struct Outputs {
  T* grad_x;         // [slabs, height, width, inner * kVec]
  T* grad_residual;  // [slabs, height + 2 border, width + 2 border, inner * kVec] or null
  int border;

  template <bool kPerLane, int kVec, int kStats>
  __device__ void write(const Inputs<T>& in, const Place& at, const Pixel& p,
                        const Pack<T, kVec>& x, const Pack<T, kVec>& own,
                        const GradMap<Compute<T>, kStats>& map) const {
    using C = Compute<T>;
    C g[kVec];
    in.fold(at, p, own, g);
    Pack<T, kVec> out;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const int s = kPerLane ? k : 0;
      const C value = to_compute(x.v[k]), d = value - map.z.mean[s];
      const C gz = map.z.z(value, s) > 0 ? g[k] : g[k] * in.slope;
      out.v[k] = from_compute<T>(map.z.scale[s] * gz + (d * map.along[s] + map.offset[s]));
    }
    store_pack(grad_x, (in.image.at(at.slab, p.i, p.j, 0) * at.inner + at.pack) * kVec, out);
    if (grad_residual == nullptr) return;
#pragma unroll
    for (int k = 0; k < kVec; ++k) out.v[k] = from_compute<T>(g[k]);
    store_residual(in.image, at, p.i, p.j, out);
  }
  // Zeros on the border, whose pixels are shared out over the threads of all stretches.
  template <int kVec>
  __device__ void clear_border(const Image& image, const Place& at) const {
    if (grad_residual == nullptr || border == 0 || !at.active) return;
    const int width = image.width + 2 * border, above_and_below = 2 * border * width;
    const int total = above_and_below + image.height * 2 * border;
    const int step = at.stretches * static_cast<int>(at.step);
    int k =
        static_cast<int>(blockIdx.x % at.stretches * at.step + threadIdx.x % at.group / at.packs);
    for (; k < total; k += step) {
      int i = k / width - border, j = k % width - border;
      if (k >= above_and_below) {
        i = (k - above_and_below) / (2 * border);
        j = (k - above_and_below) % (2 * border) - border;
        if (j >= 0) j += image.width;
      } else if (i >= 0) {
        i += image.height;
      }
      store_residual(image, at, i, j, Pack<T, kVec>{});
    }
  }
  template <int kVec>
  __device__ void store_residual(const Image& image, const Place& at, int i, int j,
                                 const Pack<T, kVec>& pack) const {
    store_pack(grad_residual, (image.at(at.slab, i, j, border) * at.inner + at.pack) * kVec, pack);
  }
};

template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    grad_kernel(Inputs<T> in, Outputs<T> out,
                const GradSums<Compute<T>>* __restrict__ sums,  // [N * C], or null: constants
                Compute<T> size, Place at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerLane>;
  at.locate();
  if (!at.active) return;
  GradMap<C, kStats> map{in.template map<kPerLane, kStats>(at)};
  if (sums != nullptr) {
    GradSums<C> mine[kStats];
#pragma unroll
    for (int k = 0; k < kStats; ++k) mine[k] = sums[first_stat<kStats>(at) + k];
    map.follow_statistics(in.rstd, mine, size, at);
  }
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kGradUnroll * at.step) {
    Pack<T, kVec> xs[kGradUnroll], gs[kGradUnroll];
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) in.template load<kVec>(at, one, xs[u], gs[u]);
    }
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end)
        out.template write<kPerLane>(in, at, in.image.pixel(one), xs[u], gs[u], map);
    }
  }
  out.template clear_border<kVec>(in.image, at);
}

template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    resident_grad_kernel(Inputs<T> in, Outputs<T> out,
                         GradSums<Compute<T>>* sums,  // [N * C] or null: not wanted
                         Compute<T> size, Place at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerLane>, kPacks = kResidentPacks<kVec> / 2;
  at.locate();
  GradMap<C, kStats> map{in.template map<kPerLane, kStats>(at)};
  Pack<T, kVec> xs[kPacks], gs[kPacks];
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) in.template load<kVec>(at, one, xs[u], gs[u]);
  }
  GradSums<C> mine[kStats] = {};
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) add_sums<kPerLane>(in, at, in.image.pixel(one), xs[u], gs[u], map.z, mine);
  }
  group_merge(mine, at.packs, at.group);
  cluster_merge(mine, at.packs);
  keep_packed(xs);
  keep_packed(gs);
  if (!at.active) return;
  map.follow_statistics(in.rstd, mine, size, at);
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    if (sums != nullptr && at.pixel == 0) sums[first_stat<kStats>(at) + k] = mine[k];
  }
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) out.template write<kPerLane>(in, at, in.image.pixel(one), xs[u], gs[u], map);
  }
  out.template clear_border<kVec>(in.image, at);
}

// grad_weight and grad_bias [channels], each of which may be null: a channel's sums over the
// images.
template <typename C>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    affine_grads_kernel(const GradSums<C>* __restrict__ sums,  // [images, channels]
                        const C* __restrict__ rstd,            // [images, channels]
                        int64_t images, int channels, C* grad_weight, C* grad_bias) {
  const int channel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= channels) return;
  C weight = 0, bias = 0;
  for (int64_t n = 0; n < images; ++n) {
    const GradSums<C> sum = sums[n * channels + channel];
    weight += sum.gzx * rstd[n * channels + channel];
    bias += sum.gz;
  }
  if (grad_weight != nullptr) grad_weight[channel] = weight;
  if (grad_bias != nullptr) grad_bias[channel] = bias;
}

// ---- Launchers ----

View view_of(const InstanceNormActBwdParams& p) {
  const bool flat = p.pad == 0 && (p.grad_residual == nullptr || p.residual_pad == 0);
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : flat ? p.h * p.w : 1;
  return view_of(p, vec_of(p.dtype, neighbours, {p.x, p.grad_y, p.grad_x, p.grad_residual}), flat);
}

bool wants_affine(const InstanceNormActBwdParams& p) {
  return p.grad_weight != nullptr || p.grad_bias != nullptr;
}

template <typename T, int kVec, bool kPerLane>
Status backward(const InstanceNormActBwdParams& p, const NormPlan& plan, Stream stream) {
  using C = Compute<T>;
  const View view = view_of(p);
  const int64_t stats = p.n * p.c;
  const auto sums = static_cast<GradSums<C>*>(p.workspace);
  const C size = C(p.h * p.w);
  const Inputs<T> in = {
      static_cast<const T*>(p.grad_y),
      static_cast<const T*>(p.x),
      static_cast<const C*>(p.mean),
      static_cast<const C*>(p.rstd),
      {static_cast<const C*>(p.weight), static_cast<const C*>(p.bias), static_cast<int>(p.c)},
      image_of(view),
      static_cast<int>(p.pad),
      C(slope_of(p.activation, p.negative_slope))};
  const Outputs<T> out = {static_cast<T*>(p.grad_x), static_cast<T*>(p.grad_residual),
                          static_cast<int>(p.grad_residual ? p.residual_pad : 0)};

  if (plan.regime == NormRegime::kResident) {
    const Tiling tiling = tiling_from(plan, view);
    return LaunchClusters(resident_grad_kernel<T, kVec, kPerLane>, tiling.blocks(view),
                          tiling.threads, plan.cluster, 0, stream, in, out,
                          wants_affine(p) ? sums : nullptr, size, place_of(view, tiling));
  }
  if (plan.regime == NormRegime::kSplit) {
    const Tiling tiling = reduction_tiling(view);
    Status status = Launch(grad_sums_kernel<T, kVec, kPerLane>, tiling.blocks(view), tiling.threads,
                           0, stream, in, sums, stats, place_of(view, tiling));
    if (status == Status::kOk && tiling.stretches > 1) {
      status = Launch(merge_sums_kernel<C>, ceil_div(stats, kMaxThreads), kMaxThreads, 0, stream,
                      sums, stats, static_cast<int>(tiling.stretches));
    }
    if (status != Status::kOk) return status;
  }
  const Tiling tiling = map_tiling(view);
  return Launch(grad_kernel<T, kVec, kPerLane>, tiling.blocks(view), tiling.threads, 0, stream, in,
                out, p.constant_statistics ? nullptr : sums, size, place_of(view, tiling));
}

}  // namespace

NormPlan plan_of(const InstanceNormActBwdParams& p, const Card& card) {
  const View view = view_of(p);
  const int64_t sums_bytes = p.n * p.c * 2 * stat_size_of(p.dtype);
  if (p.constant_statistics && !wants_affine(p))
    return plan_from(NormRegime::kMap, map_tiling(view), view.vec, 0);
  Tiling tiling = {};
  if (!p.constant_statistics && resident_tiling(view, resident_packs(view.vec) / 2, card, tiling))
    return plan_from(NormRegime::kResident, tiling, view.vec, wants_affine(p) ? sums_bytes : 0);
  tiling = reduction_tiling(view);
  return plan_from(NormRegime::kSplit, tiling, view.vec, tiling.stretches * sums_bytes);
}

Status instance_norm_act_bwd_cuda(const InstanceNormActBwdParams& p, const NormPlan& plan,
                                  Stream stream) {
  const View view = view_of(p);
  if (!fits(view, std::max(p.pad, p.residual_pad))) return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    const Status status = dispatch_vec<T>(p.layout, view.vec, [&](auto vec, auto per_lane) {
      return backward<T, vec(), per_lane()>(p, plan, stream);
    });
    if (status != Status::kOk || !wants_affine(p)) return status;
    return Launch(affine_grads_kernel<C>, ceil_div(p.c, kMaxThreads), kMaxThreads, 0, stream,
                  static_cast<const GradSums<C>*>(p.workspace), static_cast<const C*>(p.rstd), p.n,
                  static_cast<int>(p.c), static_cast<C*>(p.grad_weight),
                  static_cast<C*>(p.grad_bias));
  });
}

}  // namespace cyclegan_fast
