// losses against plain loops in double.
#include "losses.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

#ifdef CYCLEGAN_FAST_TEST_CUDA
void forward(LossesParams p, const std::string& what) {
  const LossesPlan plan = plan_of(p);
  Workspace workspace(plan.workspace_bytes);
  p.workspace = workspace.data();
  expect_launch(losses_fwd_cuda(p, plan, nullptr), what);
  expect_launched({plan.terms, plan.finish}, what);
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
void backward(const LossesParams& p, const std::string& what) {
  const LossesPlan plan = plan_of(p);
  expect_launch(losses_bwd_cuda(p, plan, nullptr), what);
  expect_launched({plan.terms}, what);
}
#else
void forward(LossesParams p, const std::string& what) {
  Guarded<double> workspace(losses_cpu_slices(p));
  p.workspace = workspace.data();
  run_slices(p, workspace.size(), losses_fwd_cpu);
  losses_finish_cpu(p);
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
void backward(const LossesParams& p, const std::string&) {
  run_slices(p, losses_cpu_slices(p), losses_bwd_cpu);
}
#endif

struct Exact {
  double value, slope;
};

Exact exact(Loss loss, double a, double b, double target) {
  if (loss == Loss::kL1) return {std::abs(a - b), double((a > b) - (a < b))};
  if (loss == Loss::kSquare) return {(a - target) * (a - target), 2 * (a - target)};
  const double margin = 1 - target * a;
  return margin > 0 ? Exact{margin, -target} : Exact{0, 0};
}

// One term: its buffers, and what must come out.
template <typename T>
struct Term {
  Guarded<T> a, b, grad_a;
  Guarded<int8_t> sign;
  double target, weight, value = 0, steepest = 0;
  std::vector<double> slopes;

  Term(Loss loss, int64_t count, int64_t shift, std::mt19937& random)
      : a(count, shift), b(count, shift), grad_a(count, shift), sign(count, shift) {
    target = loss == Loss::kHinge ? (count % 2 ? -1 : 1) : double(count % 3) / 2;
    weight = 0.5 + double(count % 5);
    const auto b_values = b.randomize(random, 0);
    auto a_values = a.randomize(random, 0);
    if (count > 2) {  // exactly at the kink
      const double kink = loss == Loss::kL1 ? b_values[2] : target;
      a.data()[2] = narrow<T>(Compute<T>(kink)), a_values[2] = kink;
    }
    for (int64_t i = 0; i < count; ++i) {
      const Exact e = exact(loss, a_values[size_t(i)], b_values[size_t(i)], target);
      value += weight * e.value / double(count);
      slopes.push_back(e.slope);
      steepest = std::max(steepest, std::abs(e.slope));
    }
    if (count == 0) value = std::nan("");
  }
};

template <typename T>
void test_losses(Loss loss, const std::vector<int64_t>& counts, int64_t shift, bool with_sign) {
  using C = Compute<T>;
  const std::string name = "losses " + std::to_string(int(loss)) + " terms " +
                           std::to_string(counts.size()) + " of " + std::to_string(counts[0]) +
                           " shift " + std::to_string(shift) + " dtype " +
                           std::to_string(int(kDType<T>));
  const bool pairs = loss == Loss::kL1;
  std::mt19937 random(11 + seed);
  std::vector<std::unique_ptr<Term<T>>> terms;
  Guarded<C> values(int64_t(counts.size())), grad(int64_t(counts.size()));
  LossesParams p{};
  p.size = int(counts.size()), p.loss = loss, p.dtype = kDType<T>, p.values = values.data();
  for (int k = 0; k < p.size; ++k) {  // alternately aligned and not
    terms.push_back(std::make_unique<Term<T>>(loss, counts[size_t(k)], k % 2 ? 0 : shift, random));
    Term<T>& term = *terms.back();
    p.terms[k] = {term.a.data(),     pairs ? term.b.data() : nullptr, nullptr,    nullptr,
                  counts[size_t(k)], pairs ? 0 : term.target,         term.weight};
    if (pairs && with_sign) p.terms[k].sign = term.sign.data();
  }
  forward(p, name);
  for (int k = 0; k < p.size; ++k) {
    const std::string what = name + ", term " + std::to_string(k);
    const double limit = sizeof(C) == 8 ? 1e-13 : 1e-6, expected = terms[size_t(k)]->value;
    expect(counts[size_t(k)] == 0 ? values[k] != values[k]
                                  : std::abs(values[k] - expected) <= limit * (1 + expected),
           what + ": value");
  }
  expect(values.intact(), name + ": wrote outside values");
  if (pairs && !with_sign) return;

  for (int64_t stride : {0, 1}) {
    for (int k = 0; k < p.size; ++k) grad.data()[k] = C(1.5 + k);
    p.grad = grad.data(), p.grad_stride = stride;
    for (int k = 0; k < p.size; ++k) {
      p.terms[k].grad_a = terms[size_t(k)]->grad_a.data();
      if (pairs) p.terms[k].a = p.terms[k].b = nullptr;
    }
    backward(p, name);
    for (int k = 0; k < p.size; ++k) {
      const std::string what = name + ", term " + std::to_string(k);
      Term<T>& term = *terms[size_t(k)];
      const double scale = (1.5 + double(stride * k)) * term.weight;
      std::vector<double> expected;
      for (double slope : term.slopes)
        expected.push_back(scale * slope / double(counts[size_t(k)]));
      if (pairs) expect_close(term.sign, term.slopes, 0, what + ": sign");
      const double limit = tolerance<T>() * scale / double(counts[size_t(k)]) * (1 + term.steepest);
      expect_close(term.grad_a, expected, limit, what + ": grad");
    }
  }
}

}  // namespace

void test_losses() {
  for_each_type([](auto element) {
    using T = decltype(element);
    for (Loss loss : {Loss::kL1, Loss::kSquare, Loss::kHinge}) {
      for (int64_t shift : {0, 1}) {
        for (int64_t count : {1, 7, 63, 64, 4096}) test_losses<T>(loss, {count}, shift, true);
        test_losses<T>(loss, {9001, 900, 0, 64, 7}, shift, true);
        test_losses<T>(loss, {1, 2, 3, 4, 5, 6, 16, 8200}, shift, true);
      }
      test_losses<T>(loss, {64, 9001}, 0, false);
    }
  });
  // More than the blocks of a launch hold at once: each goes round again.
  test_losses<float>(Loss::kL1, {900, 1100003, 64}, 1, true);
}
