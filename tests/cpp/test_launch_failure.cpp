// A launch that CUDA refuses: what is known of it afterwards, and that the next one works.
#ifdef CYCLEGAN_FAST_TEST_CUDA
#include "cuda/launch_failure.h"

#include "harness.h"
#include "plane_statistics.h"

using namespace cyclegan_fast;

namespace {

void test_names() {
  const auto expect_name = [](const char* mangled, const std::string& name) {
    const std::string got = kernel_name_of(mangled);
    expect(got == name, "the kernel " + name + " is called " + got);
  };
  // Of a template in an anonymous namespace, as nvcc and as g++ call it; of a function; of nothing.
  expect_name(
      "_ZN13cyclegan_fast57_GLOBAL__N__4b69b298_24_instance_norm_act_fwd_cu_c3d4f4de15resident_kern"
      "elIfLi4ELb1EEEvPKT_",
      "resident_kernel");
  expect_name("_ZN13cyclegan_fast12_GLOBAL__N_112merge_kernelIfLi2EEEvPKT_", "merge_kernel");
  expect_name("_ZN13cyclegan_fast12probe_kernelEv", "probe_kernel");
  expect_name("copy_kernel", "copy_kernel");
}

void test_refused_launch() {
  Guarded<float> x(2 * 64), statistics(3 * 2);
  PlaneStatisticsParams p = {};
  p.x = x.data(), p.statistics = statistics.data(), p.n = 1, p.c = 2, p.h = p.w = 8;
  const PlaneStatisticsPlan plan = plan_of(p, {132, 1});
  Workspace workspace(plan.workspace_bytes);
  p.workspace = workspace.data();
  PlaneStatisticsPlan too_many_threads = plan;
  too_many_threads.sums.launch.block = 2048;
  expect(plane_statistics_cuda(p, too_many_threads, nullptr) == Status::kLaunchFailed,
         "a block of 2048 threads");
  const LaunchFailure& failure = last_launch_failure();
  expect(failure.error == "cudaErrorInvalidValue (invalid argument)",
         "the error is " + failure.error);
#ifdef CYCLEGAN_FAST_ON_GPU
  expect(failure.kernel.find("kernel") != std::string::npos, "the kernel is " + failure.kernel);
#endif
  expect_launch(plane_statistics_cuda(p, plan, nullptr), "the launch after one that failed");
  expect_launched({plan.sums.launch, plan.merge}, "the launch after one that failed");
}

}  // namespace

void test_launch_failure() {
  test_names();
  test_refused_launch();
}
#endif
