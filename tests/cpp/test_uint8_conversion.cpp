// to_uint8 and from_uint8 against plain loops in double, and the one against the other.
#include "uint8_conversion.h"

#include <algorithm>
#include <cmath>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

#ifdef CYCLEGAN_FAST_TEST_CUDA
void run(const ToUint8Params& p, const std::string& what) {
  expect_launch(to_uint8_cuda(p, nullptr), what);
}
void run(const FromUint8Params& p, const std::string& what) {
  expect_launch(from_uint8_cuda(p, nullptr), what);
}
void test_limits() {
  ToUint8Params to{};
  to.n = 1, to.c = 2, to.pixels = int64_t{1} << 30;
  expect(to_uint8_cuda(to, nullptr) == Status::kInvalidArgument, "to_uint8: 2^31 elements");
  FromUint8Params from{};
  from.n = from.h = from.w = from.c = from.inner = 1, from.height = from.width = 1 << 16;
  expect(from_uint8_cuda(from, nullptr) == Status::kInvalidArgument, "from_uint8: a huge image");
  from.height = from.width = 1, from.n = int64_t{1} << 31;
  expect(from_uint8_cuda(from, nullptr) == Status::kInvalidArgument, "from_uint8: a huge batch");
}
#else
void run(const ToUint8Params& p, const std::string&) {
  run_slices(p, to_uint8_cpu_slices(p), to_uint8_cpu);
}
void run(const FromUint8Params& p, const std::string&) {
  run_slices(p, from_uint8_cpu_slices(p), from_uint8_cpu);
}
void test_limits() {}
#endif

// Bytes between guards.
struct Bytes {
  explicit Bytes(int64_t count, int64_t shift)
      : all(size_t(count + shift) + 32, 0xa5), shift(shift) {}
  uint8_t* data() { return all.data() + 16 + shift; }
  bool intact(int64_t count) {
    for (uint8_t* b = all.data(); b < data(); ++b) {
      if (*b != 0xa5) return false;
    }
    for (uint8_t* b = data() + count; b < all.data() + all.size(); ++b) {
      if (*b != 0xa5) return false;
    }
    return true;
  }
  SharedVector<uint8_t> all;
  int64_t shift;
};

int level_of(double scaled) {
  return scaled > 0 ? int(std::nearbyint(std::min(scaled, 255.0))) : 0;  // NaN is 0
}

template <typename T>
void test_to_uint8(int64_t n, int64_t c, int64_t pixels, int64_t shift, bool tanh) {
  const std::string name = "to_uint8 " + std::to_string(n) + "x" + std::to_string(c) + "x" +
                           std::to_string(pixels) + " shift " + std::to_string(shift) + " tanh " +
                           std::to_string(tanh) + " dtype " + std::to_string(int(kDType<T>));
  std::mt19937 random(5 + seed);
  const int64_t count = n * c * pixels;
  Guarded<T> x(count, shift);
  auto values = x.randomize(random, 0);
  const double special[] = {NAN, INFINITY, -INFINITY, 0.0, -30.0, 30.0};  // 0 is a tie: 127.5
  for (int64_t i = 0; i < count && i < 6; ++i) {
    const int64_t at = i * (count / 6);
    x.data()[at] = narrow<T>(Compute<T>(special[i]));
    values[size_t(at)] = special[i];
  }
  Bytes levels(count, shift);
  run(ToUint8Params{x.data(), levels.data(), n, c, pixels, tanh, kDType<T>}, name);
  expect(levels.intact(count), name + ": wrote outside");
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < c; ++k) {
      for (int64_t j = 0; j < pixels; ++j) {
        const double v = values[size_t((i * c + k) * pixels + j)];
        const double scaled = ((tanh ? std::tanh(v) : v) + 1) * 127.5;
        const int got = levels.data()[(i * pixels + j) * c + k];
        // Beside a tie rounding decides: v + 1 is rounded to Compute<T>.
        const bool tie = std::abs(scaled - std::floor(scaled) - 0.5) < 1e-4 && v != 0;
        expect(got == level_of(scaled) || (tie && std::abs(got - scaled) < 0.51),
               [&] { return name + ": " + std::to_string(v) + " became " + std::to_string(got); });
      }
    }
  }
}

struct CropCase {
  int64_t n, height, width, c, h, w;
};

template <typename T>
void test_from_uint8(const CropCase& k, bool channels_last, bool placed, int64_t shift) {
  using C = Compute<T>;
  const std::string name =
      "from_uint8 " + std::to_string(k.height) + "x" + std::to_string(k.width) + "x" +
      std::to_string(k.c) + " crop " + std::to_string(k.h) + "x" + std::to_string(k.w) + " shift " +
      std::to_string(shift) + " last " + std::to_string(channels_last) + " placed " +
      std::to_string(placed) + " dtype " + std::to_string(int(kDType<T>));
  std::mt19937 random(3 + seed);
  // Of exactly this size, so that the sanitizers see a read over the edge.
  SharedVector<uint8_t> pixels(size_t(k.n * k.height * k.width * k.c));
  for (auto& level : pixels) level = uint8_t(random());
  const int32_t far = 2'000'000'000;  // over the edges: to be moved inside
  SharedVector<int32_t> placement;
  for (int64_t i = 0; i < k.n; ++i) {
    const int32_t placements[4][3] = {{0, 0, 0},
                                      {int32_t(k.height - k.h), int32_t(k.width - k.w), 1},
                                      {far, -far, 7},
                                      {int32_t((k.height - k.h) / 2), far, 0}};
    placement.insert(placement.end(), placements[i % 4], placements[i % 4] + 3);
  }
  Guarded<T> y(k.n * k.c * k.h * k.w, shift);
  run(FromUint8Params{pixels.data(), placed ? placement.data() : nullptr, y.data(), k.n, k.height,
                      k.width, k.c, k.h, k.w, channels_last ? k.c : 1, kDType<T>},
      name);
  expect(y.intact(), name + ": wrote outside");
  bool same = true;
  for (int64_t at = 0; at < y.size(); ++at) {
    const int64_t plane = k.h * k.w, image = at / (plane * k.c);
    const int64_t channel = channels_last ? at % k.c : at / plane % k.c;
    const int64_t pixel = channels_last ? at / k.c % plane : at % plane;
    const int32_t* crop = placement.data() + 3 * image;
    const int64_t top = placed ? std::clamp<int64_t>(crop[0], 0, k.height - k.h) : 0;
    const int64_t left = placed ? std::clamp<int64_t>(crop[1], 0, k.width - k.w) : 0;
    const int64_t j = pixel % k.w, column = placed && crop[2] ? k.w - 1 - j : j;
    const int64_t row = (image * k.height + top + pixel / k.w) * k.width + left + column;
    const volatile C value = C(pixels[size_t(row * k.c + channel)]) / C(127.5);  // rounded here
    same &= y[at] == double(widen(narrow<T>(C(value - C(1)))));
  }
  expect(same, name + ": other bits");
}

// Every level of every type goes to a float and back.
template <typename T>
void test_round_trip() {
  Bytes levels(256, 0), back(256, 0);
  Guarded<T> y(256);
  for (int i = 0; i < 256; ++i) levels.data()[i] = uint8_t(i);
  run(FromUint8Params{levels.data(), nullptr, y.data(), 1, 1, 256, 1, 1, 256, 1, kDType<T>},
      "trip");
  run(ToUint8Params{y.data(), back.data(), 1, 1, 256, false, kDType<T>}, "trip");
  for (int i = 0; i < 256; ++i) {
    expect(back.data()[i] == i, [&] {
      return "round trip of level " + std::to_string(i) + " dtype " +
             std::to_string(int(kDType<T>));
    });
  }
}

}  // namespace

void test_uint8_conversion() {
  test_limits();
  for_each_type([](auto element) {
    using T = decltype(element);
    for (bool tanh : {false, true}) {
      for (int64_t c : {1, 2, 3, 4, 7}) {
        for (int64_t pixels : {1, 8, 63, 1029}) {
          test_to_uint8<T>(2, c, pixels, 0, tanh);
          test_to_uint8<T>(2, c, pixels, 1, tanh);
        }
      }
    }
    const CropCase cases[] = {{1, 1, 1, 1, 1, 1},    {2, 4, 16, 3, 4, 16}, {5, 9, 21, 3, 5, 16},
                              {5, 9, 21, 3, 9, 17},  {4, 5, 40, 1, 3, 32}, {4, 5, 9, 1, 5, 9},
                              {4, 6, 20, 4, 3, 16},  {4, 3, 7, 2, 2, 5},   {4, 3, 11, 6, 3, 8},
                              {1, 2, 300, 3, 2, 299}};
    for (const CropCase& k : cases) {
      for (bool channels_last : {false, true}) {
        test_from_uint8<T>(k, channels_last, true, 0);
        test_from_uint8<T>(k, channels_last, true, 1);
        test_from_uint8<T>(k, channels_last, false, 0);
      }
    }
    test_round_trip<T>();
  });
}
