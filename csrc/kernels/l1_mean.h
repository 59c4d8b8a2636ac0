// l1_mean: value = sum |a - b| / count, and sign = sgn(a - b) as int8 with sgn(0) = 0, in one pass.
//
// Backward: grad_a = grad * sign / count; grad_b is its negative.
#pragma once

#include "types.h"

namespace cyclegan_fast {

struct L1MeanParams {
  const void* a;    // [in]  [count]
  const void* b;    // [in]  [count]
  int8_t* sign;     // [out] [count], or null: not wanted
  void* value;      // [out] scalar, float (double for kFloat64)
  void* workspace;  // partial sums: l1_mean_cpu_slices() doubles on the CPU,
                    // plan_of().workspace_bytes on CUDA
  int64_t count;    // elements of a and of b, both in the same order
  DType dtype;      // of a and b
};

struct L1MeanBwdParams {
  const void* grad;    // [in]  scalar, float (double for kFloat64), on the device of the rest
  const int8_t* sign;  // [in]  [count], from the forward pass
  void* grad_a;        // [out] [count]
  int64_t count;
  DType dtype;  // of grad_a
};

// ---- CPU. Slices are fixed stretches of elements; the caller spreads ranges of them over threads.
// ----
int64_t l1_mean_cpu_slices(int64_t count);
void l1_mean_fwd_cpu(const L1MeanParams& params, int64_t begin,
                     int64_t end);                    // sign and partial sums
void l1_mean_finish_cpu(const L1MeanParams& params);  // value, once all slices are done
void l1_mean_bwd_cpu(const L1MeanBwdParams& params, int64_t begin, int64_t end);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture. ----
struct L1MeanPlan {
  int vec;         // elements per access: 16 bytes' worth of a and b, or 1
  int64_t blocks;  // each writes one partial sum
  int64_t workspace_bytes;
};
L1MeanPlan plan_of(
    const L1MeanParams& params);  // pure: reads the size, the type and the pointers' alignment
Status l1_mean_fwd_cuda(const L1MeanParams& params, Stream stream);
Status l1_mean_bwd_cuda(const L1MeanBwdParams& params, Stream stream);

}  // namespace cyclegan_fast
