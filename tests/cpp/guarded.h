// Buffers that catch stray writes and elements left unwritten.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "types.h"

// The memory of a vector that a kernel sees: on a real GPU it is shared by host and device.
#ifdef CYCLEGAN_FAST_ON_GPU
#include <cuda_runtime_api.h>

template <typename T>
struct SharedAllocator {
  using value_type = T;
  SharedAllocator() = default;
  template <typename U>
  SharedAllocator(const SharedAllocator<U>&) {}
  T* allocate(size_t count) {
    void* p = nullptr;
    if (cudaMallocManaged(&p, count * sizeof(T)) != cudaSuccess) std::abort();
    return static_cast<T*>(p);
  }
  void deallocate(T* p, size_t) { cudaFree(p); }
  friend bool operator==(const SharedAllocator&, const SharedAllocator&) { return true; }
  friend bool operator!=(const SharedAllocator&, const SharedAllocator&) { return false; }
};
#else
template <typename T>
using SharedAllocator = std::allocator<T>;
#endif
template <typename T>
using SharedVector = std::vector<T, SharedAllocator<T>>;

// `count` elements of type T between two guard bands, `shift` elements off 16-byte alignment,
// filled with NaN.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t count, int64_t shift = 0) : count_(count) {
    bytes_.assign(size_t((count + shift) * int64_t(sizeof(T)) + 2 * kBand + 16), kPoison);
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data() + kBand);
    begin_ = bytes_.data() + kBand + (16 - address % 16) % 16 + shift * int64_t(sizeof(T));
  }
  Guarded(const Guarded&) = delete;

  T* data() { return reinterpret_cast<T*>(begin_); }
  int64_t size() const { return count_; }
  double operator[](int64_t i) const {
    T value;
    std::memcpy(&value, begin_ + i * int64_t(sizeof(T)), sizeof value);
    if constexpr (std::is_integral_v<T>) {
      return value;
    } else {
      return double(cyclegan_fast::widen(value));
    }
  }
  bool intact() const {
    for (const unsigned char* p = bytes_.data(); p < begin_; ++p) {
      if (*p != kPoison) return false;
    }
    for (const unsigned char* p = begin_ + count_ * int64_t(sizeof(T));
         p < bytes_.data() + bytes_.size(); ++p) {
      if (*p != kPoison) return false;
    }
    return true;
  }
  // Random values, rounded to T; the same as doubles.
  std::vector<double> randomize(std::mt19937& random, double mean) {
    std::normal_distribution<double> normal(mean, 1);
    std::vector<double> values(size_t(count_), 0.0);
    for (int64_t i = 0; i < count_; ++i) {
      data()[i] = cyclegan_fast::narrow<T>(cyclegan_fast::Compute<T>(normal(random)));
      values[size_t(i)] = (*this)[i];
    }
    return values;
  }

 private:
  static constexpr int64_t kBand = 64;
  static constexpr unsigned char kPoison = 0xff;  // a NaN in every floating type
  int64_t count_;
  SharedVector<unsigned char> bytes_;
  unsigned char* begin_;
};
