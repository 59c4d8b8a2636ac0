// image_pool: n images are offered to a pool of `size` slots, one after the other.
//
// Until the pool is full an image is stored and returned. Then a coin decides: either a random
// slot's image is returned and the new one takes its place, or the new one is returned and not
// kept. An image that holds a NaN or an infinity is returned and never kept. Each image takes one
// draw of random.h, needed or not, so that a draw's number is that of the image.
//
// Three passes: which images are finite; the decisions, in order; the copies. On CUDA the last two
// are one launch, in which every block decides for itself.
#pragma once

#include "random.h"
#include "types.h"

namespace cyclegan_fast {

struct ImagePoolParams {
  void* pool;         // [in/out] [size, elements]
  const void* fakes;  // [in]  [n, elements]
  void* returned;     // [out] [n, elements]
  int64_t* count;     // [in/out] scalar: images stored so far, 0 <= count <= size
  int64_t* drawn;     // [in/out] scalar: decisions drawn so far
  void* workspace;    // image_pool_cpu_workspace_bytes() on the CPU, plan_of().workspace_bytes on
                      // CUDA, aligned to 8 bytes
  uint64_t seed;      // of the draws
  int64_t size;       // slots, 0 < size < 2^32
  int64_t n;          // images offered
  int64_t elements;   // of one image
  DType dtype;
};

// What happens to one image: the slot whose image is returned in its stead, and the slot that it is
// stored in, each -1 for none.
struct Exchange {
  int64_t takes, stores;
};

CYCLEGAN_FAST_HD inline Exchange decide(uint64_t draw, bool finite, int64_t count, int64_t size) {
  if (!finite) return {-1, -1};
  if (count < size) return {-1, count};
  const int64_t slot = coin_of(draw) ? below(draw, size) : -1;
  return {slot, slot};
}

CYCLEGAN_FAST_HD inline bool is_finite(BFloat16 value) { return (value.bits & 0x7f80) != 0x7f80; }
CYCLEGAN_FAST_HD inline bool is_finite(Half value) { return (value.bits & 0x7c00) != 0x7c00; }
template <typename C>
CYCLEGAN_FAST_HD inline bool is_finite(C value) {
  return value - value == C(0);
}

// ---- CPU. The caller spreads ranges of slices over threads in the first and the third pass. ----
int64_t image_pool_cpu_slices(const ImagePoolParams& params);  // of one image
int64_t image_pool_cpu_workspace_bytes(const ImagePoolParams& params);
void image_pool_check_cpu(const ImagePoolParams& params, int64_t begin,
                          int64_t end);  // in [0, n * slices]
void image_pool_decide_cpu(const ImagePoolParams& params);
void image_pool_copy_cpu(const ImagePoolParams& params, int64_t begin,
                         int64_t end);  // in [0, slices]: of all images, in order

// ---- CUDA. Asynchronous on `stream`; no allocation, no synchronisation, no atomics: safe under
// graph capture, and every replay draws anew. ----
struct ImagePoolPlan {
  int vec;                   // elements per access: 16 bytes' worth, or 1
  int64_t parts;             // blocks that check one image
  LaunchConfig check, copy;  // the copies with the decisions before them
  int64_t workspace_bytes;
};
// Pure: reads sizes, the type and the pointers' alignment.
ImagePoolPlan plan_of(const ImagePoolParams& params);
Status image_pool_exchange_cuda(const ImagePoolParams& params, const ImagePoolPlan& plan,
                                Stream stream);

}  // namespace cyclegan_fast
