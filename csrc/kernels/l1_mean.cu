// The CUDA twin: partial sums per block, then one small block adds them up in a fixed order.
#include <algorithm>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "l1_mean.h"

namespace cyclegan_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // packs in flight per thread
constexpr int64_t kMaxBlocks = 1024;

// sign [count] (or null) and the block's share of the sum; thread t walks over packs t, t + all
// threads, ...
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    l1_kernel(const T* __restrict__ a, const T* __restrict__ b,  // [count]
              int8_t* __restrict__ sign,                         // [count] or null
              Sum<Compute<T>>* partial,                          // [blocks]
              int64_t packs) {
  using C = Compute<T>;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  Sum<C> sum[1] = {};
  for (int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; first < packs;
       first += kUnroll * step) {
    Pack<T, kVec> as[kUnroll], bs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * step >= packs) continue;
      as[u] = load_pack<kVec>(a, (first + u * step) * kVec);
      bs[u] = load_pack<kVec>(b, (first + u * step) * kVec);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (first + u * step >= packs) continue;
      Pack<int8_t, kVec> signs;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const C d = to_compute(as[u].v[k]) - to_compute(bs[u].v[k]);
        sum[0].value += d < 0 ? -d : d;
        signs.v[k] = static_cast<int8_t>((d > 0) - (d < 0));
      }
      if (sign != nullptr) store_pack(sign, (first + u * step) * kVec, signs);
    }
  }
  block_reduce(sum, 1);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum[0];
}

// value = sum of partial [blocks] / count, in double, by one block.
template <typename C>
__global__ void __launch_bounds__(kThreads)
    l1_finish_kernel(const Sum<C>* __restrict__ partial, int blocks, int64_t count, C* value) {
  Sum<double> sum[1] = {};
  for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum[0].value += partial[i].value;
  block_reduce(sum, 1);
  if (threadIdx.x == 0) *value = static_cast<C>(sum[0].value / static_cast<double>(count));
}

// grad_a [count] = grad * sign / count
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    l1_grad_kernel(const Compute<T>* __restrict__ grad, const int8_t* __restrict__ sign,
                   T* __restrict__ grad_a, int64_t count, int64_t packs) {
  using C = Compute<T>;
  const C scale = *grad / static_cast<C>(count);
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += step) {
    const Pack<int8_t, kVec> signs = load_pack<kVec>(sign, i * kVec);
    Pack<T, kVec> out;
#pragma unroll
    for (int k = 0; k < kVec; ++k) out.v[k] = from_compute<T>(scale * static_cast<C>(signs.v[k]));
    store_pack(grad_a, i * kVec, out);
  }
}

int64_t blocks_of(int64_t packs, int64_t per_thread) {
  return std::min(std::max<int64_t>(ceil_div(packs, kThreads * per_thread), 1), kMaxBlocks);
}

// Calls f(T{}, vec as a constant).
template <typename F>
Status dispatch_vec(DType dtype, int vec, F&& f) {
  return dispatch(dtype, [&](auto element) {
    using T = decltype(element);
    return vec > 1 ? f(element, std::integral_constant<int, kPackLanes<T>>{})
                   : f(element, std::integral_constant<int, 1>{});
  });
}

}  // namespace

L1MeanPlan plan_of(const L1MeanParams& p) {
  const int vec = vec_of(p.dtype, p.count, {p.a, p.b, p.sign});
  const int64_t blocks = blocks_of(p.count / vec, kUnroll);
  return {vec, blocks, blocks * stat_size_of(p.dtype)};
}

Status l1_mean_fwd_cuda(const L1MeanParams& p, Stream stream) {
  const L1MeanPlan plan = plan_of(p);
  return dispatch_vec(p.dtype, plan.vec, [&](auto element, auto vec) {
    using T = decltype(element);
    using C = Compute<T>;
    const auto partial = static_cast<Sum<C>*>(p.workspace);
    const Status status =
        Launch(l1_kernel<T, vec()>, plan.blocks, kThreads, 0, stream, static_cast<const T*>(p.a),
               static_cast<const T*>(p.b), p.sign, partial, p.count / plan.vec);
    if (status != Status::kOk) return status;
    return Launch(l1_finish_kernel<C>, 1, kThreads, 0, stream, partial,
                  static_cast<int>(plan.blocks), p.count, static_cast<C*>(p.value));
  });
}

Status l1_mean_bwd_cuda(const L1MeanBwdParams& p, Stream stream) {
  const int vec = vec_of(p.dtype, p.count, {p.sign, p.grad_a});
  return dispatch_vec(p.dtype, vec, [&](auto element, auto constant) {
    using T = decltype(element);
    return Launch(l1_grad_kernel<T, constant()>, blocks_of(p.count / vec, 1), kThreads, 0, stream,
                  static_cast<const Compute<T>*>(p.grad), p.sign, static_cast<T*>(p.grad_a),
                  p.count, p.count / vec);
  });
}

}  // namespace cyclegan_fast
