#include "cpu/isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cpu/has_x86.h"

namespace cyclegan_fast {

namespace {

Isa detect() {
#ifdef CYCLEGAN_FAST_X86_ISAS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;
  if (avx2) return avx512 ? Isa::kAvx512 : Isa::kAvx2;
#endif
  return Isa::kPlain;
}

Isa parse(const char* name, Isa otherwise) {
  for (Isa isa : {Isa::kPlain, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (std::strcmp(name, isa_name(isa)) == 0) return isa;
  }
  return otherwise;
}

}  // namespace

Isa cpu_isa() {
#ifdef CYCLEGAN_FAST_ONLY_ISA
  return static_cast<Isa>(CYCLEGAN_FAST_ONLY_ISA);
#else
  static const Isa best = detect();
  const char* wanted = std::getenv("CYCLEGAN_FAST_ISA");
  return wanted == nullptr ? best : std::min(best, parse(wanted, best));
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "plain";
  }
}

}  // namespace cyclegan_fast
