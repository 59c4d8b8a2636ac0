// What the C++ tests share: checks that NaN fails, tolerances, and how a twin is run. Each test is
// compiled against the CPU kernels; with CYCLEGAN_FAST_CUDA_TWIN against the CUDA kernels under
// emulation; and with CYCLEGAN_FAST_ON_GPU as well against those on a card.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "guarded.h"
#include "types.h"

inline int failures = 0, checks = 0;

inline void expect(bool ok, const std::string& what) {
  ++checks;
  if (ok) return;
  if (++failures <= 20) std::fprintf(stderr, "FAILED %s\n", what.c_str());
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
  double worst = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error =
        std::abs(got[i] - expected[size_t(i)]) / (1 + std::abs(expected[size_t(i)]));
    if (!(error <= worst)) worst = error;  // a NaN stays
    if (worst != worst) break;
  }
  expect(worst <= limit, what + ": error " + std::to_string(worst));
  expect(got.intact(), what + ": wrote outside");
}

#ifdef CYCLEGAN_FAST_CUDA_TWIN
// A launch that must succeed. Its results are there on return.
inline void expect_launch(cyclegan_fast::Status status, const std::string& what) {
  expect(status == cyclegan_fast::Status::kOk, what + ": launch");
#ifdef CYCLEGAN_FAST_ON_GPU
  expect(cudaDeviceSynchronize() == cudaSuccess, what + ": the kernel failed");
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
void test_conv2d();
void test_conv3x3();
void test_image_pool();
void test_instance_norm_act();
void test_jpeg_damage();
void test_mean_losses();
void test_pixels();
void test_plane_statistics();
