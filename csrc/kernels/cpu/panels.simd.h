// Matrix products on panels: a panel is rows of kPanel floats, two vectors, that lie one behind the
// other, so that a product reads it as a stream.

constexpr int kPanel = 2 * kLanes<float>;
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

// acc[i][:] += sum over t of a[i kRow + t kStep] * b[t][:].
template <int kCount, int kRow, int kStep>
inline void multiply_add(VecF (&acc)[kCount][2], const float* a, const float* b, int64_t length) {
  for (int64_t t = 0; t < length; ++t, a += kStep, b += kPanel) {
    const VecF b0 = load(b), b1 = load(b + kLanes<float>);
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) {
      const VecF factor = broadcast(a[i * kRow]);
      acc[i][0] += factor * b0;
      acc[i][1] += factor * b1;
    }
  }
}

// Calls f(kCount as a constant, first row) for groups of at most kRows rows that cover [0, rows).
template <typename F>
inline void for_each_row_group(int64_t rows, const F& f) {
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) f(std::integral_constant<int, kRows>{}, i);
  for (; i + 4 <= rows; i += 4) f(std::integral_constant<int, 4>{}, i);
  for (; i + 2 <= rows; i += 2) f(std::integral_constant<int, 2>{}, i);
  if (i < rows) f(std::integral_constant<int, 1>{}, i);
}

template <int kCount>
inline void store_rows(float* out, const VecF (&acc)[kCount][2], bool add) {
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < 2; ++v) {
      float* place = out + i * kPanel + v * kLanes<float>;
      store(place, add ? load(place) + acc[i][v] : acc[i][v]);
    }
  }
}
