// The launch plans of the CUDA kernels, as nvcc compiled them, on a machine that may have no GPU.
#include <cstdio>
#include <initializer_list>

#include "image_pool.h"
#include "instance_norm_act.h"
#include "mean_losses.h"

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
  const NormPlan small = planes(8, 512, 31, kAmpere);  // of a discriminator
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

MeanLossesParams losses(std::initializer_list<int64_t> counts, void* a) {
  MeanLossesParams p = {};
  p.dtype = DType::kFloat32;
  for (int64_t count : counts) p.terms[p.size].a = a, p.terms[p.size++].count = count;
  return p;
}

}  // namespace

int main() {
  test_norm_regimes();
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

  const MeanLossesPlan cycle = plan_of(losses({3 * 256 * 256, 6, 3 * 256 * 256}, kAligned));
  expect(cycle.vec[0] == 4 && cycle.vec[1] == 1 && cycle.vec[2] == 4,
         "mean_losses: 16 bytes an access where the count allows");
  expect(cycle.first[1] == 48 && cycle.first[2] == 49 && cycle.first[3] == 97,
         "mean_losses: 4 packs a thread, one block for a small term");
  expect(cycle.workspace_bytes == 97 * 4, "mean_losses: one partial sum a block");
  expect(plan_of(losses({64}, kMisaligned)).vec[0] == 1, "mean_losses, misaligned: one by one");
  const MeanLossesPlan full = plan_of(losses({1 << 26, 0, 3 << 26}, kAligned));
  expect(full.first[1] == 256 && full.first[2] == 257 && full.first[3] == 1025,
         "mean_losses: large terms share the blocks by size, an empty one keeps one");
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
