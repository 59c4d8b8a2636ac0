// Runs every test of one implementation; ends with status 1 if a check failed.
#include <algorithm>
#include <ctime>

#include "harness.h"

#ifndef CYCLEGAN_FAST_TEST_CUDA
#include "cpu/isa.h"
#endif

using namespace cyclegan_fast;

namespace {

template <typename T>
void test_rounding() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const T value{static_cast<uint16_t>(bits)};
    const T back = narrow<T>(widen(value));
    expect(back.bits == bits || widen(value) != widen(value),
           [] { return "rounding: a value does not survive"; });
  }
}

struct Test {
  const char* name;
  void (*run)();
};
const Test kTests[] = {
    {"rounding", [] { test_rounding<BFloat16>(), test_rounding<Half>(); }},
    {"adam", test_adam},
    {"bias_act", test_bias_act},
    {"conv2d", test_conv2d},
    {"conv3x3", test_conv3x3},
    {"image_pool", test_image_pool},
    {"instance_norm_act", test_instance_norm_act},
    {"jpeg_damage", test_jpeg_damage},
#ifdef CYCLEGAN_FAST_TEST_CUDA
    {"launch_failure", test_launch_failure},
#endif
    {"losses", test_losses},
    {"narrow_conv", test_narrow_conv},
    {"plane_statistics", test_plane_statistics},
    {"reflect_pad", test_reflect_pad},
    {"uint8_conversion", test_uint8_conversion},
};

}  // namespace

// --quick: fewer types. --seed=N: other inputs. Else the names of the tests to run; none: all.
int main(int argc, char** argv) {
  std::vector<std::string> names;
  for (const std::string& word : std::vector<std::string>(argv + 1, argv + argc)) {
    if (word == "--quick") {
      quick = true;
    } else if (word.rfind("--seed=", 0) == 0) {
      seed = unsigned(std::stoul(word.substr(7)));
    } else {
      names.push_back(word);
    }
  }
#ifdef CYCLEGAN_FAST_ON_GPU
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device\n");
    return 77;  // skipped
  }
#endif
#ifndef CYCLEGAN_FAST_TEST_CUDA
  std::printf("isa %s\n", isa_name(cpu_isa()));
#endif
  for (const Test& test : kTests) {
    if (!names.empty() && std::find(names.begin(), names.end(), test.name) == names.end()) continue;
    const std::clock_t begin = std::clock();
    test.run();
    std::printf("%-20s %6.1f s\n", test.name, double(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  if (checks == 0) fail("no test has this name");
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
