// Vectors of CYCLEGAN_FAST_VECTOR_BYTES bytes on the compiler's vector extensions. Included by
// for_each_isa.h, once per instruction set and inside its namespace: hence no include guard and no
// includes.

typedef float VecF __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES)));
typedef double VecD __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES)));
typedef uint32_t VecU32 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES)));
typedef int32_t VecI32 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES)));
typedef int64_t VecI64 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES)));
typedef uint16_t VecU16 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES / 2)));
// An int8_t, and an int16_t, for each lane of a VecF and of a VecD.
typedef int8_t VecF8 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES / 4)));
typedef int16_t VecF16 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES / 2)));
typedef int8_t VecD8 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES / 8)));
typedef int16_t VecD16 __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES / 4)));

template <typename C>
struct Simd;
template <>
struct Simd<float> {
  using Vec = VecF;
  using Int = VecI32;
  using Int8 = VecF8;
  using Int16 = VecF16;
};
template <>
struct Simd<double> {
  using Vec = VecD;
  using Int = VecI64;
  using Int8 = VecD8;
  using Int16 = VecD16;
};

template <typename T>
using VecOf = typename Simd<Compute<T>>::Vec;

// Elements of type T that fill a vector once widened.
template <typename T>
constexpr int kVectorLanes = CYCLEGAN_FAST_VECTOR_BYTES / sizeof(Compute<T>);

// As many elements of type E as a vector has lanes once widened from T.
template <typename E, typename T>
struct LanesOf {
  typedef E Vec __attribute__((vector_size(kVectorLanes<T> * sizeof(E))));
};

template <typename V, typename T>
inline V load_as(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// ---- load: kVectorLanes<T> elements, widened ----
inline VecF load(const float* p) { return load_as<VecF>(p); }
inline VecD load(const double* p) { return load_as<VecD>(p); }
inline VecF load(const BFloat16* p) {
#if CYCLEGAN_FAST_VECTOR_BYTES == 64  // gcc makes six instructions of a conversion of vectors
  return (VecF)((VecU32)_mm512_maskz_cvtepu16_epi32(0xffff, load_as<__m256i>(p)) << 16);
#elif CYCLEGAN_FAST_VECTOR_BYTES == 32
  return (VecF)((VecU32)_mm256_cvtepu16_epi32(load_as<__m128i>(p)) << 16);
#else
  return (VecF)(__builtin_convertvector(load_as<VecU16>(p), VecU32) << 16);
#endif
}
inline VecF load(const Half* p) {
#if CYCLEGAN_FAST_VECTOR_BYTES == 64
  return (VecF)_mm512_maskz_cvtph_ps(0xffff, load_as<__m256i>(p));
#elif CYCLEGAN_FAST_VECTOR_BYTES == 32
  return (VecF)_mm256_cvtph_ps(load_as<__m128i>(p));
#else
  VecF v;
  for (int i = 0; i < kVectorLanes<Half>; ++i) v[i] = widen(p[i]);
  return v;
#endif
}

// ---- store: narrowed to nearest even ----
inline void store(float* p, VecF v) { std::memcpy(p, &v, sizeof v); }
inline void store(double* p, VecD v) { std::memcpy(p, &v, sizeof v); }
// v in bfloat16, in the upper 16 bits of each lane; the lower ones are of no meaning.
inline VecU32 round_to_bf16(VecF v) {
  const VecU32 bits = (VecU32)v;
  return v != v ? VecU32{} + 0x7fc00000u : bits + 0x7fffu + ((bits >> 16) & 1u);
}
inline void store(BFloat16* p, VecF v) {
#ifdef CYCLEGAN_FAST_HAS_BF16  // the instruction flushes what is below 2^-126 to zero
  const __m256bh out = _mm512_cvtneps_pbh((__m512)v);
#else
  const VecU16 out = __builtin_convertvector(round_to_bf16(v) >> 16, VecU16);
#endif
  std::memcpy(p, &out, sizeof out);
}
inline void store(Half* p, VecF v) {
#if CYCLEGAN_FAST_VECTOR_BYTES == 64
  const __m256i out =
      _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(p, &out, sizeof out);
#elif CYCLEGAN_FAST_VECTOR_BYTES == 32
  const __m128i out = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &out, sizeof out);
#else
  for (int i = 0; i < kVectorLanes<Half>; ++i) p[i] = narrow<Half>(v[i]);
#endif
}

// ---- the first `count` lanes only; the others load as zero ----
template <typename T>
inline VecOf<T> load(const T* p, int64_t count) {
  if (count >= kVectorLanes<T>) return load(p);
  T lanes[kVectorLanes<T>] = {};
  std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}
template <typename T>
inline void store(T* p, VecOf<T> v, int64_t count) {
  if (count >= kVectorLanes<T>) return store(p, v);
  T lanes[kVectorLanes<T>];
  store(lanes, v);
  std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(T));
}

#if CYCLEGAN_FAST_VECTOR_BYTES >= 32  // of float: an instruction with a mask instead of a copy
#if CYCLEGAN_FAST_VECTOR_BYTES == 64
inline VecF load_first(const float* p, int64_t count) {
  return (VecF)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1u), p);
}
inline void store_first(float* p, VecF v, int64_t count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1u), (__m512)v);
}
#else
inline __m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline VecF load_first(const float* p, int64_t count) {
  return (VecF)_mm256_maskload_ps(p, first_lanes(count));
}
inline void store_first(float* p, VecF v, int64_t count) {
  _mm256_maskstore_ps(p, first_lanes(count), (__m256)v);
}
#endif
inline VecF load(const float* p, int64_t count) {
  return count >= kVectorLanes<float> ? load(p) : load_first(p, count);
}
inline void store(float* p, VecF v, int64_t count) {
  count >= kVectorLanes<float> ? store(p, v) : store_first(p, v, count);
}
#endif

// v in the first `count` lanes, zero in the others.
template <typename V>
inline V keep_first(V v, int64_t count) {
  for (int64_t i = count; i < int64_t(sizeof(V) / sizeof(v[0])); ++i) v[i] = 0;
  return v;
}

// ---- Pairs of vectors: 2 kVectorLanes<T> neighbouring elements in some order, always the same for
// T.
// ---- For bfloat16 the even elements come first, then the odd ones, which takes fewer
// instructions.
template <typename T>
struct Pair {
  VecOf<T> v[2];
};
template <typename T>
constexpr int kPair = 2 * kVectorLanes<T>;

// G is T, or Compute<T> for elements that are already wide.
template <typename T, typename G>
inline Pair<T> load_pair(const G* p) {
  return {{load(p), load(p + kVectorLanes<T>)}};
}
template <>
inline Pair<BFloat16> load_pair<BFloat16, BFloat16>(const BFloat16* p) {
  const VecU32 bits = load_as<VecU32>(p);
  return {{(VecF)(bits << 16), (VecF)(bits & 0xffff0000u)}};
}
template <>
inline Pair<BFloat16> load_pair<BFloat16, float>(const float* p) {
  VecI32 even;
  for (int i = 0; i < kVectorLanes<float>; ++i) even[i] = 2 * i;
  const VecF low = load(p), high = load(p + kVectorLanes<float>);
  return {{__builtin_shuffle(low, high, even), __builtin_shuffle(low, high, even + 1)}};
}

template <typename T>
inline void store_pair(T* p, const Pair<T>& pair) {
  store(p, pair.v[0]);
  store(p + kVectorLanes<T>, pair.v[1]);
}
inline void store_pair(BFloat16* p, const Pair<BFloat16>& pair) {
#ifdef CYCLEGAN_FAST_HAS_BF16
  typedef uint16_t VecWords __attribute__((vector_size(CYCLEGAN_FAST_VECTOR_BYTES)));
  VecWords order;
  for (int i = 0; i < kPair<BFloat16>; ++i) order[i] = i / 2 + i % 2 * kVectorLanes<BFloat16>;
  const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)pair.v[1], (__m512)pair.v[0]);
  const VecWords out = __builtin_shuffle((VecWords)halves, order);
#else
  const VecU32 out = round_to_bf16(pair.v[0]) >> 16 | (round_to_bf16(pair.v[1]) & 0xffff0000u);
#endif
  std::memcpy(p, &out, sizeof out);
}

// The first `count` elements only; the others load as zero.
template <typename T, typename G>
inline Pair<T> load_pair(const G* p, int64_t count) {
  if (count >= kPair<T>) return load_pair<T>(p);
  G elements[kPair<T>] = {};
  std::memcpy(elements, p, static_cast<size_t>(count) * sizeof(G));
  return load_pair<T>(elements);
}
template <typename T>
inline void store_pair(T* p, const Pair<T>& pair, int64_t count) {
  if (count >= kPair<T>) return store_pair(p, pair);
  T elements[kPair<T>];
  store_pair(elements, pair);
  std::memcpy(p, elements, static_cast<size_t>(count) * sizeof(T));
}

// Calls f(i, count) for pairs that cover [0, size), the last perhaps twice over some elements.
template <typename T, typename F>
inline void for_each_pair(int64_t size, const F& f) {
  int64_t i = 0;
  for (; i + kPair<T> <= size; i += kPair<T>) f(i, kPair<T>);
  if (i == size) return;
  if (size > kPair<T>) return f(size - kPair<T>, kPair<T>);
  f(0, size);
}

// Halves first: log2(lanes) additions, one after another.
template <typename C, typename V>
inline C sum_of_lanes(V v) {
  if constexpr (sizeof(V) == 2 * sizeof(C)) {
    return v[0] + v[1];
  } else {
    typedef C Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof v);
    return sum_of_lanes<C>(halves[0] + halves[1]);
  }
}
template <typename T>
inline Compute<T> sum_pairs(const Pair<T>& a, const Pair<T>& b) {
  return sum_of_lanes<Compute<T>>((a.v[0] + a.v[1]) + (b.v[0] + b.v[1]));
}
