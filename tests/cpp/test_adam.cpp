// adam against plain loops in double.
#include "adam.h"

#include <cmath>
#include <limits>
#include <memory>

#include "harness.h"

using namespace cyclegan_fast;

namespace {

constexpr double kBeta1 = 0.5, kBeta2 = 0.999, kEps = 1e-2, kLr = 2e-4;

#ifdef CYCLEGAN_FAST_TEST_CUDA
int64_t checks_of(const AdamParams& p) { return plan_of_check(p).launch.grid; }
void check(const AdamParams& p, const std::string& what) {
  const AdamPlan plan = plan_of_check(p);
  expect_launch(adam_check_cuda(p, plan, nullptr), what);
  expect_launched({plan.launch}, what);
}
void decide(const AdamDecideParams& p, const std::string& what) {
  expect_launch(adam_decide_cuda(p, nullptr), what);
  expect_launched({kAdamDecide}, what);
}
void update(const AdamParams& p, const std::string& what) {
  const AdamPlan plan = plan_of_update(p);
  expect_launch(adam_update_cuda(p, plan, nullptr), what);
  expect_launched({plan.launch}, what);
}
#else
using Workspace = Guarded<char>;
int64_t checks_of(const AdamParams& p) { return adam_cpu_slices(p); }
void check(const AdamParams& p, const std::string&) {
  run_slices(p, adam_cpu_slices(p), adam_check_cpu);
}
void decide(const AdamDecideParams& p, const std::string&) { adam_decide_cpu(p); }
void update(const AdamParams& p, const std::string&) {
  run_slices(p, adam_cpu_slices(p), adam_update_cpu);
}
#endif

// A tensor of one of the types, and its values.
struct Values {
  std::unique_ptr<Guarded<float>> f;
  std::unique_ptr<Guarded<double>> d;
  std::unique_ptr<Guarded<BFloat16>> b;
  std::unique_ptr<Guarded<Half>> h;

  Values(DType dtype, int64_t count, int64_t shift) {
    if (dtype == DType::kFloat32) f = std::make_unique<Guarded<float>>(count, shift);
    if (dtype == DType::kFloat64) d = std::make_unique<Guarded<double>>(count, shift);
    if (dtype == DType::kBFloat16) b = std::make_unique<Guarded<BFloat16>>(count, shift);
    if (dtype == DType::kFloat16) h = std::make_unique<Guarded<Half>>(count, shift);
  }
  template <typename F>
  auto with(const F& call) {
    return f ? call(*f) : d ? call(*d) : b ? call(*b) : call(*h);
  }
  void* data() {
    return with([](auto& t) { return static_cast<void*>(t.data()); });
  }
  bool intact() {
    return with([](auto& t) { return t.intact(); });
  }
  double at(int64_t i) {
    return with([&](auto& t) { return t[i]; });
  }
  void set(int64_t i, double value) {
    with([&](auto& t) {
      using T = std::remove_reference_t<decltype(*t.data())>;
      t.data()[i] = narrow<T>(Compute<T>(value));
      return 0;
    });
  }
};

// What the tests vary of a weight.
struct Kind {
  int64_t count, shift, other_shift;  // of the weight and its moments; of the rest
  DType gradient;
  bool second, working;
  int group;
};

struct Weight {
  Kind kind;
  DType narrow;  // of the working weight
  Values weight, exp_avg, exp_avg_sq, first, second, working;
  std::vector<double> w, m, v;  // exact

  Weight(const Kind& k, DType dtype, std::mt19937& random)
      : kind(k),
        narrow(k.gradient == DType::kFloat16 ? DType::kFloat16 : DType::kBFloat16),
        weight(dtype, k.count, k.shift),
        exp_avg(dtype, k.count, k.shift),
        exp_avg_sq(dtype, k.count, k.shift),
        first(k.gradient, k.count, k.other_shift),
        second(k.gradient, k.count, k.other_shift),
        working(narrow, k.count, k.other_shift) {
    std::normal_distribution<double> normal(0, 1);
    for (int64_t i = 0; i < k.count; ++i) {
      weight.set(i, normal(random)), exp_avg.set(i, normal(random));
      exp_avg_sq.set(i, std::pow(normal(random), 2)), working.set(i, 0);
      w.push_back(weight.at(i)), m.push_back(exp_avg.at(i)), v.push_back(exp_avg_sq.at(i));
    }
    draw_gradients(random);
  }
  void draw_gradients(std::mt19937& random) {
    std::normal_distribution<double> normal(0, 1);
    for (int64_t i = 0; i < kind.count; ++i) {
      first.set(i, normal(random)), second.set(i, normal(random));
    }
  }
  AdamWeight description() {
    return {weight.data(),
            exp_avg.data(),
            exp_avg_sq.data(),
            {first.data(), kind.second ? second.data() : nullptr},
            kind.working ? working.data() : nullptr,
            int32_t(kind.count),
            int8_t(kind.group),
            kind.gradient,
            narrow};
  }
  void exact_update(double t, double scale) {
    for (size_t i = 0; i < w.size(); ++i) {
      const double g = (first.at(int64_t(i)) + (kind.second ? second.at(int64_t(i)) : 0)) / scale;
      m[i] = kBeta1 * m[i] + (1 - kBeta1) * g;
      v[i] = kBeta2 * v[i] + (1 - kBeta2) * g * g;
      const double denominator = std::sqrt(v[i]) / std::sqrt(1 - std::pow(kBeta2, t)) + kEps;
      w[i] -= kLr / (1 - std::pow(kBeta1, t)) * m[i] / denominator;
    }
  }
  // `moved`: an update has written the working weight.
  void expect_exact(double limit, bool moved, const std::string& what) {
    const double narrow_limit = narrow == DType::kFloat16 ? 0x1p-10 : 0x1p-7;
    for (int64_t i = 0; i < kind.count; ++i) {
      const size_t k = size_t(i);
      const auto near = [&](double got, double exact) {
        return std::abs(got - exact) <= limit * (1 + std::abs(exact));
      };
      expect(near(exp_avg.at(i), m[k]), [&] { return what + ": exp_avg"; });
      expect(near(exp_avg_sq.at(i), v[k]), [&] { return what + ": exp_avg_sq"; });
      expect(near(weight.at(i), w[k]), [&] { return what + ": weight"; });
      const double got = working.at(i), master = weight.at(i);
      expect(kind.working && moved ? std::abs(got - master) <= narrow_limit * std::abs(master)
                                   : got == 0,
             [&] { return what + ": working weight"; });
    }
    expect(weight.intact() && exp_avg.intact() && exp_avg_sq.intact() && first.intact() &&
               second.intact() && working.intact(),
           what + ": wrote outside");
  }
};

// The scalars of a step, as a group of weights sees them.
struct Scalars {
  Guarded<float> steps{kMaxAdamGroups}, scale{1};
  Guarded<int32_t> tracker{1};
  Guarded<double> lr{1}, wide_losses{3};
  Guarded<float> losses{3};
  Guarded<AdamUpdate> updates{kMaxAdamGroups};
  DType dtype;

  explicit Scalars(DType dtype) : dtype(dtype) {
    *lr.data() = kLr, *scale.data() = 1024, *tracker.data() = 0;
    steps.data()[0] = 3, steps.data()[1] = 0;
    for (int k = 0; k < 3; ++k) set_loss(k, 0.5 + k);
  }
  // Losses 0 and 1 belong to group 0, loss 2 to group 1.
  void set_loss(int k, double value) {
    losses.data()[k] = float(value), wide_losses.data()[k] = value;
  }
  AdamDecideParams description(bool with_scale) {
    AdamDecideParams d{};
    for (int k = 0; k < 3; ++k) {
      d.losses[k] = dtype == DType::kFloat64 ? static_cast<const void*>(wide_losses.data() + k)
                                             : losses.data() + k;
      d.group[k] = int8_t(k / 2);
    }
    for (int k = 0; k < kMaxAdamGroups; ++k) d.steps[k] = steps.data() + k;
    d.lr = lr.data(), d.updates = updates.data(), d.beta1 = kBeta1, d.beta2 = kBeta2;
    if (with_scale) d.scale = scale.data(), d.growth_tracker = tracker.data();
    d.growth_interval = 3, d.groups = kMaxAdamGroups, d.size = 3, d.dtype = dtype;
    return d;
  }
};

// One step of all weights, in launches of kMaxAdamWeights; the bits that the checks found.
void run_step(std::vector<std::unique_ptr<Weight>>& weights, Scalars& scalars, DType dtype,
              bool with_scale, const std::string& what) {
  std::vector<AdamParams> launches;
  int64_t checks = 0;
  for (size_t k = 0; k < weights.size(); ++k) {
    if (k % kMaxAdamWeights == 0) launches.push_back({});
    AdamParams& p = launches.back();
    p.weights[p.size++] = weights[k]->description();
    p.updates = scalars.updates.data(), p.dtype = dtype;
    p.beta1 = kBeta1, p.beta2 = kBeta2, p.eps = kEps;
  }
  for (const AdamParams& p : launches) checks += checks_of(p);
  Workspace found(checks * int64_t(sizeof(int32_t)));
  AdamDecideParams d = scalars.description(with_scale);
  d.non_finite = static_cast<int32_t*>(static_cast<void*>(found.data())), d.checks = checks;
  int64_t first = 0;
  for (AdamParams& p : launches) {
    p.non_finite = static_cast<int32_t*>(static_cast<void*>(found.data())) + first;
    check(p, what), first += checks_of(p);
  }
  decide(d, what);
  for (const AdamParams& p : launches) update(p, what);
  expect(found.intact() && scalars.steps.intact() && scalars.updates.intact() &&
             scalars.scale.intact() && scalars.tracker.intact(),
         what + ": wrote outside the scalars");
}

void test_steps(const std::vector<Kind>& kinds, DType dtype, bool with_scale) {
  const std::string name = "adam of " + std::to_string(kinds.size()) + " weights, dtype " +
                           std::to_string(int(dtype)) + (with_scale ? ", scaled" : "");
  const double limit = dtype == DType::kFloat64 ? 1e-13 : 1e-6;
  std::mt19937 random(7 + seed);
  std::vector<std::unique_ptr<Weight>> weights;
  for (const Kind& kind : kinds) weights.push_back(std::make_unique<Weight>(kind, dtype, random));
  Scalars scalars(dtype);
  double steps[kMaxAdamGroups] = {3, 0};
  bool moved[kMaxAdamGroups] = {};
  double scale = with_scale ? 1024 : 1;
  int clean = 0;  // updates since the scale last changed
  for (int round = 0; round < 7; ++round) {
    const std::string what = name + ", round " + std::to_string(round);
    // Round 1: a loss of group 0 is NaN; round 2: an infinite gradient of the last weight; round 3:
    // the loss of group 1 is infinite.
    scalars.set_loss(1, round == 1 ? std::nan("") : 0.5);
    scalars.set_loss(2, round == 3 ? -HUGE_VAL : 0.5);
    Weight& last = *weights.back();
    if (round == 2) {
      last.second.set(last.kind.count - 1, std::numeric_limits<double>::infinity());
      if (!last.kind.second) last.first.set(last.kind.count - 1, -HUGE_VAL);
    }
    bool skipped[kMaxAdamGroups] = {round == 1, round == 3};
    if (round == 2) skipped[last.kind.group] = true;
    run_step(weights, scalars, dtype, with_scale, what);
    bool overflow = false;
    for (int k = 0; k < kMaxAdamGroups; ++k) {
      overflow |= skipped[k], steps[k] += !skipped[k], moved[k] |= !skipped[k];
      expect(scalars.steps[k] == steps[k], what + ": step count");
    }
    for (const auto& weight : weights) {
      const int group = weight->kind.group;
      if (!skipped[group]) weight->exact_update(steps[group], scale);
      weight->expect_exact(limit, moved[group], what);
      weight->draw_gradients(random);
    }
    if (!with_scale) continue;
    clean = overflow ? 0 : clean + 1;
    scale = overflow ? scale / 2 : clean == 3 ? scale * 2 : scale;
    clean = clean == 3 ? 0 : clean;
    expect(scalars.scale[0] == scale && scalars.tracker[0] == clean, what + ": loss scale");
  }
}

// Every kind of gradient, working weights or none, aligned or not, odd sizes.
std::vector<Kind> kinds_of(size_t weights, DType dtype) {
  const DType gradients[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
  const int64_t counts[] = {1, 3, 4, 64, 63, 7, 129, 1000};
  std::vector<Kind> kinds;
  for (size_t k = 0; k < weights; ++k) {
    const bool wide = dtype == DType::kFloat64;
    kinds.push_back({counts[k % 8], int64_t(k / 3 % 2), int64_t(k / 6 % 2),
                     wide ? dtype : gradients[k % 3], k / 2 % 2 == 0, !wide && k % 5 != 0,
                     int(k >= weights / 2)});
  }
  return kinds;
}

// The loss scale never grows to infinity, and its bookkeeping goes on.
void test_loss_scale_limit() {
  float scale = 0x1p127f;
  int32_t tracker = 2;
  update_loss_scale(&scale, &tracker, false, 3);
  expect(scale == 0x1p127f && tracker == 0, "the loss scale stays finite");
}

}  // namespace

void test_adam() {
  test_loss_scale_limit();
  for (DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (size_t weights : {1, 2, 24, 64, 65, 130}) {
      test_steps(kinds_of(weights, dtype), dtype, false);
      test_steps(kinds_of(weights, dtype), dtype, true);
    }
  }
  // More than a block, and more than a slice, of one weight; the last one small.
  const DType narrow = DType::kBFloat16;
  test_steps({{70001, 0, 0, narrow, true, true, 0}, {5, 1, 0, narrow, false, true, 1}},
             DType::kFloat32, true);
}
