// image_pool against a plain loop over lists of images, bit for bit.
#include "image_pool.h"

#include <limits>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

#ifdef CYCLEGAN_FAST_TEST_CUDA
void exchange(ImagePoolParams p, const std::string& what) {
  const ImagePoolPlan plan = plan_of(p);
  Workspace workspace(plan.workspace_bytes);
  p.workspace = workspace.data();
  expect_launch(image_pool_exchange_cuda(p, plan, nullptr), what);
  if (p.n > 0) expect_launched({plan.check, plan.copy}, what);
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
#else
void exchange(ImagePoolParams p, const std::string& what) {
  Guarded<char> workspace(image_pool_cpu_workspace_bytes(p));
  p.workspace = workspace.data();
  run_slices(p, p.n * image_pool_cpu_slices(p), image_pool_check_cpu);
  image_pool_decide_cpu(p);
  run_slices(p, image_pool_cpu_slices(p), image_pool_copy_cpu);
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
#endif

using Image = std::vector<char>;

// The recipe with the generator as it is printed: a state that is stepped.
struct PlainPool {
  size_t size;
  uint64_t state;
  std::vector<Image> images;
  int swaps = 0;

  uint64_t draw() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  Image offer(const Image& fake, bool finite) {
    const uint64_t bits = draw();
    if (finite && images.size() < size) {
      images.push_back(fake);
    } else if (finite && bits >= uint64_t{1} << 63) {
      Image& slot = images[size_t((bits & 0xffffffffu) * size >> 32)];
      const Image old = slot;
      slot = fake;
      ++swaps;
      return old;
    }
    return fake;
  }
};

template <typename T>
Image image_of(Guarded<T>& images, int64_t index, int64_t elements) {
  const char* first = reinterpret_cast<const char*>(images.data() + index * elements);
  return Image(first, first + elements * int64_t(sizeof(T)));
}

// What is all but infinite must count as finite.
template <typename T>
T largest() {
  using C = Compute<T>;
  return narrow<T>(kDType<T> == DType::kFloat16    ? C(65504)
                   : kDType<T> == DType::kBFloat16 ? C(0x1.fep127)
                                                   : std::numeric_limits<C>::max());
}

struct Case {
  int64_t size, n, elements;
  int rounds;
};

// Some rounds of one pool; every third round spoils one value of one image.
template <typename T>
void test_pool(const Case& c, int64_t shift) {
  const std::string name = "image pool " + std::to_string(c.size) + " n " + std::to_string(c.n) +
                           " elements " + std::to_string(c.elements) + " shift " +
                           std::to_string(shift) + " dtype " + std::to_string(int(kDType<T>));
  std::mt19937 random(5 + seed);
  const uint64_t pool_seed = 0xfedcba9876543210u + seed;
  PlainPool plain{size_t(c.size), pool_seed, {}};
  Guarded<T> pool(c.size * c.elements, shift);
  const Image untouched = image_of(pool, 0, c.elements);
  Guarded<int64_t> count(1), drawn(1);
  *count.data() = *drawn.data() = 0;
  for (int round = 0; round < c.rounds; ++round) {
    Guarded<T> fakes(c.n * c.elements, shift), returned(c.n * c.elements, shift);
    fakes.randomize(random, 0);
    if (c.n > 0) fakes.data()[0] = largest<T>();
    const int64_t non_finite = round % 3 == 2 && c.n > 0 ? int64_t(random() % unsigned(c.n)) : -1;
    if (non_finite >= 0) {
      using C = Compute<T>;
      const C bad[] = {std::numeric_limits<C>::quiet_NaN(), std::numeric_limits<C>::infinity(),
                       -std::numeric_limits<C>::infinity()};
      const int64_t last = c.elements - 1, positions[] = {last, 0, int64_t(random()) % c.elements};
      fakes.data()[non_finite * c.elements + positions[round / 3 % 3]] =
          narrow<T>(bad[round / 3 % 3]);
    }
    exchange(ImagePoolParams{pool.data(), fakes.data(), returned.data(), count.data(), drawn.data(),
                             nullptr, pool_seed, c.size, c.n, c.elements, kDType<T>},
             name);
    for (int64_t i = 0; i < c.n; ++i) {
      const Image expected = plain.offer(image_of(fakes, i, c.elements), i != non_finite);
      expect(image_of(returned, i, c.elements) == expected, name + ": returned");
    }
    expect(returned.intact() && fakes.intact(), name + ": wrote outside");
  }
  expect(*count.data() == int64_t(plain.images.size()), name + ": count");
  expect(*drawn.data() == c.rounds * c.n, name + ": drawn");
  for (int64_t slot = 0; slot < c.size; ++slot) {
    const bool filled = size_t(slot) < plain.images.size();
    expect(image_of(pool, slot, c.elements) == (filled ? plain.images[size_t(slot)] : untouched),
           name + ": slot " + std::to_string(slot));
  }
  expect(pool.intact() && count.intact() && drawn.intact(), name + ": wrote outside the pool");
  if (c.rounds * c.n > 2 * c.size) expect(plain.swaps > 0, name + ": no swap, nothing tested");
}

// What the generator's authors print for the seed 1234567.
void test_draws() {
  const uint64_t printed[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u};
  for (uint64_t i = 0; i < 3; ++i) expect(splitmix64(1234567, i) == printed[i], "splitmix64");
  expect(below(0xffffffffffffffffu, 50) == 49 && below(0xffffffff00000000u, 50) == 0, "below");
}

}  // namespace

void test_image_pool() {
  test_draws();
  for_each_type([](auto element) {
    using T = decltype(element);
    for (int64_t shift : {0, 1}) {
      for (int64_t elements : {1, 7, 1000}) {
        test_pool<T>({4, 1, elements, 16}, shift);
        test_pool<T>({3, 5, elements, 6}, shift);
        test_pool<T>({1, 2, elements, 6}, shift);
      }
      test_pool<T>({20, 3, 64, 5}, shift);  // never full
      test_pool<T>({2, 0, 64, 3}, shift);
      test_pool<T>({2, 2, 5003, 5}, shift);
    }
  });
  test_pool<float>({1, 2, 300007, 1}, 1);  // more than one turn of every loop over a grid
  test_pool<float>({3, 300, 5, 2}, 0);     // more images than a block has threads
}
