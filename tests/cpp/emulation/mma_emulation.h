// Tensor cores and asynchronous copies in plain C++: what csrc/kernels/cuda/mma.cuh declares.
#pragma once

#include <set>

#include "types.h"

namespace emulation {

inline int lane() { return current % 32; }

inline void check_aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) fail("an address must be 16-byte aligned");
}

// Element `half` of a pair of 16-bit numbers.
template <typename T>
float of_pair(uint32_t pair, int half) {
  return cyclegan_fast::widen(T{static_cast<uint16_t>(pair >> (16 * half))});
}

struct Operands {
  uint32_t a[4], b[2];
};

template <typename T>
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int slot = show(Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const int g = lane() / 4, t = lane() % 4;
  for (int k = 0; k < 16; ++k) {
    const Operands left = shown<Operands>(slot, 4 * g + k % 8 / 2);
    for (int column = 0; column < 2; ++column) {
      const Operands right = shown<Operands>(slot, 4 * (2 * t + column) + k % 8 / 2);
      const float value = of_pair<T>(right.b[k / 8], k % 2);
      for (int row = 0; row < 2; ++row)
        d[2 * row + column] += of_pair<T>(left.a[2 * (k / 8) + row], k % 2) * value;
    }
  }
}

// Matrices read from shared memory, and accesses more that they took than one each: of rows in the
// same banks (16 of 128 bytes) one waits for the other.
inline int64_t matrices_read, bank_conflicts;

template <int kMatrices>
void count_conflicts(int slot) {
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    std::map<uintptr_t, std::set<uintptr_t>> rows;  // banks -> addresses
    for (int i = 0; i < 8; ++i) {
      const auto address = reinterpret_cast<uintptr_t>(shown<const void*>(slot, 8 * matrix + i));
      rows[address / 16 % 8].insert(address);
    }
    size_t accesses = 0;
    for (const auto& [banks, addresses] : rows) accesses = std::max(accesses, addresses.size());
    ++matrices_read;
    bank_conflicts += static_cast<int64_t>(accesses) - 1;
  }
}

template <int kMatrices, bool kTransposed>
void load_matrices(uint32_t (&r)[kMatrices], const void* row) {
  check_aligned(row);
  const int slot = show(row), g = lane() / 4, t = lane() % 4;
  if (lane() == 0) count_conflicts<kMatrices>(slot);
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    r[matrix] = 0;
    for (int half = 0; half < 2; ++half) {
      const int i = kTransposed ? 2 * t + half : g, j = kTransposed ? g : 2 * t + half;
      const auto* values = static_cast<const uint16_t*>(shown<const void*>(slot, 8 * matrix + i));
      r[matrix] |= static_cast<uint32_t>(values[j]) << (16 * half);
    }
  }
}

inline void copy_later(void* target, const void* source, size_t bytes, size_t size) {
  check_aligned(target);
  if (bytes > 0) check_aligned(source);
  Fiber& mine = fibers[static_cast<size_t>(current)];
  mine.copies.push_back({target, source, bytes, size - bytes, mine.groups});
}
inline void commit_copies() { ++fibers[static_cast<size_t>(current)].groups; }
inline void wait_for_copies(int pending) {
  Fiber& mine = fibers[static_cast<size_t>(current)];
  auto copy = mine.copies.begin();
  for (; copy != mine.copies.end() && copy->group < mine.groups - pending; ++copy) {
    if (copy->bytes > 0) std::memcpy(copy->target, copy->source, copy->bytes);
    std::memset(static_cast<char*>(copy->target) + copy->bytes, 0, copy->zeros);
  }
  mine.copies.erase(mine.copies.begin(), copy);
}

}  // namespace emulation
