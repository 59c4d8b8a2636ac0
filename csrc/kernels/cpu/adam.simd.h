// The CPU kernel of adam. Included through cpu/for_each_isa.h.

inline VecF sqrt_of(VecF v) {
#if CYCLEGAN_FAST_VECTOR_BYTES == 64
  return (VecF)_mm512_maskz_sqrt_ps(0xffff, (__m512)v);
#elif CYCLEGAN_FAST_VECTOR_BYTES == 32
  return (VecF)_mm256_sqrt_ps((__m256)v);
#else
  for (int i = 0; i < kVectorLanes<float>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}
inline VecD sqrt_of(VecD v) {
#if CYCLEGAN_FAST_VECTOR_BYTES == 64
  return (VecD)_mm512_maskz_sqrt_pd(0xff, (__m512d)v);
#elif CYCLEGAN_FAST_VECTOR_BYTES == 32
  return (VecD)_mm256_sqrt_pd((__m256d)v);
#else
  for (int i = 0; i < kVectorLanes<double>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}

// The sum of both gradients, `count` elements from `i` on.
template <typename G>
inline VecOf<G> gradient_at(const AdamWeight& t, int64_t i, int64_t count) {
  VecOf<G> g = load(static_cast<const G*>(t.gradients[0]) + i, count);
  if (t.gradients[1]) g += load(static_cast<const G*>(t.gradients[1]) + i, count);
  return g;
}

// The numbers of a group's update, in the type of the arithmetic.
template <typename C>
struct Factors {
  C beta1, beta2, rest1, rest2, step_size, inv_correction2, eps, inv_scale;

  Factors(const AdamParams& p, const AdamUpdate& u)
      : beta1(C(p.beta1)),
        beta2(C(p.beta2)),
        rest1(C(1 - p.beta1)),
        rest2(C(1 - p.beta2)),
        step_size(C(u.step_size)),
        inv_correction2(C(u.inv_correction2)),
        eps(C(p.eps)),
        inv_scale(C(u.inv_scale)) {}
};

// `count` elements from `i` on. C is the type of the weight, W that of its working weight (C: there
// is none).
template <typename C, typename G, typename W>
inline void update_at(const AdamWeight& t, const Factors<C>& f, int64_t i, int64_t count) {
  C* const weight = static_cast<C*>(t.weight) + i;
  C* const exp_avg = static_cast<C*>(t.exp_avg) + i;
  C* const exp_avg_sq = static_cast<C*>(t.exp_avg_sq) + i;
  const VecOf<C> g = gradient_at<G>(t, i, count) * f.inv_scale;
  const VecOf<C> m = load(exp_avg, count) * f.beta1 + g * f.rest1;
  const VecOf<C> v = load(exp_avg_sq, count) * f.beta2 + g * g * f.rest2;
  const VecOf<C> w =
      load(weight, count) - f.step_size * m / (sqrt_of(v) * f.inv_correction2 + f.eps);
  store(exp_avg, m, count);
  store(exp_avg_sq, v, count);
  store(weight, w, count);
  if constexpr (sizeof(W) == 2) store(static_cast<W*>(t.working) + i, w, count);
}

template <typename C, typename G, typename W>
void update(const AdamParams& p, const Position& at) {
  const AdamUpdate& decided = p.updates[at.weight.group];
  if (decided.skipped) return;
  const Factors<C> factors(p, decided);
  int64_t i = at.begin;
  for (; i + kVectorLanes<C> <= at.end; i += kVectorLanes<C>) {
    update_at<C, G, W>(at.weight, factors, i, kVectorLanes<C>);
  }
  if (i < at.end) update_at<C, G, W>(at.weight, factors, i, at.end - i);
}

template <typename G>
void update_float(const AdamParams& p, const Position& at) {
  if (!at.weight.working) return update<float, G, float>(p, at);
  at.weight.narrow == DType::kBFloat16 ? update<float, G, BFloat16>(p, at)
                                       : update<float, G, Half>(p, at);
}

inline void run_update(const AdamParams& p, int64_t begin, int64_t end) {
  for_each_slice(p, begin, end, [&](const Position& at, int64_t) {
    switch (at.weight.gradient) {
      case DType::kFloat32:
        return update_float<float>(p, at);
      case DType::kBFloat16:
        return update_float<BFloat16>(p, at);
      case DType::kFloat16:
        return update_float<Half>(p, at);
      case DType::kFloat64:
        return update<double, double, double>(p, at);
    }
  });
}

// Whether a gradient of the slice is not finite: then its difference from itself is not zero.
template <typename G>
bool any_not_finite(const Position& at) {
  VecOf<G> found = {};
  for (int64_t i = at.begin; i < at.end; i += kVectorLanes<G>) {
    const VecOf<G> g = gradient_at<G>(at.weight, i, std::min<int64_t>(kVectorLanes<G>, at.end - i));
    found += g - g;
  }
  return !(sum_of_lanes<Compute<G>>(found) == 0);
}

inline void run_check(const AdamParams& p, int64_t begin, int64_t end) {
  for_each_slice(p, begin, end, [&](const Position& at, int64_t slice) {
    const bool found = [&] {
      switch (at.weight.gradient) {
        case DType::kFloat32:
          return any_not_finite<float>(at);
        case DType::kBFloat16:
          return any_not_finite<BFloat16>(at);
        case DType::kFloat16:
          return any_not_finite<Half>(at);
        default:
          return any_not_finite<double>(at);
      }
    }();
    p.non_finite[slice] = found ? 1 << at.weight.group : 0;
  });
}
