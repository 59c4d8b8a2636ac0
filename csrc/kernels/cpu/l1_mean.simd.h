// The CPU kernel of l1_mean. Included through cpu/for_each_isa.h.

template <typename T>
void write_signs(VecOf<T> d, int8_t* sign, int64_t count) {
  const auto s = (d > 0) - (d < 0);  // a comparison is -1 where it holds
  for (int64_t i = 0; i < count; ++i) sign[i] = static_cast<int8_t>(-s[i]);
}

// Elements [begin, end): writes their signs, returns the sum of |a - b|.
template <typename T>
double run_slice(const L1MeanParams& p, int64_t begin, int64_t end) {
  const T *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  VecOf<T> sum = {};
  for (int64_t i = begin; i < end; i += kLanes<T>) {
    const int64_t count = std::min<int64_t>(kLanes<T>, end - i);
    const VecOf<T> d = load(a + i, count) - load(b + i, count);
    sum += d < 0 ? -d : d;
    if (p.sign) write_signs<T>(d, p.sign + i, count);
  }
  return sum_lanes<Compute<T>>(sum);
}

// Elements [begin, end): grad_a = grad * sign / count.
template <typename T>
void run_slice(const L1MeanBwdParams& p, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const C scale = *static_cast<const C*>(p.grad) / C(p.count);
  const T values[3] = {narrow<T>(-scale), narrow<T>(C(0)), narrow<T>(scale)};
  T* grad_a = static_cast<T*>(p.grad_a);
  for (int64_t i = begin; i < end; ++i) grad_a[i] = values[p.sign[i] + 1];
}

template <typename T>
void run_typed(const L1MeanParams& p, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    static_cast<double*>(p.workspace)[s] =
        run_slice<T>(p, s * kSlice, std::min((s + 1) * kSlice, p.count));
  }
}

template <typename T>
void run_typed(const L1MeanBwdParams& p, int64_t begin, int64_t end) {
  run_slice<T>(p, begin * kSlice, std::min(end * kSlice, p.count));
}

template <typename Params>
void run_slices(const Params& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::kFloat32:
      return run_typed<float>(p, begin, end);
    case DType::kBFloat16:
      return run_typed<BFloat16>(p, begin, end);
    case DType::kFloat16:
      return run_typed<Half>(p, begin, end);
    case DType::kFloat64:
      return run_typed<double>(p, begin, end);
  }
}
