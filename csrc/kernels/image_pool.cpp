// The CPU implementation. It compares and moves bits, which the compiler vectorises by itself: no
// kernel per instruction set.
#include "image_pool.h"

#include <algorithm>

namespace cyclegan_fast {
namespace {

constexpr int64_t kSlice = 16384;  // elements

// The workspace: one Exchange per image, then for each slice of each image whether it holds a value
// that is not finite.
Exchange* exchanges_of(const ImagePoolParams& p) { return static_cast<Exchange*>(p.workspace); }
bool* non_finite_of(const ImagePoolParams& p) {
  return reinterpret_cast<bool*>(exchanges_of(p) + p.n);
}

// values [count]
template <typename T>
bool any_not_finite(const T* values, int64_t count) {
  int found = 0;
  for (int64_t i = 0; i < count; ++i) found |= !is_finite(values[i]);
  return found != 0;
}

}  // namespace

int64_t image_pool_cpu_slices(const ImagePoolParams& p) { return ceil_div(p.elements, kSlice); }

int64_t image_pool_cpu_workspace_bytes(const ImagePoolParams& p) {
  return p.n * (int64_t{sizeof(Exchange)} + image_pool_cpu_slices(p));
}

void image_pool_check_cpu(const ImagePoolParams& p, int64_t begin, int64_t end) {
  const int64_t slices = image_pool_cpu_slices(p);
  dispatch(p.dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t s = begin; s < end; ++s) {
      const int64_t first = s % slices * kSlice, count = std::min(kSlice, p.elements - first);
      const T* values = static_cast<const T*>(p.fakes) + s / slices * p.elements + first;
      non_finite_of(p)[s] = any_not_finite(values, count);
    }
  });
}

void image_pool_decide_cpu(const ImagePoolParams& p) {
  const int64_t slices = image_pool_cpu_slices(p);
  for (int64_t i = 0; i < p.n; ++i) {
    const bool* non_finite = non_finite_of(p) + i * slices;
    const bool finite = std::find(non_finite, non_finite + slices, true) == non_finite + slices;
    const uint64_t draw = splitmix64(p.seed, static_cast<uint64_t>(*p.drawn + i));
    exchanges_of(p)[i] = decide(draw, finite, *p.count, p.size);
    *p.count += finite && *p.count < p.size;
  }
  *p.drawn += p.n;
}

void image_pool_copy_cpu(const ImagePoolParams& p, int64_t begin, int64_t end) {
  const int64_t element = size_of(p.dtype), row = p.elements * element;  // bytes of an image
  const int64_t first = begin * kSlice * element, last = std::min(end * kSlice * element, row);
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(last - first, 0));
  char* pool = static_cast<char*>(p.pool) + first;
  for (int64_t i = 0; i < p.n; ++i) {
    const Exchange exchange = exchanges_of(p)[i];
    const char* fake = static_cast<const char*>(p.fakes) + i * row + first;
    const char* source = exchange.takes < 0 ? fake : pool + exchange.takes * row;
    std::memcpy(static_cast<char*>(p.returned) + i * row + first, source, bytes);
    if (exchange.stores >= 0) std::memcpy(pool + exchange.stores * row, fake, bytes);
  }
}

}  // namespace cyclegan_fast
