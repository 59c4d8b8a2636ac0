// The launch plans of the CUDA kernels, as nvcc compiled them, on a machine that may have no GPU.
#include <cstdio>
#include <initializer_list>
#include <tuple>

#include "adam.h"
#include "image_pool.h"
#include "instance_norm_act.h"
#include "losses.h"
#include "reflect_pad.h"

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

const DeviceProperties kHopper = {132, 8}, kAmpere = {108, 1};

void test_norm_regimes() {
  const auto bf16 = [](int64_t n, int64_t c, int64_t side, const DeviceProperties& device) {
    return plan_of(params(n, c, side, side, DType::kBFloat16, Layout::kNHWC, kAligned), device);
  };
  const NormPlan block = bf16(1, 256, 64, kHopper);  // of a residual block, at 256 px
  expect(block.regime == NormRegime::kResident && block.write.vec == 8,
         "64x64x256 stays in registers");
  expect(block.write.launch.cluster == 8 && block.write.vectors == 2 && block.write.tiles == 16 &&
             block.write.launch.grid == 128 && block.write.chunk_size == 512,
         "batch 1 is spread over 128 blocks: 16 tiles of 32 bytes, clusters of 8");
  expect(block.reduction.pass.launch.grid == 0 && block.reduction.merge.grid == 0 &&
             block.affine_grads.grid == 0,
         "a resident plan launches one kernel");
  expect(bf16(16, 256, 64, kHopper).write.vectors == 4, "a busy device reads 64 bytes of a pixel");
  expect(bf16(1, 256, 64, kAmpere).regime == NormRegime::kSplit, "no clusters: too large");
  expect(bf16(1, 512, 31, kAmpere).regime == NormRegime::kResident, "31x31 fits one block");

  const NormPlan large = bf16(1, 64, 256, kHopper);
  const TiledPass& sums = large.reduction.pass;
  expect(large.regime == NormRegime::kSplit && sums.vectors == 8 && sums.tiles == 1,
         "256x256x64 is read twice, eight vectors to a pixel");
  expect(sums.chunks == 64 && sums.chunk_size == 1024 && sums.launch.grid == 64 &&
             sums.launch.block == 256 && sums.launch.cluster == 1,
         "a large image at batch 1 is cut into many chunks");
  expect(large.reduction.merge.grid == 1 && large.reduction.merge.block == 256,
         "a thread merges the chunks of a channel");
  expect(large.write.chunk_size == 128 && large.write.launch.grid == 512 &&
             large.write.launch.block == 256,
         "more and shorter chunks are written");
  expect(large.workspace_bytes == 64 * 64 * 4 * 4, "one partial result for each chunk and channel");

  const auto planes = [](int64_t n, int64_t c, int64_t side, const DeviceProperties& device) {
    return plan_of(params(n, c, side, side, DType::kFloat32, Layout::kNCHW, kAligned), device);
  };
  const NormPlan small = planes(8, 512, 31, kAmpere);  // of a discriminator
  expect(small.regime == NormRegime::kResident && small.write.vec == 1, "31x31 floats: one by one");
  expect(
      small.write.group == 64 && small.write.launch.block == 256 && small.write.launch.grid == 1024,
      "four planes of 31x31 share a block");
  expect(planes(1, 8, 31, kAmpere).write.launch.block == 64, "few planes: a block each");
  expect(planes(16, 256, 64, kAmpere).write.group == 128,
         "64x64 floats: eight vectors to a thread");
  expect(planes(1, 64, 256, kHopper).write.launch.cluster == 8,
         "256x256 floats: a cluster to a plane");
  expect(planes(1, 64, 256, kAmpere).regime == NormRegime::kSplit, "or, without clusters, chunks");

  const auto vec_of = [](int64_t c, void* x) {
    return plan_of(params(1, c, 8, 8, DType::kFloat32, Layout::kNHWC, x), kHopper).write.vec;
  };
  expect(vec_of(64, kMisaligned) == 1, "misaligned: one by one");
  expect(vec_of(6, kAligned) == 1, "6 channels: one by one");
  const NormPlan pixel =
      plan_of(params(4, 512, 1, 1, DType::kFloat32, Layout::kNCHW, kAligned), kHopper);
  expect(pixel.write.group == 32 && pixel.workspace_bytes == 0, "one pixel takes one warp");

  auto given = params(1, 64, 256, 256, DType::kBFloat16, Layout::kNHWC, kAligned);
  given.statistics = kAligned;
  expect(plan_of(given, kHopper).regime == NormRegime::kMap, "given statistics: one pass");

  const auto huge = params(1, 1, 1 << 16, 1 << 16, DType::kFloat32, Layout::kNCHW, kAligned);
  expect(
      instance_norm_act_fwd_cuda(huge, plan_of(huge, kHopper), nullptr) == Status::kInvalidArgument,
      "a plane of 2^32 elements is refused");
}

LossesParams losses(std::initializer_list<int64_t> counts, void* a) {
  LossesParams p = {};
  p.dtype = DType::kFloat32;
  for (int64_t count : counts) p.terms[p.size].a = a, p.terms[p.size++].count = count;
  return p;
}

// A 3x3 convolution of 256 channels, a bias, a weight that lies unaligned, and its gradient alone.
void test_adam_plan() {
  AdamParams p = {};
  p.dtype = DType::kFloat32;
  for (const auto& [count, weight, gradient] : {std::tuple{256 * 256 * 9, kAligned, kAligned},
                                                {64, kAligned, kAligned},
                                                {4097, kMisaligned, kAligned},
                                                {8192, kAligned, kMisaligned}}) {
    AdamWeight& t = p.weights[p.size++];
    t.weight = weight, t.exp_avg = t.exp_avg_sq = kAligned, t.gradients[0] = gradient;
    t.count = count, t.gradient = DType::kBFloat16;
  }
  const AdamPlan update = plan_of_update(p), check = plan_of_check(p);
  expect(update.first[1] == 144 && update.first[2] == 145 && update.first[3] == 147 &&
             update.launch.grid == 149 && update.launch.block == 256,
         "adam: a block for 4096 elements of one weight");
  expect(check.first[1] == 18 && check.launch.grid == 21, "adam: the check's blocks read more");
  expect(update.vec[0] == 4 && update.vec[1] == 4 && update.vec[2] == 1 && update.vec[3] == 1,
         "adam: 16 bytes of the weight an access, where all its tensors are aligned");
  p.dtype = DType::kFloat64;
  expect(plan_of_update(p).vec[0] == 2, "adam: two doubles an access");
}

}  // namespace

int main() {
  test_norm_regimes();
  test_adam_plan();
  ImagePoolParams pool = {};
  pool.pool = pool.returned = kAligned, pool.fakes = kAligned, pool.dtype = DType::kFloat32;
  pool.size = 50, pool.n = 2, pool.elements = 3 * 256 * 256;
  const ImagePoolPlan exchange = plan_of(pool);
  expect(exchange.vec == 4 && exchange.parts == 48 && exchange.check.grid == 96 &&
             exchange.decide.grid == 1 && exchange.decide.block == 32 && exchange.copy.grid == 192,
         "image_pool: 16 bytes an access, 4 vectors a thread that looks, one that copies");
  expect(exchange.workspace_bytes == 2 * (16 + 48 * 4),
         "image_pool: a decision and flags an image");
  pool.fakes = kMisaligned;
  expect(plan_of(pool).vec == 1, "image_pool: misaligned: one by one");

  const LossesPlan cycle = plan_of(losses({3 * 256 * 256, 6, 3 * 256 * 256}, kAligned));
  expect(cycle.vec[0] == 4 && cycle.vec[1] == 1 && cycle.vec[2] == 4,
         "losses: 16 bytes an access where the count allows");
  expect(cycle.first[1] == 48 && cycle.first[2] == 49 && cycle.first[3] == 97,
         "losses: 4 vectors a thread, one block for a small term");
  expect(cycle.terms.grid == 97 && cycle.finish.grid == 3, "losses: a block a term to finish");
  expect(cycle.workspace_bytes == 97 * 4, "losses: one partial sum a block");
  expect(plan_of(losses({64}, kMisaligned)).vec[0] == 1, "losses, misaligned: one by one");
  const LossesPlan full = plan_of(losses({1 << 26, 0, 3 << 26}, kAligned));
  expect(full.first[1] == 256 && full.first[2] == 257 && full.first[3] == 1025,
         "losses: large terms share the blocks by size, an empty one keeps one");

  ReflectPadParams stem = {};  // two images of 256 px, in bfloat16
  stem.x.size = 2, stem.x.first[1] = 1, stem.x.first[2] = 2, stem.y = kAligned;
  stem.planes = 1, stem.inner = 3, stem.height = stem.width = 256, stem.pad = 3;
  stem.into = DType::kBFloat16;
  const ReflectPadPlan padded = forward_plan_of(stem);
  expect(padded.vec == 4 && padded.first[1] == 403 && padded.launch.grid == 806,
         "reflect_pad: four elements a thread, also for the second image, 8 bytes off alignment");
  stem.y = kMisaligned;
  expect(forward_plan_of(stem).vec == 1, "reflect_pad, misaligned: one by one");
  stem.grad_x.size = 2, stem.grad_x.first[1] = 1, stem.grad_x.first[2] = 2;
  stem.grad_x.data[1] = kAligned;
  const ReflectPadPlan gathered = backward_plan_of(stem);
  expect(gathered.first[1] == 0 && gathered.launch.grid == 384,
         "reflect_pad: a member that needs no gradient gets no blocks");
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
