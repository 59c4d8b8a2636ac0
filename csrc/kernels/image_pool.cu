// The CUDA implementation: one kernel checks, one decides and copies.
#include "image_pool.h"

#include <algorithm>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/reductions.cuh"
#include "cuda/vectors.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // vectors in flight per thread
constexpr int64_t kMaxParts = 256, kMaxBlocks = 1024;

// What the pool's state is before the exchange: the copies change it, but for the first block,
// which writes what it is after.
struct State {
  int64_t count, drawn;
};

// non_finite [n, parts]: how many threads of the block saw a value that is not finite in their
// share of fakes [n, vectors]. And notes the pool's state, which the next kernel changes.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    check_kernel(const T* __restrict__ fakes, int* __restrict__ non_finite, int64_t vectors,
                 int parts, const ImagePoolParams p, State* __restrict__ before) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *before = {*p.count, *p.drawn};
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

// exchanges [images] of images first, first + 1, ...: which of these are finite is in non_finite
// [n, parts]. All threads of the block call it; the first one decides. Returns the count after
// them.
__device__ inline int64_t decide_all(const int* non_finite, int parts, uint64_t seed, int64_t size,
                                     const State& state, int64_t count, int64_t first, int images,
                                     Exchange* exchanges) {
  CYCLEGAN_FAST_SHARED(int, finite, kThreads);
  CYCLEGAN_FAST_SHARED(int64_t, after, 1);
  if (static_cast<int>(threadIdx.x) < images) finite[threadIdx.x] = 1;
  __syncthreads();
  for (int k = threadIdx.x; k < images * parts; k += blockDim.x)
    if (non_finite[first * parts + k] != 0) finite[k / parts] = 0;  // all write the same
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 0; i < images; ++i) {
      const uint64_t draw = splitmix64(seed, static_cast<uint64_t>(state.drawn + first + i));
      exchanges[i] = decide(draw, finite[i] != 0, count, size);
      count += finite[i] != 0 && count < size;
    }
    after[0] = count;
  }
  __syncthreads();
  return after[0];
}

// pool [size, vectors], fakes and returned [n, vectors]. A thread handles the same vectors of all
// images, in order: what one image stores, a later one may take.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads, 2)
    copy_kernel(const int* __restrict__ non_finite, int parts, const State* __restrict__ before,
                const ImagePoolParams p, int64_t vectors) {
  CYCLEGAN_FAST_SHARED(Exchange, exchanges, kThreads);
  T* pool = static_cast<T*>(p.pool);
  const T* __restrict__ fakes = static_cast<const T*>(p.fakes);
  T* __restrict__ returned = static_cast<T*>(p.returned);
  const int64_t step = int64_t{gridDim.x} * blockDim.x, elements = vectors * kVec;
  const State state = *before;
  int64_t count = state.count;
  for (int64_t first = 0; first < p.n;
       first += kThreads) {  // as many images as a block has threads
    const int images = static_cast<int>(p.n - first < kThreads ? p.n - first : kThreads);
    count = decide_all(non_finite, parts, p.seed, p.size, state, count, first, images, exchanges);
    for (int64_t v = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; v < vectors; v += step) {
#pragma unroll kUnroll
      for (int i = 0; i < images; ++i) {
        const Exchange exchange = exchanges[i];
        const int64_t at = (first + i) * elements + v * kVec;
        const Vector<T, kVec> fake = load_vector<kVec>(fakes, at);
        Vector<T, kVec> back = fake;
        if (exchange.takes >= 0)
          back = load_vector<kVec>(pool, exchange.takes * elements + v * kVec);
        if (exchange.stores >= 0) store_vector(pool, exchange.stores * elements + v * kVec, fake);
        store_vector(returned, at, back);
      }
    }
    __syncthreads();  // before the next decisions
  }
  if (blockIdx.x > 0 || threadIdx.x > 0) return;
  *p.count = count;
  *p.drawn = state.drawn + p.n;
}

template <typename T, int kVec>
Status run(const ImagePoolParams& p, const ImagePoolPlan& plan, Stream stream) {
  const auto before = static_cast<State*>(p.workspace);
  const auto non_finite = reinterpret_cast<int*>(before + 1);
  const int parts = static_cast<int>(plan.parts);
  const int64_t vectors = p.elements / kVec;
  const Status status =
      launch(check_kernel<T, kVec>, plan.check, stream, static_cast<const T*>(p.fakes), non_finite,
             vectors, parts, p, before);
  if (status != Status::kOk) return status;
  return launch(copy_kernel<T, kVec>, plan.copy, stream, non_finite, parts, before, p, vectors);
}

int64_t blocks_of(int64_t vectors, int64_t per_thread, int64_t max_blocks) {
  return std::min(std::max<int64_t>(ceil_div(vectors, kThreads * per_thread), 1), max_blocks);
}

}  // namespace

ImagePoolPlan plan_of(const ImagePoolParams& p) {
  const int vec = vec_of(p.dtype, p.elements, {p.pool, p.fakes, p.returned});
  const int64_t vectors = p.elements / vec, parts = blocks_of(vectors, kUnroll, kMaxParts);
  const int64_t bytes = int64_t{sizeof(State)} + p.n * parts * int64_t{sizeof(int)};
  return {
      vec, parts, {p.n * parts, kThreads}, {blocks_of(vectors, 1, kMaxBlocks), kThreads}, bytes};
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
