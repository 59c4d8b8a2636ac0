// Matrix products on panels: a panel is rows of kPanel floats, two vectors, that lie one behind the
// other, so that a product reads it as a stream.

constexpr int kPanel = 2 * kVectorLanes<float>;
// Rows of a product held in registers: as many as there are, less one row and one number.
constexpr int kRows = CYCLEGAN_FAST_VECTOR_BYTES == 64 ? 12 : 6;

inline VecF broadcast(float value) {
#if CYCLEGAN_FAST_VECTOR_BYTES == 64  // gcc makes an addition of VecF{} + value
  return (VecF)_mm512_set1_ps(value);
#elif CYCLEGAN_FAST_VECTOR_BYTES == 32
  return (VecF)_mm256_set1_ps(value);
#else
  return VecF{} + value;
#endif
}

// acc[i][:] += sum over t of a[i row + t step] * b[t b_step + :], with kVecs vectors of b.
template <int kCount, int kVecs>
inline __attribute__((always_inline)) void multiply_add(VecF (&acc)[kCount][kVecs], const float* a,
                                                        int64_t row, int64_t step, const float* b,
                                                        int64_t b_step, int64_t length) {
  for (int64_t t = 0; t < length; ++t, a += step, b += b_step) {
    VecF values[kVecs];
    for (int v = 0; v < kVecs; ++v) values[v] = load(b + v * kVectorLanes<float>);
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) {
      const VecF factor = broadcast(a[i * row]);
      for (int v = 0; v < kVecs; ++v) acc[i][v] += factor * values[v];
    }
  }
}

// Calls f(std::integral_constant<int, count>, first) for a count known only now.
template <int kMax = kRows, typename F>
inline void with_constant(int64_t count, int64_t first, const F& f) {
  if constexpr (kMax > 1) {
    if (count < kMax) return with_constant<kMax - 1>(count, first, f);
  }
  f(std::integral_constant<int, kMax>{}, first);
}

// Calls f(count as a constant, first row) for groups of about as many rows each, at most kRows,
// that cover [0, rows).
template <typename F>
inline void for_each_row_group(int64_t rows, const F& f) {
  const int64_t groups = ceil_div(rows, kRows);
  for (int64_t i = 0, first = 0; i < groups; ++i) {
    const int64_t count = rows / groups + (i < rows % groups);
    with_constant(count, first, f);
    first += count;
  }
}

template <int kCount>
inline void store_rows(float* out, const VecF (&acc)[kCount][2], bool add) {
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < 2; ++v) {
      float* target = out + i * kPanel + v * kVectorLanes<float>;
      store(target, add ? load(target) + acc[i][v] : acc[i][v]);
    }
  }
}

// rows[i][j] becomes rows[j][i]: blocks of kStep rows and lanes change places with their
// neighbours, for kStep = 1, 2, 4, ...
template <int kStep = 1>
inline __attribute__((always_inline)) void transpose(VecF (&rows)[kVectorLanes<float>]) {
  constexpr int kLanes = kVectorLanes<float>;
  VecI32 low, high;
  for (int j = 0; j < kLanes; ++j) {
    low[j] = j & kStep ? kLanes + j - kStep : j;
    high[j] = j & kStep ? kLanes + j : j + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kStep) continue;
    const VecF a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + kStep] = __builtin_shuffle(a, b, high);
  }
  if constexpr (2 * kStep < kLanes) transpose<2 * kStep>(rows);
}
