// Compiles the file named by CYCLEGAN_FAST_KERNEL_FILE once per instruction set, each time in a
// namespace of its own. Every other header must be included before this one: what is first seen
// here is compiled for the wider processor. No include guard: included once per kernel file.

#include "cpu/has_x86.h"

#define CYCLEGAN_FAST_VECTOR_BYTES 16
namespace cyclegan_fast::plain {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::plain
#undef CYCLEGAN_FAST_VECTOR_BYTES

#ifdef CYCLEGAN_FAST_X86_ISAS
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define CYCLEGAN_FAST_VECTOR_BYTES 32
namespace cyclegan_fast::avx2 {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::avx2
#undef CYCLEGAN_FAST_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define CYCLEGAN_FAST_VECTOR_BYTES 64
namespace cyclegan_fast::avx512 {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")
#define CYCLEGAN_FAST_HAS_BF16
namespace cyclegan_fast::avx512_bf16 {
#include "cpu/simd.h"
#include CYCLEGAN_FAST_KERNEL_FILE
}  // namespace cyclegan_fast::avx512_bf16
#undef CYCLEGAN_FAST_HAS_BF16
#undef CYCLEGAN_FAST_VECTOR_BYTES
#pragma GCC pop_options

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
#else
#define CYCLEGAN_FAST_CALL(function, ...) return plain::function(__VA_ARGS__)
#endif
