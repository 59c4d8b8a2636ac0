// instance_norm_act against plain loops in double, unwritten elements being NaN.
#include "instance_norm_act.h"

#include "cuda/device_properties.h"
#include "harness.h"
#include "norm_reference.h"

using namespace cyclegan_fast;

namespace {

// ---- Running an implementation ----

// What a launch plan depends on besides the parameters; with `recut`, another plan than plan_of's.
struct Setting {
  DeviceProperties device;
  bool recut = false;
};

#ifdef CYCLEGAN_FAST_TEST_CUDA
// A large device without and with clusters, one whose blocks are all busy, and one that keeps
// nothing resident.
const std::vector<Setting> kSettings = {{{132, 1}}, {{132, 8}}, {{1, 1}}, {{132, 0}}};
const std::vector<Setting> kRecut = {{{132, 8}, true}, {{132, 0}, true}};

bool runs_here([[maybe_unused]] const Setting& setting) {
#ifdef CYCLEGAN_FAST_ON_GPU
  return setting.device.max_cluster_size <= current_device_properties().max_cluster_size;
#else
  return true;
#endif
}

template <typename Params>
using Launcher = Status (*)(const Params&, const NormPlan&, Stream);

template <typename Params>
void run(Params p, const NormPlan& plan, Launcher<Params> launch, const std::string& what) {
  Workspace workspace(plan.workspace_bytes);
  p.workspace = workspace.data();
  expect_launch(launch(p, plan, nullptr), what);
  expect_launched({plan.sums.launch, plan.write.launch, plan.affine_grads}, what);
  expect(workspace.intact(), what + ": wrote outside the workspace");
}

// A pass cut into chunks of another size.
TiledPass recut(TiledPass pass, int64_t pixels, int64_t chunk_size) {
  pass.launch.grid /= pass.chunks;
  pass.chunk_size = chunk_size, pass.chunks = ceil_div(pixels, chunk_size);
  pass.launch.grid *= pass.chunks;
  return pass;
}

// Another plan for the same tensors, which nothing but its own fields can tell: a launch that cuts
// the tensor up by itself does not follow it.
template <typename Params>
NormPlan recut_plan(const Params& p, NormPlan plan) {
  TiledPass& write = plan.write;
  const bool flat = p.layout == Layout::kNCHW && write.vec > 1;
  const int64_t pixels = p.h * p.w / (flat ? write.vec : 1);
  const int64_t planes = p.layout == Layout::kNCHW ? p.n * p.c : p.n;
  if (plan.regime == NormRegime::kResident) {  // a plane a block
    write.launch.block = write.group;
    write.launch.grid = planes * write.tiles * write.chunks;
    return plan;
  }
  write = recut(write, pixels, ceil_div(write.chunk_size, 3));
  if (plan.regime != NormRegime::kSplit) return plan;
  const int64_t chunks = plan.sums.chunks;
  if (plan.sums.vec != write.vec) return plan;
  plan.sums = recut(plan.sums, pixels, ceil_div(plan.sums.chunk_size, 2));
  plan.workspace_bytes += 2 * (plan.sums.chunks - chunks) * p.n * p.c * stat_size_of(p.dtype);
  return plan;
}

template <typename Params>
void run(const Params& p, const Setting& setting, Launcher<Params> launch,
         const std::string& what) {
  const NormPlan plan = plan_of(p, setting.device);
  run(p, setting.recut ? recut_plan(p, plan) : plan, launch, what);
}
void forward(const InstanceNormActParams& p, const Setting& setting, const std::string& what) {
  run(p, setting, instance_norm_act_fwd_cuda, what);
}
void backward(const InstanceNormActBwdParams& p, const Setting& setting, const std::string& what) {
  run(p, setting, instance_norm_act_bwd_cuda, what);
}
#else
const std::vector<Setting> kSettings = {{}}, kRecut = {};

bool runs_here(const Setting&) { return true; }

void forward(const InstanceNormActParams& p, const Setting&, const std::string&) {
  run_slices(p, instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout),
             instance_norm_act_fwd_cpu);
}
void backward(InstanceNormActBwdParams p, const Setting&, const std::string& what) {
  Guarded<double> workspace(ceil_div(2 * p.n * p.c * stat_size_of(p.dtype), 8));
  p.workspace = p.grad_weight ? workspace.data() : nullptr;
  run_slices(p, instance_norm_act_cpu_slices(p.n, p.c, p.dtype, p.layout),
             instance_norm_act_bwd_cpu);
  instance_norm_act_affine_grads_cpu(p);
  expect(workspace.intact(), what + ": wrote outside the workspace");
}
#endif

struct NormCase {
  int64_t n, c, h, w;
  int64_t pad = 0;
  int64_t residual = -1;  // its border, or -1: no residual
  double mean = 0;
  int64_t shift = 0;  // elements off alignment
};

// What a case is run with.
struct Options {
  bool weight, bias;
  bool grad_weight, grad_bias;  // needed
  bool ready;                   // statistics
  bool constant;                // statistics in the backward pass
  bool inner;                   // a second gradient, of the output without its border
};

std::string name_of(const NormCase& k, const Options& o, DType dtype, Layout layout,
                    Activation activation, const Setting& setting) {
  char text[300];
  std::snprintf(text, sizeof text,
                "norm %ldx%ldx%ldx%ld pad %ld residual %ld mean %g shift %ld dtype %d layout %d "
                "act %d weight %d bias %d grads %d%d ready %d constant %d inner %d device %d %d "
                "recut %d",
                long(k.n), long(k.c), long(k.h), long(k.w), long(k.pad), long(k.residual), k.mean,
                long(k.shift), int(dtype), int(layout), int(activation), o.weight, o.bias,
                o.grad_weight, o.grad_bias, o.ready, o.constant, o.inner,
                setting.device.multiprocessors, setting.device.max_cluster_size, setting.recut);
  return text;
}

template <typename T>
void* pointer_if(bool wanted, Guarded<T>& buffer) {
  return wanted ? buffer.data() : nullptr;
}

double largest(const reference::Values& values) {
  double max = 0;
  for (double v : values) max = std::max(max, std::abs(v));
  return max;
}

constexpr double kSlope = 0.2;

// One case with one set of options: the forward pass, then the backward pass on its statistics.
template <typename T>
class NormTest {
  using C = Compute<T>;
  using Values = reference::Values;

 public:
  NormTest(const NormCase& k, const Options& o, Layout layout, Activation activation,
           const Setting& setting)
      : k_(k),
        o_(o),
        layout_(layout),
        activation_(activation),
        setting_(setting),
        name_(name_of(k, o, kDType<T>, layout, activation, setting)),
        sizes_{k.n, k.c, k.h, k.w, layout},
        x_(sizes_.count(0), k.shift),
        mean_(k.n * k.c),
        rstd_(k.n * k.c),
        weight_(k.c),
        bias_(k.c) {
    norm_.slope = slope_of(activation, kSlope);
    x_values_ = x_.randomize(random_, k.mean);
    norm_.weight = weight_.randomize(random_, 1);
    norm_.bias = bias_.randomize(random_, 0);
    if (!o.weight) norm_.weight.assign(size_t(k.c), 1);
    if (!o.bias) norm_.bias.assign(size_t(k.c), 0);
  }

  void forward() {
    Guarded<T> residual(has_residual() ? sizes_.count(border()) : 0, k_.shift);
    Guarded<T> y(sizes_.count(k_.pad), k_.shift);
    Guarded<C> statistics(3 * k_.n * k_.c);
    const Values residual_values = residual.randomize(random_, 0);
    o_.ready ? make_statistics(statistics) : take_statistics();
    InstanceNormActParams p = {};
    fill(p);
    p.residual = pointer_if(has_residual(), residual), p.residual_pad = border();
    p.statistics = pointer_if(o_.ready, statistics);
    p.y = y.data(), p.mean = mean_.data(), p.rstd = rstd_.data();
    p.count = kCount, p.eps = eps();
    ::forward(p, setting_, name_);
    const auto expected =
        reference::forward(sizes_, norm_, x_values_, residual_values, k_.pad, border());
    const double growth = std::max(1.0, largest(norm_.weight));
    expect_close(y, expected, limit() * growth, name_ + ": y");
    expect_close(mean_, norm_.mean, sizeof(C) == 8 ? 1e-12 : 1e-6, name_ + ": mean");
    expect_close(rstd_, norm_.rstd, sizeof(C) == 8 ? 1e-9 : 2e-5, name_ + ": rstd");
  }

  void backward() {
    Guarded<T> grad_y(sizes_.count(k_.pad), k_.shift), grad_x(sizes_.count(0), k_.shift);
    Guarded<T> grad_inner(o_.inner ? sizes_.count(0) : 0, k_.shift);
    Guarded<T> grad_residual(has_residual() ? sizes_.count(0) : 0, k_.shift);
    Guarded<C> grad_weight(k_.c), grad_bias(k_.c);
    const Values grad_values = grad_y.randomize(random_, 0);
    const Values inner_values = grad_inner.randomize(random_, 0);
    for (size_t i = 0; i < norm_.mean.size(); ++i) {  // as the implementation rounded them
      norm_.mean[i] = mean_[int64_t(i)], norm_.rstd[i] = rstd_[int64_t(i)];
    }
    InstanceNormActBwdParams p = {};
    fill(p);
    p.grad_y = grad_y.data(), p.grad_inner = pointer_if(o_.inner, grad_inner);
    p.mean = mean_.data(), p.rstd = rstd_.data();
    p.grad_x = grad_x.data(), p.grad_residual = pointer_if(has_residual(), grad_residual);
    p.grad_weight = pointer_if(o_.grad_weight, grad_weight);
    p.grad_bias = pointer_if(o_.grad_bias, grad_bias);
    p.constant_statistics = o_.constant;
    ::backward(p, setting_, name_);
    const auto expected = reference::backward(sizes_, norm_, grad_values, inner_values, x_values_,
                                              o_.constant, k_.pad);
    // Gradients grow with rstd, which is large for planes of few pixels.
    const double growth = std::max(1.0, largest(norm_.rstd)),
                 sums = (sizeof(C) == 8 ? 1e-11 : 2e-5) * growth;
    expect_close(grad_x, expected.x, limit() * growth * std::max(1.0, largest(norm_.weight)),
                 name_ + ": grad_x");
    if (has_residual()) {
      expect_close(grad_residual, expected.residual, tolerance<T>(), name_ + ": grad_residual");
    }
    if (o_.grad_weight) expect_close(grad_weight, expected.weight, sums, name_ + ": grad_weight");
    if (o_.grad_bias) expect_close(grad_bias, expected.bias, sums, name_ + ": grad_bias");
  }

 private:
  static constexpr double kCount = 12;  // of ready statistics: not that of the pixels

  bool has_residual() const { return k_.residual >= 0; }
  int64_t border() const { return std::max<int64_t>(k_.residual, 0); }
  // Large where the first variance is zero, so that its plane does not magnify roundings.
  double eps() const { return o_.ready ? 0.5 : 1e-5; }
  // The mean itself is rounded to C: far from zero that is all of the error.
  double limit() const {
    return tolerance<T>() + std::abs(k_.mean) * (sizeof(C) == 8 ? 4e-16 : 2.4e-7);
  }

  template <typename Params>
  void fill(Params& p) {
    p.x = x_.data(), p.weight = pointer_if(o_.weight, weight_), p.bias = pointer_if(o_.bias, bias_);
    p.n = k_.n, p.c = k_.c, p.h = k_.h, p.w = k_.w;
    p.pad = k_.pad;
    p.negative_slope = kSlope, p.activation = activation_;
    p.dtype = kDType<T>, p.layout = layout_;
  }

  void take_statistics() {
    reference::Moments m = reference::moments(sizes_, x_values_);
    norm_.mean = m.mean;
    for (double square : m.square) {
      norm_.rstd.push_back(1 / std::sqrt(square / double(k_.h * k_.w) + eps()));
    }
  }

  // Means near that of x, variances from 0.5 to 2; the first one's is below zero, as by rounding.
  void make_statistics(Guarded<C>& statistics) {
    std::uniform_real_distribution<double> offset(-0.5, 0.5), variance(0.5, 2);
    const int64_t planes = k_.n * k_.c;
    for (int64_t i = 0; i < planes; ++i) {
      C* out = statistics.data() + i;
      out[0] = C(k_.mean + offset(random_)), out[planes] = C(kCount * offset(random_));
      const double m = double(out[planes]) / kCount;
      out[2 * planes] = C(kCount * (i == 0 ? m * m - 0.1 : variance(random_) + m * m));
      norm_.mean.push_back(double(out[0]) + m);
      norm_.rstd.push_back(
          1 / std::sqrt(std::max(double(out[2 * planes]) / kCount - m * m, 0.0) + eps()));
    }
  }

  NormCase k_;
  Options o_;
  Layout layout_;
  Activation activation_;
  Setting setting_;
  std::string name_;
  reference::Sizes sizes_;
  Guarded<T> x_;
  Guarded<C> mean_, rstd_, weight_, bias_;
  reference::Norm norm_;
  Values x_values_;
  std::mt19937 random_{7 + seed};
};

template <typename T>
void test_norm(const NormCase& k, const Options& o, Activation activation,
               const std::vector<Setting>& settings) {
  if (kDType<T> == DType::kFloat16 && k.mean != 0) return;  // half has 3 digits there
  for (Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
    for (const Setting& setting : settings) {
      if (!runs_here(setting)) continue;
      NormTest<T> test(k, o, layout, activation, setting);
      test.forward();
      test.backward();
    }
  }
}

template <typename T>
void test_shapes() {
  const NormCase cases[] = {
      {1, 1, 1, 1},                 // one pixel
      {2, 3, 1, 1, 0, 0},           //
      {2, 3, 1, 1, 0, 2},           //
      {1, 5, 1, 7, 0, 1},           // one row
      {2, 3, 9, 1},                 // one column
      {2, 3, 2, 2, 1},              // the smallest that reflects
      {2, 3, 5, 4, 3, 2},           // rows and columns shown three times
      {1, 8, 7, 9, 1, 0},           //
      {2, 16, 6, 8, 0, 0},          // whole vectors
      {1, 16, 8, 8, 2, 1, 0, 1},    // misaligned
      {1, 16, 8, 8, 0, 0, 0, 3},    //
      {1, 24, 5, 6, 1, 1},          // vectors that no power of two counts
      {1, 37, 5, 11, 2, 1},         // channels that fill no vector
      {1, 70, 3, 5, 1, -1},         //
      {1, 264, 3, 4, 1, 0},         // several tiles of channels
      {1, 3, 40, 37, 3, -1, 1000},  // far from zero, several chunks
      {1, 8, 33, 40, 1, 3, 1000},   //
      {1, 2, 64, 64, 0, -1, 1000},  //
      {1, 1, 20, 54},
      {1, 1, 36, 60},         // a little more than a group of threads keeps resident
      {1, 1, 2, 2600, 1, 0},  // a row longer than a block of the CPU's
  };
  for (const NormCase& k : cases) {
    // The others are slopes of the same code: they are tried on any size.
    const Activation other = &k - cases < 11 ? Activation::kNone : Activation::kRelu;
    test_norm<T>(k, Options{}, other, {kSettings[0]});
    Options inner = {};
    inner.inner = true;
    test_norm<T>(k, inner, Activation::kLeakyRelu, kSettings);
  }
}

template <typename T>
void test_options() {
  const Options options[] = {
      {true, false, true, false, false, false, false},   // weight alone
      {false, true, true, true, false, false, true},     // bias alone
      {true, true, true, true, false, false, false},     // both
      {true, true, true, true, false, false, true},      //
      {true, true, false, false, false, false, false},   // their gradients are not needed
      {false, false, false, false, true, false, false},  // ready statistics
      {true, true, true, true, true, false, true},       //
      {false, false, false, false, false, true, false},  // constant statistics
      {true, true, false, false, true, true, true},      //
      {true, true, true, true, true, true, false},       //
      {false, false, true, false, false, true, true},    //
  };
  const NormCase cases[] = {
      {2, 3, 1, 1, 0, 0},          {2, 3, 5, 4, 3, 2},  {3, 16, 6, 8},
      {2, 37, 5, 11, 1, 1, 0, 1},  {2, 72, 7, 9, 0, 0}, {1, 3, 33, 40, 1, -1, 1000},
      {1, 2, 36, 35, 0, -1, 0, 3},
  };
  size_t turn = 0;  // each set of options meets every setting, though not with every size
  for (const Options& o : options) {
    for (const NormCase& k : cases) {
      test_norm<T>(k, o, Activation::kLeakyRelu, {kSettings[turn++ % kSettings.size()]});
    }
  }
}

// The launches follow a plan that only its fields can tell.
template <typename T>
void test_recut_plans() {
  const NormCase cases[] = {
      {2, 16, 9, 8, 1, 1}, {3, 70, 7, 9, 0, 0}, {1, 8, 33, 40, 2, 0}, {1, 2, 64, 64, 0, -1}};
  const Options given = {false, false, false, false, true, false, false};
  const Options affine = {true, true, true, true, false, false, true};
  for (const NormCase& k : cases) {
    for (const Options& o : {given, affine}) test_norm<T>(k, o, Activation::kLeakyRelu, kRecut);
  }
}

// With mean 0 and rstd 1, y is x + residual, rounded once to the nearest.
template <typename T>
void test_rounding(Layout layout) {
  using C = Compute<T>;
  const int64_t c = 67, h = 5, w = 13, count = c * h * w;
  std::mt19937 random(3 + seed);
  Guarded<T> x(count), residual(count);
  x.randomize(random, 0), residual.randomize(random, 0);
  std::vector<double> expected;
  for (int64_t i = 0; i < count; ++i) {
    expected.push_back(double(widen(narrow<T>(C(C(x[i]) + C(residual[i]))))));
  }
  SharedVector<C> statistics(size_t(3 * c), C(0));
  std::fill(statistics.end() - c, statistics.end(), C(1));
  for (const Setting& setting : kSettings) {
    Guarded<T> y(count);
    Guarded<C> mean(c), rstd(c);
    InstanceNormActParams p = {};
    p.x = x.data(), p.residual = residual.data(), p.statistics = statistics.data();
    p.y = y.data(), p.mean = mean.data(), p.rstd = rstd.data();
    p.n = 1, p.c = c, p.h = h, p.w = w, p.count = 1;
    p.activation = Activation::kNone, p.dtype = kDType<T>, p.layout = layout;
    const std::string name = "norm: rounding of dtype " + std::to_string(int(kDType<T>));
    forward(p, setting, name);
    expect_close(y, expected, 0, name);
  }
}

}  // namespace

void test_instance_norm_act() {
  for_each_type([](auto element) {
    test_rounding<decltype(element)>(Layout::kNCHW);
    test_rounding<decltype(element)>(Layout::kNHWC);
    test_shapes<decltype(element)>();
    test_options<decltype(element)>();
  });
  test_recut_plans<float>();
  test_recut_plans<BFloat16>();
}
