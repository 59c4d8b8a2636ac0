// Sums over planes, for NCHW and for NHWC. Included through cpu/for_each_isa.h.
//
// One pass sums x - shift and (x - shift)^2, where shift is the mean of the first kSample pixels:
// at most sqrt(H W / kSample) standard deviations from the plane's mean, whatever the image, so
// that an image far from zero loses nothing, unlike with E[x^2] - E[x]^2.

constexpr int64_t kSample = 256;
// Vectors (NCHW) or pixels (NHWC) that are summed before the sums join the total.
constexpr int64_t kChunk = 256;

// Of one plane: sum of x - shift, sum of (x - shift)^2.
struct Sums {
  double shift, sum, square;
};

struct Moments {
  double mean, variance;
};

inline Moments moments_of(const Sums& sums, double count) {
  const double offset = sums.sum / count;
  return {sums.shift + offset, std::max(sums.square / count - offset * offset, 0.0)};
}

// ---- NCHW ----

// Adds the sums over x [size], size <= kChunk * kVectorLanes.
template <typename T>
void add_shifted_sums(const T* x, int64_t size, Compute<T> shift, Sums& total) {
  constexpr int kPairs = 2;
  Pair<T> sum[kPairs] = {}, square[kPairs] = {};
  int64_t i = 0;
  for (; i + kPairs * kPair<T> <= size; i += kPairs * kPair<T>) {
#pragma GCC unroll 2
    for (int k = 0; k < kPairs; ++k) {
      const Pair<T> value = load_pair<T>(x + i + k * kPair<T>);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const VecOf<T> d = value.v[half] - shift;
        sum[k].v[half] += d;
        square[k].v[half] += d * d;
      }
    }
  }
  for (; i < size; ++i) {
    const Compute<T> d = widen(x[i]) - shift;
    total.sum += d;
    total.square += d * d;
  }
  total.sum += sum_pairs<T>(sum[0], sum[1]);
  total.square += sum_pairs<T>(square[0], square[1]);
}

// Sums over a plane x [size].
template <typename T>
Sums plane_sums(const T* x, int64_t size) {
  constexpr int64_t kStep = kChunk * kVectorLanes<T>;
  const int64_t sample = std::min(size, kSample);
  Sums first = {double(widen(x[0])), 0, 0};
  for (int64_t i = 0; i < sample; i += kStep) {
    add_shifted_sums(x + i, std::min(kStep, sample - i), widen(x[0]), first);
  }
  const auto shift = Compute<T>(first.shift + first.sum / double(sample));
  Sums sums = {double(shift), 0, 0};
  for (int64_t i = 0; i < size; i += kStep) {
    add_shifted_sums(x + i, std::min(kStep, size - i), shift, sums);
  }
  return sums;
}

// ---- NHWC ----

// kVecs vectors of channels, or one partial vector: the first `count` channels of it.
template <typename T, int kVecs>
struct Group {
  VecOf<T> v[kVecs];

  template <typename U>  // T, or Compute<T> for statistics
  static Group load_from(const U* p, int64_t count) {
    Group group;
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k) {
      group.v[k] = kVecs == 1 ? load(p, count) : load(p + k * kVectorLanes<T>);
    }
    return group;
  }
  template <typename U>
  void store_to(U* p, int64_t count) const {
    if (kVecs == 1) return store(p, v[0], count);
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k) store(p + k * kVectorLanes<T>, v[k]);
  }
};

// Adds to sum and square those of x - shift over `pixels` pixels, `stride` elements apart.
template <typename T, int kVecs>
void add_shifted_sums(const T* x, int64_t pixels, int64_t stride, int64_t count,
                      const Group<T, kVecs>& shift, Group<T, kVecs>& sum, Group<T, kVecs>& square) {
  Group<T, kVecs> s = {}, q = {};
  for (int64_t i = 0; i < pixels; ++i) {
    const auto value = Group<T, kVecs>::load_from(x + i * stride, count);
#pragma GCC unroll 4
    for (int k = 0; k < kVecs; ++k) {
      const VecOf<T> d = value.v[k] - shift.v[k];
      s.v[k] += d;
      q.v[k] += d * d;
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kVecs; ++k) {
    sum.v[k] += s.v[k];
    square.v[k] += q.v[k];
  }
}

// The sums of `count` channels over `size` pixels, `stride` elements apart.
template <typename T, int kVecs>
void group_sums(const T* x, int64_t size, int64_t stride, int64_t count, Sums* sums) {
  using C = Compute<T>;
  const int64_t sample = std::min(size, kSample);
  Group<T, kVecs> shift = Group<T, kVecs>::load_from(x, count), sum = {}, square = {};
  add_shifted_sums(x, sample, stride, count, shift, sum, square);
  for (int k = 0; k < kVecs; ++k) shift.v[k] += sum.v[k] / C(sample);
  sum = square = {};
  for (int64_t i = 0; i < size; i += kChunk) {
    add_shifted_sums(x + i * stride, std::min(kChunk, size - i), stride, count, shift, sum, square);
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t k = i / kVectorLanes<T>, lane = i % kVectorLanes<T>;
    sums[i] = {double(shift.v[k][lane]), double(sum.v[k][lane]), double(square.v[k][lane])};
  }
}
