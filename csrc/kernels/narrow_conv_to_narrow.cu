// narrow_conv to narrow: horizontal taps beside the channels, vertical ones in the sum.
//
// A product of one wide pixel with the weights of all (horizontal tap, channel) [N = S C, 21 for
// the head] fills tensor-core tiles of 8 columns, where the 3 channels alone would leave most of
// one empty. So, for each row m of the result and each column x of wide pixels,
//
//   sums[m, x, (s, c)] = sum over tap row r, k of wide[row of m at r, x, k] U[r, s, c, k]
//
// grows in registers, and at the end narrow[m, v, c] is the sum over s of sums[m, v - s, (s, c)]: S
// numbers from shared memory. With a stride the rows (and columns) of the result fall into phases:
// m + pad = stride u + phase sees the taps phase, phase + stride, ... in wide rows u, u - 1, ...
//
// A block computes 16 rows of the result (8 at small sizes) over 32 columns of wide pixels, of
// which (S - 1) / stride are halo. Wide pixels come in chunks of 16 channels, a sector each, the
// next one while this one is multiplied; weights lie in shared memory, as lanes take them. A warp
// has 16 columns and 4 rows of one phase, and a wide row, once loaded, serves all of them: a step
// reads 4 (a) + 2 x 3 (b) times 128 B for 12 mma.
//
// On paper, for the head (K = 64, C = 3, 7x7) at batch 1, 256x256: 10 x 32 blocks of 8 rows and 4
// warps, three on a multiprocessor: 430 k mma of 4,096 FLOP, 70 % of them not padding or halo (with
// the 3 channels alone in a tile of 8 it would be 37 % of 803 k), 8 cycles each of 528
// quarters: 3.7 us. They read 8.4 MB x 14/8 x 32/26 from the L2, 3 us, beside it. Predicted: 9 us.
// 21 KB of weights and two chunks of 14 KB in shared memory, 48 accumulators of 96 registers.
#include <algorithm>

#include "cuda/narrow_conv.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kColumns = 32;  // of wide pixels in a block
constexpr int kChunk = 16;    // channels
constexpr int kWarpRows = 4;
constexpr int kFewTiles = 3, kManyTiles = 7;  // column tiles: S C up to 24, up to 56

// What a block holds.
struct ToNarrowBlock {
  int column_tiles;  // of 8 (s, c)
  int chunks;
  int taps_y, taps_x;  // of one phase, the largest one
  int coarse_rows;     // rows u: stride rows of the result each
  int rows;            // of wide pixels, with their halo
  int columns;         // columns v

  ToNarrowBlock(const NarrowConvParams& p, int result_rows)
      : column_tiles(p.s * p.c <= kFewTiles * 8 ? kFewTiles : kManyTiles),
        chunks(static_cast<int>(ceil_div(p.k, kChunk))),
        taps_y(static_cast<int>(ceil_div(p.r, p.stride))),
        taps_x(static_cast<int>(ceil_div(p.s, p.stride))),
        coarse_rows(result_rows / static_cast<int>(p.stride)),
        rows(coarse_rows + taps_y - 1),
        columns(kColumns - taps_x + 1) {}

  CYCLEGAN_FAST_HD int weights(int r) const { return chunks * r * column_tiles * 32; }  // quads
  CYCLEGAN_FAST_HD int stage() const { return rows * kColumns * 2; }  // 16 bytes each
  CYCLEGAN_FAST_HD int sums_row() const { return column_tiles * 8 + 1; }
  int64_t bytes(const NarrowConvParams& p) const {
    const int64_t operands =
        int64_t{weights(static_cast<int>(p.r))} * 8 + int64_t{2} * stage() * 16;
    const int64_t sums = int64_t{coarse_rows} * p.stride * kColumns * sums_row() * 4;
    return std::max(operands, sums);
  }
};

// weights [chunk][r][column tile][lane] [4]: b as lanes take it.
template <typename T>
__device__ void load_weights(const NarrowConvParams& p, const ToNarrowBlock& at, T* weights) {
  const int r = static_cast<int>(p.r), s = static_cast<int>(p.s), c = static_cast<int>(p.c);
  const int channels = at.chunks * kChunk, columns = r * at.column_tiles * 8;
  for (int i = threadIdx.x; i < channels * columns; i += blockDim.x) {
    // Neighbouring threads read neighbouring weights.
    const int k = p.wide_input ? i % channels : i / columns;
    const int column = p.wide_input ? i / channels : i % columns;
    const int row = column / (at.column_tiles * 8), inside = column % (at.column_tiles * 8);
    const bool valid = inside < s * c && k < p.k;
    const T value = valid ? weight_at<T>(p, row * s + inside / c, inside % c, k) : T{0};
    const int tile = (k / kChunk * r + row) * at.column_tiles + inside / 8;
    const int lane = inside % 8 * 4 + k % 8 / 2;
    weights[(tile * 32 + lane) * 4 + k % kChunk / 8 * 2 + k % 2] = value;
  }
}

// Where half `half` of a pixel's chunk lies: eight neighbouring pixels use all banks.
__device__ inline int stage_index(int row, int x, int half) {
  return (row * kColumns + x) * 2 + (half ^ ((x >> 2) & 1));
}

// stage [rows][columns][two halves], from wide pixel (y0, x0) on; zeros outside.
template <typename T>
__device__ void copy_chunk(const NarrowConvParams& p, const ToNarrowBlock& at, int image, int y0,
                           int x0, int chunk, uint4* stage) {
  const T* wide = static_cast<const T*>(p.wide);
  for (int i = threadIdx.x; i < at.stage(); i += blockDim.x) {
    const int half = i % 2, column = i / 2 % kColumns, row = i / 2 / kColumns;
    const int y = y0 + row, x = x0 + column, k = chunk * kChunk + half * 8;
    const bool valid = y >= 0 && y < p.hw && x >= 0 && x < p.ww && k < p.k;
    const T* source = wide + ((image * p.hw + y) * p.ww + x) * p.k + k;
    copy_16_bytes(&stage[stage_index(row, column, half)], valid ? source : wide, valid);
  }
}

// A warp's place: 16 columns from x on, coarse rows u .. u + 3, one phase.
struct Place {
  int x, u, phase;
};

// sums += this chunk's products.
template <typename T, int kTiles>
__device__ void multiply(const ToNarrowBlock& at, const Place& warp, int r, int stride,
                         const uint4* stage, const uint2* weights,
                         float (&sums)[kWarpRows][kTiles][4]) {
  const int lane = threadIdx.x % 32, x = warp.x + lane % 16, half = lane / 16;
  uint32_t a[kWarpRows][4];
  const auto load = [&](uint32_t (&target)[4], int row) {
    load_matrices<4>(target, &stage[stage_index(row, x, half)]);
  };
  // The last tap sees the first of the rows.
  int tap = (r - 1 - warp.phase) / stride;
  if (warp.phase >= r) return;
  int row = warp.u + at.taps_y - 1 - tap;
#pragma unroll
  for (int m = 0; m + 1 < kWarpRows; ++m) load(a[m], row + m);
#pragma unroll 1
  for (; tap >= 0; --tap, ++row) {
    load(a[kWarpRows - 1], row + kWarpRows - 1);
    const uint2* columns = weights + (warp.phase + stride * tap) * kTiles * 32 + lane;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const uint2 b = columns[j * 32];
#pragma unroll
      for (int m = 0; m < kWarpRows; ++m) mma<T>(sums[m][j], a[m], {b.x, b.y});
    }
#pragma unroll
    for (int m = 0; m + 1 < kWarpRows; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[m][i] = a[m + 1][i];
    }
  }
}

// shared [row of the result][x][(s, c)] = sums.
template <int kTiles>
__device__ void share_sums(const ToNarrowBlock& at, const Place& warp, int stride,
                           const float (&sums)[kWarpRows][kTiles][4], float* shared) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < kWarpRows; ++m) {
    const int row = (warp.u + m) * stride + warp.phase;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int x = warp.x + g + i / 2 * 8;
        shared[(row * kColumns + x) * at.sums_row() + j * 8 + 2 * t + i % 2] = sums[m][j][i];
      }
    }
  }
}

// Writes the tile of the result whose first pixel is (m0, v0) by the sums over horizontal taps.
template <typename T>
__device__ void write_result(const NarrowConvParams& p, const ToNarrowBlock& at, int image, int m0,
                             int v0, const float* shared) {
  const int c = static_cast<int>(p.c), s = static_cast<int>(p.s),
            stride = static_cast<int>(p.stride);
  const int rows = at.coarse_rows * stride, row_elements = at.columns * stride * c;
  T* narrow = static_cast<T*>(p.narrow);
  for (int i = threadIdx.x; i < rows * row_elements; i += blockDim.x) {
    const int row = i / row_elements, rest = i % row_elements, column = rest / c,
              channel = rest % c;
    const int m = m0 + row, v = v0 + column;
    if (m < 0 || m >= p.hn || v < 0 || v >= p.wn) continue;
    const float* first =
        shared + (row * kColumns + column / stride + at.taps_x - 1) * at.sums_row();
    float sum = 0;
    for (int tap = column % stride; tap < s; tap += stride)
      sum += first[tap * c + channel - tap / stride * at.sums_row()];
    narrow[((image * p.hn + m) * p.wn + v) * c + channel] = from_compute<T>(sum);
  }
}

template <typename T, int kTiles>
__global__ void __launch_bounds__(kNarrowConvThreads, kTiles == kFewTiles ? 2 : 1)
    narrow_conv_to_narrow_kernel(const __grid_constant__ NarrowConvParams p,
                                 const __grid_constant__ NarrowConvPlan plan,
                                 const __grid_constant__ ToNarrowBlock at) {
  CYCLEGAN_FAST_DYNAMIC_SHARED(memory);
  const int r = static_cast<int>(p.r), stride = static_cast<int>(p.stride);
  const int pad = static_cast<int>(p.pad), warp_index = threadIdx.x / 32;
  uint2* weights = reinterpret_cast<uint2*>(memory);
  uint4* stages = reinterpret_cast<uint4*>(weights + at.weights(r));
  const ImageTile where = image_tile(plan, blockIdx.x);
  const int u0 = pad / stride + where.y * at.coarse_rows, v0 = pad / stride + where.x * at.columns;
  const int y0 = u0 - at.taps_y + 1, x0 = v0 - at.taps_x + 1;  // the first wide pixel
  const Place warp = {warp_index % 2 * 16, warp_index / 2 / stride * kWarpRows,
                      warp_index / 2 % stride};

  copy_chunk<T>(p, at, where.image, y0, x0, 0, stages);
  commit_copies();
  load_weights<T>(p, at, reinterpret_cast<T*>(weights));
  float sums[kWarpRows][kTiles][4] = {};
#pragma unroll 1
  for (int chunk = 0; chunk < at.chunks; ++chunk) {
    if (chunk + 1 < at.chunks)
      copy_chunk<T>(p, at, where.image, y0, x0, chunk + 1, stages + (chunk + 1) % 2 * at.stage());
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    multiply<T, kTiles>(at, warp, r, stride, stages + chunk % 2 * at.stage(),
                        weights + chunk * r * kTiles * 32, sums);
    __syncthreads();  // before this chunk's memory is written again
  }
  float* shared = reinterpret_cast<float*>(memory);
  share_sums<kTiles>(at, warp, stride, sums, shared);
  __syncthreads();
  write_result<T>(p, at, where.image, u0 * stride - pad, v0 * stride - pad, shared);
}

// Rows of the result that a block computes: a warp has half of the columns and 4 of them.
int result_rows(const NarrowConvPlan& plan) { return plan.main.block / 64 * kWarpRows; }

}  // namespace

NarrowConvPlan narrow_conv_to_narrow_plan(const NarrowConvParams& p,
                                          const DeviceProperties& device) {
  NarrowConvPlan plan = {};
  if (!narrow_conv_fits(p)) return plan;
  const int64_t first = p.pad / p.stride;
  const auto with_rows = [&](int rows) {
    const ToNarrowBlock at(p, rows);
    plan.tiles_y = ceil_div((p.hn - 1 + p.pad) / p.stride - first + 1, at.coarse_rows);
    plan.tiles_x = ceil_div((p.wn - 1 + p.pad) / p.stride - first + 1, at.columns);
    plan.main.grid = p.n * plan.tiles_y * plan.tiles_x;
    plan.main.block = rows / kWarpRows * 64;
    plan.main.shared_memory = at.bytes(p);
    return at;
  };
  // Large blocks have less halo; small ones are enough for every multiprocessor, and fit with many
  // column tiles.
  if (with_rows(16).column_tiles > kFewTiles || plan.main.grid < 4 * device.multiprocessors)
    with_rows(8);
  plan.parts = 1;
  return plan;
}

Status narrow_conv_to_narrow_cuda(const NarrowConvParams& p, const NarrowConvPlan& plan,
                                  Stream stream) {
  const ToNarrowBlock at(p, result_rows(plan));
  return dispatch_16_bit(p.dtype, [&](auto element) {
    using T = decltype(element);
    return at.column_tiles == kFewTiles
               ? launch(narrow_conv_to_narrow_kernel<T, kFewTiles>, plan.main, stream, p, plan, at)
               : launch(narrow_conv_to_narrow_kernel<T, kManyTiles>, plan.main, stream, p, plan,
                        at);
  });
}

}  // namespace cyclegan_fast
