// How a tensor is divided into planes, tiles of channels and chunks of pixels: pure functions of
// the view, and for what stays resident of the device.
#pragma once

#include <algorithm>
#include <optional>

#include "launch.h"
#include "norm_plan.h"
#include "reductions.cuh"
#include "vectors.cuh"

namespace cyclegan_fast {

constexpr int kUnroll = 4;  // pixels in flight per thread
constexpr int64_t kTargetBlocks =
    512;  // enough for every device that is known: three to five a multiprocessor
constexpr int64_t kMaxPixelsPerThread = 16;

// How the kernels see a tensor: planes x [height, width] pixels x [inner] vectors of `vec`
// elements. A plane is one channel of an image (NCHW: inner = 1), or a whole image (NHWC).
struct View {
  int64_t planes, height, width, inner;
  int vec;

  int64_t pixels() const { return height * width; }
};

inline int64_t power_of_two(int64_t at_least, int64_t at_most) {
  int64_t value = 1;
  while (value < at_least && value < at_most) value *= 2;
  return value;
}

// What a kernel needs to find its position; blocks that share a statistic are neighbours.
struct Position {
  int vectors, group, tiles, chunks;
  uint32_t chunk_size, pixels, planes;
  int inner;

  // The thread's plane and vector of channels, its block's chunk [begin, end), and of that the
  // thread's first pixel and the step to its next one.
  int64_t plane;
  int vector;
  uint32_t begin, end, pixel, step;
  bool active;  // else the thread has no pixels

  __device__ void locate() {
    const uint32_t rest = blockIdx.x / chunks, thread = threadIdx.x % group;
    plane = int64_t{rest / tiles} * (blockDim.x / group) + threadIdx.x / group;
    vector = static_cast<int>(rest % tiles) * vectors + static_cast<int>(thread % vectors);
    begin = blockIdx.x % chunks * chunk_size;
    begin = begin < pixels ? begin : pixels;
    end = chunk_size < pixels - begin ? begin + chunk_size : pixels;
    active = vector < inner && plane < planes;
    pixel = active ? begin + thread / vectors : end;
    step = group / vectors;
  }
  // Index of the thread's first element at a pixel of a tensor without a border.
  __device__ int64_t element(uint32_t index, int vec) const {
    return ((plane * pixels + index) * inner + vector) * vec;
  }
};

inline Position position_of(const View& view, const TiledPass& pass) {
  Position position = {};
  position.vectors = pass.vectors;
  position.group = pass.group;
  position.tiles = static_cast<int>(pass.tiles);
  position.chunks = static_cast<int>(pass.chunks);
  position.chunk_size = static_cast<uint32_t>(pass.chunk_size);
  position.pixels = static_cast<uint32_t>(view.pixels());
  position.planes = static_cast<uint32_t>(view.planes);
  position.inner = static_cast<int>(view.inner);
  return position;
}

inline int64_t blocks_of(const View& view, const TiledPass& pass) {
  return ceil_div(view.planes, pass.launch.block / pass.group) * pass.tiles * pass.chunks;
}

// Completes a pass whose blocks have `chunk_size` pixels each.
inline TiledPass in_chunks(const View& view, TiledPass pass, int64_t chunk_size) {
  pass.chunk_size = chunk_size;
  pass.chunks = ceil_div(view.pixels(), chunk_size);
  pass.launch.grid = blocks_of(view, pass);
  return pass;
}

// One plane a block, with as many threads as the pixels keep busy.
inline TiledPass plane_per_block(const View& view) {
  TiledPass pass = {};
  pass.vec = view.vec;
  pass.vectors = static_cast<int>(power_of_two(view.inner, 32));
  const int64_t useful = pass.vectors * power_of_two(ceil_div(view.pixels(), kUnroll), kMaxThreads);
  pass.launch.block =
      static_cast<int>(std::min<int64_t>(std::max<int64_t>(useful, 32), kMaxThreads));
  pass.group = pass.launch.block;
  pass.tiles = ceil_div(view.inner, pass.vectors);
  return pass;
}

// Chunks of each of `groups`, which are planes times tiles: as many as give every multiprocessor
// the same number of blocks but for a sixteenth of them: two, which it always holds at once, or
// one, or else more.
inline int64_t chunks_in_waves(int64_t groups, int64_t max_chunks, const DeviceProperties& device) {
  const int64_t width = std::max(device.multiprocessors, 1);
  const auto filled = [&](int64_t chunks) {
    const double blocks = static_cast<double>(groups * chunks);
    return blocks / static_cast<double>(ceil_div(groups * chunks, width) * width);
  };
  int64_t best = 1;
  for (int64_t each : {2, 1, 4, 6, 8}) {
    const int64_t chunks = std::max<int64_t>(std::min(each * width / groups, max_chunks), 1);
    if (each == 2 || filled(chunks) > filled(best)) best = chunks;
    if (filled(best) >= 15 / 16.0) break;
  }
  return best;
}

// Both passes of the split regime: few blocks, two on every multiprocessor at batch 1, as each of
// the second pass reads the partial results of its channels from all chunks, 8 bytes of each.
//
// At 256x256 and 64 channels of bfloat16 with 132 multiprocessors, tiles of 128 bytes would make
// that 264 chunks and 135 KB a block, tiles of 32 bytes (a sector) make it 66 chunks and 8 KB
// beside the block's 32 KB of x: 2 MB in all from the L2, and one round trip to it and two sums
// over the block before its first store. A kernel between the two passes costs a launch and a chain
// of 66.
inline TiledPass split_pass(const View& view, const DeviceProperties& device) {
  TiledPass pass = {};
  pass.vec = view.vec;
  pass.vectors = static_cast<int>(power_of_two(view.inner, view.vec > 1 ? kMaxColumns : 32));
  for (;;) {
    pass.tiles = ceil_div(view.inner, pass.vectors);
    // Two pixels for each thread at least, and a thread for each statistic.
    const int64_t useful = power_of_two(ceil_div(view.pixels() * pass.vectors, 2), kMaxThreads);
    pass.launch.block = static_cast<int>(std::max<int64_t>({useful, pass.vectors * view.vec, 32}));
    pass.group = pass.launch.block;
    const int64_t max_chunks = ceil_div(view.pixels() * pass.vectors, 2 * pass.launch.block);
    const int64_t chunks = chunks_in_waves(view.planes * pass.tiles, max_chunks, device);
    pass = in_chunks(view, pass, ceil_div(view.pixels(), chunks));
    // Partial results should be an eighth of the block's pixels, which have 16 bytes a vector.
    const bool few = 4 * pass.chunks * pass.vec <= pass.chunk_size;
    if (few || pass.vec == 1 || pass.vectors <= 2) return pass;
    pass.vectors /= 2;
  }
}

// Many short chunks, longer once the device is busy.
inline TiledPass map_pass(const View& view) {
  const TiledPass pass = plane_per_block(view);
  int64_t size = pass.group / pass.vectors * kUnroll;
  const int64_t max_size = pass.group / pass.vectors * kMaxPixelsPerThread;
  while (size < max_size &&
         view.planes * pass.tiles * ceil_div(view.pixels(), size) >= 4 * kTargetBlocks)
    size *= 2;
  return in_chunks(view, pass, size);
}

// Every pixel in a register: a plane's tile is distributed over a group of threads, `capacity`
// vectors to each, or over a cluster of blocks. Nothing where it is too large for that.
inline std::optional<TiledPass> resident_pass(const View& view, int64_t capacity,
                                              const DeviceProperties& device) {
  if (view.inner > 1 && view.vec == 1) return std::nullopt;  // short, scattered reads
  const auto cluster_for = [&](int64_t vectors) {
    return power_of_two(ceil_div(view.pixels() * vectors, capacity * kMaxThreads), 1 << 30);
  };
  TiledPass pass = {};
  pass.vec = view.vec;
  // 128 bytes of neighbouring channels if they fit, at least a sector of 32, or else half of one:
  // two blocks read it then, from the L2, and still that is one kernel and no second read.
  pass.vectors = static_cast<int>(power_of_two(view.inner, kMaxColumns));
  while (pass.vectors > 1 && cluster_for(pass.vectors) > device.max_cluster_size) pass.vectors /= 2;
  pass.chunks = cluster_for(pass.vectors);
  if (pass.chunks > device.max_cluster_size) return std::nullopt;
  const int64_t useful =
      power_of_two(ceil_div(view.pixels() * pass.vectors, capacity), kMaxThreads);
  pass.group = static_cast<int>(std::max<int64_t>(useful, 32));
  pass.launch.block = kMaxThreads;

  // Spreads over the whole device: fewer planes to a block, narrower tiles, wider clusters as long
  // as every thread has a vector, and where half of the device would be idle half a sector.
  const auto blocks = [&] {
    pass.tiles = ceil_div(view.inner, pass.vectors);
    return blocks_of(view, pass);
  };
  const auto idle = [&] { return blocks() < device.multiprocessors; };
  while (idle() && pass.launch.block > pass.group) pass.launch.block /= 2;
  while (idle() && pass.vectors > 2) pass.vectors /= 2;
  while (idle() && 2 * pass.chunks <= device.max_cluster_size &&
         view.pixels() * pass.vectors >= 2 * pass.chunks * pass.group)
    pass.chunks *= 2;
  if (2 * blocks() <= device.multiprocessors && pass.vectors == 2) pass.vectors = 1;
  pass.tiles = ceil_div(view.inner, pass.vectors);
  pass.chunk_size = ceil_div(view.pixels(), pass.chunks);
  pass.launch.cluster = static_cast<int>(pass.chunks);
  pass.launch.grid = blocks_of(view, pass);
  return pass;
}

// Indices inside a plane are 32 bits wide, as a FastDivisor wants them, and planes are counted so.
inline bool fits(const View& view, int64_t border) {
  const int64_t pixels = (view.height + 2 * border) * (view.width + 2 * border);
  return pixels * view.inner * view.vec < (int64_t{1} << 31) && view.planes > 0 &&
         view.planes * view.inner * view.vec < (int64_t{1} << 31);
}

}  // namespace cyclegan_fast
