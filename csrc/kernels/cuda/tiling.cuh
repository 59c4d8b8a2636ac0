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
constexpr int64_t kMaxChunks = 64;
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

// Few chunks, each as long as a busy device allows: their partial results must be merged.
inline TiledPass reduction_pass(const View& view) {
  const TiledPass pass = plane_per_block(view);
  const int64_t max_chunks =
      ceil_div(view.pixels(), pass.group / pass.vectors * kMaxPixelsPerThread);
  const int64_t useful =
      std::max<int64_t>(kTargetBlocks / std::max<int64_t>(view.planes * pass.tiles, 1), 1);
  return in_chunks(view, pass, ceil_div(view.pixels(), std::min({useful, max_chunks, kMaxChunks})));
}

// Partial results of `bytes` for each of `stats` statistics and each chunk; `always`: even where
// there is one chunk alone.
inline ReductionPlan reduction_plan(const View& view, int64_t stats, int64_t bytes, bool always) {
  ReductionPlan plan = {};
  plan.pass = reduction_pass(view);
  if (plan.pass.chunks > 1) plan.merge = thread_per_element(stats, kMaxThreads);
  if (plan.pass.chunks > 1 || always) plan.workspace_bytes = plan.pass.chunks * stats * bytes;
  return plan;
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
  // 128 bytes of neighbouring channels if they fit, at least a sector of 32.
  pass.vectors = static_cast<int>(power_of_two(view.inner, kMaxColumns));
  while (pass.vectors > 2 && cluster_for(pass.vectors) > device.max_cluster_size) pass.vectors /= 2;
  pass.chunks = cluster_for(pass.vectors);
  if (pass.chunks > device.max_cluster_size) return std::nullopt;
  const int64_t useful =
      power_of_two(ceil_div(view.pixels() * pass.vectors, capacity), kMaxThreads);
  pass.group = static_cast<int>(std::max<int64_t>(useful, 32));
  pass.launch.block = kMaxThreads;

  // Spreads over the whole device: fewer planes to a block, narrower tiles, wider clusters.
  const auto idle = [&] {
    pass.tiles = ceil_div(view.inner, pass.vectors);
    return blocks_of(view, pass) < device.multiprocessors;
  };
  while (idle() && pass.launch.block > pass.group) pass.launch.block /= 2;
  while (idle() && pass.vectors > 2) pass.vectors /= 2;
  while (idle() && 2 * pass.chunks <= device.max_cluster_size &&
         view.pixels() * pass.vectors >= 4 * pass.chunks * pass.group)
    pass.chunks *= 2;
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
