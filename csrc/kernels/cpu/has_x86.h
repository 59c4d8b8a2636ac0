// Defines CYCLEGAN_FAST_X86_ISAS where one file can be compiled for several instruction sets: gcc
// on x86-64. CYCLEGAN_FAST_ONLY_ISA, the number of an `Isa`, leaves the others out: a build under
// sanitizers runs one of them.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CYCLEGAN_FAST_X86_ISAS
#include <immintrin.h>
#endif
