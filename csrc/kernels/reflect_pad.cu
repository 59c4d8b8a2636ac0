// The CUDA implementation, one kernel forward and one backward. A thread makes one vector of
// neighbouring elements of the output, in its order, so that writes are whole for any number of
// channels; what it reads, it reads element by element, and the L1 cache serves the neighbours.
// Rows are found by one division for each vector, and only border pixels take one more.
#include "reflect_pad.h"

#include <type_traits>

#include "cuda/launch.h"
#include "cuda/vectors.cuh"

namespace cyclegan_fast {
namespace {

constexpr int kThreads = 128;  // small: one image should reach every multiprocessor
constexpr int kMaxVec = 4;
constexpr int64_t kLimit = int64_t{1} << 31;  // what a FastDivisor divides is less

// What the kernels know of rows: all counts of elements, below 2^31.
struct Geometry {
  FastDivisor row, rows, inner;  // of the output: a row, the rows of a plane; channels of a pixel
  int border;                    // pad * inner
  int source;                    // elements of a row without borders
  int last;                      // 2 (width - 1) inner: what the far edge mirrors about

  __device__ int channel_of(int e) const {
    return e - static_cast<int>(inner.divide(static_cast<uint32_t>(e)) * inner.divisor);
  }
};

// Where an element of the output lies: plane, row of the plane, element of the row.
struct At {
  uint32_t plane, i, e;

  __device__ At(uint32_t index, const Geometry& g) {
    const uint32_t row = g.row.divide(index);
    plane = g.rows.divide(row);
    i = row - plane * g.rows.divisor;
    e = index - row * g.row.divisor;
  }
  // To the next element. Returns whether it starts a row.
  __device__ bool advance(const Geometry& g) {
    if (++e < g.row.divisor) return false;
    e = 0;
    if (++i == g.rows.divisor) i = 0, ++plane;
    return true;
  }
};

__device__ inline int member_at(const ReflectPadPlan& plan) {
  int member = 0;
  while (static_cast<int>(blockIdx.x) >= plan.first[member + 1]) ++member;
  return member;
}

// The thread's first element in its member's part of the output.
__device__ inline uint32_t first_element(const ReflectPadPlan& plan, int member, int vec) {
  return ((blockIdx.x - static_cast<uint32_t>(plan.first[member])) * blockDim.x + threadIdx.x) *
         static_cast<uint32_t>(vec);
}

// y [N, planes, height + 2 pad, width + 2 pad, inner]
template <typename From, typename To, int kVec>
__global__ void __launch_bounds__(kThreads)
    pad_kernel(const __grid_constant__ ReflectPadParams p,
               const __grid_constant__ ReflectPadPlan plan, const Geometry g) {
  const int member = member_at(plan);
  const int64_t plane_size = p.padded_height() * p.padded_row();
  const int64_t planes = (p.x.first[member + 1] - p.x.first[member]) * p.planes;
  const uint32_t first = first_element(plan, member, kVec);
  if (first >= planes * plane_size) return;
  const From* __restrict__ x = static_cast<const From*>(p.x.data[member]);
  At at(first, g);
  const From* row = nullptr;
  const auto find_row = [&] {
    row = x + (at.plane * p.height + reflect(at.i, p.height, p.pad)) * g.source;
  };
  find_row();
  From values[kVec];
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const int padded = static_cast<int>(at.e);
    int e = padded - g.border;
    if (e < 0) {
      e = 2 * g.channel_of(padded) - e;
    } else if (e >= g.source) {
      e = g.last + 2 * g.channel_of(padded) - e;
    }
    values[k] = row[e];
    if (k + 1 < kVec && at.advance(g)) find_row();
  }
  Vector<To, kVec> out;
#pragma unroll
  for (int k = 0; k < kVec; ++k) out.v[k] = from_compute<To>(to_compute(values[k]));
  To* y = static_cast<To*>(p.y) + p.x.first[member] * p.planes * plane_size;
  store_vector(y, first, out);
}

// The sum of what shows element e of a row of x in `row` of grad_y.
template <typename To>
__device__ inline Compute<To> fold(const Geometry& g, const To* row, int e) {
  const int inner = static_cast<int>(g.inner.divisor);
  const bool left = e >= inner && e < g.border + inner;
  const bool right = e >= g.source - inner - g.border && e < g.source - inner;
  const int twice = left || right ? 2 * g.channel_of(e) : 0;
  Compute<To> sum = to_compute(row[g.border + e]);
  if (right) sum += to_compute(row[g.border + g.last - e + twice]);
  if (left) sum += to_compute(row[g.border - e + twice]);
  return sum;
}

// grad_x of one member, [n, planes, height, width, inner]
template <typename From, typename To, int kVec>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ ReflectPadParams p,
                  const __grid_constant__ ReflectPadPlan plan, const Geometry g) {
  const int member = member_at(plan);
  const int64_t first_plane = p.grad_x.first[member] * p.planes;
  const int64_t planes = (p.grad_x.first[member + 1] - p.grad_x.first[member]) * p.planes;
  const uint32_t first = first_element(plan, member, kVec);
  if (first >= planes * p.height * g.source) return;
  At at(first, g);
  const To* rows[3];  // those of grad_y that show the row: its own, lower, upper, or null
  const auto find_rows = [&] {
    const To* plane = static_cast<const To*>(p.grad_y) +
                      (first_plane + at.plane) * p.padded_height() * p.padded_row();
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const int64_t i = mirror(k == 0 ? 0 : 3 - k, at.i, p.height, p.pad);
      rows[k] = i < 0 ? nullptr : plane + i * p.padded_row();
    }
  };
  find_rows();
  Vector<From, kVec> out;
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    Compute<To> sum = fold(g, rows[0], static_cast<int>(at.e));
#pragma unroll
    for (int r = 1; r < 3; ++r) {
      if (rows[r] != nullptr) sum += fold(g, rows[r], static_cast<int>(at.e));
    }
    out.v[k] = from_compute<From>(sum);
    if (k + 1 < kVec && at.advance(g)) find_rows();
  }
  store_vector(static_cast<From*>(p.grad_x.data[member]), first, out);
}

// `counts` elements are made for each of `size` members, in vectors that fit all of them and
// `pointers`.
ReflectPadPlan plan_for(const int64_t* counts, int size, DType dtype, void* const* pointers) {
  ReflectPadPlan plan = {};
  plan.vec = kMaxVec;
  for (int k = 0; k < size; ++k) {
    const auto address = reinterpret_cast<uintptr_t>(pointers[k]);
    if (counts[k] % kMaxVec != 0 || address % (kMaxVec * size_of(dtype)) != 0) plan.vec = 1;
  }
  for (int k = 0; k < size; ++k) {
    const int64_t blocks = ceil_div(counts[k], int64_t{kThreads} * plan.vec);
    plan.first[k + 1] = plan.first[k] + static_cast<int>(blocks);
  }
  plan.launch = {plan.first[size], kThreads};
  return plan;
}

template <typename F>
Status dispatch_kernel(const ReflectPadParams& p, int vec, F&& f) {
  return dispatch_pair(p.from, p.into, [&](auto from, auto into) {
    return vec > 1 ? f(from, into, std::integral_constant<int, kMaxVec>{})
                   : f(from, into, std::integral_constant<int, 1>{});
  });
}

// For an output with rows of `row` elements, `rows` of them in a plane.
Geometry geometry_of(const ReflectPadParams& p, int64_t row, int64_t rows) {
  return {FastDivisor(row),          FastDivisor(rows),
          FastDivisor(p.inner),      static_cast<int>(p.pad * p.inner),
          static_cast<int>(p.row()), static_cast<int>(2 * (p.width - 1) * p.inner)};
}

template <typename Pointer>
bool too_large(const ReflectPadParams& p, const Members<Pointer>& members) {
  const int64_t image = p.planes * p.padded_height() * p.padded_row();
  for (int k = 0; k < members.size; ++k)
    if ((members.first[k + 1] - members.first[k]) * image >= kLimit) return true;
  return false;
}

}  // namespace

ReflectPadPlan forward_plan_of(const ReflectPadParams& p) {
  int64_t counts[kMaxMembers] = {};
  void* pointers[kMaxMembers] = {};
  for (int k = 0; k < p.x.size; ++k) {
    const int64_t image = p.planes * p.padded_height() * p.padded_row();
    counts[k] = (p.x.first[k + 1] - p.x.first[k]) * image;
    pointers[k] = static_cast<char*>(p.y) + p.x.first[k] * image * size_of(p.into);
  }
  return plan_for(counts, p.x.size, p.into, pointers);
}

ReflectPadPlan backward_plan_of(const ReflectPadParams& p) {
  int64_t counts[kMaxMembers] = {};
  for (int k = 0; k < p.grad_x.size; ++k) {
    if (p.grad_x.data[k] == nullptr) continue;
    counts[k] = (p.grad_x.first[k + 1] - p.grad_x.first[k]) * p.planes * p.height * p.row();
  }
  return plan_for(counts, p.grad_x.size, p.from, p.grad_x.data);
}

Status reflect_pad_fwd_cuda(const ReflectPadParams& p, const ReflectPadPlan& plan, Stream stream) {
  if (too_large(p, p.x)) return Status::kInvalidArgument;
  const Geometry g = geometry_of(p, p.padded_row(), p.padded_height());
  return dispatch_kernel(p, plan.vec, [&](auto from, auto into, auto vec) {
    return launch(pad_kernel<decltype(from), decltype(into), vec()>, plan.launch, stream, p, plan,
                  g);
  });
}

Status reflect_pad_bwd_cuda(const ReflectPadParams& p, const ReflectPadPlan& plan, Stream stream) {
  if (too_large(p, p.grad_x)) return Status::kInvalidArgument;
  const Geometry g = geometry_of(p, p.row(), p.height);
  return dispatch_kernel(p, plan.vec, [&](auto from, auto into, auto vec) {
    return launch(gather_kernel<decltype(from), decltype(into), vec()>, plan.launch, stream, p,
                  plan, g);
  });
}

}  // namespace cyclegan_fast
