// Compiles the file named by CYCLEGAN_FAST_KERNEL_FILE once per instruction set, each time in a
// namespace of its own. Every other header must be included before this one: what is first seen
// here is compiled for the wider processor. No include guard: included once per kernel file.

#include "cpu/has_x86.h"

#ifdef CYCLEGAN_FAST_ONLY_ISA
#define CYCLEGAN_FAST_COMPILES(isa) (CYCLEGAN_FAST_ONLY_ISA == (isa))
#else
#define CYCLEGAN_FAST_COMPILES(isa) 1
#endif

#if CYCLEGAN_FAST_COMPILES(0)
#define CYCLEGAN_FAST_VECTOR_BYTES 16
namespace cyclegan_fast::plain {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::plain
#undef CYCLEGAN_FAST_VECTOR_BYTES
#endif

#ifdef CYCLEGAN_FAST_X86_ISAS
#if CYCLEGAN_FAST_COMPILES(1)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define CYCLEGAN_FAST_VECTOR_BYTES 32
namespace cyclegan_fast::avx2 {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::avx2
#undef CYCLEGAN_FAST_VECTOR_BYTES
#pragma GCC pop_options
#endif

#define CYCLEGAN_FAST_VECTOR_BYTES 64
#if CYCLEGAN_FAST_COMPILES(2)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
namespace cyclegan_fast::avx512 {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::avx512
#pragma GCC pop_options
#endif

#if CYCLEGAN_FAST_COMPILES(3)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")
#define CYCLEGAN_FAST_HAS_BF16
namespace cyclegan_fast::avx512_bf16 {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::avx512_bf16
#undef CYCLEGAN_FAST_HAS_BF16
#pragma GCC pop_options
#endif
#undef CYCLEGAN_FAST_VECTOR_BYTES
#endif

#if !defined(CYCLEGAN_FAST_X86_ISAS) || defined(CYCLEGAN_FAST_ONLY_ISA)
#if !defined(CYCLEGAN_FAST_ONLY_ISA) || CYCLEGAN_FAST_ONLY_ISA == 0
#define CYCLEGAN_FAST_CALL(function, ...) return plain::function(__VA_ARGS__)
#elif CYCLEGAN_FAST_ONLY_ISA == 1
#define CYCLEGAN_FAST_CALL(function, ...) return avx2::function(__VA_ARGS__)
#elif CYCLEGAN_FAST_ONLY_ISA == 2
#define CYCLEGAN_FAST_CALL(function, ...) return avx512::function(__VA_ARGS__)
#else
#define CYCLEGAN_FAST_CALL(function, ...) return avx512_bf16::function(__VA_ARGS__)
#endif
#else
// Calls `function` of the namespace that this processor runs best.
#define CYCLEGAN_FAST_CALL(function, ...)        \
  switch (cpu_isa()) {                           \
    case Isa::kAvx512Bf16:                       \
      return avx512_bf16::function(__VA_ARGS__); \
    case Isa::kAvx512:                           \
      return avx512::function(__VA_ARGS__);      \
    case Isa::kAvx2:                             \
      return avx2::function(__VA_ARGS__);        \
    default:                                     \
      return plain::function(__VA_ARGS__);       \
  }
#endif
#undef CYCLEGAN_FAST_COMPILES
