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
  expect(block.sums.launch.grid == 0 && block.affine_grads.grid == 0,
         "a resident plan launches one kernel");
  expect(bf16(16, 256, 64, kHopper).write.vectors == 4, "a busy device reads 64 bytes of a pixel");
  const NormPlan wide = bf16(1, 128, 128, kHopper);
  expect(wide.regime == NormRegime::kResident && wide.write.vectors == 1 &&
             wide.write.launch.grid == 128,
         "128x128x128 stays in registers, half a sector to a block");
  expect(bf16(1, 256, 64, kAmpere).regime == NormRegime::kSplit, "no clusters: too large");
  expect(bf16(1, 512, 31, kAmpere).regime == NormRegime::kResident, "31x31 fits one block");

  const NormPlan large = bf16(1, 64, 256, kHopper);
  const TiledPass& sums = large.sums;
  expect(large.regime == NormRegime::kSplit && sums.vectors == 2 && sums.tiles == 4,
         "256x256x64 is read twice, in tiles of a sector");
  expect(sums.chunks == 66 && sums.chunk_size == 993 && sums.launch.grid == 264 &&
             sums.launch.block == 256 && sums.launch.cluster == 1,
         "a large image at batch 1 is two blocks for every multiprocessor");
  expect(large.write.chunks == 66 && large.write.launch.grid == 264, "so is what is written");
  expect(large.workspace_bytes == (2 * 66 + 1) * 64 * 4,
         "two numbers for each chunk and channel, one for each channel");
  const NormPlan batch = bf16(8, 64, 256, kHopper);
  expect(batch.sums.vectors == 8 && batch.sums.chunks == 33 && batch.sums.launch.grid == 264,
         "a busy device reads 128 bytes of a pixel");
  expect(bf16(100, 64, 256, kHopper).sums.launch.grid == 500,
         "in two waves: one would be 200 of 264");

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

// What a plan gives the device to do, for a tensor of `c` channels.
void expect_busy(const NormPlan& plan, int64_t c, DType dtype, const DeviceProperties& device,
                 const char* what) {
  const TiledPass& write = plan.write;
  const int64_t multiprocessors = device.multiprocessors;
  if (plan.regime == NormRegime::kResident) {
    expect(16 * write.launch.grid >= 15 * multiprocessors ||
               (device.max_cluster_size == 1 && write.launch.grid == c / write.vec) ||
               (device.max_cluster_size == 1 && 2 * write.launch.grid > multiprocessors),
           what);
    return;
  }
  for (const TiledPass* pass : {&plan.sums, &write}) {
    const int64_t blocks = pass->launch.grid;
    const int64_t each = ceil_div(blocks, multiprocessors);
    expect(each <= 2 && 16 * blocks >= 15 * each * multiprocessors, what);
  }
  const int64_t partials = plan.sums.chunks * write.vectors * write.vec * 2 * stat_size_of(dtype);
  expect(3 * partials <= write.chunk_size * write.vectors * 16, "what a block merges is a third");
}

// Every norm of a generator and of a discriminator at batch 1 and 256 px.
void test_batch_1_keeps_the_device_busy() {
  const int64_t shapes[][2] = {{64, 256}, {128, 128}, {256, 64}, {128, 64}, {256, 32}, {512, 31}};
  for (const DeviceProperties& device : {kHopper, kAmpere}) {
    for (DType dtype : {DType::kBFloat16, DType::kFloat32}) {
      for (const auto& [c, side] : shapes) {
        char what[100];
        std::snprintf(what, sizeof what, "batch 1, %ldx%ldx%ld, dtype %d, %d multiprocessors",
                      long(c), long(side), long(side), int(dtype), device.multiprocessors);
        const auto p = params(1, c, side, side, dtype, Layout::kNHWC, kAligned);
        InstanceNormActBwdParams b = {};
        b.x = b.grad_y = b.grad_x = kAligned, b.n = 1, b.c = c, b.h = b.w = side;
        b.dtype = dtype, b.layout = Layout::kNHWC;
        expect_busy(plan_of(p, device), c, dtype, device, what);
        expect_busy(plan_of(b, device), c, dtype, device, what);
      }
    }
  }
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
  test_batch_1_keeps_the_device_busy();
  ImagePoolParams pool = {};
  pool.pool = pool.returned = kAligned, pool.fakes = kAligned, pool.dtype = DType::kFloat32;
  pool.size = 50, pool.n = 2, pool.elements = 3 * 256 * 256;
  const ImagePoolPlan exchange = plan_of(pool);
  expect(exchange.vec == 4 && exchange.parts == 48 && exchange.check.grid == 96 &&
             exchange.copy.grid == 192,
         "image_pool: 16 bytes an access, 4 vectors a thread that looks, one that copies");
  expect(exchange.workspace_bytes == 16 + 2 * 48 * 4, "image_pool: its state, and flags an image");
  pool.fakes = kMisaligned;
  expect(plan_of(pool).vec == 1, "image_pool: misaligned: one by one");

  const LossesPlan cycle = plan_of(losses({3 * 256 * 256, 6, 3 * 256 * 256}, kAligned));
  expect(cycle.vec[0] == 4 && cycle.vec[1] == 1 && cycle.vec[2] == 4,
         "losses: 16 bytes an access where the count allows");
  expect(cycle.first[1] == 48 && cycle.first[2] == 49 && cycle.first[3] == 97,
         "losses: 4 vectors a thread, one block for a small term");
  expect(cycle.terms.grid == 97 && cycle.finish.grid == 3, "losses: a block a term to finish");
  expect(cycle.workspace_bytes == 97 * 4, "losses: one partial sum a block");
  const LossesPlan scores = plan_of(losses({900, 900}, kAligned));
  expect(scores.terms.grid == 2 && scores.finish.grid == 0 && scores.workspace_bytes == 0,
         "losses of scores: one launch");
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
