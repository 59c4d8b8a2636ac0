// The CUDA implementation of the forward pass, in one of three regimes:
//
//   resident   one kernel: a thread keeps its vectors in registers, their statistics are summed
//              over its group and its cluster, twice within a block (the mean, then squares about
//              it)
//   split      moments_kernel -> apply_kernel, each block of which merges the chunks of its
//   channels map        apply_kernel on given statistics
//
// A thread keeps its channels' parameters in registers and loops over pixels of x. It
// writes each of them to its position and wherever the pad mirrors it.
#include <algorithm>

#include "cuda/norm.cuh"
#include "instance_norm_act.h"

namespace cyclegan_fast {
namespace {

// What the write pass knows besides x.
template <typename T>
struct Output {
  const T* residual;  // [planes, height + 2 border, width + 2 border, inner * kVec] or null
  T* y;               // [planes, height + 2 pad, width + 2 pad, inner * kVec]
  Image image;
  int pad, border;
  Compute<T> slope;

  // The residual's vector at a pixel; zeros where there is none.
  template <int kVec>
  __device__ Vector<T, kVec> extra(const Position& at, const Pixel& p) const {
    if (residual == nullptr) return {};
    return load_vector<kVec>(
        residual, (image.at(at.plane, p.i, p.j, border) * at.inner + at.vector) * int64_t{kVec});
  }

  template <bool kPerElement, int kVec, int kStats>
  __device__ void write(const Position& at, const Pixel& p, const Vector<T, kVec>& x,
                        const Vector<T, kVec>& added,
                        const ChannelMap<Compute<T>, kStats>& map) const {
    Vector<T, kVec> out;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const Compute<T> z = map.z(to_compute(x.v[k]), kPerElement ? k : 0);
      const Compute<T> v = z > 0 ? z : z * slope;
      out.v[k] = from_compute<T>(residual == nullptr ? v : v + to_compute(added.v[k]));
    }
    const auto store = [&](int i, int j) {
      const int64_t offset = image.at(at.plane, i, j, pad) * at.inner + at.vector;
      store_vector(y, offset * kVec, out);
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
  // The thread of a channel's first pixel writes.
  template <int kStats>
  __device__ void write(const Position& at, const C (&its_mean)[kStats],
                        const C (&its_rstd)[kStats]) const {
    if (!at.active || at.pixel > 0) return;
    store_stats(mean, first_stat<kStats>(at), its_mean);
    store_stats(rstd, first_stat<kStats>(at), its_rstd);
  }
};

// Ready sums [3, N * C] over `count` pixels.
template <typename C>
struct Ready {
  const C* sums;
  int64_t stats;
  C count;

  // The thread's mean and rstd.
  template <int kStats>
  __device__ void load(const Position& at, const Statistics<C>& out,
                       C (&mean_and_rstd)[2][kStats]) const {
    const int64_t stat = first_stat<kStats>(at);
    C shift[kStats], sum[kStats], square[kStats];
    load_stats(sums, stat, shift);
    load_stats(sums, stats + stat, sum);
    load_stats(sums, 2 * stats + stat, square);
#pragma unroll
    for (int k = 0; k < kStats; ++k) {
      const C offset = sum[k] / count, variance = square[k] / count - offset * offset;
      mean_and_rstd[0][k] = shift[k] + offset;
      mean_and_rstd[1][k] = out.rstd_of(variance > 0 ? variance : C(0));
    }
  }
};

// The thread's mean and rstd from the chunks' moments, merged by the whole block.
template <int kStats, typename C>
__device__ void merge_statistics(const MomentPartials<C>& partials, const Position& at,
                                 const Statistics<C>& out, C (&mean_and_rstd)[2][kStats]) {
  const Columns columns = columns_of<kStats>(at);
  const Moments<C> moments = partials.merge(columns);
  const C numbers[2] = {moments.mean, out.rstd_of(moments.m2 / moments.count)};
  to_vectors(numbers, columns, mean_and_rstd);
}

template <typename T, int kVec, bool kPerElement>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    apply_kernel(const T* __restrict__ x,  // [planes, height, width, inner * kVec]
                 Output<T> output, Ready<Compute<T>> ready, MomentPartials<Compute<T>> partials,
                 Statistics<Compute<T>> stats, Affine<Compute<T>> affine, Position at) {
  constexpr int kStats = kStatsOf<kVec, kPerElement>;
  at.locate();
  Compute<T> mean_and_rstd[2][kStats];
  if (partials.values != nullptr) merge_statistics(partials, at, stats, mean_and_rstd);
  if (!at.active) return;
  if (partials.values == nullptr) ready.load(at, stats, mean_and_rstd);
  stats.write(at, mean_and_rstd[0], mean_and_rstd[1]);
  const auto map = channel_map<kPerElement>(mean_and_rstd[0], mean_and_rstd[1], affine, at);
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kUnroll * at.step) {
    Vector<T, kVec> in[kUnroll], extra[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one >= at.end) continue;
      in[u] = load_vector<kVec>(x, at.element(one, kVec));
      extra[u] = output.template extra<kVec>(at, output.image.pixel(one));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end)
        output.template write<kPerElement>(at, output.image.pixel(one), in[u], extra[u], map);
    }
  }
}

// Mean and squares about it over the group's threads and the cluster's blocks, from the vectors
// that each thread keeps.
template <bool kPerElement, int kVectors, typename T, int kVec, int kStats>
__device__ void resident_moments(Vector<T, kVec> (&vectors)[kVectors], const Position& at,
                                 Moments<Compute<T>> (&total)[kStats]) {
  using C = Compute<T>;
  const C count = C(at.end - at.begin) * C(kPerElement ? 1 : kVec);  // of the block
  Sum<C> sum[kStats] = {}, square[kStats] = {};
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    if (at.pixel + u * at.step >= at.end) continue;
#pragma unroll
    for (int k = 0; k < kVec; ++k) sum[kPerElement ? k : 0].value += to_compute(vectors[u].v[k]);
  }
  group_merge(sum, at.vectors, at.group);
  keep_narrow(vectors);
  C mean[kStats];
#pragma unroll
  for (int k = 0; k < kStats; ++k) mean[k] = count > 0 ? sum[k].value / count : C(0);
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    if (at.pixel + u * at.step >= at.end) continue;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const C d = to_compute(vectors[u].v[k]) - mean[kPerElement ? k : 0];
      square[kPerElement ? k : 0].value += d * d;
    }
  }
  group_merge(square, at.vectors, at.group);
#pragma unroll
  for (int k = 0; k < kStats; ++k) total[k] = {count, mean[k], square[k].value};
  cluster_merge(total, at.vectors);
}

template <typename T, int kVec, bool kPerElement>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    resident_kernel(const T* __restrict__ x,  // [planes, height, width, inner * kVec]
                    Output<T> output, Statistics<Compute<T>> stats, Affine<Compute<T>> affine,
                    Position at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerElement>, kVectors = kResidentVectors<kVec>;
  at.locate();
  Vector<T, kVec> in[kVectors];
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) in[u] = load_vector<kVec>(x, at.element(one, kVec));
  }
  Moments<C> moments[kStats];
  resident_moments<kPerElement>(in, at, moments);
  keep_narrow(in);
  if (at.pixel >= at.end) return;
  C mean[kStats], rstd[kStats];
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    mean[k] = moments[k].mean;
    rstd[k] = stats.rstd_of(moments[k].m2 / moments[k].count);
  }
  stats.write(at, mean, rstd);
  const auto map = channel_map<kPerElement>(mean, rstd, affine, at);
#pragma unroll
  for (int first = 0; first < kVectors; first += kUnroll) {
    Vector<T, kVec> extra[kUnroll];  // several in flight: no load passes a store
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = at.pixel + (first + u) * at.step;
      if (one < at.end) extra[u] = output.template extra<kVec>(at, output.image.pixel(one));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = at.pixel + (first + u) * at.step;
      if (one < at.end)
        output.template write<kPerElement>(at, output.image.pixel(one), in[first + u], extra[u],
                                           map);
    }
  }
}

// ---- Launchers ----

bool is_flat(const InstanceNormActParams& p) {
  return p.pad == 0 && (p.residual == nullptr || p.residual_pad == 0);
}

View writing_view(const InstanceNormActParams& p) {
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : is_flat(p) ? p.h * p.w : 1;
  int vec = vec_of(p.dtype, neighbours, {p.x, p.residual, p.y});
  if (p.layout == Layout::kNHWC && !aligned({p.weight, p.bias, p.statistics, p.mean, p.rstd}))
    vec = 1;
  return view_of(p, vec, is_flat(p));
}

// Everything that the kernels take besides x and their position.
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

template <typename T, int kVec, bool kPerElement>
Status write(const InstanceNormActParams& p, const NormPlan& plan, const Arguments<T>& a,
             const Position& position, Stream stream) {
  using C = Compute<T>;
  const auto x = static_cast<const T*>(p.x);
  if (plan.regime == NormRegime::kResident)
    return launch(resident_kernel<T, kVec, kPerElement>, plan.write.launch, stream, x, a.output,
                  a.stats, a.affine, position);
  const bool split = plan.regime == NormRegime::kSplit;
  return launch(apply_kernel<T, kVec, kPerElement>, plan.write.launch, stream, x, a.output, a.ready,
                split ? moment_partials<C>(p, plan.sums) : MomentPartials<C>{}, a.stats, a.affine,
                position);
}

}  // namespace

NormPlan plan_of(const InstanceNormActParams& p, const DeviceProperties& device) {
  const View view = writing_view(p);
  NormPlan plan = {NormRegime::kMap, {}, map_pass(view), {}, 0};
  if (p.statistics != nullptr) return plan;
  if (const auto resident = resident_pass(view, resident_vectors(view.vec), device)) {
    plan.regime = NormRegime::kResident, plan.write = *resident;
    return plan;
  }
  plan.regime = NormRegime::kSplit;
  plan.sums = moments_pass(p, device), plan.write = split_pass(view, device);
  plan.workspace_bytes = moments_bytes(p, plan.sums);
  return plan;
}

Status instance_norm_act_fwd_cuda(const InstanceNormActParams& p, const NormPlan& plan,
                                  Stream stream) {
  const View view = view_of(p, plan.write.vec, is_flat(p));
  if (!fits(view, std::max(p.pad, p.residual_pad)) || !fits(reading_view(p), 0))
    return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    const Arguments<T> arguments(p, view);
    if (plan.regime == NormRegime::kSplit) {
      const Status status = sum_moments<T>(p, plan.sums, stream);
      if (status != Status::kOk) return status;
    }
    return dispatch_vec<T>(p.layout, plan.write.vec, [&](auto vec, auto per_element) {
      return write<T, vec(), per_element()>(p, plan, arguments, position_of(view, plan.write),
                                            stream);
    });
  });
}

}  // namespace cyclegan_fast
