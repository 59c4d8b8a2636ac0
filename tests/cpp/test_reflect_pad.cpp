// reflect_pad against plain loops over [N, C, H, W] in double.
#include "reflect_pad.h"

#include <memory>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

#ifdef CYCLEGAN_FAST_TEST_CUDA
void forward(const ReflectPadParams& p, const std::string& what) {
  const ReflectPadPlan plan = forward_plan_of(p);
  expect_launch(reflect_pad_fwd_cuda(p, plan, nullptr), what);
  expect_launched({plan.launch}, what);
}
void backward(const ReflectPadParams& p, const std::string& what) {
  const ReflectPadPlan plan = backward_plan_of(p);
  expect_launch(reflect_pad_bwd_cuda(p, plan, nullptr), what);
  expect_launched({plan.launch}, what);
}
void test_limits() {
  ReflectPadParams p{};
  p.x.size = 1, p.x.first[1] = 2, p.planes = p.inner = 1, p.height = p.width = 1 << 15;
  expect(reflect_pad_fwd_cuda(p, {}, nullptr) == Status::kInvalidArgument, "2^31 elements");
}
#else
void forward(const ReflectPadParams& p, const std::string&) {
  run_slices(p, reflect_pad_fwd_cpu_slices(p), reflect_pad_fwd_cpu);
}
void backward(const ReflectPadParams& p, const std::string&) {
  run_slices(p, reflect_pad_bwd_cpu_slices(p), reflect_pad_bwd_cpu);
}
void test_limits() {}
#endif

struct Case {
  std::vector<int64_t> batches;
  int64_t c, h, w, pad;
};

// Where element [c, i, j] of an image lies.
struct Index {
  Layout layout;
  int64_t c, h, w;
  int64_t operator()(int64_t n, int64_t channel, int64_t i, int64_t j) const {
    return layout == Layout::kNCHW ? ((n * c + channel) * h + i) * w + j
                                   : ((n * h + i) * w + j) * c + channel;
  }
};

template <typename From, typename To>
void test_case(const Case& t, Layout layout, int64_t shift) {
  std::string name = "reflect_pad " + std::to_string(t.c) + "x" + std::to_string(t.h) + "x" +
                     std::to_string(t.w) + " pad " + std::to_string(t.pad) + " members " +
                     std::to_string(t.batches.size()) + " layout " + std::to_string(int(layout)) +
                     " shift " + std::to_string(shift) + " dtype " +
                     std::to_string(int(kDType<From>)) + std::to_string(int(kDType<To>));
  std::mt19937 random(3 + seed);
  const int64_t height = t.h + 2 * t.pad, width = t.w + 2 * t.pad;
  const Index small{layout, t.c, t.h, t.w}, large{layout, t.c, height, width};
  ReflectPadParams p{};
  p.planes = layout == Layout::kNCHW ? t.c : 1, p.inner = layout == Layout::kNCHW ? 1 : t.c;
  p.height = t.h, p.width = t.w, p.pad = t.pad, p.from = kDType<From>, p.into = kDType<To>;
  p.x.size = p.grad_x.size = int(t.batches.size());
  std::vector<std::unique_ptr<Guarded<From>>> x, grad_x;
  std::vector<std::vector<double>> values;
  for (size_t k = 0; k < t.batches.size(); ++k) {
    const int64_t count = t.batches[k] * t.c * t.h * t.w;
    p.x.first[k + 1] = p.grad_x.first[k + 1] = p.x.first[k] + t.batches[k];
    x.push_back(std::make_unique<Guarded<From>>(count, shift));
    grad_x.push_back(std::make_unique<Guarded<From>>(count, shift));
    values.push_back(x.back()->randomize(random, 0));
    p.x.data[k] = x.back()->data();
    if (k != 1) p.grad_x.data[k] = grad_x.back()->data();  // the second member needs none
  }
  const int64_t images = p.x.images();
  Guarded<To> y(images * t.c * height * width, shift), grad_y(y.size(), shift);
  const std::vector<double> grads = grad_y.randomize(random, 0);
  p.y = y.data(), p.grad_y = grad_y.data();
  forward(p, name);
  backward(p, name);
  std::vector<double> expected(size_t(y.size()));
  std::vector<std::vector<double>> sums;
  for (const auto& member : values) sums.emplace_back(member.size());
  for (int64_t n = 0; n < images; ++n) {
    const int k = p.x.member_of(n);
    const int64_t own = n - p.x.first[k];
    for (int64_t c = 0; c < t.c; ++c)
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j) {
          const int64_t source = small(own, c, reflect(i, t.h, t.pad), reflect(j, t.w, t.pad));
          const int64_t at = large(n, c, i, j);
          expected[size_t(at)] =
              double(widen(narrow<To>(Compute<To>(values[size_t(k)][size_t(source)]))));
          sums[size_t(k)][size_t(source)] += grads[size_t(at)];
        }
  }
  expect_close(y, expected, 0, name + ": y");
  for (size_t k = 0; k < sums.size(); ++k) {
    if (k != 1) {
      expect_close(*grad_x[k], sums[k], 4 * tolerance<From>(), name + ": grad_x");
    } else {
      for (int64_t i = 0; i < grad_x[k]->size(); ++i)
        expect((*grad_x[k])[i] != (*grad_x[k])[i], [&] { return name + ": an unwanted grad_x"; });
    }
    expect(x[k]->intact() && grad_x[k]->intact(), name + ": wrote outside");
  }
}

template <typename From, typename To>
void test_types() {
  for (Layout layout : {Layout::kNCHW, Layout::kNHWC})
    for (int64_t shift : {0, 1})
      for (const Case& t :
           {Case{{1}, 3, 8, 12, 3}, Case{{2, 1, 3}, 3, 5, 7, 2}, Case{{1, 1}, 1, 4, 4, 3},
            Case{{1, 2}, 4, 6, 6, 0}, Case{{1, 0, 1}, 16, 7, 3, 1}, Case{{2}, 64, 2, 2, 1}})
        test_case<From, To>(t, layout, shift);
  test_case<From, To>({{1, 1}, 3, 33, 70, 3}, Layout::kNHWC, 0);
}

}  // namespace

void test_reflect_pad() {
  for_each_type([](auto element) { test_types<decltype(element), decltype(element)>(); });
  test_types<float, BFloat16>();
  test_types<float, Half>();
  test_limits();
}
