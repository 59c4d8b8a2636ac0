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

// Numbers of a thread's channels, 16 bytes at a time: `first` is a multiple of kStats and, where
// that is above 1, `from` is aligned.
template <int kStats, typename C>
__device__ void load_stats(const C* from, int64_t first, C (&to)[kStats]) {
  constexpr int kPart = kStats < kVectorElements<C> ? kStats : kVectorElements<C>;
#pragma unroll
  for (int part = 0; part < kStats; part += kPart) {
    const Vector<C, kPart> loaded = load_vector<kPart>(from, first + part);
#pragma unroll
    for (int k = 0; k < kPart; ++k) to[part + k] = loaded.v[k];
  }
}
template <int kStats, typename C>
__device__ void store_stats(C* to, int64_t first, const C (&from)[kStats]) {
  constexpr int kPart = kStats < kVectorElements<C> ? kStats : kVectorElements<C>;
#pragma unroll
  for (int part = 0; part < kStats; part += kPart) {
    Vector<C, kPart> stored;
#pragma unroll
    for (int k = 0; k < kPart; ++k) stored.v[k] = from[part + k];
    store_vector(to, first + part, stored);
  }
}

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
  C weight[kStats];
#pragma unroll
  for (int k = 0; k < kStats; ++k) weight[k] = C(1), map.bias[k] = C(0);
  if (affine.weight && at.active) load_stats(affine.weight, first, weight);
  if (affine.bias && at.active) load_stats(affine.bias, first, map.bias);
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    map.mean[k] = mean[k];
    map.scale[k] = affine.weight ? rstd[k] * weight[k] : rstd[k];
  }
  return map;
}

// ---- The sums pass, and the merge of its chunks in a fixed order ----

// A block's statistics, neighbours in [N, C], each a column of its threads: those of its tile of
// channels (NHWC), or that of its plane. For blocks with one plane.
struct Columns {
  int64_t first;
  int count;  // a power of two
  int valid;  // of them, from the first on

  __device__ int mine() const { return static_cast<int>(threadIdx.x) % count; }
  __device__ int64_t stat() const { return first + mine(); }
  __device__ bool active() const { return mine() < valid; }
};

template <int kStats>
__device__ Columns columns_of(const Position& at) {
  const int tile = at.vector - static_cast<int>(threadIdx.x) % at.vectors, left = at.inner - tile;
  return {(at.plane * at.inner + tile) * kStats, at.vectors * kStats,
          (left < at.vectors ? left : at.vectors) * kStats};
}

// Hands `numbers`, which the threads have by column, to those that compute with them, by vector.
template <int kStats, int kNumbers, typename C>
__device__ void to_vectors(const C (&numbers)[kNumbers], const Columns& columns,
                           C (&mine)[kNumbers][kStats]) {
  using Part = Vector<C, kVectorElements<C>>;  // aligned as load_stats wants it
  CYCLEGAN_FAST_SHARED(Part, shared, kNumbers * kMaxThreads / kVectorElements<C>);
  C* const values = reinterpret_cast<C*>(shared);
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kNumbers; ++i) {
    if (thread < columns.count) values[i * kMaxThreads + thread] = numbers[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kNumbers; ++i)
    load_stats(values + i * kMaxThreads, thread % (columns.count / kStats) * kStats, mine[i]);
}

// Mean and sum of squares about it of x - shift, where the shift is the first pixel of the plane:
// means that are small are merged without loss.
template <typename C>
struct alignas(2 * sizeof(C)) ChunkMoments {
  C mean, m2;
};

// What the sums pass leaves of the moments.
template <typename C>
struct MomentPartials {
  ChunkMoments<C>* values;  // [chunks, stats]; null where there are none
  C* shift;                 // [stats]
  int64_t stats;            // N * C
  int chunks;
  C size, last_size;  // elements of a chunk, and of the last one

  // The moments of this thread's column over all chunks.
  __device__ Moments<C> merge(const Columns& columns) const {
    Moments<C> mine = {};
    if (columns.active()) {
      const int step = static_cast<int>(blockDim.x) / columns.count;
#pragma unroll 4
      for (int chunk = static_cast<int>(threadIdx.x) / columns.count; chunk < chunks;
           chunk += step) {
        const ChunkMoments<C> one = values[chunk * stats + columns.stat()];
        mine.merge({chunk + 1 < chunks ? size : last_size, one.mean, one.m2});
      }
    }
    const C count = size * C(chunks - 1) + last_size;
    const C mean = column_sum(mine.count * mine.mean, columns.count) / count;
    const C d = mine.mean - mean;
    const C m2 = column_sum(mine.m2 + mine.count * d * d, columns.count);
    return {count, columns.active() ? shift[columns.stat()] + mean : mean, m2};
  }
};

// The moments of a block's chunk of pixels.
template <typename T, int kVec, bool kPerElement>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    moments_kernel(const T* __restrict__ x,  // [planes, pixels, inner * kVec]
                   MomentPartials<Compute<T>> partials, Position at) {
  using C = Compute<T>;
  constexpr int kStats = kStatsOf<kVec, kPerElement>;
  at.locate();
  C shift[kStats] = {};
  ShiftedSums<C> sums[kVec] = {};
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
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const C d = to_compute(vectors[u].v[k]) - shift[kPerElement ? k : 0];
        sums[k].d += d;
        sums[k].square += d * d;
      }
    }
  }

  ShiftedSums<C> mine[kStats];
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    if (k < kStats) {
      mine[k] = sums[k];
    } else {
      mine[0].merge(sums[k]);
    }
  }
  block_reduce(mine, at.vectors);
  if (static_cast<int>(threadIdx.x) >= at.vectors || !at.active) return;
  const C count = C(at.end - at.begin) * C(kPerElement ? 1 : kVec);
  const int64_t stat = first_stat<kStats>(at), chunk = blockIdx.x % at.chunks;
#pragma unroll
  for (int k = 0; k < kStats; ++k) {
    const C mean = mine[k].d / count, m2 = mine[k].square - mine[k].d * mean;
    partials.values[chunk * partials.stats + stat + k] = {mean, m2 < 0 ? C(0) : m2};
  }
  if (chunk == 0) store_stats(partials.shift, stat, shift);
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

// The pass that sums x, and the bytes of what it leaves.
template <typename Params>
TiledPass moments_pass(const Params& p, const DeviceProperties& device) {
  return split_pass(reading_view(p), device);
}
template <typename Params>
int64_t moments_bytes(const Params& p, const TiledPass& pass) {
  return (2 * pass.chunks + 1) * p.n * p.c * stat_size_of(p.dtype);
}

// What the pass leaves in p.workspace, of moments_bytes.
template <typename C, typename Params>
MomentPartials<C> moment_partials(const Params& p, const TiledPass& pass) {
  const int64_t pixels = view_of(p, pass.vec, true).pixels();
  const C per_pixel = C(p.layout == Layout::kNHWC ? 1 : pass.vec);
  const auto values = static_cast<ChunkMoments<C>*>(p.workspace);
  return {values,
          reinterpret_cast<C*>(values + pass.chunks * p.n * p.c),
          p.n * p.c,
          static_cast<int>(pass.chunks),
          C(pass.chunk_size) * per_pixel,
          C(pixels - (pass.chunks - 1) * pass.chunk_size) * per_pixel};
}

template <typename T, typename Params>
Status sum_moments(const Params& p, const TiledPass& pass, Stream stream) {
  const Position position = position_of(view_of(p, pass.vec, true), pass);
  return dispatch_vec<T>(p.layout, pass.vec, [&](auto vec, auto per_element) {
    return launch(moments_kernel<T, vec(), per_element()>, pass.launch, stream,
                  static_cast<const T*>(p.x), moment_partials<Compute<T>>(p, pass), position);
  });
}

}  // namespace cyclegan_fast
