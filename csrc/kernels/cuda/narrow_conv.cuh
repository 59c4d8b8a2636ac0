// What the three kernels of narrow_conv share.
#pragma once

#include "launch.h"
#include "mma.cuh"
#include "narrow_conv.h"
#include "shared_memory.cuh"
#include "vectors.cuh"

namespace cyclegan_fast {

constexpr int kNarrowConvThreads = 256;

// Two neighbouring 16-bit elements, as tensor cores take them.
template <typename T>
__device__ inline uint32_t pair_of(T low, T high) {
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

// Index of U[tap, c, k] in weight.
__device__ inline int weight_index(const NarrowConvParams& p, int tap, int c, int k) {
  const int taps = static_cast<int>(p.r * p.s);
  return p.wide_input ? (c * taps + taps - 1 - tap) * static_cast<int>(p.k) + k
                      : (k * taps + tap) * static_cast<int>(p.c) + c;
}

template <typename T>
__device__ inline T weight_at(const NarrowConvParams& p, int tap, int c, int k) {
  const int index = weight_index(p, tap, c, k);
  return p.weight_dtype == DType::kFloat32
             ? from_compute<T>(static_cast<const float*>(p.weight)[index])
             : static_cast<const T*>(p.weight)[index];
}

// A tile of an image: its place in units of tiles.
struct ImageTile {
  int image, y, x;
};
__device__ inline ImageTile image_tile(const NarrowConvPlan& plan, int64_t index) {
  const int tiles_x = static_cast<int>(plan.tiles_x), tiles_y = static_cast<int>(plan.tiles_y);
  const int64_t row = index / tiles_x;
  return {static_cast<int>(row / tiles_y), static_cast<int>(row % tiles_y),
          static_cast<int>(index - row * tiles_x)};
}

inline int round_up(int64_t value, int unit) {
  return static_cast<int>(ceil_div(value, unit)) * unit;
}

// Calls f(T{}) with the type of the tensors.
template <typename F>
Status dispatch_16_bit(DType dtype, F&& f) {
  return dtype == DType::kBFloat16 ? f(BFloat16{}) : f(Half{});
}

}  // namespace cyclegan_fast
