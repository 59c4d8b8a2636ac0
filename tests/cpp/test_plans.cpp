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

const Card kHopper = {132, 8}, kAmpere = {108, 1};

void test_norm_regimes() {
  const auto bf16 = [](int64_t n, int64_t c, int64_t side, const Card& card) {
    return plan_of(params(n, c, side, side, DType::kBFloat16, Layout::kNHWC, kAligned), card);
  };
  const NormPlan block = bf16(1, 256, 64, kHopper);  // of a residual block, at 256 px
  expect(block.regime == NormRegime::kResident && block.vec == 8, "64x64x256 stays in registers");
  expect(block.cluster == 8 && block.packs == 2 && block.tiles == 16,
         "batch 1 is spread over 128 blocks: 16 tiles of 32 bytes, clusters of 8");
  expect(bf16(16, 256, 64, kHopper).packs == 4, "a full card reads 64 bytes of a pixel");
  expect(bf16(1, 256, 64, kAmpere).regime == NormRegime::kSplit, "no clusters: too large");
  expect(bf16(1, 512, 31, kAmpere).regime == NormRegime::kResident, "31x31 fits one block");

  const NormPlan large = bf16(1, 64, 256, kHopper);
  expect(large.regime == NormRegime::kSplit && large.packs == 8 && large.tiles == 1,
         "256x256x64 is read twice, eight packs to a pixel");
  expect(large.splits == 64 && large.threads == 256,
         "a large image at batch 1 is split over many blocks");
  expect(large.workspace_bytes == 64 * 64 * 4 * 4, "one partial result for each split and channel");

  const auto planes = [](int64_t n, int64_t c, int64_t side, const Card& card) {
    return plan_of(params(n, c, side, side, DType::kFloat32, Layout::kNCHW, kAligned), card);
  };
  const NormPlan small = planes(8, 512, 31, kAmpere);  // of a critic
  expect(small.regime == NormRegime::kResident && small.vec == 1, "31x31 floats: one by one");
  expect(small.group == 64 && small.threads == 256, "four planes of 31x31 share a block");
  expect(planes(1, 8, 31, kAmpere).threads == 64, "few planes: a block each");
  expect(planes(16, 256, 64, kAmpere).group == 128, "64x64 floats: eight packs to a thread");
  expect(planes(1, 64, 256, kHopper).cluster == 8, "256x256 floats: a cluster to a plane");
  expect(planes(1, 64, 256, kAmpere).regime == NormRegime::kSplit, "or, without clusters, splits");

  expect(
      plan_of(params(1, 64, 8, 8, DType::kFloat32, Layout::kNHWC, kMisaligned), kHopper).vec == 1,
      "misaligned: one by one");
  expect(plan_of(params(1, 6, 8, 8, DType::kFloat32, Layout::kNHWC, kAligned), kHopper).vec == 1,
         "6 channels: one by one");
  const NormPlan pixel =
      plan_of(params(4, 512, 1, 1, DType::kFloat32, Layout::kNCHW, kAligned), kHopper);
  expect(pixel.group == 32 && pixel.workspace_bytes == 0, "one pixel takes one warp");

  auto ready = params(1, 64, 256, 256, DType::kBFloat16, Layout::kNHWC, kAligned);
  ready.statistics = kAligned;
  expect(plan_of(ready, kHopper).regime == NormRegime::kMap, "ready statistics: one pass");

  const auto huge = params(1, 1, 1 << 16, 1 << 16, DType::kFloat32, Layout::kNCHW, kAligned);
  expect(
      instance_norm_act_fwd_cuda(huge, plan_of(huge, kHopper), nullptr) == Status::kInvalidArgument,
      "a plane of 2^32 elements is refused");
}

}  // namespace

int main() {
  test_norm_regimes();
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
