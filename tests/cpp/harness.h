// What the C++ tests share: checks that NaN fails, tolerances, and how an implementation is run.
// Each test is compiled against the CPU kernels; with CYCLEGAN_FAST_TEST_CUDA against the CUDA
// kernels under emulation; and with CYCLEGAN_FAST_ON_GPU as well against those on a GPU.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "guarded.h"
#include "types.h"

inline int failures = 0, checks = 0;

inline void fail(const std::string& what) {
  if (++failures <= 20) std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

inline void expect(bool ok, const std::string& what) {
  ++checks;
  if (!ok) fail(what);
}

// For checks of every element: what() is only called where one fails.
template <typename F, typename = decltype(std::declval<F>()())>
void expect(bool ok, const F& what) {
  ++checks;
  if (!ok) fail(what());
}

template <typename T>
constexpr cyclegan_fast::DType kDType = cyclegan_fast::DType::kFloat32;
template <>
constexpr cyclegan_fast::DType kDType<cyclegan_fast::BFloat16> = cyclegan_fast::DType::kBFloat16;
template <>
constexpr cyclegan_fast::DType kDType<cyclegan_fast::Half> = cyclegan_fast::DType::kFloat16;
template <>
constexpr cyclegan_fast::DType kDType<double> = cyclegan_fast::DType::kFloat64;

// Relative to 1 + |expected|: a rounding to T, and what sums in float cost.
template <typename T>
double tolerance() {
  return kDType<T> == cyclegan_fast::DType::kBFloat16  ? 6e-3
         : kDType<T> == cyclegan_fast::DType::kFloat16 ? 1e-3
         : sizeof(T) == 8                              ? 1e-11
                                                       : 4e-6;
}

template <typename T>
void expect_close(const Guarded<T>& got, const std::vector<double>& expected, double limit,
                  const std::string& what) {
  double max_error = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error =
        std::abs(got[i] - expected[size_t(i)]) / (1 + std::abs(expected[size_t(i)]));
    if (!(error <= max_error)) max_error = error;  // a NaN stays
    if (max_error != max_error) break;
  }
  expect(max_error <= limit, what + ": error " + std::to_string(max_error));
  expect(got.intact(), what + ": wrote outside");
}

#ifdef CYCLEGAN_FAST_TEST_CUDA
#include <cuda_runtime.h>

// A launch that must succeed. Its results are there on return.
inline void expect_launch(cyclegan_fast::Status status, const std::string& what) {
  expect(status == cyclegan_fast::Status::kOk, what + ": launch");
#ifdef CYCLEGAN_FAST_ON_GPU
  expect(cudaDeviceSynchronize() == cudaSuccess, what + ": the kernel failed");
#endif
}

// What has been launched since the last call must be what was planned, kernel by kernel. Only the
// emulation records it.
inline void expect_launched([[maybe_unused]] const std::vector<cyclegan_fast::LaunchConfig>& plan,
                            [[maybe_unused]] const std::string& what) {
#ifdef CYCLEGAN_FAST_EMULATED
  size_t next = 0;
  for (const cyclegan_fast::LaunchConfig& p : plan) {
    if (p.grid == 0) continue;  // not to be launched
    const bool launched = next < emulation::launches.size();
    const emulation::Launch got = launched ? emulation::launches[next] : emulation::Launch{};
    ++next;
    expect(got.grid == p.grid && int(got.block) == p.block && got.cluster == p.cluster &&
               int64_t(got.shared_memory) == p.shared_memory,
           what + ": a launch is not as planned: grid " + std::to_string(got.grid) + " for " +
               std::to_string(p.grid) + ", block " + std::to_string(got.block) + " for " +
               std::to_string(p.block) + ", cluster " + std::to_string(got.cluster) + " for " +
               std::to_string(p.cluster));
  }
  expect(next == emulation::launches.size(), what + ": more launches than planned");
  emulation::launches.clear();
#endif
}

#ifdef CYCLEGAN_FAST_ON_GPU
// Left uninitialised, so that compute-sanitizer's initcheck and memcheck watch it.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) {
    if (bytes > 0 && cudaMalloc(&data_, size_t(bytes)) != cudaSuccess) std::abort();
  }
  Workspace(const Workspace&) = delete;
  ~Workspace() { cudaFree(data_); }
  void* data() { return data_; }
  bool intact() const { return true; }

 private:
  void* data_ = nullptr;
};
#else
using Workspace = Guarded<char>;
#endif
#else
// All slices of a CPU kernel, in any order and in any ranges.
template <typename Params>
void run_slices(const Params& p, int64_t slices, void (*kernel)(const Params&, int64_t, int64_t)) {
  kernel(p, slices / 2, slices);
  kernel(p, 0, slices / 2);
}
#endif

inline bool quick = false;  // two types only: for tools that make everything slow
inline unsigned seed = 0;   // another one draws other inputs

// Calls test(T{}) for every element type.
template <typename F>
void for_each_type(F&& test) {
  test(float{});
  test(cyclegan_fast::BFloat16{});
  if (quick) return;
  test(double{});
  test(cyclegan_fast::Half{});
}

// One function per operator, each in a file of its own.
void test_adam();
void test_bias_act();
void test_conv2d();
void test_conv3x3();
void test_image_pool();
void test_instance_norm_act();
void test_jpeg_damage();
#ifdef CYCLEGAN_FAST_TEST_CUDA
void test_launch_failure();
#endif
void test_losses();
void test_narrow_conv();
void test_reflect_pad();
void test_uint8_conversion();
void test_plane_statistics();
