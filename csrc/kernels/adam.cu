// The CUDA implementation: the blocks are distributed over the weights, a fixed chunk of one weight
// each. All descriptions travel as kernel parameters, so that a graph holds them.
#include "adam.h"

#include "cuda/launch.h"
#include "cuda/reductions.cuh"
#include "cuda/vectors.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kUpdateChunk = 4096, kCheckChunk = 32768;  // elements of a block

static_assert(sizeof(AdamParams) + sizeof(AdamPlan) <= 4096, "what a launch may pass before sm_70");
static_assert(kAdamDecide.block == kThreads, "the launch bounds of decide_kernel");

// Where a block works: elements [begin, end) of a weight.
struct Position {
  int weight;
  int64_t begin, end;
};

__device__ inline Position position_of(const AdamParams& p, const AdamPlan& plan, int64_t chunk) {
  const int block = static_cast<int>(blockIdx.x);
  int low = 0, high = p.size;  // first[low] <= block < first[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (plan.first[middle] <= block ? low : high) = middle;
  }
  const int64_t begin = (block - plan.first[low]) * chunk, count = p.weights[low].count;
  return {low, begin, begin + chunk < count ? begin + chunk : count};
}

// The sum of both gradients at elements i .. i + kVec - 1, each in g[k].
template <typename G, int kVec>
__device__ inline void load_gradients(const AdamWeight& t, int64_t i, Compute<G> (&g)[kVec]) {
  const auto one = load_vector<kVec>(static_cast<const G*>(t.gradients[0]), i);
#pragma unroll
  for (int k = 0; k < kVec; ++k) g[k] = to_compute(one.v[k]);
  if (t.gradients[1] == nullptr) return;
  const auto other = load_vector<kVec>(static_cast<const G*>(t.gradients[1]), i);
#pragma unroll
  for (int k = 0; k < kVec; ++k) g[k] += to_compute(other.v[k]);
}

template <typename W, typename C, int kVec>
__device__ inline void store_working(const AdamWeight& t, int64_t i, const Vector<C, kVec>& w) {
  Vector<W, kVec> working;
#pragma unroll
  for (int k = 0; k < kVec; ++k) working.v[k] = from_compute<W>(static_cast<float>(w.v[k]));
  store_vector(static_cast<W*>(t.working), i, working);
}

// The numbers of a group's update, in the type of the arithmetic.
template <typename C>
struct Factors {
  C beta1, beta2, rest1, rest2, step_size, inv_correction2, eps, inv_scale;

  __device__ Factors(const AdamParams& p, const AdamUpdate& u)
      : beta1(static_cast<C>(p.beta1)),
        beta2(static_cast<C>(p.beta2)),
        rest1(static_cast<C>(1 - p.beta1)),
        rest2(static_cast<C>(1 - p.beta2)),
        step_size(static_cast<C>(u.step_size)),
        inv_correction2(static_cast<C>(u.inv_correction2)),
        eps(static_cast<C>(p.eps)),
        inv_scale(static_cast<C>(u.inv_scale)) {}
};

// Elements i .. i + kVec - 1.
template <typename C, typename G, int kVec>
__device__ inline void update_at(const AdamWeight& t, const Factors<C>& f, int64_t i) {
  C g[kVec];
  Vector<C, kVec> w = load_vector<kVec>(static_cast<const C*>(t.weight), i);
  Vector<C, kVec> m = load_vector<kVec>(static_cast<const C*>(t.exp_avg), i);
  Vector<C, kVec> v = load_vector<kVec>(static_cast<const C*>(t.exp_avg_sq), i);
  load_gradients<G, kVec>(t, i, g);
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const C gk = g[k] * f.inv_scale;
    m.v[k] = f.beta1 * m.v[k] + f.rest1 * gk;
    v.v[k] = f.beta2 * v.v[k] + f.rest2 * gk * gk;
    w.v[k] -= f.step_size * m.v[k] / (sqrt(v.v[k]) * f.inv_correction2 + f.eps);
  }
  store_vector(static_cast<C*>(t.weight), i, w);
  store_vector(static_cast<C*>(t.exp_avg), i, m);
  store_vector(static_cast<C*>(t.exp_avg_sq), i, v);
  if (t.working == nullptr) return;
  if (t.narrow == DType::kBFloat16) {
    store_working<BFloat16>(t, i, w);
  } else {
    store_working<Half>(t, i, w);
  }
}

// Calls f(vector's first element) for the thread's vectors of `at`, and g(element) for its elements
// of the rest.
template <int kVec, typename F, typename G>
__device__ inline void for_each_vector(const Position& at, const F& f, const G& g) {
  const int64_t rest = at.begin + (at.end - at.begin) / kVec * kVec;
  for (int64_t i = at.begin + threadIdx.x * kVec; i < rest; i += kThreads * kVec) f(i);
  for (int64_t i = rest + threadIdx.x; i < at.end; i += kThreads) g(i);
}

// Calls f(G{}) with G the type of the gradients of weights of type C.
template <typename C, typename F>
__device__ inline auto dispatch_gradient(DType gradient, const F& f) {
  if constexpr (sizeof(C) == 8) {
    return f(double{});
  } else {
    if (gradient == DType::kBFloat16) return f(BFloat16{});
    return gradient == DType::kFloat16 ? f(Half{}) : f(float{});
  }
}

template <typename C>
__global__ void __launch_bounds__(kThreads)
    adam_update_kernel(const __grid_constant__ AdamParams p,
                       const __grid_constant__ AdamPlan plan) {
  const Position at = position_of(p, plan, kUpdateChunk);
  const AdamWeight& t = p.weights[at.weight];
  const AdamUpdate decided = p.updates[t.group];
  if (decided.skipped) return;
  const Factors<C> factors(p, decided);
  const bool wide = plan.vec[at.weight] > 1;
  dispatch_gradient<C>(t.gradient, [&](auto element) {
    using G = decltype(element);
    const auto one = [&](int64_t i) { update_at<C, G, 1>(t, factors, i); };
    const auto vector = [&](int64_t i) { update_at<C, G, kVectorElements<C>>(t, factors, i); };
    if (wide) {
      for_each_vector<kVectorElements<C>>(at, vector, one);
    } else {
      for_each_vector<1>(at, one, one);
    }
  });
}

// Whether a sum of gradients at elements i .. i + kVec - 1 is not finite.
template <typename G, int kVec>
__device__ inline bool any_not_finite(const AdamWeight& t, int64_t i) {
  Compute<G> g[kVec];
  load_gradients<G, kVec>(t, i, g);
  bool found = false;
#pragma unroll
  for (int k = 0; k < kVec; ++k) found |= !(g[k] - g[k] == 0);
  return found;
}

// Bits that any of the merged ones has.
struct Bits {
  int32_t value;

  __device__ void merge(const Bits& other) { value |= other.value; }
  __device__ Bits from_warp_lane(int offset) const {
    return {__shfl_xor_sync(0xffffffffu, value, offset)};
  }
};

template <typename C>
__global__ void __launch_bounds__(kThreads)
    adam_check_kernel(const __grid_constant__ AdamParams p, const __grid_constant__ AdamPlan plan) {
  const Position at = position_of(p, plan, kCheckChunk);
  const AdamWeight& t = p.weights[at.weight];
  const bool wide = plan.vec[at.weight] > 1;
  bool found = false;
  dispatch_gradient<C>(t.gradient, [&](auto element) {
    using G = decltype(element);
    const auto one = [&](int64_t i) { found |= any_not_finite<G, 1>(t, i); };
    const auto vector = [&](int64_t i) { found |= any_not_finite<G, kVectorElements<C>>(t, i); };
    if (wide) {
      for_each_vector<kVectorElements<C>>(at, vector, one);
    } else {
      for_each_vector<1>(at, one, one);
    }
  });
  Bits bits[1] = {{found ? 1 << t.group : 0}};
  block_reduce(bits, 1);
  if (threadIdx.x == 0) p.non_finite[blockIdx.x] = bits[0].value;
}

// One block: its threads gather the checks, its first thread decides.
__global__ void __launch_bounds__(kThreads)
    adam_decide_kernel(const __grid_constant__ AdamDecideParams p) {
  Bits bits[1] = {};
  for (int64_t i = threadIdx.x; i < p.checks; i += kThreads) bits[0].value |= p.non_finite[i];
  block_reduce(bits, 1);
  if (threadIdx.x != 0) return;
  if (p.dtype == DType::kFloat64) {
    decide_updates<double>(p, bits[0].value);
  } else {
    decide_updates<float>(p, bits[0].value);
  }
}

AdamPlan plan_of(const AdamParams& p, int64_t chunk) {
  AdamPlan plan = {};
  for (int k = 0; k < p.size; ++k) {
    const AdamWeight& t = p.weights[k];
    // Vectors of 16-bit tensors are of 8 bytes: as many elements.
    plan.vec[k] = static_cast<int8_t>(
        vec_of(p.dtype, 0,
               {t.weight, t.exp_avg, t.exp_avg_sq, t.gradients[0], t.gradients[1], t.working}));
    plan.first[k + 1] = plan.first[k] + static_cast<int>(ceil_div(t.count, chunk));
  }
  plan.launch = {plan.first[p.size], kThreads};
  return plan;
}

}  // namespace

AdamPlan plan_of_check(const AdamParams& p) { return plan_of(p, kCheckChunk); }
AdamPlan plan_of_update(const AdamParams& p) { return plan_of(p, kUpdateChunk); }

Status adam_check_cuda(const AdamParams& p, const AdamPlan& plan, Stream stream) {
  return p.dtype == DType::kFloat64
             ? launch(adam_check_kernel<double>, plan.launch, stream, p, plan)
             : launch(adam_check_kernel<float>, plan.launch, stream, p, plan);
}

Status adam_decide_cuda(const AdamDecideParams& p, Stream stream) {
  return launch(adam_decide_kernel, kAdamDecide, stream, p);
}

Status adam_update_cuda(const AdamParams& p, const AdamPlan& plan, Stream stream) {
  return p.dtype == DType::kFloat64
             ? launch(adam_update_kernel<double>, plan.launch, stream, p, plan)
             : launch(adam_update_kernel<float>, plan.launch, stream, p, plan);
}

}  // namespace cyclegan_fast
