// Which instruction set the CPU kernels run on: the widest one this processor has.
#pragma once

namespace cyclegan_fast {

enum class Isa { kPlain, kAvx2, kAvx512, kAvx512Bf16 };

// The environment variable CYCLEGAN_FAST_ISA=plain|avx2|avx512|avx512_bf16 lowers the choice (read
// at each call: for tests).
Isa cpu_isa();

const char* isa_name(Isa isa);

}  // namespace cyclegan_fast
