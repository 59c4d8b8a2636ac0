// Winograd's F(4x4, 3x3) in vectors of channels: the six transforms of conv3x3.h in one dimension,
// on the points 0, +-a, +-b and infinity. With a = 3/4 and b = 3/2, exact in binary, rounding costs
// half of what it does on the usual 0, +-1, +-2: 1.5e-6 for 256 channels, where a plain sum in
// float has 0.9e-6.

constexpr float kA = 0.75f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;
// Of the weights: one over the product of a point's distances to the others.
constexpr float kScale0 = 1 / (kA2 * kB2);
constexpr float kScaleA = 1 / (2 * kA2 * (kA2 - kB2)), kScaleB = 1 / (2 * kB2 * (kB2 - kA2));

// B^T d: six pixels -> six positions.
inline void transform_pixels(const VecF (&d)[6], VecF (&out)[6]) {
  const VecF even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
  const VecF even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
  out[0] = d[4] - (kA2 + kB2) * d[2] + (kA2 * kB2) * d[0];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = d[5] - (kA2 + kB2) * d[3] + (kA2 * kB2) * d[1];
}

// G w: three weights -> six positions.
inline void transform_weights(const VecF (&w)[3], VecF (&out)[6]) {
  const VecF even_a = kScaleA * (w[0] + kA2 * w[2]), odd_a = (kScaleA * kA) * w[1];
  const VecF even_b = kScaleB * (w[0] + kB2 * w[2]), odd_b = (kScaleB * kB) * w[1];
  out[0] = kScale0 * w[0];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = w[2];
}

// A^T m: six positions -> four pixels.
inline void transform_products(const VecF (&m)[6], VecF (&out)[4]) {
  const VecF even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const VecF even_b = m[3] + m[4], odd_b = m[3] - m[4];
  out[0] = m[0] + even_a + even_b;
  out[1] = kA * odd_a + kB * odd_b;
  out[2] = kA2 * even_a + kB2 * even_b;
  out[3] = (kA2 * kA) * odd_a + (kB2 * kB) * odd_b + m[5];
}

// A dy: four pixels -> six positions.
inline void transform_gradients(const VecF (&d)[4], VecF (&out)[6]) {
  const VecF even_a = d[0] + kA2 * d[2], odd_a = kA * (d[1] + kA2 * d[3]);
  const VecF even_b = d[0] + kB2 * d[2], odd_b = kB * (d[1] + kB2 * d[3]);
  out[0] = d[0];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = d[3];
}

// G^T u: six positions -> three weights.
inline void gather_weights(const VecF (&u)[6], VecF (&out)[3]) {
  const VecF even_a = kScaleA * (u[1] + u[2]), odd_a = (kScaleA * kA) * (u[1] - u[2]);
  const VecF even_b = kScaleB * (u[3] + u[4]), odd_b = (kScaleB * kB) * (u[3] - u[4]);
  out[0] = kScale0 * u[0] + even_a + even_b;
  out[1] = odd_a + odd_b;
  out[2] = kA2 * even_a + kB2 * even_b + u[5];
}

// The same along both axes: in(i, j) gives row i, column j of what is transformed, out(i, j, value)
// takes a result. Columns go first, one at a time, so that most of them stay in registers.
template <auto kTransform, int kIn, int kOut, typename In, typename Out>
inline __attribute__((always_inline)) void along_both_axes(const In& in, const Out& out) {
  VecF half[kOut][kIn];
#pragma GCC unroll 6
  for (int j = 0; j < kIn; ++j) {
    VecF column[kIn], moved[kOut];
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) column[i] = in(i, j);
    kTransform(column, moved);
#pragma GCC unroll 6
    for (int i = 0; i < kOut; ++i) half[i][j] = moved[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kOut; ++i) {
    VecF row[kOut];
    kTransform(half[i], row);
#pragma GCC unroll 6
    for (int j = 0; j < kOut; ++j) out(i, j, row[j]);
  }
}
