// Binding of adam: check, fill the parameters, launch. See csrc/kernels/adam.h.
#include "adam.h"

#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "adam_step";

using Tensors = std::vector<Tensor>;
using Indices = std::vector<int64_t>;

// The memory of a scalar on the device of `like`.
template <typename T>
T* scalar_of(const char* name, const Tensor& t, ScalarType type, const Tensor& like) {
  STD_TORCH_CHECK(t.numel() == 1 && t.scalar_type() == type && t.device() == like.device(),
                  "adam_step: ", name,
                  " must be one number of the right type on the device of the "
                  "weights");
  return static_cast<T*>(t.mutable_data_ptr());
}

// The memory of a tensor that must lie as the weight does.
void* data_like(const char* name, const Tensor& t, const Tensor& weight, Layout layout) {
  const bool fits = layout == Layout::kNCHW ? t.is_contiguous() : is_channels_last(t);
  STD_TORCH_CHECK(fits && has_shape(t, shape_of(weight)) && t.device() == weight.device(),
                  "adam_step: ", name,
                  " must have the shape, the layout and the device of its "
                  "weight");
  return t.mutable_data_ptr();
}

int64_t index_of(const char* name, int64_t index, size_t size) {
  STD_TORCH_CHECK(index >= 0 && index < int64_t(size), "adam_step: ", name, " has the index ",
                  index, " of ", size);
  return index;
}

// All launches' weights, those of launch k in [k].
struct Launches {
  const Tensors& weights;
  std::vector<AdamParams> params;
  std::vector<Layout> layouts;  // of each weight

  explicit Launches(const Tensors& weights, double beta1, double beta2, double eps)
      : weights(weights), params(size_t(ceil_div(int64_t(weights.size()), kMaxAdamWeights))) {
    const DType dtype = dtype_of(kOp, weights[0].scalar_type());
    STD_TORCH_CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat64,
                    "adam_step: the weights must be float32 or float64");
    for (AdamParams& p : params) {
      p.dtype = dtype, p.beta1 = beta1, p.beta2 = beta2, p.eps = eps;
    }
    for (size_t k = 0; k < weights.size(); ++k) {
      params[k / kMaxAdamWeights].size = int(k % kMaxAdamWeights) + 1;
      layouts.push_back(layout_of(kOp, "a weight", weights[k]));
    }
  }
  AdamWeight& operator[](size_t k) {
    return params[k / kMaxAdamWeights].weights[k % kMaxAdamWeights];
  }

  void add(size_t k, const Tensor& exp_avg, const Tensor& exp_avg_sq, int64_t group,
           const Tensor& gradient) {
    const Tensor& weight = weights[k];
    AdamWeight& t = (*this)[k];
    STD_TORCH_CHECK(weight.numel() < int64_t{1} << 31, "adam_step: a weight is too large");
    for (const Tensor* like : {&weight, &exp_avg, &exp_avg_sq}) {
      STD_TORCH_CHECK(like->scalar_type() == weights[0].scalar_type(),
                      "adam_step: all weights and moments must have one type");
    }
    t.weight = data_like("weight", weight, weight, layouts[k]);
    t.exp_avg = data_like("exp_avg", exp_avg, weight, layouts[k]);
    t.exp_avg_sq = data_like("exp_avg_sq", exp_avg_sq, weight, layouts[k]);
    t.count = int32_t(weight.numel()), t.group = int8_t(group);
    t.gradient = dtype_of(kOp, gradient.scalar_type());
    STD_TORCH_CHECK((t.gradient == DType::kFloat64) == (params[0].dtype == DType::kFloat64),
                    "adam_step: gradients are float64 where the weights are, and nowhere else");
    t.gradients[0] = data_like("gradient", gradient, weight, layouts[k]);
  }
  void add_other(size_t k, const Tensor& gradient) {
    AdamWeight& t = (*this)[k];
    STD_TORCH_CHECK(dtype_of(kOp, gradient.scalar_type()) == t.gradient,
                    "adam_step: both gradients of a weight must have one type");
    t.gradients[1] = data_like("gradient", gradient, weights[k], layouts[k]);
  }
  void add_working(size_t k, const Tensor& working) {
    AdamWeight& t = (*this)[k];
    t.narrow = dtype_of(kOp, working.scalar_type());
    STD_TORCH_CHECK(size_of(t.narrow) == 2 && params[0].dtype == DType::kFloat32,
                    "adam_step: working weights are 16-bit copies of float32 weights");
    t.working = data_like("working weight", working, weights[k], layouts[k]);
  }
};

template <bool kCuda>
int64_t checks_of(const AdamParams& p) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) return plan_of_check(p).launch.grid;
#endif
  return adam_cpu_slices(p);
}

// The three passes; `launches` know where their results go.
template <bool kCuda>
void run(const std::vector<AdamParams>& launches, const AdamDecideParams& decision,
         const Tensor& like) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const Stream stream = current_stream(like);
    for (const AdamParams& p : launches) {
      check_status(kOp, adam_check_cuda(p, plan_of_check(p), stream), like);
    }
    check_status(kOp, adam_decide_cuda(decision, stream), like);
    for (const AdamParams& p : launches) {
      check_status(kOp, adam_update_cuda(p, plan_of_update(p), stream), like);
    }
  }
#endif
  if constexpr (!kCuda) {
    const auto for_each_launch = [&](void (*kernel)(const AdamParams&, int64_t, int64_t)) {
      for (const AdamParams& p : launches) {
        int64_t elements = 0;
        for (int k = 0; k < p.size; ++k) elements += p.weights[k].count;
        parallel_slices(adam_cpu_slices(p), elements,
                        [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
      }
    };
    for_each_launch(adam_check_cpu);
    adam_decide_cpu(decision);
    for_each_launch(adam_update_cpu);
  }
}

template <bool kCuda>
void step(const Tensors& weights, const Tensors& exp_avgs, const Tensors& exp_avg_sqs,
          const Indices& groups, const Tensors& gradients, const Tensors& others,
          const Indices& others_of, const Tensors& working, const Indices& working_of,
          const Tensors& losses, const Indices& losses_of, const Tensors& steps, const Tensor& lr,
          double beta1, double beta2, double eps, const std::optional<Tensor>& loss_scale,
          const std::optional<Tensor>& growth_tracker, int64_t growth_interval) {
  const size_t size = weights.size();
  STD_TORCH_CHECK(size > 0 && exp_avgs.size() == size && exp_avg_sqs.size() == size &&
                      groups.size() == size && gradients.size() == size,
                  "adam_step: each weight must have its moments, a group and a gradient");
  STD_TORCH_CHECK(others.size() == others_of.size() && working.size() == working_of.size() &&
                      losses.size() == losses_of.size(),
                  "adam_step: each list of indices must be as long as its list of tensors");
  STD_TORCH_CHECK(steps.size() <= kMaxAdamGroups && losses.size() <= kMaxAdamLosses,
                  "adam_step: at most ", kMaxAdamGroups, " groups and ", kMaxAdamLosses, " losses");
  STD_TORCH_CHECK(loss_scale.has_value() == growth_tracker.has_value(),
                  "adam_step: a loss scale has a growth tracker");
#ifdef CYCLEGAN_FAST_WITH_CUDA
  std::optional<torch::stable::accelerator::DeviceGuard> guard;
  if constexpr (kCuda) guard.emplace(weights[0].get_device_index());
#endif
  Launches launches(weights, beta1, beta2, eps);
  for (size_t k = 0; k < size; ++k) {
    STD_TORCH_CHECK(weights[k].device() == weights[0].device(),
                    "adam_step: all weights must be on one device");
    launches.add(k, exp_avgs[k], exp_avg_sqs[k], index_of("groups", groups[k], steps.size()),
                 gradients[k]);
  }
  for (size_t i = 0; i < others.size(); ++i) {
    launches.add_other(size_t(index_of("others_of", others_of[i], size)), others[i]);
  }
  for (size_t i = 0; i < working.size(); ++i) {
    launches.add_working(size_t(index_of("working_of", working_of[i], size)), working[i]);
  }

  AdamDecideParams d{};
  d.lr = scalar_of<double>("lr", lr, ScalarType::Double, weights[0]);
  d.beta1 = beta1, d.beta2 = beta2, d.growth_interval = int(growth_interval);
  d.groups = int(steps.size()), d.size = int(losses.size()), d.dtype = launches.params[0].dtype;
  for (size_t k = 0; k < steps.size(); ++k) {
    d.steps[k] = scalar_of<float>("a step count", steps[k], ScalarType::Float, weights[0]);
  }
  for (size_t k = 0; k < losses.size(); ++k) {
    d.losses[k] = scalar_of<void>("a loss", losses[k], weights[0].scalar_type(), weights[0]);
    d.group[k] = int8_t(index_of("losses_of", losses_of[k], steps.size()));
  }
  if (loss_scale) {
    d.scale = scalar_of<float>("the loss scale", *loss_scale, ScalarType::Float, weights[0]);
    d.growth_tracker =
        scalar_of<int32_t>("the growth tracker", *growth_tracker, ScalarType::Int, weights[0]);
  }
  for (const AdamParams& p : launches.params) d.checks += checks_of<kCuda>(p);

  const int64_t updates_bytes = kMaxAdamGroups * int64_t(sizeof(AdamUpdate));
  const Tensor workspace =
      empty_bytes(weights[0], updates_bytes + d.checks * int64_t(sizeof(int32_t)));
  char* const memory = static_cast<char*>(workspace.mutable_data_ptr());
  int32_t* non_finite = reinterpret_cast<int32_t*>(memory + updates_bytes);
  d.updates = reinterpret_cast<AdamUpdate*>(memory), d.non_finite = non_finite;
  for (AdamParams& p : launches.params) {
    p.updates = d.updates;
    p.non_finite = non_finite, non_finite += checks_of<kCuda>(p);
  }
  run<kCuda>(launches.params, d, weights[0]);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def(
      "adam_step(Tensor(a!)[] weights, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "int[] groups, Tensor[] gradients, Tensor[] others, int[] others_of, "
      "Tensor(d!)[] working, int[] working_of, Tensor[] losses, int[] losses_of, "
      "Tensor(e!)[] steps, Tensor lr, float beta1, float beta2, float eps, "
      "Tensor(f!)? loss_scale, Tensor(g!)? growth_tracker, int growth_interval) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) { m.impl("adam_step", TORCH_BOX(&step<false>)); }

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) { m.impl("adam_step", TORCH_BOX(&step<true>)); }
#endif

}  // namespace cyclegan_fast
