// bias_act against plain loops over [N, C, pixels] in double.
#include "bias_act.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

#ifdef CYCLEGAN_FAST_TEST_CUDA
void forward(const BiasActParams& p, const std::string& what) {
  const BiasActPlan plan = forward_plan_of(p);
  expect_launch(bias_act_fwd_cuda(p, plan, nullptr), what);
  expect_launched({plan.launch}, what);
}
void backward(BiasActParams p, const std::string& what) {
  const BiasActPlan plan = backward_plan_of(p);
  Workspace workspace(plan.workspace_bytes);
  p.workspace = workspace.data();
  for (int time = 0; time < 2; ++time) {  // the ticket is ready for another time
    expect_launch(bias_act_bwd_cuda(p, plan, nullptr), what);
    expect_launched({plan.launch}, what);
  }
  expect(*p.ticket == 0, what + ": the ticket");
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
#else
void forward(const BiasActParams& p, const std::string&) {
  run_slices(p, bias_act_cpu_slices(p, p.y.images()), bias_act_fwd_cpu);
  *p.ticket = 0;
}
void backward(BiasActParams p, const std::string& what) {
  Guarded<char> workspace(bias_act_cpu_workspace_bytes(p));
  p.workspace = workspace.data();
  run_slices(p, bias_act_cpu_slices(p, p.grad_y.images()), bias_act_bwd_cpu);
  if (p.grad_bias != nullptr) bias_act_finish_cpu(p);
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
#endif

struct Case {
  std::vector<int64_t> batches;
  int64_t c, pixels;
};
struct Act {
  bool tanh;
  double slope;
};

template <typename From, typename Into, typename Bias>
void test_case(const Case& t, Layout layout, const Act& act, int64_t shift) {
  const std::string name = "bias_act " + std::to_string(t.c) + "x" + std::to_string(t.pixels) +
                           " members " + std::to_string(t.batches.size()) + " layout " +
                           std::to_string(int(layout)) + " tanh " + std::to_string(act.tanh) +
                           " slope " + std::to_string(act.slope) + " shift " +
                           std::to_string(shift) + " dtype " + std::to_string(int(kDType<From>)) +
                           std::to_string(int(kDType<Into>)) + std::to_string(int(kDType<Bias>));
  std::mt19937 random(9 + seed);
  const bool identity = !act.tanh && act.slope == 1;
  BiasActParams p{};
  p.planes = layout == Layout::kNCHW ? t.c : 1, p.inner = layout == Layout::kNCHW ? 1 : t.c;
  p.pixels = t.pixels, p.tanh = act.tanh, p.slope = act.slope;
  p.from = kDType<From>, p.into = kDType<Into>, p.bias_dtype = kDType<Bias>;
  p.y.size = p.output.size = p.grad_y.size = int(t.batches.size());
  const int64_t image = t.c * t.pixels;
  std::vector<std::unique_ptr<Guarded<Into>>> y, grad_y;
  std::vector<std::vector<double>> grads;
  for (size_t k = 0; k < t.batches.size(); ++k) {
    p.y.first[k + 1] = p.output.first[k + 1] = p.grad_y.first[k + 1] = p.y.first[k] + t.batches[k];
    y.push_back(std::make_unique<Guarded<Into>>(t.batches[k] * image, shift));
    grad_y.push_back(std::make_unique<Guarded<Into>>(t.batches[k] * image, shift));
    grads.push_back(grad_y.back()->randomize(random, 0));
    p.y.data[k] = y.back()->data();
    if (!identity) p.output.data[k] = y.back()->data();
    if (k != 1) p.grad_y.data[k] = grad_y.back()->data();  // the second member's are zeros
  }
  const int64_t images = p.y.images();
  Guarded<From> x(images * image, shift), grad_x(images * image, shift);
  Guarded<Bias> bias(t.c), grad_bias(t.c);
  Guarded<uint32_t> ticket(1);
  const std::vector<double> values = x.randomize(random, 0), biases = bias.randomize(random, 0);
  p.x = x.data(), p.bias = bias.data(), p.ticket = ticket.data();
  forward(p, name);
  p.grad_x = grad_x.data(), p.grad_bias = grad_bias.data();
  backward(p, name);

  std::vector<double> exact_grad_x(values.size()), sums(biases.size()), sizes(biases.size());
  std::vector<std::vector<double>> expected;
  for (int64_t batch : t.batches) expected.emplace_back(size_t(batch * image));
  for (int64_t n = 0; n < images; ++n) {
    const auto k = size_t(p.y.member_of(n));
    for (int64_t e = 0; e < image; ++e) {
      const int64_t c = layout == Layout::kNCHW ? e / t.pixels : e % t.c;
      const auto all = size_t(n * image + e), own = size_t(all) - size_t(p.y.first[k] * image);
      const double v = double(Compute<From>(values[all]) + Compute<From>(biases[size_t(c)]));
      const double output = act.tanh ? std::tanh(v) : v > 0 ? v : act.slope * v;
      const double grad = k == 1 ? 0 : grads[k][own];
      expected[k][own] = output;
      const double rounded = (*y[k])[int64_t(own)];
      exact_grad_x[all] = grad * (act.tanh ? 1 - rounded * rounded : rounded > 0 ? 1 : act.slope);
      sums[size_t(c)] += exact_grad_x[all], sizes[size_t(c)] += std::abs(exact_grad_x[all]);
    }
  }
  for (size_t k = 0; k < expected.size(); ++k) {
    expect_close(*y[k], expected[k], tolerance<Into>(), name + ": y");
    expect(grad_y[k]->intact(), name + ": wrote outside");
  }
  expect_close(grad_x, exact_grad_x, tolerance<From>(), name + ": grad_x");
  for (int64_t c = 0; c < t.c; ++c) {
    const double limit = sizeof(Compute<From>) == 8 ? 1e-12 : 2e-6;
    const double error = std::abs(grad_bias[c] - sums[size_t(c)]);
    const double rounding = tolerance<Bias>() * (1 + std::abs(sums[size_t(c)]));
    expect(error <= limit * (1 + sizes[size_t(c)]) + rounding,
           [&] { return name + ": grad_bias"; });
  }
  expect(x.intact() && bias.intact() && grad_bias.intact(), name + ": wrote outside");
  if (!identity || kDType<From> != kDType<Into>) return;
  p.grad_x = nullptr;  // as where it is grad_y itself
  const double before = grad_bias[0];
  backward(p, name);
  expect(grad_bias[0] == before, name + ": grad_bias alone");
}

template <typename From, typename Into, typename Bias>
void test_types() {
  const Act acts[] = {{false, 1}, {false, 0}, {false, 0.2}, {true, 0}};
  int next = 0;
  for (Layout layout : {Layout::kNCHW, Layout::kNHWC})
    for (int64_t shift : {0, 1})
      for (const Case& t : {Case{{1}, 3, 64}, Case{{2, 1, 1}, 3, 35}, Case{{1, 1}, 1, 900},
                            Case{{2}, 64, 16}, Case{{1, 0, 1}, 20, 12}, Case{{1}, 300, 4}})
        test_case<From, Into, Bias>(t, layout, acts[next++ % 4], shift);
  test_case<From, Into, Bias>({{1, 1}, 3, 70 * 33}, Layout::kNHWC, acts[3], 0);
}

}  // namespace

void test_bias_act() {
  for_each_type([](auto element) {
    using T = decltype(element);
    test_types<T, T, T>();
  });
  test_types<BFloat16, float, BFloat16>();
  test_types<Half, float, float>();
  // Several turns of each thread, and several blocks for a channel.
  test_case<BFloat16, BFloat16, float>({{1}, 64, 2100}, Layout::kNHWC, {false, 0.2}, 0);
  test_case<float, float, float>({{1, 1}, 3, 9000}, Layout::kNHWC, {true, 0}, 0);
  test_case<float, float, float>({{1, 1}, 3, 9000}, Layout::kNCHW, {true, 0}, 0);
}
