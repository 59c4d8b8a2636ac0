// losses: the losses of a training step, up to kMaxTerms of one kind in one launch. Of each
// term
//
//   kL1:     value = weight * sum |a - b| / count, and sign = sgn(a - b) as int8 with sgn(0) = 0
//   kSquare: value = weight * sum (a - target)^2 / count
//   kHinge:  value = weight * sum max(0, 1 - target * a) / count
//
// Backward: grad_a = grad * weight / count * slope, where slope is sign, 2 (a - target), or -target
// where the hinge is above 0. The gradient of kL1 to b is its negative.
#pragma once

#include "types.h"

namespace cyclegan_fast {

enum class Loss : int8_t { kL1, kSquare, kHinge };

constexpr int kMaxTerms = 8;

struct LossTerm {
  const void* a;  // [in]  [count]; the backward pass of kL1 reads sign instead
  const void* b;  // [in]  [count], in the order of a: kL1, forward
  int8_t* sign;  // [count]: kL1, [out] of the forward pass (null: not needed), [in] of the backward
  void* grad_a;  // [out] [count]: backward
  int64_t count;  // elements
  double target;  // kSquare, kHinge
  double weight;
};

struct LossesParams {
  LossTerm terms[kMaxTerms];
  int size;  // terms in use
  Loss loss;
  DType dtype;          // of a, b and grad_a
  void* values;         // [out] [size], float (double for kFloat64): forward
  const void* grad;     // [in]  [size], as values, on the device of the rest: backward
  int64_t grad_stride;  // elements from one gradient to the next: 0 where one is shared
  void* workspace;      // partial sums of the forward pass: losses_cpu_slices() doubles on the
                        // CPU, plan_of().workspace_bytes on CUDA
};

// ---- CPU. Slices are fixed chunks of one term; the caller spreads ranges of them over threads.
// ----
int64_t losses_cpu_slices(const LossesParams& params);
void losses_fwd_cpu(const LossesParams& params, int64_t begin,
                    int64_t end);                    // signs and partial sums
void losses_finish_cpu(const LossesParams& params);  // values, once all slices are done
void losses_bwd_cpu(const LossesParams& params, int64_t begin, int64_t end);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture. ----
struct LossesPlan {
  int vec[kMaxTerms];          // elements per access of each term: 16 bytes' worth, or 1
  int first[kMaxTerms + 1];    // blocks first[k] .. first[k + 1] - 1 work on term k
  LaunchConfig terms, finish;  // forward: the partial sums, then the values, unless every term has
                               // one block, which knows its value; backward: terms alone
  int64_t workspace_bytes;     // one partial sum a block, or none
};
// Pure: reads the sizes, the type and the pointers' alignment.
LossesPlan plan_of(const LossesParams& params);
Status losses_fwd_cuda(const LossesParams& params, const LossesPlan& plan, Stream stream);
Status losses_bwd_cuda(const LossesParams& params, const LossesPlan& plan, Stream stream);

}  // namespace cyclegan_fast
