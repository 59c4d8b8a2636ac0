// The CUDA implementation. A thread makes one vector of neighbouring elements of the output, in its
// order; what it reads, it reads element by element, and the L1 cache serves the neighbours. So
// there is one kernel each for any number of channels, both layouts, any offset and mirrored crops,
// and every access to memory beyond the cache is whole. Where vectors do not fit the output, they
// hold one element.
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/vectors.cuh"
#include "uint8_conversion.h"

namespace cyclegan_fast {
namespace {

constexpr int kThreads =
    128;  // small: one image of 256 x 256 pixels should reach every multiprocessor
constexpr int kLevels = 4;  // bytes in a vector of levels: as many independent loads of x
constexpr int64_t kLimit = int64_t{1} << 31;  // what a FastDivisor divides is less

template <typename C>
__device__ inline uint8_t to_level(C x, bool tanh) {
  const C level = tanh ? C(255) / (C(1) + exp(C(-2) * x)) : (x + C(1)) * C(127.5);
  if (!(level > C(0))) return 0;  // NaN is not
  return level < C(255) ? static_cast<uint8_t>(rint(level)) : 255;
}

// levels [n, pixels, channels] of x [n, channels, pixels]
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    to_uint8_kernel(const T* __restrict__ x, uint8_t* __restrict__ levels, FastDivisor channels,
                    FastDivisor pixels, uint32_t vectors, bool tanh) {
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= vectors) return;
  T values[kVec];
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const uint32_t at = thread * kVec + k, pixel = channels.divide(at);
    const uint32_t channel = at - pixel * channels.divisor, image = pixels.divide(pixel);
    const uint32_t plane = image * channels.divisor + channel;
    values[k] = x[plane * pixels.divisor + (pixel - image * pixels.divisor)];
  }
  Vector<uint8_t, kVec> out;
#pragma unroll
  for (int k = 0; k < kVec; ++k) out.v[k] = to_level(to_compute(values[k]), tanh);
  store_vector(levels, int64_t{thread} * kVec, out);
}

// y [n, c / inner, h, w, inner] of a crop of pixels [n, height, width, c]: a thread makes the
// vectors at one position of all planes. `vectors` divides by the vectors of a row, `rows` by h,
// `inner` by inner.
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    from_uint8_kernel(FromUint8Params p, FastDivisor vectors, FastDivisor rows, FastDivisor inner,
                      uint32_t threads) {
  using C = Compute<T>;
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= threads) return;
  const uint32_t row = vectors.divide(thread), image = rows.divide(row);
  const uint32_t i = row - image * rows.divisor, first = (thread - row * vectors.divisor) * kVec;
  const Crop crop = crop_of(p, image);
  const uint8_t* __restrict__ source =
      p.pixels + ((image * p.height + crop.top + i) * p.width + crop.left) * p.c;
  const int64_t run = p.w * p.inner, planes = p.c / p.inner;
  T* __restrict__ y = static_cast<T*>(p.y) + (image * planes * p.h + i) * run;
  const uint32_t c = static_cast<uint32_t>(p.c), last = static_cast<uint32_t>(p.w) - 1;
  uint32_t at[kVec];  // in the source's row, of the first plane
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const uint32_t j = inner.divide(first + k);
    at[k] = (crop.mirrored ? last - j : j) * c + first + k - j * inner.divisor;
  }
  for (int64_t plane = 0; plane < planes; ++plane) {
    Vector<T, kVec> out;
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const C level = source[at[k] + plane];
      out.v[k] = from_compute<T>(level * Inverse<C>::high + level * Inverse<C>::low - C(1));
    }
    store_vector(y, plane * p.h * run + first, out);
  }
}

// Calls f(vec as a constant): `vec`, or 1 where `elements` are not whole vectors or p is not
// aligned.
template <int kVec, typename F>
Status dispatch_vectors(int64_t elements, const void* p, int64_t alignment, F&& f) {
  const bool fits = elements % kVec == 0 && reinterpret_cast<uintptr_t>(p) % alignment == 0;
  return fits ? f(std::integral_constant<int, kVec>{}) : f(std::integral_constant<int, 1>{});
}

}  // namespace

Status to_uint8_cuda(const ToUint8Params& p, Stream stream) {
  const int64_t count = p.n * p.c * p.pixels;
  if (count < 1 || count >= kLimit) return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    return dispatch_vectors<kLevels>(count, p.levels, kLevels, [&](auto vec) {
      const int64_t vectors = count / vec();
      return launch(to_uint8_kernel<T, vec()>, thread_per_element(vectors, kThreads), stream,
                    static_cast<const T*>(p.x), p.levels, FastDivisor(p.c), FastDivisor(p.pixels),
                    static_cast<uint32_t>(vectors), p.tanh);
    });
  });
}

Status from_uint8_cuda(const FromUint8Params& p, Stream stream) {
  const int64_t count = p.n * p.h * p.w * p.c;
  if (count < 1 || count >= kLimit || p.height * p.width * p.c >= kLimit)
    return Status::kInvalidArgument;
  return dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t run = p.w * p.inner;
    return dispatch_vectors<kVectorElements<T>>(run, p.y, 16, [&](auto vec) {
      const int64_t vectors = run / vec(), threads = p.n * p.h * vectors;
      return launch(from_uint8_kernel<T, vec()>, thread_per_element(threads, kThreads), stream, p,
                    FastDivisor(vectors), FastDivisor(p.h), FastDivisor(p.inner),
                    static_cast<uint32_t>(threads));
    });
  });
}

}  // namespace cyclegan_fast
