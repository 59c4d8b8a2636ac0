// The launch plans of the CUDA kernels, as nvcc compiled them, on a machine that may have no GPU.
#include <cstdio>
#include <initializer_list>

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

MeanLossesParams losses(std::initializer_list<int64_t> counts, void* a) {
  MeanLossesParams p = {};
  p.dtype = DType::kFloat32;
  for (int64_t count : counts) p.terms[p.size].a = a, p.terms[p.size++].count = count;
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
