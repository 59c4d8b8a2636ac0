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
constexpr int kLanes = CYCLEGAN_FAST_VECTOR_BYTES / sizeof(Compute<T>);

// As many elements of type E as a vector has lanes once widened from T.
template <typename E, typename T>
struct Lanes {
  typedef E Vec __attribute__((vector_size(kLanes<T> * sizeof(E))));
};

template <typename V, typename T>
inline V load_as(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// ---- load: kLanes<T> elements, widened ----
inline VecF load(const float* p) { return load_as<VecF>(p); }
inline VecD load(const double* p) { return load_as<VecD>(p); }
inline VecF load(const BFloat16* p) {
  return (VecF)(__builtin_convertvector(load_as<VecU16>(p), VecU32) << 16);
}
inline VecF load(const Half* p) {
#if CYCLEGAN_FAST_VECTOR_BYTES == 64
  return (VecF)_mm512_maskz_cvtph_ps(0xffff, load_as<__m256i>(p));
#elif CYCLEGAN_FAST_VECTOR_BYTES == 32
  return (VecF)_mm256_cvtph_ps(load_as<__m128i>(p));
#else
  VecF v;
  for (int i = 0; i < kLanes<Half>; ++i) v[i] = widen(p[i]);
  return v;
#endif
}

// ---- store: narrowed to nearest even ----
inline void store(float* p, VecF v) { std::memcpy(p, &v, sizeof v); }
inline void store(double* p, VecD v) { std::memcpy(p, &v, sizeof v); }
inline void store(BFloat16* p, VecF v) {
  const VecU32 bits = (VecU32)v;
  const VecU32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU16 out = __builtin_convertvector(v != v ? VecU32{} + 0x7fc0u : rounded, VecU16);
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
  for (int i = 0; i < kLanes<Half>; ++i) p[i] = narrow<Half>(v[i]);
#endif
}

// ---- the first `count` lanes only; the others load as zero ----
template <typename T>
inline VecOf<T> load(const T* p, int64_t count) {
  if (count >= kLanes<T>) return load(p);
  T lanes[kLanes<T>] = {};
  std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}
template <typename T>
inline void store(T* p, VecOf<T> v, int64_t count) {
  if (count >= kLanes<T>) return store(p, v);
  T lanes[kLanes<T>];
  store(lanes, v);
  std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(T));
}

// v in the first `count` lanes, zero in the others.
template <typename V>
inline V keep_first(V v, int64_t count) {
  for (int64_t i = count; i < int64_t(sizeof(V) / sizeof(v[0])); ++i) v[i] = 0;
  return v;
}

template <typename C>
inline C sum_lanes(typename Simd<C>::Vec v) {
  C sum = 0;
  for (int i = 0; i < kLanes<C>; ++i) sum += v[i];
  return sum;
}
