// The CPU implementation: cuts the work into slices and chooses the instruction set. The kernels
// are cpu/uint8_conversion.simd.h.
#include "uint8_conversion.h"

#include <algorithm>
#include <vector>

#include "cpu/isa.h"

namespace cyclegan_fast {

constexpr int64_t kChunk = 1024;  // pixels

int64_t to_uint8_cpu_slices(const ToUint8Params& p) { return p.n * ceil_div(p.pixels, kChunk); }
int64_t from_uint8_cpu_slices(const FromUint8Params& p) { return p.n * p.h; }

}  // namespace cyclegan_fast

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/uint8_conversion.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

void to_uint8_cpu(const ToUint8Params& params, int64_t begin, int64_t end) {
  std::vector<uint8_t> planes(size_t(std::min(kChunk, params.pixels) * params.c));
  CYCLEGAN_FAST_CALL(run_slices, params, planes.data(), begin, end);
}

void from_uint8_cpu(const FromUint8Params& params, int64_t begin, int64_t end) {
  std::vector<uint8_t> row(size_t(params.w * params.c));
  CYCLEGAN_FAST_CALL(run_slices, params, row.data(), begin, end);
}

}  // namespace cyclegan_fast
