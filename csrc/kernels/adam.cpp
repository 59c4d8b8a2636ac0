// The CPU implementation: cuts the weights into slices and chooses the instruction set. The kernel
// is cpu/adam.simd.h.
#include "adam.h"

#include <algorithm>

#include "cpu/isa.h"

namespace cyclegan_fast {
namespace {

constexpr int64_t kSlice = 16384;  // elements

int64_t slices_of(const AdamWeight& weight) { return ceil_div(weight.count, kSlice); }

// Where a slice lies: elements [begin, end) of a weight.
struct Position {
  const AdamWeight& weight;
  int64_t begin, end;
};

// Calls f(position, slice) for slices [begin, end).
template <typename F>
void for_each_slice(const AdamParams& p, int64_t begin, int64_t end, const F& f) {
  int64_t first = 0;  // slice of the weight
  for (int k = 0; k < p.size && first < end; ++k) {
    const AdamWeight& weight = p.weights[k];
    const int64_t last = std::min(first + slices_of(weight), end);
    for (int64_t slice = std::max(first, begin); slice < last; ++slice) {
      const int64_t element = (slice - first) * kSlice;
      f(Position{weight, element, std::min<int64_t>(element + kSlice, weight.count)}, slice);
    }
    first += slices_of(weight);
  }
}

}  // namespace

int64_t adam_cpu_slices(const AdamParams& p) {
  int64_t slices = 0;
  for (int k = 0; k < p.size; ++k) slices += slices_of(p.weights[k]);
  return slices;
}

void adam_decide_cpu(const AdamDecideParams& p) {
  int32_t non_finite = 0;
  for (int64_t i = 0; i < p.checks; ++i) non_finite |= p.non_finite[i];
  p.dtype == DType::kFloat64 ? decide_updates<double>(p, non_finite)
                             : decide_updates<float>(p, non_finite);
}

}  // namespace cyclegan_fast

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/adam.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

void adam_check_cpu(const AdamParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_check, params, begin, end);
}

void adam_update_cpu(const AdamParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_update, params, begin, end);
}

}  // namespace cyclegan_fast
