// narrow_conv to wide: a matrix product of pixels [M] with (tap, channel) [K] by wide channels [N].
//
// A block computes 16 x 16 pixels of up to 64 channels, and goes on to another tile with the same
// weights. Its narrow pixels, with their halo, and its weights lie in shared memory. A pixel's
// channels are padded with zeros to one quad of 4, or two. A step of the tensor cores sums over 16
// elements of K, four quads: lane l takes quad l % 4, so that what it holds of a pixel is 8
// neighbouring bytes, one load. (In which order a sum runs over K is free, as long as both operands
// agree.) Wide channels are numbered so that a lane ends up with 8 neighbours: one store.
//
// On paper, for the stem (C = 3, K = 64, 7x7) at batch 1, 256x256: 65,536 pixels x 13 steps (49
// taps padded to 52 quads) x 8 column tiles = 426 k mma of 4,096 FLOP, 71 % of them not
// padding; 8.8 MB, 2.2 us at 4 TB/s. A warp has 64 pixels x 32 channels: for 16 mma (128 cycles, at
// 8 of each quarter of a multiprocessor) it reads a (8 x 256 B), b (4 x 256 B) and one offset: 25
// cycles of 128 B, 100 for the four quarters. 256 tiles are resident at once, two on a
// multiprocessor. Predicted: 9 us, 4 of them at the tensor cores' peak. 31 KB of shared memory, 64
// accumulators of 116 registers.
#include <algorithm>

#include "cuda/narrow_conv.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kSide = 16;     // pixels of a tile in either direction
constexpr int kWarpRows = 4;  // of a warp: 4 x 16 pixels
constexpr int kGroup = 32;    // channels of a warp
constexpr int kGroupTiles = kGroup / 8;
constexpr int kMaxGroups = 2;  // of a block
constexpr int kQuad = 4;       // channels of a quad, 8 bytes

// What a block holds, in quads.
struct ToWideBlock {
  int quads;          // of a pixel
  int steps;          // of four quads of K
  int groups;         // of kGroup channels
  int rows, columns;  // narrow pixels of a tile, with their halo

  explicit ToWideBlock(const NarrowConvParams& p)
      : quads(static_cast<int>(ceil_div(p.c, kQuad))),
        steps(static_cast<int>(ceil_div(p.r * p.s * quads, 4))),
        groups(static_cast<int>(std::min<int64_t>(ceil_div(p.k, kGroup), kMaxGroups))),
        rows(static_cast<int>((kSide - 1) * p.stride + p.r)),
        columns(static_cast<int>((kSide - 1) * p.stride + p.s)) {}

  CYCLEGAN_FAST_HD int weights() const { return steps * groups * kGroupTiles * 32; }
  CYCLEGAN_FAST_HD int tile() const { return rows * columns * quads; }
  int64_t bytes() const { return int64_t{weights() + tile() + 2 * steps} * 8; }
};

// weights [steps][group, column tile][lane]: the quads of b, as lanes take them.
template <typename T>
__device__ void load_weights(const NarrowConvParams& p, const ToWideBlock& at, int first_channel,
                             uint2* weights) {
  const int quads = 4 * at.steps, channels = at.groups * kGroup;
  const int taps = static_cast<int>(p.r * p.s);
  for (int i = threadIdx.x; i < quads * channels; i += blockDim.x) {
    // Neighbouring threads read neighbouring weights.
    const int quad = p.wide_input ? i / channels : i % quads;
    const int channel = p.wide_input ? i % channels : i / quads;
    const int tap = quad / at.quads, c = quad % at.quads * kQuad, k = first_channel + channel;
    T values[kQuad];
#pragma unroll
    for (int e = 0; e < kQuad; ++e) {
      const bool valid = tap < taps && c + e < p.c && k < p.k;
      values[e] = valid ? weight_at<T>(p, tap, c + e, k) : T{0};
    }
    // Lane t of a warp gets columns 2t and 2t + 1 of all its column tiles: channels 8t .. 8t + 7.
    const int inside = channel % kGroup, column = inside / 8 * 2 + inside % 2;
    const int tile = channel / kGroup * kGroupTiles + inside % 8 / 2;
    weights[((quad / 4) * at.groups * kGroupTiles + tile) * 32 + column * 4 + quad % 4] = {
        pair_of(values[0], values[1]), pair_of(values[2], values[3])};
  }
}

// offsets [4 steps]: where the quads of K lie in the tile, seen from a pixel's first one. Those
// that pad K repeat the first tap, with a weight of zero: what is not finite reaches no other
// pixel.
__device__ inline void load_offsets(const NarrowConvParams& p, const ToWideBlock& at,
                                    int* offsets) {
  for (int i = threadIdx.x; i < 4 * at.steps; i += blockDim.x) {
    const int tap = i / at.quads < p.r * p.s ? i / at.quads : 0;
    const int row = tap / static_cast<int>(p.s), column = tap % static_cast<int>(p.s);
    offsets[i] = (row * at.columns + column) * at.quads + i % at.quads;
  }
}

// tile [rows][columns][quads] from narrow pixel (y0, x0) of an image on; zeros outside.
template <typename T>
__device__ void load_tile(const NarrowConvParams& p, const ToWideBlock& at, int image, int y0,
                          int x0, uint2* tile) {
  const T* narrow = static_cast<const T*>(p.narrow);
  for (int i = threadIdx.x; i < at.rows * at.columns; i += blockDim.x) {
    const int y = y0 + i / at.columns, x = x0 + i % at.columns;
    const bool inside = y >= 0 && y < p.hn && x >= 0 && x < p.wn;
    const T* pixel = narrow + ((image * p.hn + y) * p.wn + x) * p.c;
    for (int quad = 0; quad < at.quads; ++quad) {
      T values[kQuad];
#pragma unroll
      for (int e = 0; e < kQuad; ++e) {
        const int c = quad * kQuad + e;
        values[e] = inside && c < p.c ? pixel[c] : T{0};
      }
      tile[i * at.quads + quad] = {pair_of(values[0], values[1]), pair_of(values[2], values[3])};
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kNarrowConvThreads, 2)
    narrow_conv_to_wide_kernel(const __grid_constant__ NarrowConvParams p,
                               const __grid_constant__ NarrowConvPlan plan,
                               const __grid_constant__ ToWideBlock at) {
  CYCLEGAN_FAST_DYNAMIC_SHARED(memory);
  uint2* weights = reinterpret_cast<uint2*>(memory);
  uint2* tile = weights + at.weights();
  int* offsets = reinterpret_cast<int*>(tile + at.tile());
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int rows = threadIdx.x / 32 % (kSide / kWarpRows) * kWarpRows;  // the warp's first
  const int group = threadIdx.x / 32 / (kSide / kWarpRows);
  const int parts = static_cast<int>(plan.parts), stride = static_cast<int>(p.stride);
  const int block_channel = static_cast<int>(blockIdx.x) % parts * kMaxGroups * kGroup;
  load_weights<T>(p, at, block_channel, weights);
  load_offsets(p, at, offsets);

  const int64_t tiles = p.n * plan.tiles_y * plan.tiles_x;
  for (int64_t i = blockIdx.x / parts; i < tiles; i += gridDim.x / parts) {
    const ImageTile where = image_tile(plan, i);
    const int y0 = where.y * kSide, x0 = where.x * kSide, pad = static_cast<int>(p.pad);
    __syncthreads();  // the last tile has been read
    load_tile<T>(p, at, where.image, y0 * stride - pad, x0 * stride - pad, tile);
    __syncthreads();

    float sums[kWarpRows][kGroupTiles][4] = {};  // row of pixels, column tile
    const uint2* pixels = tile + (rows * stride * at.columns + g * stride) * at.quads;
    const int row = stride * at.columns * at.quads, half = 8 * stride * at.quads;
    const uint2* columns = weights + group * kGroupTiles * 32 + lane;
#pragma unroll 1
    for (int step = 0; step < at.steps; ++step) {
      const uint2* quad = pixels + offsets[4 * step + t];
      uint2 b[kGroupTiles];
#pragma unroll
      for (int j = 0; j < kGroupTiles; ++j) b[j] = columns[j * 32];
      columns += at.groups * kGroupTiles * 32;
#pragma unroll
      for (int m = 0; m < kWarpRows; ++m) {
        const uint2 low = quad[m * row], high = quad[m * row + half];
#pragma unroll
        for (int j = 0; j < kGroupTiles; ++j)
          mma<T>(sums[m][j], {low.x, high.x, low.y, high.y}, {b[j].x, b[j].y});
      }
    }

    const int channel = block_channel + group * kGroup + 8 * t;
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int y = y0 + rows + m, x = x0 + g + 8 * h;
        if (y >= p.hw || x >= p.ww || channel >= p.k) continue;
        Vector<T, 8> values;
#pragma unroll
        for (int e = 0; e < 8; ++e) values.v[e] = from_compute<T>(sums[m][e / 2][2 * h + e % 2]);
        store_vector(static_cast<T*>(p.wide), ((where.image * p.hw + y) * p.ww + x) * p.k + channel,
                     values);
      }
    }
  }
}

}  // namespace

NarrowConvPlan narrow_conv_to_wide_plan(const NarrowConvParams& p, const DeviceProperties& device) {
  NarrowConvPlan plan = {};
  if (!narrow_conv_fits(p)) return plan;
  const ToWideBlock at(p);
  plan.tiles_y = ceil_div(p.hw, kSide), plan.tiles_x = ceil_div(p.ww, kSide);
  plan.parts = ceil_div(p.k, at.groups * kGroup);
  // What is resident at once: each block reads its weights once.
  const int64_t resident = ceil_div(2 * device.multiprocessors, plan.parts);
  plan.main.grid = plan.parts * std::min(p.n * plan.tiles_y * plan.tiles_x, resident);
  plan.main.block = at.groups * kSide / kWarpRows * 32;
  plan.main.shared_memory = at.bytes();
  return plan;
}

Status narrow_conv_to_wide_cuda(const NarrowConvParams& p, const NarrowConvPlan& plan,
                                Stream stream) {
  return dispatch_16_bit(p.dtype, [&](auto element) {
    return launch(narrow_conv_to_wide_kernel<decltype(element)>, plan.main, stream, p, plan,
                  ToWideBlock(p));
  });
}

}  // namespace cyclegan_fast
