// The launch plans of the CUDA kernels, as nvcc compiled them, on a machine that may have no GPU.
#include <cstdio>

#include "image_pool.h"
#include "instance_norm_act.h"
#include "l1_mean.h"

using namespace cyclegan_fast;

namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::fprintf(stderr, "FAILED %s\n", what);
}

void* const kAligned = reinterpret_cast<void*>(4096);
void* const kMisaligned = reinterpret_cast<void*>(4096 + 4);

InstanceNormActParams params(int64_t n, int64_t c, int64_t h, int64_t w, DType dtype, Layout layout,
                             void* x) {
  InstanceNormActParams p = {};
  p.x = x, p.y = x, p.n = n, p.c = c, p.h = h, p.w = w, p.dtype = dtype, p.layout = layout;
  return p;
}

}  // namespace

int main() {
  const NormPlan large =
      plan_of(params(1, 64, 256, 256, DType::kBFloat16, Layout::kNHWC, kAligned));
  expect(large.vec == 8 && large.packs == 8 && large.tiles == 1,
         "NHWC reads 16 bytes, eight packs to a pixel");
  expect(large.splits == 64 && large.threads == 256,
         "a large image at batch 1 is split over many blocks");
  expect(large.workspace_bytes == 64 * 64 * 3 * 4, "one partial result for each split and channel");

  const NormPlan planes =
      plan_of(params(16, 256, 64, 64, DType::kFloat32, Layout::kNCHW, kAligned));
  expect(planes.vec == 4 && planes.splits == 1, "many planes fill the card without splits");

  expect(plan_of(params(1, 64, 8, 8, DType::kFloat32, Layout::kNHWC, kMisaligned)).vec == 1,
         "misaligned: one by one");
  expect(plan_of(params(1, 6, 8, 8, DType::kFloat32, Layout::kNHWC, kAligned)).vec == 1,
         "6 channels: one by one");
  const NormPlan pixel = plan_of(params(4, 512, 1, 1, DType::kFloat32, Layout::kNCHW, kAligned));
  expect(pixel.threads == 32 && pixel.splits == 1, "one pixel takes one warp");

  const auto huge = params(1, 1, 1 << 16, 1 << 16, DType::kFloat32, Layout::kNCHW, kAligned);
  expect(instance_norm_act_fwd_cuda(huge, nullptr) == Status::kInvalidArgument,
         "a plane of 2^32 elements is refused");

  L1MeanParams l1 = {};
  l1.a = l1.b = kAligned, l1.count = 3 * 256 * 256, l1.dtype = DType::kFloat32;
  expect(plan_of(l1).vec == 4 && plan_of(l1).blocks == 48,
         "l1_mean: 16 bytes an access, 4 packs a thread");

  ImagePoolParams pool = {};
  pool.pool = pool.returned = kAligned, pool.fakes = kAligned, pool.dtype = DType::kFloat32;
  pool.size = 50, pool.n = 2, pool.elements = 3 * 256 * 256;
  const ImagePoolPlan exchange = plan_of(pool);
  expect(exchange.vec == 4 && exchange.parts == 48 && exchange.blocks == 192,
         "image_pool: 16 bytes an access, 4 packs a thread that looks, one that copies");
  expect(exchange.workspace_bytes == 2 * (16 + 48 * 4),
         "image_pool: a decision and flags an image");
  pool.fakes = kMisaligned;
  expect(plan_of(pool).vec == 1, "image_pool: misaligned: one by one");
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
