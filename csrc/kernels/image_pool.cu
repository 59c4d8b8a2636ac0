// The CUDA implementation: one kernel for each of the three passes.
#include "image_pool.h"

#include <algorithm>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/reductions.cuh"
#include "cuda/vectors.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr int kUnroll = 4;  // vectors in flight per thread
constexpr int64_t kMaxParts = 256, kMaxBlocks = 1024;

// non_finite [n, parts]: how many threads of the block saw a value that is not finite in their
// share of fakes [n, vectors].
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    check_kernel(const T* __restrict__ fakes, int* __restrict__ non_finite, int64_t vectors,
                 int parts) {
  const T* fake = fakes + blockIdx.x / parts * vectors * kVec;
  const int64_t step = int64_t{parts} * blockDim.x;
  bool found = false;
#pragma unroll kUnroll
  for (int64_t i = int64_t{blockIdx.x % parts} * blockDim.x + threadIdx.x; i < vectors; i += step) {
    const Vector<T, kVec> values = load_vector<kVec>(fake, i * kVec);
#pragma unroll
    for (int k = 0; k < kVec; ++k) found |= !is_finite(values.v[k]);
  }
  Sum<int> sum[1] = {{found}};
  block_reduce(sum, 1);
  if (threadIdx.x == 0) non_finite[blockIdx.x] = sum[0].value;
}

// exchanges [n], by one warp: its threads gather non_finite [n, parts], its first thread decides.
__global__ void __launch_bounds__(kWarp)
    decide_kernel(const int* __restrict__ non_finite, int parts, uint64_t seed, int64_t size,
                  int64_t n, int64_t* count, int64_t* drawn, Exchange* exchanges) {
  for (int64_t i = 0; i < n; ++i) {
    Sum<int> sum[1] = {};
    for (int k = threadIdx.x; k < parts; k += blockDim.x) sum[0].value += non_finite[i * parts + k];
    block_reduce(sum, 1);
    if (threadIdx.x != 0) continue;
    const bool finite = sum[0].value == 0;
    exchanges[i] = decide(splitmix64(seed, *drawn + i), finite, *count, size);
    *count += finite && *count < size;
  }
  if (threadIdx.x == 0) *drawn += n;
}

// pool [size, vectors], fakes and returned [n, vectors]. A thread handles the same vectors of all
// images, in order: what one image stores, a later one may take.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(const Exchange* __restrict__ exchanges, T* pool, const T* __restrict__ fakes,
                T* __restrict__ returned, int64_t n, int64_t vectors) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x, elements = vectors * kVec;
  for (int64_t p = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; p < vectors; p += step) {
#pragma unroll kUnroll
    for (int64_t i = 0; i < n; ++i) {
      const Exchange exchange = exchanges[i];
      const Vector<T, kVec> fake = load_vector<kVec>(fakes, i * elements + p * kVec);
      Vector<T, kVec> back = fake;
      if (exchange.takes >= 0) {
        back = load_vector<kVec>(pool, exchange.takes * elements + p * kVec);
      }
      if (exchange.stores >= 0) store_vector(pool, exchange.stores * elements + p * kVec, fake);
      store_vector(returned, i * elements + p * kVec, back);
    }
  }
}

template <typename T, int kVec>
Status run(const ImagePoolParams& p, const ImagePoolPlan& plan, Stream stream) {
  const auto fakes = static_cast<const T*>(p.fakes);
  const auto exchanges = static_cast<Exchange*>(p.workspace);
  const auto non_finite = reinterpret_cast<int*>(exchanges + p.n);
  const int parts = static_cast<int>(plan.parts);
  const int64_t vectors = p.elements / kVec;
  Status status =
      launch(check_kernel<T, kVec>, plan.check, stream, fakes, non_finite, vectors, parts);
  if (status != Status::kOk) return status;
  status = launch(decide_kernel, plan.decide, stream, non_finite, parts, p.seed, p.size, p.n,
                  p.count, p.drawn, exchanges);
  if (status != Status::kOk) return status;
  return launch(copy_kernel<T, kVec>, plan.copy, stream, exchanges, static_cast<T*>(p.pool), fakes,
                static_cast<T*>(p.returned), p.n, vectors);
}

int64_t blocks_of(int64_t vectors, int64_t per_thread, int64_t max_blocks) {
  return std::min(std::max<int64_t>(ceil_div(vectors, kThreads * per_thread), 1), max_blocks);
}

}  // namespace

ImagePoolPlan plan_of(const ImagePoolParams& p) {
  const int vec = vec_of(p.dtype, p.elements, {p.pool, p.fakes, p.returned});
  const int64_t vectors = p.elements / vec, parts = blocks_of(vectors, kUnroll, kMaxParts);
  const int64_t bytes = p.n * (int64_t{sizeof(Exchange)} + parts * int64_t{sizeof(int)});
  return {vec,
          parts,
          {p.n * parts, kThreads},
          {1, kWarp},
          {blocks_of(vectors, 1, kMaxBlocks), kThreads},
          bytes};
}

Status image_pool_exchange_cuda(const ImagePoolParams& p, const ImagePoolPlan& plan,
                                Stream stream) {
  if (p.n == 0) return Status::kOk;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    return plan.vec > 1 ? run<T, kVectorElements<T>>(p, plan, stream) : run<T, 1>(p, plan, stream);
  });
}

}  // namespace cyclegan_fast
