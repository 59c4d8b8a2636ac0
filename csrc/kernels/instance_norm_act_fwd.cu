// The CUDA twin of the forward pass, in one of three regimes:
//
//   resident   one kernel: a thread keeps its packs in registers, their statistics are summed over
//              its group and its cluster, twice within a block (the mean, then squares about it)
//   split      moments_kernel -> merge_moments_kernel -> apply_kernel
//   map        apply_kernel on statistics that are ready
//
// A thread keeps its channels, hence their numbers, in registers and walks over pixels of x. It
// writes each of them to its place and wherever the pad mirrors it.
#include <algorithm>

#include "cuda/norm.cuh"
#include "instance_norm_act.h"

namespace cyclegan_fast {
namespace {

// What the write pass knows besides x.
template <typename T>
struct Output {
  const T* residual;  // [slabs, height + 2 border, width + 2 border, inner * kVec] or null
  T* y;               // [slabs, height + 2 pad, width + 2 pad, inner * kVec]
  Image image;
  int pad, border;
  Compute<T> slope;

  // The residual's pack at a pixel; zeros where there is none.
  template <int kVec>
  __device__ Pack<T, kVec> extra(const Place& at, const Pixel& p) const {
    if (residual == nullptr) return {};
    return load_pack<kVec>(
        residual, (image.at(at.slab, p.i, p.j, border) * at.inner + at.pack) * int64_t{kVec});
  }

  template <bool kPerLane, int kVec, int kStats>
  __device__ void write(const Place& at, const Pixel& p, const Pack<T, kVec>& x,
                        const Pack<T, kVec>& added,
                        const ChannelMap<Compute<T>, kStats>& map) const {
    Pack<T, kVec> out;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const Compute<T> z = map.z(to_compute(x.v[k]), kPerLane ? k : 0);
      const Compute<T> v = z > 0 ? z : z * slope;
      out.v[k] = from_compute<T>(residual == nullptr ? v : v + to_compute(added.v[k]));
    }
    const auto store = [&](int i, int j) {
      const int64_t place = image.at(at.slab, i, j, pad) * at.inner + at.pack;
      store_pack(y, place * kVec, out);
    };
    store(p.i, p.j);
    image.for_each_reflection(p, pad, store);
  }
};

// mean and rstd [N * C], which the backward pass needs.
template <typename C>
struct Statistics {
  C* mean;
  C* rstd;
  C eps;

  __device__ C rstd_of(C variance) const { return 1 / sqrt(variance + eps); }
  __device__ void write(int64_t stat, C its_mean, C its_rstd) const {
    mean[stat] = its_mean;
    rstd[stat] = its_rstd;
  }
  __device__ void operator()(int64_t stat, const Moments<C>& moments) const {
    write(stat, moments.mean, rstd_of(moments.m2 / moments.count));
  }
};

// Ready sums [3, N * C] over `count` pixels, or null: the statistics have been written already.
template <typename C>
struct Ready {
  const C* sums;
  int64_t stats;
  C count;

  // The thread's mean and rstd; the first thread of each channel writes them out.
  template <int kStats>
  __device__ void load(const Place& at, const Statistics<C>& out, C (&mean)[kStats],
                       C (&rstd)[kStats]) const {
#pragma unroll
    for (int k = 0; k < kStats; ++k) {
      const int64_t stat = first_stat<kStats>(at) + k;
      if (sums == nullptr) {
        mean[k] = out.mean[stat];
        rstd[k] = out.rstd[stat];
        continue;
      }
      const C offset = sums[stats + stat] / count;
      const C variance = sums[2 * stats + stat] / count - offset * offset;
      mean[k] = sums[stat] + offset;
      rstd[k] = out.rstd_of(variance > 0 ? variance : C(0));
      if (at.pixel == 0) out.write(stat, mean[k], rstd[k]);
    }
  }
};

template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    apply_kernel(const T* __restrict__ x,  // [slabs, height, width, inner * kVec]
                 Output<T> output, Ready<Compute<T>> ready, Statistics<Compute<T>> stats,
                 Affine<Compute<T>> affine, Place at) {
  constexpr int kStats = kStatsOf<kVec, kPerLane>;
  at.locate();
  if (!at.active) return;
  Compute<T> mean[kStats], rstd[kStats];
  ready.load(at, stats, mean, rstd);
  const auto map = channel_map<kPerLane>(mean, rstd, affine, at);
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kUnroll * at.step) {
    Pack<T, kVec> in[kUnroll], extra[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      in[u] = load_pack<kVec>(x, at.element(one, kVec));
      extra[u] = output.template extra<kVec>(at, output.image.pixel(one));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end)
        output.template write<kPerLane>(at, output.image.pixel(one), in[u], extra[u], map);
    }
  }
}

// Mean and squares about it over the group's threads and the cluster's blocks, from the packs that
// each thread keeps.
template <bool kPerLane, int kPacks, typename T, int kVec, int kStats>
__device__ void resident_moments(Pack<T, kVec> (&packs)[kPacks], const Place& at,
                                 Moments<Compute<T>> (&total)[kStats]) {
  using C = Compute<T>;
  const C count = C(at.end - at.begin) * C(kPerLane ? 1 : kVec);  // of the block
  Sum<C> sum[kStats] = {}, square[kStats] = {};
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if (at.pixel + u * at.step >= at.end) continue;
#pragma unroll
    for (int k = 0; k < kVec; ++k) sum[kPerLane ? k : 0].value += to_compute(packs[u].v[k]);
  }
  group_merge(sum, at.packs, at.group);
  keep_packed(packs);
  C mean[kStats];
#pragma unroll
  for (int k = 0; k < kStats; ++k) mean[k] = count > 0 ? sum[k].value / count : C(0);
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if (at.pixel + u * at.step >= at.end) continue;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const C d = to_compute(packs[u].v[k]) - mean[kPerLane ? k : 0];
      square[kPerLane ? k : 0].value += d * d;
    }
  }
  group_merge(square, at.packs, at.group);
#pragma unroll
  for (int k = 0; k < kStats; ++k) total[k] = {count, mean[k], square[k].value};
  cluster_merge(total, at.packs);
}

template <typename T, int kVec, bool kPerLane>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    resident_kernel(const T* __restrict__ x,  // [slabs, height, width, inner * kVec]
                    Output<T> output, Statistics<Compute<T>> stats, Affine<Compute<T>> affine,
                    Place at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerLane>, kPacks = kResidentPacks<kVec>;
  at.locate();
  Pack<T, kVec> in[kPacks];
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) in[u] = load_pack<kVec>(x, at.element(one, kVec));
  }
  Moments<C> moments[kStats];
  resident_moments<kPerLane>(in, at, moments);
  keep_packed(in);
  if (at.pixel >= at.end) return;
  C mean[kStats], rstd[kStats];
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    mean[k] = moments[k].mean;
    rstd[k] = stats.rstd_of(moments[k].m2 / moments[k].count);
    if (at.pixel == 0) stats.write(first_stat<kStats>(at) + k, mean[k], rstd[k]);
  }
  const auto map = channel_map<kPerLane>(mean, rstd, affine, at);
#pragma unroll
  for (int first = 0; first < kPacks; first += kUnroll) {
    Pack<T, kVec> extra[kUnroll];  // several in flight: no load passes a store
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = at.pixel + (first + u) * at.step;
      if (one < at.end) extra[u] = output.template extra<kVec>(at, output.image.pixel(one));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = at.pixel + (first + u) * at.step;
      if (one < at.end)
        output.template write<kPerLane>(at, output.image.pixel(one), in[first + u], extra[u], map);
    }
  }
}

// ---- Launchers ----

View view_of(const InstanceNormActParams& p) {
  const bool flat = p.pad == 0 && (p.residual == nullptr || p.residual_pad == 0);
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : flat ? p.h * p.w : 1;
  return view_of(p, vec_of(p.dtype, neighbours, {p.x, p.residual, p.y}), flat);
}

// Everything that the kernels take besides x and their place.
template <typename T>
struct Arguments {
  using C = Compute<T>;
  Output<T> output;
  Statistics<C> stats;
  Ready<C> ready;
  Affine<C> affine;

  Arguments(const InstanceNormActParams& p, const View& view)
      : output{static_cast<const T*>(p.residual),
               static_cast<T*>(p.y),
               image_of(view),
               static_cast<int>(p.pad),
               static_cast<int>(p.residual_pad),
               C(slope_of(p.activation, p.negative_slope))},
        stats{static_cast<C*>(p.mean), static_cast<C*>(p.rstd), C(p.eps)},
        ready{static_cast<const C*>(p.statistics), p.n * p.c, C(p.count)},
        affine{static_cast<const C*>(p.weight), static_cast<const C*>(p.bias),
               static_cast<int>(p.c)} {}
};

template <typename T, int kVec, bool kPerLane>
Status write(const InstanceNormActParams& p, const NormPlan& plan, Stream stream) {
  const View view = view_of(p);
  const Arguments<T> a(p, view);
  const auto x = static_cast<const T*>(p.x);
  if (plan.regime == NormRegime::kResident) {
    const Tiling tiling = tiling_from(plan, view);
    return LaunchClusters(resident_kernel<T, kVec, kPerLane>, tiling.blocks(view), tiling.threads,
                          plan.cluster, 0, stream, x, a.output, a.stats, a.affine,
                          place_of(view, tiling));
  }
  const Tiling tiling = map_tiling(view);
  return Launch(apply_kernel<T, kVec, kPerLane>, tiling.blocks(view), tiling.threads, 0, stream, x,
                a.output, a.ready, a.stats, a.affine, place_of(view, tiling));
}

}  // namespace

NormPlan plan_of(const InstanceNormActParams& p, const Card& card) {
  const View view = view_of(p);
  if (p.statistics != nullptr) return plan_from(NormRegime::kMap, map_tiling(view), view.vec, 0);
  Tiling tiling = {};
  if (resident_tiling(view, resident_packs(view.vec), card, tiling))
    return plan_from(NormRegime::kResident, tiling, view.vec, 0);
  const View reading = reading_view(p);
  return plan_from(NormRegime::kSplit, reduction_tiling(reading), reading.vec, moments_bytes(p));
}

Status instance_norm_act_fwd_cuda(const InstanceNormActParams& p, const NormPlan& plan,
                                  Stream stream) {
  const View view = view_of(p);
  if (!fits(view, std::max(p.pad, p.residual_pad)) || !fits(reading_view(p), 0))
    return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    if (plan.regime == NormRegime::kSplit) {
      const Status status = compute_moments<T>(p, stream, Arguments<T>(p, view).stats);
      if (status != Status::kOk) return status;
    }
    return dispatch_vec<T>(p.layout, view.vec, [&](auto vec, auto per_lane) {
      return write<T, vec(), per_lane()>(p, plan, stream);
    });
  });
}

}  // namespace cyclegan_fast
