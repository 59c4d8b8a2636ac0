// narrow_conv's weight gradient: a matrix product of wide channels [M] with pixels [K] by columns
// (tap, channel) [N], the pixels split over blocks; a second kernel adds their partial results in a
// fixed order.
//
// A block takes tiles of 8 x 16 wide pixels, 64 channels and up to 160 columns. Wide pixels are
// copied while the tile before is multiplied, and read transposed. Narrow ones are spread out, once
// for each horizontal tap and channel, so that the pixels which a row of wide ones meets are
// neighbours:
//
//   spread[half of x][row][(s, c)][8 x] = narrow[row, stride x + s, c]
//
// Column (r, s, c) finds the row q of wide pixels at row r + stride q: the columns of a tile are
// neighbours there, and use all banks.
//
// Eight warps: four share the columns, two the rows of the tile; the latter are added in the block.
//
// On paper, for the stem (K = 64, C = 3, 7x7) at batch 1, 256x256: 147 columns padded to 160, 328 k
// mma, 92 % of them not padding: 4,960 cycles of 528 quarters, 2.8 us. A step (16 pixels) of a warp
// reads 4 x 512 B (a) and 5 x 256 B (b) for 20 mma: 26 cycles, 104 for the four quarters, of 160.
// Spreading takes about half as long again. 132 blocks, one for each multiprocessor, write 41 KB
// each: 5.4 MB, read again from the L2 by 294 blocks. Predicted: 7 us, and 3 us for the merge. 46
// KB of shared memory, 80 accumulators of 124 registers.
#include <algorithm>

#include "cuda/narrow_conv.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kRows = 8, kColumns = 16;  // wide pixels of a tile
constexpr int kChannels = 64;            // of a block
constexpr int kChannelTiles = kChannels / 16;
constexpr int kSharers = 4;  // warps that share the columns
constexpr int kRowGroups = kNarrowConvThreads / 32 / kSharers;
constexpr int kManyTiles = 5,
              kFewTiles = 2;  // column tiles of a warp: 160 or 64 columns of a block
constexpr int kMergeThreads = 256;
constexpr int kMergeElements = 32;  // of a block; its warps share the splits

// What a block holds.
struct WeightGradBlock {
  int channels;      // K, rounded up to kChannels
  int warp_tiles;    // of 8 columns
  int columns;       // R S C, rounded up to those of a block
  int rows;          // narrow ones of a tile, with their halo
  int row_elements;  // of narrow pixels and channels
  int planes;        // (s, c)

  explicit WeightGradBlock(const NarrowConvParams& p)
      : channels(round_up(p.k, kChannels)),
        warp_tiles(p.r * p.s * p.c <= kFewTiles * kSharers * 8 ? kFewTiles : kManyTiles),
        columns(round_up(p.r * p.s * p.c, warp_tiles * kSharers * 8)),
        rows(static_cast<int>((kRows - 1) * p.stride + p.r)),
        row_elements(static_cast<int>(((kColumns - 1) * p.stride + p.s) * p.c)),
        planes(static_cast<int>(p.s * p.c)) {}

  CYCLEGAN_FAST_HD int block_columns() const { return warp_tiles * kSharers * 8; }
  CYCLEGAN_FAST_HD int parts() const {  // blocks that share the pixels of a split
    return channels / kChannels * (columns / block_columns());
  }
  CYCLEGAN_FAST_HD int64_t partial() const { return int64_t{channels} * columns; }
  // In units of 16 bytes.
  CYCLEGAN_FAST_HD int wide() const { return kRows * kColumns * kChannels / 8; }
  CYCLEGAN_FAST_HD int narrow() const { return (rows * row_elements + 7) / 8; }
  CYCLEGAN_FAST_HD int half() const { return rows * planes; }
  CYCLEGAN_FAST_HD int spread() const { return 2 * half(); }
  int64_t bytes() const {
    const int64_t sums = int64_t{warp_tiles} * kChannelTiles * 4 * kSharers * 32 * 4;
    return std::max(int64_t{2 * wide() + 2 * narrow() + spread()} * 16, sums);
  }
};

// Where 8 channels of a pixel lie: eight neighbouring pixels use all banks.
__device__ inline int wide_index(int pixel, int vector) {
  return pixel * (kChannels / 8) + (vector ^ (pixel & 7));
}

// target [pixel][vector] from wide pixel (y0, x0) on; zeros outside.
template <typename T>
__device__ void copy_wide(const NarrowConvParams& p, const WeightGradBlock& at, int image, int y0,
                          int x0, int first_channel, uint4* target) {
  const T* wide = static_cast<const T*>(p.wide);
  for (int i = threadIdx.x; i < at.wide(); i += blockDim.x) {
    const int vector = i % (kChannels / 8), pixel = i / (kChannels / 8);
    const int y = y0 + pixel / kColumns, x = x0 + pixel % kColumns;
    const int k = first_channel + vector * 8;
    const bool valid = y < p.hw && x < p.ww && k < p.k;
    const T* source = wide + ((image * p.hw + y) * p.ww + x) * p.k + k;
    copy_16_bytes(&target[wide_index(pixel, vector)], valid ? source : wide, valid);
  }
}

// target [rows][row_elements] from narrow pixel (y0, x0) on; zeros outside.
template <typename T>
__device__ void load_narrow(const NarrowConvParams& p, const WeightGradBlock& at, int image, int y0,
                            int x0, T* target) {
  const T* narrow = static_cast<const T*>(p.narrow);
  const int first = x0 * static_cast<int>(p.c);
  const int64_t length = p.wn * p.c;
  for (int i = threadIdx.x; i < at.rows * at.row_elements; i += blockDim.x) {
    const int y = y0 + i / at.row_elements, element = first + i % at.row_elements;
    const bool inside = y >= 0 && y < p.hn && element >= 0 && element < length;
    target[i] = inside ? narrow[(image * p.hn + y) * length + element] : T{0};
  }
}

// target [half][row][plane], 8 x each.
template <typename T>
__device__ void spread_narrow(const NarrowConvParams& p, const WeightGradBlock& at, const T* narrow,
                              uint4* target) {
  const int step = static_cast<int>(p.stride * p.c);
  for (int i = threadIdx.x; i < at.spread(); i += blockDim.x) {
    const int half = i >= at.half(), rest = i - half * at.half();
    const T* source =
        narrow + rest / at.planes * at.row_elements + rest % at.planes + half * 8 * step;
    uint32_t pairs[4];
#pragma unroll
    for (int e = 0; e < 4; ++e)
      pairs[e] = pair_of(source[2 * e * step], source[(2 * e + 1) * step]);
    target[i] = {pairs[0], pairs[1], pairs[2], pairs[3]};
  }
}

// sums [channel tile][column tile] += the products of one row of pixels.
template <typename T, int kTiles>
__device__ void multiply_row(const uint4* wide, const uint4* const (&columns)[(kTiles + 1) / 2],
                             int offset, float (&sums)[kChannelTiles][kTiles][4]) {
  const int lane = threadIdx.x % 32;
  uint32_t b[kTiles][2];
#pragma unroll
  for (int j = 0; j + 1 < kTiles; j += 2) {
    uint32_t both[4];
    load_matrices<4>(both, columns[j / 2] + offset);
    b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
  }
  if constexpr (kTiles % 2 == 1) load_matrices<2>(b[kTiles - 1], columns[kTiles / 2] + offset);
#pragma unroll
  for (int m = 0; m < kChannelTiles; ++m) {
    uint32_t a[4];
    const int pixel = lane % 8 + lane / 16 * 8, vector = 2 * m + lane / 8 % 2;
    load_matrices<4, true>(a, wide + wide_index(pixel, vector));
#pragma unroll
    for (int j = 0; j < kTiles; ++j) mma<T>(sums[m][j], a, b[j]);
  }
}

template <typename T, int kTiles>
__global__ void __launch_bounds__(kNarrowConvThreads, 2)
    narrow_conv_weight_grad_kernel(const __grid_constant__ NarrowConvParams p,
                                   const __grid_constant__ NarrowConvPlan plan,
                                   const __grid_constant__ WeightGradBlock at) {
  CYCLEGAN_FAST_DYNAMIC_SHARED(memory);
  uint4* const wide = reinterpret_cast<uint4*>(memory);
  uint4* const narrow = wide + 2 * at.wide();
  uint4* const spread = narrow + 2 * at.narrow();
  const int lane = threadIdx.x % 32, sharer = threadIdx.x / 32 % kSharers;
  const int row_group = threadIdx.x / 32 / kSharers;
  const int splits = static_cast<int>(plan.parts), split = static_cast<int>(blockIdx.x) % splits;
  const int part = static_cast<int>(blockIdx.x) / splits;
  const int channel_parts = at.channels / kChannels;
  const int first_channel = part % channel_parts * kChannels;
  const int first_column = part / channel_parts * at.block_columns() + sharer * kTiles * 8;
  const int stride = static_cast<int>(p.stride), pad = static_cast<int>(p.pad);

  // Where the lane's columns lie. Those that pad N read the last one.
  const uint4* columns[(kTiles + 1) / 2];
#pragma unroll
  for (int j = 0; j < (kTiles + 1) / 2; ++j) {
    const int column = first_column + j * 16 + lane / 16 * 8 + lane % 8;
    const int last = static_cast<int>(p.r) * at.planes - 1;
    columns[j] = spread + (column < last ? column : last) + lane / 8 % 2 * at.half();
  }

  const int64_t tiles = p.n * plan.tiles_y * plan.tiles_x;
  const auto load = [&](int64_t tile, int slot) {
    if (tile < tiles) {
      const ImageTile where = image_tile(plan, tile);
      const int y0 = where.y * kRows, x0 = where.x * kColumns;
      copy_wide<T>(p, at, where.image, y0, x0, first_channel, wide + slot * at.wide());
      load_narrow<T>(p, at, where.image, y0 * stride - pad, x0 * stride - pad,
                     reinterpret_cast<T*>(narrow + slot * at.narrow()));
    }
    commit_copies();
  };
  float sums[kChannelTiles][kTiles][4] = {};
  int slot = 0;
  load(split, slot);
#pragma unroll 1
  for (int64_t tile = split; tile < tiles; tile += splits, slot ^= 1) {
    wait_for_copies<0>();
    __syncthreads();  // this tile is here, and the last one has been multiplied
    load(tile + splits, slot ^ 1);
    spread_narrow(p, at, reinterpret_cast<const T*>(narrow + slot * at.narrow()), spread);
    __syncthreads();
#pragma unroll 1
    for (int row = row_group; row < kRows; row += kRowGroups)
      multiply_row<T, kTiles>(wide + slot * at.wide() + row * kColumns * (kChannels / 8), columns,
                              row * stride * at.planes, sums);
  }

  // The row groups' sums, added by the first group.
  __syncthreads();
  float* const shared = reinterpret_cast<float*>(memory) + threadIdx.x % (kSharers * 32);
  constexpr int kStep = kSharers * 32;
  static_assert(kRowGroups == 2);
  if (row_group == 1) {
#pragma unroll
    for (int i = 0; i < kChannelTiles * kTiles * 4; ++i)
      shared[i * kStep] = sums[i / 4 / kTiles][i / 4 % kTiles][i % 4];
  }
  __syncthreads();
  if (row_group == 1) return;
  float* partial = static_cast<float*>(p.workspace) + split * at.partial();
#pragma unroll
  for (int m = 0; m < kChannelTiles; ++m) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int i = (m * kTiles + j) * 4 + 2 * h;
        const int k = first_channel + m * 16 + lane / 4 + 8 * h;
        const int column = first_column + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(partial + int64_t{k} * at.columns + column) = {
            sums[m][j][2 * h] + shared[i * kStep], sums[m][j][2 * h + 1] + shared[(i + 1) * kStep]};
      }
    }
  }
}

// grad_weight = the sum of partial [splits][channels][columns].
template <typename W>
__global__ void __launch_bounds__(kMergeThreads)
    narrow_conv_merge_kernel(const __grid_constant__ NarrowConvParams p,
                             const __grid_constant__ NarrowConvPlan plan,
                             const __grid_constant__ WeightGradBlock at) {
  constexpr int kWarps = kMergeThreads / kMergeElements;
  CYCLEGAN_FAST_SHARED(float, shared, kMergeThreads);
  const int lane = threadIdx.x % kMergeElements, warp = threadIdx.x / kMergeElements;
  const int columns = static_cast<int>(p.r * p.s * p.c), splits = static_cast<int>(plan.parts);
  const int element = static_cast<int>(blockIdx.x) * kMergeElements + lane;
  const int k = element / columns, column = element % columns;
  const bool valid = k < p.k;
  float sum = 0;
  if (valid) {
    const float* partial =
        static_cast<const float*>(p.workspace) + int64_t{k} * at.columns + column;
#pragma unroll 8
    for (int split = warp; split < splits; split += kWarps) sum += partial[split * at.partial()];
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (warp > 0 || !valid) return;
  for (int other = 1; other < kWarps; ++other) sum += shared[other * kMergeElements + lane];
  const int c = static_cast<int>(p.c);
  static_cast<W*>(p.grad_weight)[weight_index(p, column / c, column % c, k)] = from_compute<W>(sum);
}

}  // namespace

bool narrow_conv_fits(const NarrowConvParams& p) {
  const auto between = [](int64_t value, int64_t low, int64_t high) {
    return value >= low && value <= high;
  };
  constexpr int64_t kMaxElements = int64_t{1} << 31;  // of one row of an image and of all tiles
  return (p.dtype == DType::kBFloat16 || p.dtype == DType::kFloat16) &&
         (p.weight_dtype == DType::kFloat32 || p.weight_dtype == p.dtype) && between(p.c, 1, 8) &&
         between(p.k, 16, p.c <= 3 ? 128 : 64) && p.k % 8 == 0 && between(p.r, 1, 7) &&
         between(p.s, 1, 7) && between(p.stride, 1, p.wide_input ? 1 : 2) &&
         (p.r == p.s || !p.wide_input) && between(p.pad, 0, std::min(p.r, p.s) - 1) && p.hn >= 1 &&
         p.wn >= 1 && p.hw >= 1 && p.ww >= 1 && p.n >= 1 && p.hn * p.wn * p.c < kMaxElements &&
         p.hw * p.ww * p.k < kMaxElements && p.n * p.hw * p.ww < kMaxElements &&
         reinterpret_cast<uintptr_t>(p.wide) % 16 == 0;
}

NarrowConvPlan narrow_conv_weight_grad_plan(const NarrowConvParams& p,
                                            const DeviceProperties& device) {
  NarrowConvPlan plan = {};
  if (!narrow_conv_fits(p)) return plan;
  const WeightGradBlock at(p);
  plan.tiles_y = ceil_div(p.hw, kRows), plan.tiles_x = ceil_div(p.ww, kColumns);
  plan.parts =
      std::min(p.n * plan.tiles_y * plan.tiles_x, ceil_div(device.multiprocessors, at.parts()));
  plan.main = {plan.parts * at.parts(), kNarrowConvThreads, 1, at.bytes()};
  plan.merge = {ceil_div(p.k * p.r * p.s * p.c, kMergeElements), kMergeThreads};
  plan.workspace_bytes = plan.parts * at.partial() * 4;
  return plan;
}

Status narrow_conv_weight_grad_cuda(const NarrowConvParams& p, const NarrowConvPlan& plan,
                                    Stream stream) {
  const WeightGradBlock at(p);
  return dispatch_16_bit(p.dtype, [&](auto element) {
    using T = decltype(element);
    const Status status =
        at.warp_tiles == kFewTiles
            ? launch(narrow_conv_weight_grad_kernel<T, kFewTiles>, plan.main, stream, p, plan, at)
            : launch(narrow_conv_weight_grad_kernel<T, kManyTiles>, plan.main, stream, p, plan, at);
    if (status != Status::kOk) return status;
    return p.weight_dtype == DType::kFloat32
               ? launch(narrow_conv_merge_kernel<float>, plan.merge, stream, p, plan, at)
               : launch(narrow_conv_merge_kernel<T>, plan.merge, stream, p, plan, at);
  });
}

}  // namespace cyclegan_fast
