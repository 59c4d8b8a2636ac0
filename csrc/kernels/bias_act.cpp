// The CPU implementation: plain loops over planes. On the CPU the networks leave the bias to the
// convolution and the rest to torch, so nothing is gained by a kernel per instruction set.
#include "bias_act.h"

#include <cmath>

namespace cyclegan_fast {
namespace {

double bias_of(const BiasActParams& p, const void* bias, int64_t channel) {
  if (bias == nullptr) return 0;
  return dispatch(p.bias_dtype, [&](auto element) {
    return double(widen(static_cast<const decltype(element)*>(bias)[channel]));
  });
}

// Where a plane lies: its member, and its first element there and in the batch.
struct Position {
  int member;
  int64_t own, all, channel;  // the channel of its first element
};

template <typename Pointer>
Position position_of(const BiasActParams& p, const Members<Pointer>& members, int64_t plane) {
  const int member = members.member_of(plane / p.planes);
  return {member, (plane - members.first[member] * p.planes) * p.plane_size(),
          plane * p.plane_size(), plane % p.planes * p.inner};
}

template <typename From, typename Into>
void forward_plane(const BiasActParams& p, int64_t plane) {
  using C = Compute<From>;
  const Position at = position_of(p, p.y, plane);
  const From* x = static_cast<const From*>(p.x) + at.all;
  Into* y = static_cast<Into*>(p.y.data[at.member]) + at.own;
  const C slope = C(p.slope);
  for (int64_t c = 0; c < p.inner; ++c) {
    const C bias = C(bias_of(p, p.bias, at.channel + c));
    for (int64_t i = c; i < p.plane_size(); i += p.inner) {
      const C v = widen(x[i]) + bias;
      y[i] = narrow<Into>(Compute<Into>(p.tanh ? std::tanh(v) : v > 0 ? v : slope * v));
    }
  }
}

template <typename From, typename Into>
void backward_plane(const BiasActParams& p, int64_t plane) {
  using C = Compute<From>;
  const Position at = position_of(p, p.grad_y, plane);
  const auto* grad_y = static_cast<const Into*>(p.grad_y.data[at.member]);
  const auto* y = static_cast<const Into*>(p.output.data[at.member]);
  From* grad_x = p.grad_x == nullptr ? nullptr : static_cast<From*>(p.grad_x) + at.all;
  double* sums = static_cast<double*>(p.workspace) + plane * p.inner;
  const C slope = C(p.slope);
  for (int64_t c = 0; c < p.inner; ++c) {
    double sum = 0;
    for (int64_t i = c; i < p.plane_size(); i += p.inner) {
      C grad = grad_y == nullptr ? C(0) : C(widen(grad_y[at.own + i]));
      if (y != nullptr) {
        const C v = C(widen(y[at.own + i]));
        grad = p.tanh ? grad * (1 - v * v) : v > 0 ? grad : slope * grad;
      }
      sum += grad;
      if (grad_x != nullptr) grad_x[i] = narrow<From>(grad);
    }
    if (p.grad_bias != nullptr) sums[c] = sum;
  }
}

}  // namespace

int64_t bias_act_cpu_slices(const BiasActParams& p, int64_t images) { return images * p.planes; }
int64_t bias_act_cpu_workspace_bytes(const BiasActParams& p) {
  return p.grad_y.images() * p.channels() * int64_t{sizeof(double)};
}

void bias_act_fwd_cpu(const BiasActParams& p, int64_t begin, int64_t end) {
  dispatch_widening(p.from, p.into, [&](auto from, auto into) {
    for (int64_t s = begin; s < end; ++s) forward_plane<decltype(from), decltype(into)>(p, s);
  });
}

void bias_act_bwd_cpu(const BiasActParams& p, int64_t begin, int64_t end) {
  dispatch_widening(p.from, p.into, [&](auto from, auto into) {
    for (int64_t s = begin; s < end; ++s) backward_plane<decltype(from), decltype(into)>(p, s);
  });
}

void bias_act_finish_cpu(const BiasActParams& p) {
  const double* sums = static_cast<const double*>(p.workspace);
  for (int64_t c = 0; c < p.channels(); ++c) {
    double total = 0;
    for (int64_t n = 0; n < p.grad_y.images(); ++n) total += sums[n * p.channels() + c];
    dispatch(p.bias_dtype, [&](auto element) {
      using T = decltype(element);
      static_cast<T*>(p.grad_bias)[c] = narrow<T>(Compute<T>(total));
    });
  }
}

}  // namespace cyclegan_fast
