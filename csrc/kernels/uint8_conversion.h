// Floats in [-1, 1] to the levels 0 to 255 and back, each the other's inverse.
//
// to_uint8:   level = clamp(round_half_even((v + 1) * 127.5), 0, 255), v = tanh(x) or v = x.
//             NaN becomes 0. With tanh the kernels compute (v + 1) * 127.5 as 255 / (1 + exp(-2
//             x)).
// from_uint8: y = level / 127.5 - 1 over a crop that lies elsewhere in each image, mirrored or not.
//             All implementations round alike: the same bits everywhere.
#pragma once

#include "types.h"

namespace cyclegan_fast {

// A channels_last x is n = c = 1 and all its elements are `pixels`: their order stays.
struct ToUint8Params {
  const void* x;    // [in]  [n, c, pixels]
  uint8_t* levels;  // [out] [n, pixels, c]
  int64_t n, c, pixels;
  bool tanh;
  DType dtype;  // of x
};

struct FromUint8Params {
  const uint8_t* pixels;     // [in]  [n, height, width, c]
  const int32_t* placement;  // [in]  [n, 3]: top, left, mirrored if not 0; or null: all are 0
  void* y;                   // [out] [n, c / inner, h, w, inner]
  int64_t n, height, width, c;
  int64_t h, w;   // of the crop: 1 <= h <= height, 1 <= w <= width
  int64_t inner;  // 1 for NCHW, c for channels_last
  DType dtype;    // of y
};

// An image's crop. Offsets that reach over the edge are moved to the nearest that do not: the
// host cannot check a placement that lies on the device.
struct Crop {
  int64_t top, left;
  bool mirrored;
};
CYCLEGAN_FAST_HD inline int64_t clamp_offset(int64_t offset, int64_t last) {
  return offset < 0 ? 0 : offset < last ? offset : last;
}
CYCLEGAN_FAST_HD inline Crop crop_of(const FromUint8Params& p, int64_t image) {
  if (p.placement == nullptr) return {0, 0, false};
  const int32_t* row = p.placement + 3 * image;
  return {clamp_offset(row[0], p.height - p.h), clamp_offset(row[1], p.width - p.w), row[2] != 0};
}

// y = level * high + level * low - 1 has the very bits of level / 127.5 - 1, fused or not, and
// needs no division: 1 / 127.5 = 2 / 255 is 0x1.010101...p-7, of which a level times `high` is
// exact.
template <typename C>
struct Inverse {
  static constexpr C high = sizeof(C) == 8 ? C(0x1.0101010101p-7) : C(0x1.01p-7);
  static constexpr C low = sizeof(C) == 8 ? C(0x1.010101010101p-55) : C(0x1.010101p-23);
};

// ---- CPU. Slices are chunks of pixels, and rows of the crops; the caller spreads ranges of
// them over threads. ----
int64_t to_uint8_cpu_slices(const ToUint8Params& params);
void to_uint8_cpu(const ToUint8Params& params, int64_t begin, int64_t end);
int64_t from_uint8_cpu_slices(const FromUint8Params& params);
void from_uint8_cpu(const FromUint8Params& params, int64_t begin, int64_t end);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture. kInvalidArgument for no elements, and from 2^31 on in a tensor or an image. ----
Status to_uint8_cuda(const ToUint8Params& params, Stream stream);
Status from_uint8_cuda(const FromUint8Params& params, Stream stream);

}  // namespace cyclegan_fast
