// How a tensor is cut into slabs, tiles of channels and stretches of pixels: pure functions of the
// view, and for what stays resident of the card.
#pragma once

#include <algorithm>

#include "pack.cuh"
#include "reduce.cuh"

namespace cyclegan_fast {

constexpr int kUnroll = 4;  // pixels in flight per thread
constexpr int64_t kTargetBlocks =
    512;  // enough for every card that is known: three to five a multiprocessor
constexpr int64_t kMaxSplits = 64;
constexpr int64_t kMaxPixelsPerThread = 16;

// How the kernels see a tensor: slabs x [height, width] pixels x [inner] packs of `vec` elements.
// A slab is an image (NHWC) or a plane (NCHW, inner = 1).
struct View {
  int64_t slabs, height, width, inner;
  int vec;

  int64_t pixels() const { return height * width; }
};

inline int64_t power_of_two(int64_t at_least, int64_t at_most) {
  int64_t value = 1;
  while (value < at_least && value < at_most) value *= 2;
  return value;
}

// ---- The shape of a launch over a view ----
struct Tiling {
  int packs, threads, group;  // of a block; threads of it that share a slab
  int64_t tiles, stretches,
      stretch;  // blocks over the channels, over the pixels; pixels of a block

  int64_t blocks(const View& view) const {
    return ceil_div(view.slabs, threads / group) * tiles * stretches;
  }
};

// What a kernel needs to find its place; blocks that share a statistic are neighbours.
struct Place {
  int packs, group, tiles, stretches;
  uint32_t stretch, pixels, slabs;
  int inner;

  // The thread's slab and pack of channels, its block's stretch [begin, end), and of that the
  // thread's first pixel and the step to its next one.
  int64_t slab;
  int pack;
  uint32_t begin, end, pixel, step;
  bool active;  // else the thread has no pixels

  __device__ void locate() {
    const uint32_t rest = blockIdx.x / stretches, thread = threadIdx.x % group;
    slab = int64_t{rest / tiles} * (blockDim.x / group) + threadIdx.x / group;
    pack = static_cast<int>(rest % tiles) * packs + static_cast<int>(thread % packs);
    begin = blockIdx.x % stretches * stretch;
    begin = begin < pixels ? begin : pixels;
    end = stretch < pixels - begin ? begin + stretch : pixels;
    active = pack < inner && slab < slabs;
    pixel = active ? begin + thread / packs : end;
    step = group / packs;
  }
  // Index of the thread's first element at a pixel of a tensor without a border.
  __device__ int64_t element(uint32_t index, int vec) const {
    return ((slab * pixels + index) * inner + pack) * vec;
  }
};

inline Place place_of(const View& view, const Tiling& tiling) {
  Place place = {};
  place.packs = tiling.packs;
  place.group = tiling.group;
  place.tiles = static_cast<int>(tiling.tiles);
  place.stretches = static_cast<int>(tiling.stretches);
  place.stretch = static_cast<uint32_t>(tiling.stretch);
  place.pixels = static_cast<uint32_t>(view.pixels());
  place.slabs = static_cast<uint32_t>(view.slabs);
  place.inner = static_cast<int>(view.inner);
  return place;
}

// One slab a block, with as many threads as the pixels keep busy.
inline Tiling tiling_of(const View& view) {
  Tiling t = {};
  t.packs = static_cast<int>(power_of_two(view.inner, 32));
  const int64_t wanted = t.packs * power_of_two(ceil_div(view.pixels(), kUnroll), kMaxThreads);
  t.threads = static_cast<int>(std::min<int64_t>(std::max<int64_t>(wanted, 32), kMaxThreads));
  t.group = t.threads;
  t.tiles = ceil_div(view.inner, t.packs);
  return t;
}

// Few stretches, each as long as a full card allows: their partial results must be merged.
inline Tiling reduction_tiling(const View& view) {
  Tiling t = tiling_of(view);
  const int64_t most = ceil_div(view.pixels(), t.threads / t.packs * kMaxPixelsPerThread);
  const int64_t wanted =
      std::max<int64_t>(kTargetBlocks / std::max<int64_t>(view.slabs * t.tiles, 1), 1);
  t.stretch = ceil_div(view.pixels(), std::min({wanted, most, kMaxSplits}));
  t.stretches = ceil_div(view.pixels(), t.stretch);
  return t;
}

// Many short stretches, longer once the card is full.
inline Tiling map_tiling(const View& view) {
  Tiling t = tiling_of(view);
  t.stretch = t.threads / t.packs * kUnroll;
  const int64_t longest = t.threads / t.packs * kMaxPixelsPerThread;
  while (t.stretch < longest &&
         view.slabs * t.tiles * ceil_div(view.pixels(), t.stretch) >= 4 * kTargetBlocks)
    t.stretch *= 2;
  t.stretches = ceil_div(view.pixels(), t.stretch);
  return t;
}

// Every pixel in a register: a slab's tile is shared out over a group of threads, `capacity` packs
// to each, or over a cluster of blocks. False where it is too large for that.
inline bool resident_tiling(const View& view, int64_t capacity, const Card& card, Tiling& t) {
  if (view.inner > 1 && view.vec == 1) return false;  // short, scattered reads
  const auto cluster_for = [&](int64_t packs) {
    return power_of_two(ceil_div(view.pixels() * packs, capacity * kMaxThreads), 1 << 30);
  };
  // 128 bytes of neighbouring channels if they fit, at least a sector of 32.
  t.packs = static_cast<int>(power_of_two(view.inner, kMaxColumns));
  while (t.packs > 2 && cluster_for(t.packs) > card.max_cluster) t.packs /= 2;
  t.stretches = cluster_for(t.packs);
  if (t.stretches > card.max_cluster) return false;
  const int64_t wanted = power_of_two(ceil_div(view.pixels() * t.packs, capacity), kMaxThreads);
  t.group = static_cast<int>(std::max<int64_t>(wanted, 32));
  t.threads = kMaxThreads;

  // Spreads over the whole card: fewer slabs to a block, narrower tiles, wider clusters.
  const auto idle = [&] {
    t.tiles = ceil_div(view.inner, t.packs);
    return t.blocks(view) < card.multiprocessors;
  };
  while (idle() && t.threads > t.group) t.threads /= 2;
  while (idle() && t.packs > 2) t.packs /= 2;
  while (idle() && 2 * t.stretches <= card.max_cluster &&
         view.pixels() * t.packs >= 4 * t.stretches * t.group)
    t.stretches *= 2;
  t.stretch = ceil_div(view.pixels(), t.stretches);
  return true;
}

// Indices inside a slab are 32 bits wide, as a FastDivisor wants them, and slabs are counted so.
inline bool fits(const View& view, int64_t border) {
  const int64_t pixels = (view.height + 2 * border) * (view.width + 2 * border);
  return pixels * view.inner * view.vec < (int64_t{1} << 31) && view.slabs > 0 &&
         view.slabs * view.inner * view.vec < (int64_t{1} << 31);
}

}  // namespace cyclegan_fast
