// Vectors: kVec neighbouring elements that move in one access of up to 16 bytes and are computed in
// Compute<T>.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "types.h"

namespace cyclegan_fast {

template <typename T, int kVec>
struct alignas(sizeof(T) * kVec) Vector {
  T v[kVec];
};

// Elements of type T in 16 bytes.
template <typename T>
constexpr int kVectorElements = 16 / sizeof(T);

// On the device by instruction, on the host (tests) in software.
template <typename T>
__device__ inline Compute<T> to_compute(T value) {
  return static_cast<Compute<T>>(value);
}
template <typename T>
__device__ inline T from_compute(Compute<T> value) {
  return static_cast<T>(value);
}
#ifdef __CUDA_ARCH__
template <>
__device__ inline float to_compute<BFloat16>(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
template <>
__device__ inline float to_compute<Half>(Half value) {
  return __half2float(__ushort_as_half(value.bits));
}
template <>
__device__ inline BFloat16 from_compute<BFloat16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
__device__ inline Half from_compute<Half>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}
#else
template <>
inline float to_compute<BFloat16>(BFloat16 value) {
  return widen(value);
}
template <>
inline float to_compute<Half>(Half value) {
  return widen(value);
}
template <>
inline BFloat16 from_compute<BFloat16>(float value) {
  return narrow<BFloat16>(value);
}
template <>
inline Half from_compute<Half>(float value) {
  return narrow<Half>(value);
}
#endif

// The vector at element `index`, a multiple of kVec.
template <int kVec, typename T>
__device__ inline Vector<T, kVec> load_vector(const T* p, int64_t index) {
  return *reinterpret_cast<const Vector<T, kVec>*>(p + index);
}
template <int kVec, typename T>
__device__ inline void store_vector(T* p, int64_t index, const Vector<T, kVec>& vector) {
  *reinterpret_cast<Vector<T, kVec>*>(p + index) = vector;
}

// Makes the compiler forget what it widened `vectors` to, so that they, not the wider values, stay
// in registers across a barrier.
template <int kVectors, int kVec, typename T>
__device__ inline void keep_narrow(Vector<T, kVec> (&vectors)[kVectors]) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(Vector<T, kVec>) == 16) {
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      uint4& words = reinterpret_cast<uint4&>(vectors[u]);
      asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
    }
  }
#else
  (void)vectors;
#endif
}

// Makes the compiler forget what it derived from `value`, so that it computes that anew after a
// barrier rather than keep it in registers across.
__device__ inline void forget_derived([[maybe_unused]] uint32_t& value) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(value));
#endif
}

// n / d for n < 2^31 by a multiplication and a shift.
struct FastDivisor {
  uint32_t divisor, magic, shift;

  explicit FastDivisor(int64_t d) : divisor(static_cast<uint32_t>(d)), magic(0), shift(0) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    magic = static_cast<uint32_t>((((uint64_t{1} << shift) - divisor) << 32) / divisor + 1);
  }
  __device__ uint32_t divide(uint32_t n) const {
    const uint32_t high = static_cast<uint32_t>((uint64_t{n} * magic) >> 32);
    return (high + n) >> shift;
  }
};

}  // namespace cyclegan_fast
