// The CPU kernel of losses. Included through cpu/for_each_isa.h.
//
// `other` is what a is compared with: b, or the target in every lane.

template <Loss kLoss, typename V>
inline V distance(V a, V other) {
  return kLoss == Loss::kHinge ? 1 - other * a : a - other;
}

// Written so that a NaN stays one.
template <Loss kLoss, typename V>
inline V loss_at(V distance) {
  if (kLoss == Loss::kSquare) return distance * distance;
  return distance < 0 ? (kLoss == Loss::kL1 ? -distance : V{}) : distance;
}

// The derivative by a of kSquare and kHinge.
template <Loss kLoss, typename V>
inline V slope_at(V distance, V target) {
  return kLoss == Loss::kSquare ? 2 * distance : (distance <= 0 ? V{} : -target);
}

// From lanes to bytes in two steps: gcc makes a step wider than that lane by lane.
template <typename C>
inline void store_signs(int8_t* sign, typename Simd<C>::Vec d, int64_t count) {
  const auto signs = (d < 0) - (d > 0);  // a comparison is -1 where it holds
  const auto bytes = __builtin_convertvector(
      __builtin_convertvector(signs, typename Simd<C>::Int16), typename Simd<C>::Int8);
  std::memcpy(sign, &bytes, static_cast<size_t>(count));
}

template <typename C>
inline typename Simd<C>::Vec load_signs(const int8_t* sign, int64_t count) {
  typename Simd<C>::Int8 bytes = {};
  std::memcpy(&bytes, sign, static_cast<size_t>(count));
  const auto signs = __builtin_convertvector(
      __builtin_convertvector(bytes, typename Simd<C>::Int16), typename Simd<C>::Int);
  return __builtin_convertvector(signs, typename Simd<C>::Vec);
}

// The losses of `count` elements from `i` on, zero in the other lanes; writes their signs.
template <Loss kLoss, typename T>
inline VecOf<T> losses_of(const LossTerm& term, int64_t i, int64_t count) {
  VecOf<T> other = VecOf<T>{} + Compute<T>(term.target);
  if (kLoss == Loss::kL1) other = load(static_cast<const T*>(term.b) + i, count);
  const VecOf<T> a = load(static_cast<const T*>(term.a) + i, count);
  const VecOf<T> d = distance<kLoss>(a, other);
  if (kLoss == Loss::kL1 && term.sign) store_signs<Compute<T>>(term.sign + i, d, count);
  return keep_first(loss_at<kLoss>(d), count);
}

// The sum of the losses over elements [begin, end), in chains that do not wait for each other.
template <Loss kLoss, typename T>
double sum_of(const LossTerm& term, int64_t begin, int64_t end) {
  constexpr int kChains = 4, kStep = kChains * kVectorLanes<T>;
  VecOf<T> sums[kChains] = {};
  int64_t i = begin;
  for (; i + kStep <= end; i += kStep) {
    for (int c = 0; c < kChains; ++c) {
      sums[c] += losses_of<kLoss, T>(term, i + c * kVectorLanes<T>, kVectorLanes<T>);
    }
  }
  for (; i < end; i += kVectorLanes<T>) {
    sums[0] += losses_of<kLoss, T>(term, i, std::min<int64_t>(kVectorLanes<T>, end - i));
  }
  double total = 0;
  for (const VecOf<T>& sum : sums) total += sum_of_lanes<Compute<T>>(sum);
  return total;
}

// `count` elements from `i` on of grad_a = scale * slope.
template <Loss kLoss, typename T>
inline void write_grad(const LossTerm& term, Compute<T> scale, int64_t i, int64_t count) {
  VecOf<T> slope;
  if constexpr (kLoss == Loss::kL1) {
    slope = load_signs<Compute<T>>(term.sign + i, count);
  } else {
    const VecOf<T> target = VecOf<T>{} + Compute<T>(term.target);
    const VecOf<T> a = load(static_cast<const T*>(term.a) + i, count);
    slope = slope_at<kLoss>(distance<kLoss>(a, target), target);
  }
  store(static_cast<T*>(term.grad_a) + i, scale * slope, count);
}

struct Forward {
  template <Loss kLoss, typename T>
  static void run(const LossesParams& p, int64_t slice) {
    const Position at = position_of(p, slice);
    static_cast<double*>(p.workspace)[slice] = sum_of<kLoss, T>(p.terms[at.term], at.begin, at.end);
  }
};

struct Backward {
  template <Loss kLoss, typename T>
  static void run(const LossesParams& p, int64_t slice) {
    using C = Compute<T>;
    const Position at = position_of(p, slice);
    const LossTerm& term = p.terms[at.term];
    const C scale = static_cast<const C*>(p.grad)[at.term * p.grad_stride] *
                    C(term.weight / double(term.count));
    int64_t i = at.begin;
    for (; i + kVectorLanes<T> <= at.end; i += kVectorLanes<T>)
      write_grad<kLoss, T>(term, scale, i, kVectorLanes<T>);
    if (i < at.end) write_grad<kLoss, T>(term, scale, i, at.end - i);
  }
};

template <typename Pass, typename T>
void run_typed(const LossesParams& p, int64_t slice) {
  switch (p.loss) {
    case Loss::kL1:
      return Pass::template run<Loss::kL1, T>(p, slice);
    case Loss::kSquare:
      return Pass::template run<Loss::kSquare, T>(p, slice);
    case Loss::kHinge:
      return Pass::template run<Loss::kHinge, T>(p, slice);
  }
}

template <typename Pass>
void run_slice(const LossesParams& p, int64_t slice) {
  switch (p.dtype) {
    case DType::kFloat32:
      return run_typed<Pass, float>(p, slice);
    case DType::kBFloat16:
      return run_typed<Pass, BFloat16>(p, slice);
    case DType::kFloat16:
      return run_typed<Pass, Half>(p, slice);
    case DType::kFloat64:
      return run_typed<Pass, double>(p, slice);
  }
}

inline void run_forward(const LossesParams& p, int64_t begin, int64_t end) {
  for (int64_t slice = begin; slice < end; ++slice) run_slice<Forward>(p, slice);
}

inline void run_backward(const LossesParams& p, int64_t begin, int64_t end) {
  for (int64_t slice = begin; slice < end; ++slice) run_slice<Backward>(p, slice);
}
