// The CUDA implementation: the blocks are distributed over the terms, each writes one partial sum,
// and then one small block per term adds them up in a fixed order. Small terms, such as scores, are
// a block each, which writes the value itself.
#include "losses.h"

#include <algorithm>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/reductions.cuh"
#include "cuda/vectors.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // vectors in flight per thread
constexpr int64_t kMaxBlocks = 1024;

// `other` is what a is compared with: b or the target.
template <Loss kLoss, typename C>
__device__ inline C distance(C a, C other) {
  return kLoss == Loss::kHinge ? 1 - other * a : a - other;
}

// Written so that a NaN stays one.
template <Loss kLoss, typename C>
__device__ inline C loss_at(C distance) {
  if (kLoss == Loss::kSquare) return distance * distance;
  return distance < 0 ? (kLoss == Loss::kL1 ? -distance : C(0)) : distance;
}

// The derivative by a of kSquare and kHinge.
template <Loss kLoss, typename C>
__device__ inline C slope_at(C distance, C target) {
  return kLoss == Loss::kSquare ? 2 * distance : (distance <= 0 ? C(0) : -target);
}

// Where a thread works: vectors first, first + step, ... of its block's term.
struct Position {
  int term;
  int64_t first, step;
};

__device__ inline Position position_of(const LossesPlan& plan) {
  int term = 0;
  while (static_cast<int>(blockIdx.x) >= plan.first[term + 1]) ++term;
  const int begin = plan.first[term], end = plan.first[term + 1];
  return {term, (int64_t{blockIdx.x} - begin) * blockDim.x + threadIdx.x,
          int64_t{end - begin} * blockDim.x};
}

// The thread's share of the term's sum; writes its signs [count] on the way where they are needed.
template <Loss kLoss, typename T, int kVec>
__device__ Compute<T> sum_of(const LossTerm& term, const Position& at) {
  using C = Compute<T>;
  constexpr bool kPair = kLoss == Loss::kL1;
  const T *a = static_cast<const T*>(term.a), *b = static_cast<const T*>(term.b);
  const C target = static_cast<C>(term.target);
  const int64_t vectors = term.count / kVec;
  C sum = 0;
  for (int64_t first = at.first; first < vectors; first += kUnroll * at.step) {
    Vector<T, kVec> as[kUnroll], bs[kPair ? kUnroll : 1];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * at.step >= vectors) continue;
      as[u] = load_vector<kVec>(a, (first + u * at.step) * kVec);
      if constexpr (kPair) bs[u] = load_vector<kVec>(b, (first + u * at.step) * kVec);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * at.step >= vectors) continue;
      Vector<int8_t, kVec> signs;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        C other = target;
        if constexpr (kPair) other = to_compute(bs[u].v[k]);
        const C d = distance<kLoss>(to_compute(as[u].v[k]), other);
        sum += loss_at<kLoss>(d);
        signs.v[k] = static_cast<int8_t>((d > 0) - (d < 0));
      }
      if (kPair && term.sign != nullptr)
        store_vector(term.sign, (first + u * at.step) * kVec, signs);
    }
  }
  return sum;
}

template <typename C>
__device__ inline void write_value(const LossesParams& p, int term, double sum) {
  const double mean = sum / static_cast<double>(p.terms[term].count);
  static_cast<C*>(p.values)[term] = static_cast<C>(p.terms[term].weight * mean);
}

template <Loss kLoss, typename T>
__global__ void __launch_bounds__(kThreads)
    losses_kernel(const __grid_constant__ LossesParams p, const __grid_constant__ LossesPlan plan,
                  Sum<Compute<T>>* __restrict__ partial) {  // [blocks], or null
  const Position at = position_of(plan);
  const LossTerm term = p.terms[at.term];
  Sum<Compute<T>> sum[1] = {plan.vec[at.term] > 1 ? sum_of<kLoss, T, kVectorElements<T>>(term, at)
                                                  : sum_of<kLoss, T, 1>(term, at)};
  block_reduce(sum, 1);
  if (threadIdx.x != 0) return;
  if (partial == nullptr) {
    write_value<Compute<T>>(p, at.term, static_cast<double>(sum[0].value));
  } else {
    partial[blockIdx.x] = sum[0];
  }
}

// values [size] = weight * sum of the term's partial [blocks] / count, in double; a block per term.
template <typename C>
__global__ void __launch_bounds__(kThreads)
    losses_finish_kernel(const __grid_constant__ LossesParams p,
                         const __grid_constant__ LossesPlan plan,
                         const Sum<C>* __restrict__ partial) {
  const int term = blockIdx.x;
  Sum<double> sum[1] = {};
  for (int i = plan.first[term] + threadIdx.x; i < plan.first[term + 1];
       i += static_cast<int>(blockDim.x))
    sum[0].value += partial[i].value;
  block_reduce(sum, 1);
  if (threadIdx.x == 0) write_value<C>(p, term, sum[0].value);
}

// grad_a [count] = scale * slope, the thread's share.
template <Loss kLoss, typename T, int kVec>
__device__ void write_grad(const LossTerm& term, const Position& at, Compute<T> scale) {
  using C = Compute<T>;
  using Saved = std::conditional_t<kLoss == Loss::kL1, int8_t, T>;
  const void* saved = kLoss == Loss::kL1 ? term.sign : term.a;
  const C target = static_cast<C>(term.target);
  const int64_t vectors = term.count / kVec;
  for (int64_t first = at.first; first < vectors; first += kUnroll * at.step) {
    Vector<Saved, kVec> in[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * at.step >= vectors) continue;
      in[u] = load_vector<kVec>(static_cast<const Saved*>(saved), (first + u * at.step) * kVec);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * at.step >= vectors) continue;
      Vector<T, kVec> out;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        C slope = to_compute(in[u].v[k]);
        if constexpr (kLoss != Loss::kL1)
          slope = slope_at<kLoss>(distance<kLoss>(slope, target), target);
        out.v[k] = from_compute<T>(scale * slope);
      }
      store_vector(static_cast<T*>(term.grad_a), (first + u * at.step) * kVec, out);
    }
  }
}

template <Loss kLoss, typename T>
__global__ void __launch_bounds__(kThreads)
    losses_grad_kernel(const __grid_constant__ LossesParams p,
                       const __grid_constant__ LossesPlan plan) {
  using C = Compute<T>;
  const Position at = position_of(plan);
  const LossTerm term = p.terms[at.term];
  const C share = static_cast<C>(term.weight) / static_cast<C>(term.count);
  const C scale = static_cast<const C*>(p.grad)[at.term * p.grad_stride] * share;
  if (plan.vec[at.term] > 1) {
    write_grad<kLoss, T, kVectorElements<T>>(term, at, scale);
  } else {
    write_grad<kLoss, T, 1>(term, at, scale);
  }
}

// Calls f(T{}, the loss as a constant).
template <typename F>
Status dispatch_loss(const LossesParams& p, F&& f) {
  return dispatch(p.dtype, [&](auto element) {
    switch (p.loss) {
      case Loss::kL1:
        return f(element, std::integral_constant<Loss, Loss::kL1>{});
      case Loss::kSquare:
        return f(element, std::integral_constant<Loss, Loss::kSquare>{});
      default:
        return f(element, std::integral_constant<Loss, Loss::kHinge>{});
    }
  });
}

}  // namespace

// Each term gets blocks by its size, one at least; where all together would need more than
// kMaxBlocks, each gets its share.
LossesPlan plan_of(const LossesParams& p) {
  LossesPlan plan = {};
  int64_t wanted[kMaxTerms], all = 0;
  for (int k = 0; k < p.size; ++k) {
    const LossTerm& term = p.terms[k];
    plan.vec[k] = vec_of(p.dtype, term.count, {term.a, term.b, term.sign, term.grad_a});
    wanted[k] = ceil_div(term.count / plan.vec[k], kThreads * kUnroll);
    all += wanted[k];
  }
  for (int k = 0; k < p.size; ++k) {
    const int64_t share = all > kMaxBlocks ? wanted[k] * kMaxBlocks / all : wanted[k];
    plan.first[k + 1] = plan.first[k] + static_cast<int>(std::max<int64_t>(share, 1));
  }
  plan.terms = {plan.first[p.size], kThreads};
  if (plan.first[p.size] == p.size) return plan;
  plan.finish = {p.size, kThreads};
  plan.workspace_bytes = plan.first[p.size] * stat_size_of(p.dtype);
  return plan;
}

Status losses_fwd_cuda(const LossesParams& p, const LossesPlan& plan, Stream stream) {
  return dispatch_loss(p, [&](auto element, auto loss) {
    using T = decltype(element);
    using C = Compute<T>;
    const bool finishes = plan.finish.grid > 0;
    const auto partial = finishes ? static_cast<Sum<C>*>(p.workspace) : nullptr;
    const Status status = launch(losses_kernel<loss(), T>, plan.terms, stream, p, plan, partial);
    if (status != Status::kOk || !finishes) return status;
    return launch(losses_finish_kernel<C>, plan.finish, stream, p, plan, partial);
  });
}

Status losses_bwd_cuda(const LossesParams& p, const LossesPlan& plan, Stream stream) {
  return dispatch_loss(p, [&](auto element, auto loss) {
    return launch(losses_grad_kernel<loss(), decltype(element)>, plan.terms, stream, p, plan);
  });
}

}  // namespace cyclegan_fast
