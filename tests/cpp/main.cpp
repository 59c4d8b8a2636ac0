// Runs every test of one twin; ends with status 1 if a check failed.
#include "harness.h"

#ifndef CYCLEGAN_FAST_CUDA_TWIN
#include "cpu/isa.h"
#endif

using namespace cyclegan_fast;

namespace {

template <typename T>
void test_rounding() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const T value{static_cast<uint16_t>(bits)};
    const T back = narrow<T>(widen(value));
    expect(back.bits == bits || widen(value) != widen(value), "rounding: a value does not survive");
  }
}

}  // namespace

int main(int argc, char** argv) {
  quick = argc > 1 && std::string(argv[1]) == "--quick";
#ifdef CYCLEGAN_FAST_ON_GPU
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device\n");
    return 77;  // skipped
  }
#endif
  test_rounding<BFloat16>();
  test_rounding<Half>();
  test_conv2d();
  test_conv3x3();
  test_image_pool();
  test_instance_norm_act();
  test_jpeg_damage();
  test_mean_losses();
  test_pixels();
  test_plane_statistics();
#ifndef CYCLEGAN_FAST_CUDA_TWIN
  std::printf("isa %s: ", isa_name(cpu_isa()));
#endif
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
