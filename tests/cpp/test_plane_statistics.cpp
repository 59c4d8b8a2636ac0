// plane_statistics against plain loops in double, unwritten elements being NaN.
#include "plane_statistics.h"

#include "harness.h"
#include "norm_reference.h"

using namespace cyclegan_fast;

namespace {

#ifdef CYCLEGAN_FAST_TEST_CUDA
void run(PlaneStatisticsParams p, const std::string& what) {
  for (int multiprocessors : {1, 132}) {
    const PlaneStatisticsPlan plan = plan_of(p, {multiprocessors, 1});
    Workspace workspace(plan.workspace_bytes);
    p.workspace = workspace.data();
    expect_launch(plane_statistics_cuda(p, plan, nullptr), what);
    expect_launched({plan.sums.launch, plan.merge}, what);
    expect(workspace.intact(), what + ": wrote outside the workspace");
  }
}
#else
void run(const PlaneStatisticsParams& p, const std::string&) {
  run_slices(p, plane_statistics_cpu_slices(p.n, p.c, p.dtype, p.layout), plane_statistics_cpu);
}
#endif

template <typename T>
void test_planes(const reference::Sizes& s, double mean, int64_t shift) {
  using C = Compute<T>;
  const std::string name = "statistics " + std::to_string(s.n) + "x" + std::to_string(s.c) + "x" +
                           std::to_string(s.h) + "x" + std::to_string(s.w) + " mean " +
                           std::to_string(mean) + " shift " + std::to_string(shift) + " dtype " +
                           std::to_string(int(kDType<T>)) + " layout " +
                           std::to_string(int(s.layout));
  std::mt19937 random(5 + seed);
  Guarded<T> x(s.count(0), shift);
  Guarded<C> statistics(3 * s.n * s.c);
  const reference::Moments m = reference::moments(s, x.randomize(random, mean));
  PlaneStatisticsParams p = {};
  p.x = x.data(), p.statistics = statistics.data();
  p.n = s.n, p.c = s.c, p.h = s.h, p.w = s.w;
  p.dtype = kDType<T>, p.layout = s.layout;
  run(p, name);
  reference::Values expected = m.mean;
  expected.resize(m.mean.size() * 2, 0.0);
  expected.insert(expected.end(), m.square.begin(), m.square.end());
  expect_close(statistics, expected, sizeof(C) == 8 ? 1e-11 : 1e-5, name);
}

template <typename T>
void test_statistics() {
  for (Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
    for (int64_t shift : {0, 1}) {
      test_planes<T>({1, 1, 1, 1, layout}, 0, shift);
      test_planes<T>({2, 3, 5, 7, layout}, 0, shift);
      test_planes<T>({3, 37, 9, 4, layout}, 1, shift);
      test_planes<T>({2, 264, 3, 4, layout}, 0, shift);
      test_planes<T>({1, 3, 67, 65, layout}, 1000, shift);  // far from zero
      test_planes<T>({1, 16, 64, 64, layout}, -3, shift);
    }
  }
}

}  // namespace

void test_plane_statistics() {
  for_each_type([](auto element) { test_statistics<decltype(element)>(); });
}
