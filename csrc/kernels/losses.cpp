// The CPU implementation: cuts the terms into slices and chooses the instruction set. The kernel is
// cpu/losses.simd.h.
#include "losses.h"

#include <algorithm>

#include "cpu/isa.h"

namespace cyclegan_fast {
namespace {

constexpr int64_t kSlice = 4096;  // elements: so few that their sum in float stays exact enough

// Where a slice lies: elements [begin, end) of a term.
struct Position {
  int term;
  int64_t begin, end;
};

Position position_of(const LossesParams& p, int64_t slice) {
  int k = 0;
  for (; slice >= ceil_div(p.terms[k].count, kSlice); ++k) {
    slice -= ceil_div(p.terms[k].count, kSlice);
  }
  return {k, slice * kSlice, std::min((slice + 1) * kSlice, p.terms[k].count)};
}

}  // namespace

int64_t losses_cpu_slices(const LossesParams& p) {
  int64_t slices = 0;
  for (int k = 0; k < p.size; ++k) slices += ceil_div(p.terms[k].count, kSlice);
  return slices;
}

}  // namespace cyclegan_fast

#define CYCLEGAN_FAST_KERNEL_FILE "cpu/losses.simd.h"
#include "cpu/for_each_isa.h"

namespace cyclegan_fast {

void losses_fwd_cpu(const LossesParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_forward, params, begin, end);
}

void losses_finish_cpu(const LossesParams& p) {
  const double* partial = static_cast<const double*>(p.workspace);
  for (int k = 0; k < p.size; ++k) {
    const LossTerm& term = p.terms[k];
    double total = 0;
    for (int64_t i = 0; i < ceil_div(term.count, kSlice); ++i) total += *partial++;
    const double value = term.weight * total / double(term.count);
    if (p.dtype == DType::kFloat64) {
      static_cast<double*>(p.values)[k] = value;
    } else {
      static_cast<float*>(p.values)[k] = float(value);
    }
  }
}

void losses_bwd_cpu(const LossesParams& params, int64_t begin, int64_t end) {
  CYCLEGAN_FAST_CALL(run_backward, params, begin, end);
}

}  // namespace cyclegan_fast
