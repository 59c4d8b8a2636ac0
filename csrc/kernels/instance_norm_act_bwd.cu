// The CUDA implementation of the backward pass, in one of three regimes:
//
//   resident   one kernel: a thread keeps its vectors of x and grad_y in registers, the two sums
//              are taken over its group and its cluster
//   split      grad_sums_kernel -> grad_kernel, each block of which merges the chunks of its
//   channels map        grad_kernel alone: constant statistics
//
// and, where they are needed, a last kernel for the gradients of weight and bias. The pad's adjoint
// is a gather: no atomics anywhere. A second gradient, grad_inner, is added in it.
#include "cuda/norm.cuh"
#include "instance_norm_act.h"

namespace cyclegan_fast {
namespace {

constexpr int kGradUnroll = 2;  // pixels in flight per thread, each two vectors

// What all backward passes read.
template <typename T>
struct Inputs {
  const T* grad_y;         // [planes, height + 2 pad, width + 2 pad, inner * kVec]
  const T* grad_inner;     // [planes, height, width, inner * kVec] or null
  const T* x;              // [planes, height, width, inner * kVec]
  const Compute<T>* mean;  // [N * C]
  const Compute<T>* rstd;  // [N * C]
  Affine<Compute<T>> affine;
  Image image;
  int pad;
  Compute<T> slope;

  template <int kVec>
  __device__ void load(const Position& at, uint32_t pixel, Vector<T, kVec>& own_x,
                       Vector<T, kVec>& own_gradient) const {
    const Pixel p = image.pixel(pixel);
    own_x = load_vector<kVec>(x, at.element(pixel, kVec));
    own_gradient = gradient<kVec>(at, p.i, p.j);
  }
  template <int kVec>
  __device__ Vector<T, kVec> gradient(const Position& at, int i, int j) const {
    const int64_t offset = image.at(at.plane, i, j, pad) * at.inner + at.vector;
    return load_vector<kVec>(grad_y, offset * kVec);
  }
  // g [kVec] at a pixel whose own vector of grad_y is `own`: that, the pad's adjoint, grad_inner.
  template <int kVec>
  __device__ void fold(const Position& at, uint32_t pixel, const Vector<T, kVec>& own,
                       Compute<T> (&g)[kVec]) const {
    const auto add = [&](const Vector<T, kVec>& more) {
#pragma unroll
      for (int k = 0; k < kVec; ++k) g[k] += to_compute(more.v[k]);
    };
#pragma unroll
    for (int k = 0; k < kVec; ++k) g[k] = to_compute(own.v[k]);
    if (grad_inner != nullptr) add(load_vector<kVec>(grad_inner, at.element(pixel, kVec)));
    image.for_each_reflection(image.pixel(pixel), pad,
                              [&](int i, int j) { add(gradient<kVec>(at, i, j)); });
  }
  template <bool kPerElement, int kStats>
  __device__ ChannelMap<Compute<T>, kStats> map(const Position& at) const {
    Compute<T> means[kStats] = {}, rstds[kStats] = {};
    if (at.active) {
      load_stats(mean, first_stat<kStats>(at), means);
      load_stats(rstd, first_stat<kStats>(at), rstds);
    }
    return channel_map<kPerElement>(means, rstds, affine, at);
  }
};

// Adds a pixel's gz and gz * (x - mean).
template <bool kPerElement, typename T, int kVec, int kStats>
__device__ void add_sums(const Inputs<T>& in, const Position& at, uint32_t pixel,
                         const Vector<T, kVec>& x, const Vector<T, kVec>& own,
                         const ChannelMap<Compute<T>, kStats>& map,
                         GradSums<Compute<T>> (&sums)[kStats]) {
  using C = Compute<T>;
  C g[kVec];
  in.fold(at, pixel, own, g);
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const int s = kPerElement ? k : 0;
    const C value = to_compute(x.v[k]), gz = map.z(value, s) > 0 ? g[k] : g[k] * in.slope;
    sums[s].gz += gz;
    sums[s].gzx += gz * (value - map.mean[s]);
  }
}

// Sums over a block's chunk of pixels.
template <typename T, int kVec, bool kPerElement>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    grad_sums_kernel(Inputs<T> in, GradSums<Compute<T>>* partial,  // [chunks, N * C]
                     int64_t stats, Position at) {
  constexpr int kStats = kStatsOf<kVec, kPerElement>;
  at.locate();
  GradSums<Compute<T>> mine[kStats] = {};
  const auto map = in.template map<kPerElement, kStats>(at);
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kGradUnroll * at.step) {
    Vector<T, kVec> xs[kGradUnroll], gs[kGradUnroll];
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) in.template load<kVec>(at, one, xs[u], gs[u]);
    }
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) add_sums<kPerElement>(in, at, one, xs[u], gs[u], map, mine);
    }
  }
  block_reduce(mine, at.vectors);
  if (static_cast<int>(threadIdx.x) >= at.vectors || !at.active) return;
  const int64_t stat = first_stat<kStats>(at), split = blockIdx.x % at.chunks;
#pragma unroll
  for (int k = 0; k < kStats; ++k) partial[split * stats + stat + k] = mine[k];
}

// What the sums pass leaves.
template <typename C>
struct GradPartials {
  const GradSums<C>* values;  // [chunks, stats]; null where there are none
  int64_t stats;              // N * C
  int chunks;

  // The thread's sums over all chunks, merged by the whole block.
  template <int kStats>
  __device__ void merge(const Position& at, GradSums<C> (&mine)[kStats]) const {
    const Columns columns = columns_of<kStats>(at);
    GradSums<C> sum = {};
    if (columns.active()) {
      const int step = static_cast<int>(blockDim.x) / columns.count;
#pragma unroll 4
      for (int chunk = static_cast<int>(threadIdx.x) / columns.count; chunk < chunks; chunk += step)
        sum.merge(values[chunk * stats + columns.stat()]);
    }
    const C totals[2] = {column_sum(sum.gz, columns.count), column_sum(sum.gzx, columns.count)};
    C by_vector[2][kStats];
    to_vectors(totals, columns, by_vector);
#pragma unroll
    for (int k = 0; k < kStats; ++k) mine[k] = {by_vector[0][k], by_vector[1][k]};
  }
};

// The thread of a channel's first pixel writes its sums where they are needed.
template <int kStats, typename C>
__device__ void write_totals(GradSums<C>* totals, const Position& at,
                             const GradSums<C> (&mine)[kStats]) {
  if (totals == nullptr || !at.active || at.pixel > 0) return;
#pragma unroll
  for (int k = 0; k < kStats; ++k) totals[first_stat<kStats>(at) + k] = mine[k];
}

// grad_x = scale * gz + (x - mean) * along + offset
template <typename C, int kStats>
struct GradMap {
  ChannelMap<C, kStats> z;
  C along[kStats] = {}, offset[kStats] = {};

  // `size`: pixels of the plane. Without this the statistics are constants.
  __device__ void follow_statistics(const C* rstd, const GradSums<C> (&sums)[kStats], C size,
                                    const Position& at) {
    C r[kStats];
    load_stats(rstd, first_stat<kStats>(at), r);
#pragma unroll
    for (int k = 0; k < kStats; ++k) {
      along[k] = -z.scale[k] * r[k] * r[k] * (sums[k].gzx / size);
      offset[k] = -z.scale[k] * (sums[k].gz / size);
    }
  }
};

// grad_x and grad_residual.
template <typename T>
struct Outputs {
  T* grad_x;         // [planes, height, width, inner * kVec]
  T* grad_residual;  // [planes, height, width, inner * kVec] or null

  template <bool kPerElement, int kVec, int kStats>
  __device__ void write(const Inputs<T>& in, const Position& at, uint32_t pixel,
                        const Vector<T, kVec>& x, const Vector<T, kVec>& own,
                        const GradMap<Compute<T>, kStats>& map) const {
    using C = Compute<T>;
    C g[kVec];
    in.fold(at, pixel, own, g);
    Vector<T, kVec> out;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const int s = kPerElement ? k : 0;
      const C value = to_compute(x.v[k]), d = value - map.z.mean[s];
      const C gz = map.z.z(value, s) > 0 ? g[k] : g[k] * in.slope;
      out.v[k] = from_compute<T>(map.z.scale[s] * gz + (d * map.along[s] + map.offset[s]));
    }
    store_vector(grad_x, at.element(pixel, kVec), out);
    if (grad_residual == nullptr) return;
#pragma unroll
    for (int k = 0; k < kVec; ++k) out.v[k] = from_compute<T>(g[k]);
    store_vector(grad_residual, at.element(pixel, kVec), out);
  }
};

template <typename T, int kVec, bool kPerElement>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    grad_kernel(Inputs<T> in, Outputs<T> out, GradPartials<Compute<T>> partials,
                GradSums<Compute<T>>* totals,  // [N * C] or null: not needed
                bool constant_statistics, Compute<T> size, Position at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerElement>;
  at.locate();
  GradSums<C> sums[kStats] = {};
  if (partials.values != nullptr) partials.merge(at, sums);
  if (!at.active) return;
  write_totals(totals, at, sums);
  GradMap<C, kStats> map{in.template map<kPerElement, kStats>(at)};
  if (!constant_statistics) map.follow_statistics(in.rstd, sums, size, at);
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kGradUnroll * at.step) {
    Vector<T, kVec> xs[kGradUnroll], gs[kGradUnroll];
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) in.template load<kVec>(at, one, xs[u], gs[u]);
    }
#pragma unroll
    for (int u = 0; u < kGradUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) out.template write<kPerElement>(in, at, one, xs[u], gs[u], map);
    }
  }
}

template <typename T, int kVec, bool kPerElement>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    resident_grad_kernel(Inputs<T> in, Outputs<T> out,
                         GradSums<Compute<T>>* totals,  // [N * C] or null: not needed
                         Compute<T> size, Position at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerElement>, kVectors = kResidentVectors<kVec> / 2;
  at.locate();
  GradMap<C, kStats> map{in.template map<kPerElement, kStats>(at)};
  Vector<T, kVec> xs[kVectors], gs[kVectors];
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) in.template load<kVec>(at, one, xs[u], gs[u]);
  }
  // What fold reads besides grad_y's own vector is read again for the write, from the L1.
  GradSums<C> mine[kStats] = {};
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) add_sums<kPerElement>(in, at, one, xs[u], gs[u], map.z, mine);
  }
  group_merge(mine, at.vectors, at.group);
  cluster_merge(mine, at.vectors);
  keep_narrow(xs);
  keep_narrow(gs);
  forget_derived(at.pixel);
  if (!at.active) return;
  map.follow_statistics(in.rstd, mine, size, at);
  write_totals(totals, at, mine);
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const uint32_t one = at.pixel + u * at.step;
    if (one < at.end) out.template write<kPerElement>(in, at, one, xs[u], gs[u], map);
  }
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
  const bool flat = p.pad == 0;
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : flat ? p.h * p.w : 1;
  int vec = vec_of(p.dtype, neighbours, {p.x, p.grad_y, p.grad_inner, p.grad_x, p.grad_residual});
  if (p.layout == Layout::kNHWC && !aligned({p.weight, p.bias, p.mean, p.rstd})) vec = 1;
  return view_of(p, vec, flat);
}

bool needs_affine_grads(const InstanceNormActBwdParams& p) {
  return p.grad_weight != nullptr || p.grad_bias != nullptr;
}

// The sums over all chunks in p.workspace, [N * C], behind those of each chunk: for weight and
// bias.
template <typename C>
GradSums<C>* totals_of(const InstanceNormActBwdParams& p, const NormPlan& plan) {
  return static_cast<GradSums<C>*>(p.workspace) + plan.sums.chunks * p.n * p.c;
}

template <typename T>
Inputs<T> inputs_of(const InstanceNormActBwdParams& p, const View& view) {
  using C = Compute<T>;
  return {static_cast<const T*>(p.grad_y),
          static_cast<const T*>(p.grad_inner),
          static_cast<const T*>(p.x),
          static_cast<const C*>(p.mean),
          static_cast<const C*>(p.rstd),
          {static_cast<const C*>(p.weight), static_cast<const C*>(p.bias), static_cast<int>(p.c)},
          image_of(view),
          static_cast<int>(p.pad),
          C(slope_of(p.activation, p.negative_slope))};
}

template <typename T, int kVec, bool kPerElement>
Status backward(const InstanceNormActBwdParams& p, const NormPlan& plan, const View& view,
                Stream stream) {
  using C = Compute<T>;
  const int64_t chunks = plan.regime == NormRegime::kSplit ? plan.sums.chunks : 0;
  const auto sums = static_cast<GradSums<C>*>(p.workspace);
  const auto totals = needs_affine_grads(p) ? totals_of<C>(p, plan) : nullptr;
  const GradPartials<C> partials = {chunks > 0 ? sums : nullptr, p.n * p.c,
                                    static_cast<int>(chunks)};
  const C size = C(p.h * p.w);
  const Inputs<T> in = inputs_of<T>(p, view);
  const Outputs<T> out = {static_cast<T*>(p.grad_x), static_cast<T*>(p.grad_residual)};
  const Position position = position_of(view, plan.write);
  if (plan.regime == NormRegime::kResident)
    return launch(resident_grad_kernel<T, kVec, kPerElement>, plan.write.launch, stream, in, out,
                  totals, size, position);
  return launch(grad_kernel<T, kVec, kPerElement>, plan.write.launch, stream, in, out, partials,
                totals, p.constant_statistics, size, position);
}

// The sums of gz and of gz * (x - mean) of each chunk, into p.workspace [chunks, N * C].
template <typename T, int kVec, bool kPerElement>
Status sum_gradients(const InstanceNormActBwdParams& p, const TiledPass& pass, const View& view,
                     Stream stream) {
  return launch(grad_sums_kernel<T, kVec, kPerElement>, pass.launch, stream, inputs_of<T>(p, view),
                static_cast<GradSums<Compute<T>>*>(p.workspace), p.n * p.c,
                position_of(view, pass));
}

}  // namespace

NormPlan plan_of(const InstanceNormActBwdParams& p, const DeviceProperties& device) {
  const View view = view_of(p);
  const int64_t stats = p.n * p.c, sums_bytes = 2 * stat_size_of(p.dtype);
  const bool affine = needs_affine_grads(p);
  NormPlan plan = {NormRegime::kMap, {}, map_pass(view), {}, 0};
  if (affine) plan.affine_grads = thread_per_element(p.c, kMaxThreads);
  if (p.constant_statistics && !affine) return plan;
  const auto resident = p.constant_statistics
                            ? std::nullopt
                            : resident_pass(view, resident_vectors(view.vec) / 2, device);
  if (resident) {
    plan.regime = NormRegime::kResident, plan.write = *resident;
    plan.workspace_bytes = affine ? stats * sums_bytes : 0;
    return plan;
  }
  plan.regime = NormRegime::kSplit, plan.sums = plan.write = split_pass(view, device);
  plan.workspace_bytes = (plan.sums.chunks + (affine ? 1 : 0)) * stats * sums_bytes;
  return plan;
}

Status instance_norm_act_bwd_cuda(const InstanceNormActBwdParams& p, const NormPlan& plan,
                                  Stream stream) {
  const View view = view_of(p, plan.write.vec, p.pad == 0);
  if (!fits(view, p.pad)) return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T>;
    Status status = dispatch_vec<T>(p.layout, plan.write.vec, [&](auto vec, auto per_element) {
      if (plan.regime == NormRegime::kSplit) {
        const Status summed = sum_gradients<T, vec(), per_element()>(p, plan.sums, view, stream);
        if (summed != Status::kOk) return summed;
      }
      return backward<T, vec(), per_element()>(p, plan, view, stream);
    });
    if (status != Status::kOk || plan.affine_grads.grid == 0) return status;
    return launch(affine_grads_kernel<C>, plan.affine_grads, stream, totals_of<C>(p, plan),
                  static_cast<const C*>(p.rstd), p.n, static_cast<int>(p.c),
                  static_cast<C*>(p.grad_weight), static_cast<C*>(p.grad_bias));
  });
}

}  // namespace cyclegan_fast
