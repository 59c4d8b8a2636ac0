// What the kernels around instance norm share: how they view a tensor, where a pixel lies in one
// with a border, the parameters of a channel, and the statistics pass.
#pragma once

#include <type_traits>

#include "instance_norm_act.h"
#include "launch.h"
#include "reductions.cuh"
#include "tiling.cuh"
#include "vectors.cuh"

namespace cyclegan_fast {

// Statistics per thread: one for each element of the vector (NHWC), or one for all of them (NCHW).
template <int kVec, bool kPerElement>
constexpr int kStatsOf = kPerElement ? kVec : 1;

// Vectors that a thread of a resident kernel keeps.
template <int kVec>
constexpr int kResidentVectors = kVec > 1 ? 8 : 16;

inline int64_t resident_vectors(int vec) {
  return vec > 1 ? kResidentVectors<2> : kResidentVectors<1>;
}

// ---- Where a pixel lies ----

// A pixel of an image and, in elements, of the same image with a border around it.
struct Pixel {
  int i, j;
};
struct Image {
  int height, width;
  FastDivisor row_length;  // width

  __device__ Pixel pixel(uint32_t index) const {
    const uint32_t row = row_length.divide(index);
    return {static_cast<int>(row), static_cast<int>(index - row * row_length.divisor)};
  }
  // Index in [planes, height + 2 border, width + 2 border] of pixel (i, j), which may be on the
  // border.
  __device__ int64_t at(int64_t plane, int i, int j, int border) const {
    return (plane * (height + 2 * border) + i + border) * (width + 2 * border) + j + border;
  }
  // Whether a border of `pad` pixels shows (i, j) once more.
  __device__ bool mirrored(const Pixel& p, int pad) const {
    return pad > 0 &&
           (p.i <= pad || p.i >= height - 1 - pad || p.j <= pad || p.j >= width - 1 - pad);
  }
  // Calls f(i, j) for the positions on a reflected border of `pad` pixels that show (i, j).
  template <typename F>
  __device__ void for_each_reflection(const Pixel& p, int pad, F&& f) const {
    if (!mirrored(p, pad)) return;
#pragma unroll 1
    for (int r = 0; r < 3; ++r) {
      const int i = static_cast<int>(mirror(r, p.i, height, pad));
#pragma unroll 1
      for (int s = 0; i >= 0 && s < 3; ++s) {
        const int j = static_cast<int>(mirror(s, p.j, width, pad));
        if (j >= 0 && r + s > 0) f(i - pad, j - pad);
      }
    }
  }
};

inline Image image_of(const View& view) {
  return {static_cast<int>(view.height), static_cast<int>(view.width), FastDivisor(view.width)};
}

// ---- The parameters of a channel ----

// weight and bias [channels], each null where there is none.
template <typename C>
struct Affine {
  const C* weight;
  const C* bias;
  int channels;
};

// z = (x - mean) * scale + bias, the same in forward and backward: the sign of z is the mask.
template <typename C, int kStats>
struct ChannelMap {
  C mean[kStats], scale[kStats], bias[kStats];

  __device__ C z(C x, int k) const { return fma(x - mean[k], scale[k], bias[k]); }
};

// Index of the thread's first statistic in [N, C].
template <int kStats>
__device__ int64_t first_stat(const Position& at) {
  return (at.plane * at.inner + at.vector) * kStats;
}

template <bool kPerElement, int kStats, typename C>
__device__ ChannelMap<C, kStats> channel_map(const C (&mean)[kStats], const C (&rstd)[kStats],
                                             const Affine<C>& affine, const Position& at) {
  ChannelMap<C, kStats> map;
  const uint32_t first = kPerElement ? static_cast<uint32_t>(at.vector * kStats)
                                     : static_cast<uint32_t>(at.plane) % affine.channels;
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    map.mean[k] = mean[k];
    map.scale[k] = affine.weight && at.active ? rstd[k] * affine.weight[first + k] : rstd[k];
    map.bias[k] = affine.bias && at.active ? affine.bias[first + k] : C(0);
  }
  return map;
}

// ---- The statistics pass ----

// Moments of x - shift, where the shift is the first pixel of the plane: means that are small are
// merged without loss.
template <typename C>
struct ShiftedMoments {
  Moments<C> moments;
  C shift;

  __device__ Moments<C> unshifted() const {
    return {moments.count, shift + moments.mean, moments.m2};
  }
};

// Those of a block's chunk of pixels: into partial, or to `finish` where it is all of them.
template <typename T, int kVec, bool kPerElement, typename Finish>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    moments_kernel(const T* __restrict__ x,              // [planes, pixels, inner * kVec]
                   ShiftedMoments<Compute<T>>* partial,  // [chunks, N * C]
                   int64_t stats, Finish finish, Position at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerElement>;
  at.locate();
  C shift[kStats] = {}, sum[kVec] = {}, square[kVec] = {};
  C count = 0;
  if (at.active) {
    const Vector<T, kVec> vector = load_vector<kVec>(x, at.element(0, kVec));
#pragma unroll
    for (int k = 0; k < kStats; ++k) shift[k] = to_compute(vector.v[k]);
  }
  for (uint32_t pixel = at.pixel; pixel < at.end; pixel += kUnroll * at.step) {
    Vector<T, kVec> vectors[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t one = pixel + u * at.step;
      if (one < at.end) vectors[u] = load_vector<kVec>(x, at.element(one, kVec));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (pixel + u * at.step >= at.end) continue;
      count += 1;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const C d = to_compute(vectors[u].v[k]) - shift[kPerElement ? k : 0];
        sum[k] += d;
        square[k] += d * d;
      }
    }
  }

  Moments<C> mine[kStats];
  if (!kPerElement) {
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
    mine[k] = {count, offset, m2 > 0 ? m2 : C(0)};
  }
  block_reduce(mine, at.vectors);
  if (static_cast<int>(threadIdx.x) >= at.vectors || !at.active) return;
  const int64_t stat = first_stat<kStats>(at), split = blockIdx.x % at.chunks;
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    const ShiftedMoments<C> result{mine[k], shift[k]};
    if (at.chunks > 1) {
      partial[split * stats + stat + k] = result;
    } else {
      finish(stat + k, result.unshifted());
    }
  }
}

// One thread per statistic merges its chunks in order and hands the total to `finish`.
template <typename C, typename Finish>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    merge_moments_kernel(const ShiftedMoments<C>* __restrict__ partial, int64_t stats, int chunks,
                         Finish finish) {
  const int64_t stat = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (stat >= stats) return;
  ShiftedMoments<C> total = partial[stat];
  for (int s = 1; s < chunks; ++s) total.moments.merge(partial[s * stats + stat].moments);
  finish(stat, total.unshifted());
}

// ---- Launchers ----

// The view of a [N, C, H, W] tensor. A flat one (NCHW without borders) is a single row of vectors.
template <typename Params>
View view_of(const Params& p, int vec, bool flat) {
  if (p.layout == Layout::kNHWC) return {p.n, p.h, p.w, p.c / vec, vec};
  if (flat) return {p.n * p.c, 1, p.h * p.w / vec, 1, vec};
  return {p.n * p.c, p.h, p.w, 1, 1};
}

template <typename Params>
View reading_view(const Params& p) {
  const int64_t neighbours = p.layout == Layout::kNHWC ? p.c : p.h * p.w;
  return view_of(p, vec_of(p.dtype, neighbours, {p.x}), true);
}

// Calls f(vec as a constant, per element as a constant).
template <typename T, typename F>
Status dispatch_vec(Layout layout, int vec, F&& f) {
  using Whole = std::integral_constant<int, kVectorElements<T>>;
  using Single = std::integral_constant<int, 1>;
  if (layout == Layout::kNHWC)
    return vec > 1 ? f(Whole{}, std::true_type{}) : f(Single{}, std::true_type{});
  return vec > 1 ? f(Whole{}, std::false_type{}) : f(Single{}, std::false_type{});
}

// The statistics of x: count, mean, squares and shift of each chunk.
template <typename Params>
ReductionPlan moments_plan(const Params& p) {
  return reduction_plan(reading_view(p), p.n * p.c, 4 * stat_size_of(p.dtype), false);
}

// finish(stat, moments) for every statistic of x, on the device. p.workspace: plan.workspace_bytes.
template <typename T, typename Params, typename Finish>
Status compute_moments(const Params& p, const ReductionPlan& plan, Stream stream,
                       const Finish& finish) {
  using C = Compute<T>;
  const View view = view_of(p, plan.pass.vec, true);
  const int64_t stats = p.n * p.c;
  const auto partial = static_cast<ShiftedMoments<C>*>(p.workspace);
  const Status status = dispatch_vec<T>(p.layout, plan.pass.vec, [&](auto vec, auto per_element) {
    return launch(moments_kernel<T, vec(), per_element(), Finish>, plan.pass.launch, stream,
                  static_cast<const T*>(p.x), partial, stats, finish, position_of(view, plan.pass));
  });
  if (status != Status::kOk || plan.merge.grid == 0) return status;
  return launch(merge_moments_kernel<C, Finish>, plan.merge, stream, partial, stats,
                static_cast<int>(plan.pass.chunks), finish);
}

}  // namespace cyclegan_fast
