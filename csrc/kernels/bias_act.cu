// The CUDA implementation, one kernel forward and one backward. A block works on a chunk of one
// plane, and a thread on vectors whose distance is a multiple of the channels: so its elements have
// the same channels each time, whose biases, and sums of gradients, stay in registers.
//
// Sums over the blocks: each writes its own to the workspace, and the block that is done last adds
// them up in their order.
#include "bias_act.h"

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/shared_memory.cuh"
#include "cuda/vectors.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kThreads = 256, kMinBlocks = 2;  // threads of a block; blocks of a multiprocessor
constexpr int kMaxVec = 4, kMaxDoubles = 2;    // elements of a vector: more doubles spill registers
constexpr int kUnroll = 4;                     // vectors in flight per thread
constexpr int64_t kMapBlocks = 1024;
constexpr int64_t kSumBlocks = 128;  // whose sums one block adds up
constexpr int kShare = 32;           // threads that add up a channel, at most

// bias[channel] of any type.
template <typename C>
__device__ inline C bias_at(const BiasActParams& p, uint32_t channel) {
  if (p.bias == nullptr) return C(0);
  switch (p.bias_dtype) {
    case DType::kFloat32:
      return static_cast<C>(static_cast<const float*>(p.bias)[channel]);
    case DType::kBFloat16:
      return static_cast<C>(to_compute(static_cast<const BFloat16*>(p.bias)[channel]));
    case DType::kFloat16:
      return static_cast<C>(to_compute(static_cast<const Half*>(p.bias)[channel]));
    default:
      return static_cast<C>(static_cast<const double*>(p.bias)[channel]);
  }
}

template <typename C>
__device__ inline void write_grad_bias(const BiasActParams& p, int channel, C value) {
  switch (p.bias_dtype) {
    case DType::kFloat32:
      static_cast<float*>(p.grad_bias)[channel] = static_cast<float>(value);
      return;
    case DType::kBFloat16:
      static_cast<BFloat16*>(p.grad_bias)[channel] =
          from_compute<BFloat16>(static_cast<float>(value));
      return;
    case DType::kFloat16:
      static_cast<Half*>(p.grad_bias)[channel] = from_compute<Half>(static_cast<float>(value));
      return;
    default:
      static_cast<double*>(p.grad_bias)[channel] = static_cast<double>(value);
  }
}

// Where a thread works: vectors first, first + step, ... of a plane, which lies at `own` in its
// member and at `all` in the batch. Blocks and channels are counted in 32 bits.
struct Position {
  int member;
  int64_t own, all, first, step, vectors;
  uint32_t channel, chunk;  // of the plane's first element; of the block

  template <typename Pointer>
  __device__ Position(const BiasActParams& p, const Members<Pointer>& members, uint32_t chunks,
                      int vec) {
    const uint32_t plane = blockIdx.x / chunks, planes = static_cast<uint32_t>(p.planes);
    const uint32_t image = plane / planes;
    chunk = blockIdx.x - plane * chunks;
    channel = (plane - image * planes) * static_cast<uint32_t>(p.inner);
    member = members.member_of(image);
    own = (plane - members.first[member] * p.planes) * p.plane_size();
    all = plane * p.plane_size();
    first = int64_t{chunk} * blockDim.x + threadIdx.x;
    step = int64_t{chunks} * blockDim.x;
    vectors = p.plane_size() / vec;
  }
};

// The channel in its plane of the first element of turn `chunk`: its vectors begin there.
__device__ inline uint32_t channel_of(const BiasActParams& p, uint32_t chunk, int vec) {
  const uint32_t inner = static_cast<uint32_t>(p.inner);
  return (chunk % inner) * (blockDim.x * static_cast<uint32_t>(vec) % inner) % inner;
}

template <typename From, typename Into, int kVec>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    bias_act_kernel(const __grid_constant__ BiasActParams p, uint32_t chunks) {
  using C = Compute<From>;
  const Position at(p, p.y, chunks, kVec);
  if (p.ticket != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *p.ticket = 0;
  if (at.first >= at.vectors) return;
  const From* __restrict__ x = static_cast<const From*>(p.x) + at.all;
  Into* __restrict__ y = static_cast<Into*>(p.y.data[at.member]) + at.own;
  const C slope = static_cast<C>(p.slope);
  C bias[kVec];
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const uint32_t e = channel_of(p, at.chunk, kVec) + threadIdx.x * kVec + k;
    bias[k] = bias_at<C>(p, at.channel + e % static_cast<uint32_t>(p.inner));
  }
  for (int64_t v = at.first; v < at.vectors; v += kUnroll * at.step) {
    Vector<From, kVec> in[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (v + u * at.step < at.vectors) in[u] = load_vector<kVec>(x, (v + u * at.step) * kVec);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (v + u * at.step >= at.vectors) continue;
      Vector<Into, kVec> out;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const C value = to_compute(in[u].v[k]) + bias[k];
        const C activated = p.tanh ? tanh(value) : value > 0 ? value : slope * value;
        out.v[k] = from_compute<Into>(activated);
      }
      store_vector(y, (v + u * at.step) * kVec, out);
    }
  }
}

// Writes kTurns vectors of grad_x, from vector v on; adds them to `sums` [kVec], by the position in
// a vector.
template <int kTurns, typename From, typename Into, int kVec>
__device__ inline void write_grads(const BiasActParams& p, const Position& at, int64_t v,
                                   Compute<From> (&sums)[kVec]) {
  using C = Compute<From>;
  const Into* grad_y = static_cast<const Into*>(p.grad_y.data[at.member]);
  const Into* y = static_cast<const Into*>(p.output.data[at.member]);
  Vector<Into, kVec> grads[kTurns] = {}, outputs[kTurns] = {};
  if (grad_y != nullptr) {
#pragma unroll
    for (int u = 0; u < kTurns; ++u)
      grads[u] = load_vector<kVec>(grad_y, at.own + (v + u * at.step) * kVec);
  }
  if (y != nullptr) {
#pragma unroll
    for (int u = 0; u < kTurns; ++u)
      outputs[u] = load_vector<kVec>(y, at.own + (v + u * at.step) * kVec);
  }
  const C slope = static_cast<C>(y == nullptr ? 1 : p.slope);
#pragma unroll
  for (int u = 0; u < kTurns; ++u) {
    Vector<From, kVec> out;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const C value = to_compute(outputs[u].v[k]), grad = to_compute(grads[u].v[k]);
      const C rectified = value > 0 ? grad : slope * grad;
      const C result = p.tanh ? grad * (1 - value * value) : rectified;
      sums[k] += result;
      out.v[k] = from_compute<From>(result);
    }
    if (p.grad_x != nullptr)
      store_vector(static_cast<From*>(p.grad_x), at.all + (v + u * at.step) * kVec, out);
  }
}

// How many threads add up a channel: a power of two.
__device__ inline int share_of(int channels) {
  int share = kShare;
  while (share > 1 && channels * share > static_cast<int>(blockDim.x)) share /= 2;
  return share;
}

// total(channel) = the sum of value(channel, i) for i < count(channel), handed to done(channel,
// total) in one thread; all threads of the block must call it.
template <typename C, typename Count, typename Value, typename Done>
__device__ void sum_channels(int channels, const Count& count, const Value& value,
                             const Done& done) {
  const int share = share_of(channels), mine = threadIdx.x % share;
  const int at_once = static_cast<int>(blockDim.x) / share;
  for (int first = 0; first < channels; first += at_once) {
    const int channel = first + static_cast<int>(threadIdx.x) / share;
    C sum = 0;
    if (channel < channels) {
      const int terms = count(channel);
#pragma unroll 4
      for (int i = mine; i < terms; i += share) sum += value(channel, i);
    }
    for (int offset = share / 2; offset > 0; offset /= 2)
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (mine == 0 && channel < channels) done(channel, sum);
  }
}

// Whether this block is the last one that gets here: then it sees what all others wrote before.
__device__ inline bool is_last_block(unsigned* ticket) {
  CYCLEGAN_FAST_SHARED(unsigned, before, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    before[0] = atomicAdd(ticket, 1u);
    if (before[0] == gridDim.x - 1) *ticket = 0;
  }
  __syncthreads();
  const bool last = before[0] == gridDim.x - 1;
  if (last) __threadfence();
  return last;
}

// partial [blocks, inner]: the sums of the block's gradients by channel of its plane.
template <typename From, typename Into, int kVec>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    bias_act_grad_kernel(const __grid_constant__ BiasActParams p, uint32_t chunks) {
  using C = Compute<From>;
  const Position at(p, p.grad_y, chunks, kVec);
  C sums[kVec] = {};
  int64_t v = at.first;
  for (; v + (kUnroll - 1) * at.step < at.vectors; v += kUnroll * at.step)
    write_grads<kUnroll, From, Into, kVec>(p, at, v, sums);
  for (; v < at.vectors; v += at.step) write_grads<1, From, Into, kVec>(p, at, v, sums);
  if (p.grad_bias == nullptr) return;

  CYCLEGAN_FAST_SHARED(C, shared, kThreads * kVec);
#pragma unroll
  for (int k = 0; k < kVec; ++k) shared[threadIdx.x * kVec + k] = sums[k];
  __syncthreads();
  volatile C* partial = static_cast<C*>(p.workspace);
  // Element e of `shared` has channel (begin + e) % inner: those of one channel are `inner` apart.
  const int inner = static_cast<int>(p.inner), planes = static_cast<int>(p.planes);
  const int begin = static_cast<int>(channel_of(p, at.chunk, kVec));
  const auto first_of = [&](int channel) {
    return channel >= begin ? channel - begin : channel - begin + inner;
  };
  sum_channels<C>(
      inner, [&](int channel) { return (kThreads * kVec - first_of(channel) + inner - 1) / inner; },
      [&](int channel, int i) { return shared[first_of(channel) + i * inner]; },
      [&](int channel, C sum) { partial[int64_t{blockIdx.x} * inner + channel] = sum; });
  if (gridDim.x > 1 && !is_last_block(p.ticket)) return;
  if (gridDim.x == 1) __syncthreads();

  // Channel `plane` * inner + c is in the chunks of that plane of each image.
  const int blocks = static_cast<int>(gridDim.x) / planes, cut = static_cast<int>(chunks);
  sum_channels<C>(
      planes * inner, [&](int) { return blocks; },
      [&](int channel, int i) {
        const int plane = i / cut * planes + channel / inner;
        return partial[(int64_t{plane} * cut + i % cut) * inner + channel % inner];
      },
      [&](int channel, C sum) { write_grad_bias(p, channel, sum); });
}

template <typename Pointer>
bool aligned(const Members<Pointer>& members, int64_t alignment) {
  for (int k = 0; k < members.size; ++k)
    if (reinterpret_cast<uintptr_t>(members.data[k]) % alignment != 0) return false;
  return true;
}

// `planes` planes are cut into chunks for at most `max_blocks` blocks, or for one each.
BiasActPlan plan_for(const BiasActParams& p, int64_t planes, int64_t max_blocks, bool vectors) {
  BiasActPlan plan = {};
  const int vec = p.from == DType::kFloat64 ? kMaxDoubles : kMaxVec;
  plan.vec = vectors && p.plane_size() % vec == 0 ? vec : 1;
  const int64_t turns = ceil_div(p.plane_size() / plan.vec, kThreads);
  const int64_t wanted = ceil_div(turns, int64_t{kUnroll});
  const int64_t most = std::max<int64_t>(max_blocks / std::max<int64_t>(planes, 1), 1);
  // The elements of a turn must begin with the same channel each time.
  const int64_t whole = p.inner / std::gcd(p.inner, int64_t{kThreads} * plan.vec);
  plan.chunks = ceil_div(std::max<int64_t>(std::min(wanted, most), 1), whole) * whole;
  plan.launch = {planes * plan.chunks, kThreads};
  return plan;
}

template <typename F>
Status dispatch_kernel(const BiasActParams& p, int vec, F&& f) {
  return dispatch_widening(p.from, p.into, [&](auto from, auto into) {
    constexpr int kVec = sizeof(from) == sizeof(double) ? kMaxDoubles : kMaxVec;
    return vec > 1 ? f(from, into, std::integral_constant<int, kVec>{})
                   : f(from, into, std::integral_constant<int, 1>{});
  });
}

}  // namespace

BiasActPlan forward_plan_of(const BiasActParams& p) {
  const bool vectors = reinterpret_cast<uintptr_t>(p.x) % (kMaxVec * size_of(p.from)) == 0 &&
                       aligned(p.y, kMaxVec * size_of(p.into));
  return plan_for(p, p.y.images() * p.planes, kMapBlocks, vectors);
}

BiasActPlan backward_plan_of(const BiasActParams& p) {
  const bool vectors = reinterpret_cast<uintptr_t>(p.grad_x) % (kMaxVec * size_of(p.from)) == 0 &&
                       aligned(p.grad_y, kMaxVec * size_of(p.into)) &&
                       aligned(p.output, kMaxVec * size_of(p.into));
  const int64_t max_blocks = p.grad_bias == nullptr ? kMapBlocks : kSumBlocks;
  BiasActPlan plan = plan_for(p, p.grad_y.images() * p.planes, max_blocks, vectors);
  if (p.grad_bias != nullptr)
    plan.workspace_bytes = plan.launch.grid * p.inner * stat_size_of(p.from);
  return plan;
}

Status bias_act_fwd_cuda(const BiasActParams& p, const BiasActPlan& plan, Stream stream) {
  return dispatch_kernel(p, plan.vec, [&](auto from, auto into, auto vec) {
    return launch(bias_act_kernel<decltype(from), decltype(into), vec()>, plan.launch, stream, p,
                  static_cast<uint32_t>(plan.chunks));
  });
}

Status bias_act_bwd_cuda(const BiasActParams& p, const BiasActPlan& plan, Stream stream) {
  return dispatch_kernel(p, plan.vec, [&](auto from, auto into, auto vec) {
    return launch(bias_act_grad_kernel<decltype(from), decltype(into), vec()>, plan.launch, stream,
                  p, static_cast<uint32_t>(plan.chunks));
  });
}

}  // namespace cyclegan_fast
