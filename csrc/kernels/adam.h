// adam: one update of many weights by Adam (Kingma and Ba 2015), without weight decay. The weights
// belong to groups, each with its own step count t, losses, and decision whether it is updated at
// all. Of each element, in float (double for kFloat64):
//
//   g = (gradient + gradient of the other cycle) / loss scale
//   m = beta1 m + (1 - beta1) g
//   v = beta2 v + (1 - beta2) g^2
//   w = w - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// and the 16-bit working weight is w, rounded. Three passes, all decisions on the device:
//
//   check:  which groups have a gradient that is not finite
//   decide: a group is skipped whose losses or gradients are not finite, weights, moments and t
//           untouched; t and the factors of the others; the next loss scale
//   update: the formula above
#pragma once

#include <cmath>

#include "types.h"

namespace cyclegan_fast {

constexpr int kMaxAdamWeights = 64;  // of one launch: what fits into 4096 bytes of parameters
constexpr int kMaxAdamGroups = 2;
constexpr int kMaxAdamLosses = 32;

struct AdamWeight {
  void* weight;      // [in/out] [count], in AdamParams::dtype
  void* exp_avg;     // [in/out] [count], m
  void* exp_avg_sq;  // [in/out] [count], v
  // [in] [count] each, in the order of the weight: of one cycle, and of the other (null: none).
  const void* gradients[2];
  void* working;   // [out] [count]: the working weight (null: none)
  int32_t count;   // elements
  int8_t group;    // in [0, kMaxAdamGroups)
  DType gradient;  // of both gradients; kFloat64 where the weight is, and nowhere else
  DType narrow;    // of the working weight: kBFloat16 or kFloat16
};

// What the decision says about a group.
struct AdamUpdate {
  double step_size;        // lr / (1 - beta1^t)
  double inv_correction2;  // 1 / sqrt(1 - beta2^t)
  double inv_scale;        // of the gradients
  bool skipped;            // the other fields mean nothing
};

struct AdamParams {
  AdamWeight weights[kMaxAdamWeights];
  AdamUpdate* updates;  // [kMaxAdamGroups]: [in] of update
  int32_t* non_finite;  // [out] of check: for each slice (CPU) or block (CUDA), bit k is set if a
                        // gradient of group k is not finite
  double beta1, beta2, eps;
  int size;     // weights in use
  DType dtype;  // of weights and moments: kFloat32 or kFloat64
};

struct AdamDecideParams {
  const void* losses[kMaxAdamLosses];  // [in] scalars, in `dtype`
  float* steps[kMaxAdamGroups];        // [in/out] t, scalars
  const double* lr;                    // [in] scalar
  float* scale;                        // [in/out] the loss scale, a scalar (null: none)
  int32_t* growth_tracker;    // [in/out] updates since the loss scale last changed, a scalar
  const int32_t* non_finite;  // [in] [checks], of all launches of the check
  AdamUpdate* updates;        // [out] [kMaxAdamGroups]
  double beta1, beta2;
  int64_t checks;
  int growth_interval;           // updates after which the loss scale doubles
  int groups, size;              // in use; losses in use
  int8_t group[kMaxAdamLosses];  // of each loss
  DType dtype;
};

// The next loss scale, as torch.amp.GradScaler's defaults have it: halved by an overflow, doubled
// after growth_interval updates without one, but never to infinity.
CYCLEGAN_FAST_HD inline void update_loss_scale(float* scale, int32_t* tracker, bool overflow,
                                               int growth_interval) {
  if (overflow) {
    *scale *= 0.5f;
    *tracker = 0;
  } else if (++*tracker == growth_interval) {
    const float doubled = *scale * 2.0f;
    if (doubled - doubled == 0.0f) *scale = doubled;
    *tracker = 0;
  }
}

// The decision, given the bits of all checks together.
template <typename C>
CYCLEGAN_FAST_HD inline void decide_updates(const AdamDecideParams& p, int32_t non_finite) {
  for (int k = 0; k < p.size; ++k) {
    const C loss = *static_cast<const C*>(p.losses[k]);
    if (!(loss - loss == C(0))) non_finite |= 1 << p.group[k];
  }
  const double inv_scale = p.scale != nullptr ? 1.0 / static_cast<double>(*p.scale) : 1.0;
  for (int k = 0; k < p.groups; ++k) {
    AdamUpdate& update = p.updates[k];
    update = {0, 0, inv_scale, (non_finite >> k & 1) != 0};
    if (update.skipped) continue;
    const double t = *p.steps[k] += 1.0f;
    update.step_size = *p.lr / (1.0 - pow(p.beta1, t));
    update.inv_correction2 = 1.0 / sqrt(1.0 - pow(p.beta2, t));
  }
  if (p.scale != nullptr) {
    update_loss_scale(p.scale, p.growth_tracker, non_finite != 0, p.growth_interval);
  }
}

// ---- CPU. Slices are fixed chunks of one weight; the caller spreads ranges of them over threads.
// ----
int64_t adam_cpu_slices(const AdamParams& params);
void adam_check_cpu(const AdamParams& params, int64_t begin, int64_t end);
void adam_decide_cpu(const AdamDecideParams& params);
void adam_update_cpu(const AdamParams& params, int64_t begin, int64_t end);

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture. ----
struct AdamPlan {
  int first[kMaxAdamWeights + 1];  // blocks first[k] .. first[k + 1] - 1 work on weight k
  int8_t vec[kMaxAdamWeights];     // elements per access: 16 bytes' worth of the weight, or 1
  LaunchConfig launch;
};
constexpr LaunchConfig kAdamDecide = {1, 256};
// Pure: reads sizes, types and the pointers' alignment. A block of the check reads more elements
// than one of the update, so that there are few results to gather.
AdamPlan plan_of_check(const AdamParams& params);
AdamPlan plan_of_update(const AdamParams& params);
Status adam_check_cuda(const AdamParams& params, const AdamPlan& plan, Stream stream);
Status adam_decide_cuda(const AdamDecideParams& params, Stream stream);
Status adam_update_cuda(const AdamParams& params, const AdamPlan& plan, Stream stream);

}  // namespace cyclegan_fast
