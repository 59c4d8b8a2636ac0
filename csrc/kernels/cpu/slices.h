// How a CPU kernel cuts [N, C, H, W] into slices that threads share: planes (NCHW), or groups of
// channels of one image (NHWC).
#pragma once

#include "types.h"

namespace cyclegan_fast {

// Channels of a group, in bytes: whole cache lines, so that no two threads write to the same one.
constexpr int64_t kGroupBytes = 128;

inline int64_t slices_of(int64_t n, int64_t c, DType dtype, Layout layout) {
  return n * (layout == Layout::kNCHW ? c : ceil_div(c * size_of(dtype), kGroupBytes));
}

}  // namespace cyclegan_fast
