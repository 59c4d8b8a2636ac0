// The vocabulary of all kernels: element types, layouts, activations, status. No torch, no Python,
// no CUDA headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define CYCLEGAN_FAST_HD __host__ __device__
#else
#define CYCLEGAN_FAST_HD
#endif

namespace cyclegan_fast {

enum class DType : int8_t { kFloat32, kBFloat16, kFloat16, kFloat64 };
enum class Layout : int8_t { kNCHW, kNHWC };
enum class Activation : int8_t { kNone, kRelu, kLeakyRelu };
enum class Status : int8_t { kOk, kInvalidArgument, kLaunchFailed };

using Stream = void*;  // a cudaStream_t

// What a launch plan needs to know of the device that it runs on.
struct DeviceProperties {
  int multiprocessors;
  int max_cluster_size;  // blocks that may share their memory: up to 8 where the device and the
                         // code that it runs have clusters, else 1
};

// How one kernel is launched. A grid of 0: it is not.
struct LaunchConfig {
  int64_t grid = 0;           // blocks: a multiple of `cluster`
  int block = 0;              // threads of a block
  int cluster = 1;            // neighbouring blocks that share their memory: above 1 from sm_90 on
  int64_t shared_memory = 0;  // bytes that are allocated at the launch
};

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// The type in which elements of type T are computed and summed.
template <typename T>
struct ComputeOf {
  using Type = float;
};
template <>
struct ComputeOf<double> {
  using Type = double;
};
template <typename T>
using Compute = typename ComputeOf<T>::Type;

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Size of a sum or a statistic over elements of `dtype`.
constexpr int64_t stat_size_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Every activation is v > 0 ? v : slope * v with this slope.
constexpr double slope_of(Activation activation, double negative_slope) {
  return activation == Activation::kNone   ? 1.0
         : activation == Activation::kRelu ? 0.0
                                           : negative_slope;
}

// Calls f(T{}) with T the element type of `dtype`.
template <typename F>
auto dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kFloat16:
      return f(Half{});
    default:
      return f(double{});
  }
}

// ---- Reflection: padded index i in [0, size + 2 pad) -> source index in [0, size) ----
CYCLEGAN_FAST_HD inline int64_t reflect(int64_t i, int64_t size, int64_t pad) {
  i -= pad;
  if (i < 0) return -i;
  return i < size ? i : 2 * (size - 1) - i;
}

// Its adjoint: the padded indices that show source index i, the k-th of at most three, or -1 where
// there is none.
CYCLEGAN_FAST_HD inline int64_t mirror(int k, int64_t i, int64_t size, int64_t pad) {
  if (k == 0) return pad + i;
  if (k == 1) return i >= 1 && i <= pad ? pad - i : -1;
  return i >= size - 1 - pad && i <= size - 2 ? pad + 2 * (size - 1) - i : -1;
}

struct Mirrors {
  int count;
  int64_t at[3];
};
inline Mirrors mirrors(int64_t i, int64_t size, int64_t pad) {
  Mirrors m{0, {}};
  for (int k = 0; k < 3; ++k) {
    const int64_t index = mirror(k, i, size, pad);
    if (index >= 0) m.at[m.count++] = index;
  }
  return m;
}

// ---- Scalar conversions in software: where no instruction does it, and in tests ----
inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) { return float_of(uint32_t{value.bits} << 16); }
inline float widen(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // 2^112 moves the exponent's bias from 15 to 127 and makes subnormals normal.
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));
}

// Round to nearest, ties to even; NaN stays NaN.
template <typename T, typename C>
T narrow(C value) {
  return static_cast<T>(value);
}
template <>
inline BFloat16 narrow<BFloat16, float>(float value) {
  if (value != value) return {0x7fc0};
  const uint32_t bits = bits_of(value);
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
template <>
inline Half narrow<Half, float>(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to 2^16 or more
    half = 0x7c00u;
  } else if (magnitude <
             0x38800000u) {  // subnormal: adding 0.5 leaves the rounded mantissa in the low bits
    half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

}  // namespace cyclegan_fast
