// Chooses the instruction set. The kernel is cpu/conv3x3.simd.h.
#include "cpu_conv/conv3x3.h"

#include <algorithm>
#include <type_traits>

#include "cpu/isa.h"

namespace cyclegan_fast {

// Tiles worked on at a time: so many that the weights are read seldom, so few that patches and
// products of 256 channels, 9 MiB each, stay in the last cache.
constexpr int64_t kTilesPerChunk = 256;

}  // namespace cyclegan_fast

#define CYCLEGAN_FAST_KERNEL_FILE "cpu_conv/conv3x3.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

int64_t conv3x3_workspace(const Conv3x3Params& params) {
  const auto floats = [&]() -> int64_t { CYCLEGAN_FAST_CALL(workspace_floats, params); };
  return floats() * int64_t(sizeof(float));
}

int64_t conv3x3_phases(const Conv3x3Params& params) {
  const auto count = [&]() -> int64_t { CYCLEGAN_FAST_CALL(chunks, params); };
  return 3 * count() + 1;
}

int64_t conv3x3_slices(const Conv3x3Params& params, Conv3x3Pass pass, int64_t phase) {
  CYCLEGAN_FAST_CALL(slices_of_phase, params, pass, phase);
}

void conv3x3_cpu(const Conv3x3Params& params, Conv3x3Pass pass, int64_t phase, int64_t begin,
                 int64_t end) {
  CYCLEGAN_FAST_CALL(run_phase, params, pass, phase, begin, end);
}

}  // namespace cyclegan_fast
