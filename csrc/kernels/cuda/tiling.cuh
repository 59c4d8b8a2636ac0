// How a tensor is cut into slabs, tiles of channels and stretches of pixels: pure functions, the
// same on every card.
#pragma once

#include <algorithm>

#include "pack.cuh"
#include "reduce.cuh"

namespace cyclegan_fast {

constexpr int kUnroll = 4;  // pixels in flight per thread
constexpr int64_t kTargetBlocks =
    512;  // enough for every card that is known: about three a multiprocessor
constexpr int64_t kMaxSplits = 64;
constexpr int64_t kMaxPixelsPerThread = 16;

// How the kernels see a tensor: slabs x [height, width] pixels x [inner] packs of `vec` elements.
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
  int packs, threads;  // of a block
  int64_t tiles, stretches,
      stretch;  // blocks over the channels, over the pixels; pixels of a block

  int64_t blocks(const View& view) const { return view.slabs * tiles * stretches; }
};

// What a kernel needs to find its place.
struct Place {
  int packs, tiles, stretches;
  uint32_t stretch, pixels;
  int inner;

  // The thread's pack of channels, its first pixel, the step between its pixels and the end of its
  // block's stretch.
  int64_t slab;
  int pack;
  uint32_t pixel, step, end;

  __device__ bool locate() {
    const int tile = blockIdx.x % tiles, block = blockIdx.x / tiles;
    const uint32_t first = static_cast<uint32_t>(block % stretches) * stretch;
    slab = block / stretches;
    pack = tile * packs + threadIdx.x % packs;
    pixel = first + threadIdx.x / packs;
    step = blockDim.x / packs;
    end = first + stretch < pixels ? first + stretch : pixels;
    return pack < inner;
  }
};

inline Place place_of(const View& view, const Tiling& tiling, int64_t pixels) {
  Place place = {};
  place.packs = tiling.packs;
  place.tiles = static_cast<int>(tiling.tiles);
  place.stretches = static_cast<int>(tiling.stretches);
  place.stretch = static_cast<uint32_t>(tiling.stretch);
  place.pixels = static_cast<uint32_t>(pixels);
  place.inner = static_cast<int>(view.inner);
  return place;
}

inline Tiling tiling_of(const View& view, int64_t pixels) {
  Tiling t = {};
  t.packs = static_cast<int>(power_of_two(view.inner, 32));
  const int64_t wanted = t.packs * power_of_two(ceil_div(pixels, kUnroll), kMaxThreads);
  t.threads = static_cast<int>(std::min<int64_t>(std::max<int64_t>(wanted, 32), kMaxThreads));
  t.tiles = ceil_div(view.inner, t.packs);
  return t;
}

// Few stretches, each as long as a full card allows: their partial results must be merged.
inline Tiling reduction_tiling(const View& view) {
  Tiling t = tiling_of(view, view.pixels());
  const int64_t most = ceil_div(view.pixels(), t.threads / t.packs * kMaxPixelsPerThread);
  const int64_t wanted =
      std::max<int64_t>(kTargetBlocks / std::max<int64_t>(view.slabs * t.tiles, 1), 1);
  t.stretch = ceil_div(view.pixels(), std::min({wanted, most, kMaxSplits}));
  t.stretches = ceil_div(view.pixels(), t.stretch);
  return t;
}

// Many short stretches, longer once the card is full.
inline Tiling map_tiling(const View& view, int64_t pixels) {
  Tiling t = tiling_of(view, pixels);
  t.stretch = t.threads / t.packs * kUnroll;
  const int64_t longest = t.threads / t.packs * kMaxPixelsPerThread;
  while (t.stretch < longest &&
         view.slabs * t.tiles * ceil_div(pixels, t.stretch) >= 4 * kTargetBlocks)
    t.stretch *= 2;
  t.stretches = ceil_div(pixels, t.stretch);
  return t;
}

// Indices inside a slab are 32 bits wide, as a FastDivisor wants them.
inline bool fits(const View& view, int64_t border) {
  const int64_t pixels = (view.height + 2 * border) * (view.width + 2 * border);
  return pixels * view.inner * view.vec < (int64_t{1} << 31) && view.slabs > 0;
}

}  // namespace cyclegan_fast
