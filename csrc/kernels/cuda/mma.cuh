// Tensor cores, as a warp uses them from sm_80 on: d [16 x 8] += a [16 x 16] * b [16 x 8], sums in
// float; how their operands come from shared memory; and copies that run on while a warp computes.
//
// Lane l has g = l / 4 and t = l % 4. Of a it holds the pairs of columns 2t and 2t + 8 in the rows
// g and g + 8, of b the pairs of rows 2t and 2t + 8 in column g, of d the pair of columns 2t in
// both rows:
//   a[0] = (g, 2t), a[1] = (g + 8, 2t), a[2] = (g, 2t + 8), a[3] = (g + 8, 2t + 8)
//   b[0] = (2t, g), b[1] = (2t + 8, g)          d[0..1] = (g, 2t), d[2..3] = (g + 8, 2t)
//
// All lanes of a warp must call together. tests/cpp/emulation has the same in plain C++.
#pragma once

#include <cuda_runtime.h>

#include "types.h"

namespace cyclegan_fast {

#ifdef CYCLEGAN_FAST_EMULATED

template <typename T>
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::mma<T>(d, a, b);
}
template <int kMatrices, bool kTransposed = false>
void load_matrices(uint32_t (&r)[kMatrices], const void* row) {
  emulation::load_matrices<kMatrices, kTransposed>(r, row);
}
inline void copy_16_bytes(void* target, const void* source, bool valid) {
  emulation::copy_later(target, source, valid ? 16 : 0, 16);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int kPending>
void wait_for_copies() {
  emulation::wait_for_copies(kPending);
}

#else

template <typename T>
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ inline void mma<BFloat16>(float (&d)[4], const uint32_t (&a)[4],
                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ inline void mma<Half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// kMatrices of 8 x 8, of which lane l gives the address of row l % 8 of matrix l / 8 (16 bytes,
// aligned). Of each the lane gets the pair at (g, 2t), or of its transpose. With 2 matrices lanes
// from 16 on give any valid address.
template <int kMatrices, bool kTransposed = false>
__device__ inline void load_matrices(uint32_t (&r)[kMatrices], const void* row) {
  static_assert(kMatrices == 4 || (kMatrices == 2 && !kTransposed));
  const uint32_t address = shared_address(row);
  if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

// Begins to copy 16 bytes (both addresses aligned) from global into shared memory, or zeros where
// the source is not valid; it is not read then, but must be an address.
__device__ inline void copy_16_bytes(void* target, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)),
               "l"(__cvta_generic_to_global(source)), "r"(valid ? 16 : 0)
               : "memory");
}
// Ends a group of copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's groups but the last kPending ones.
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#endif

}  // namespace cyclegan_fast
