// The CPU kernels of to_uint8 and from_uint8. Included through cpu/for_each_isa.h.
//
// Arithmetic runs on whole vectors along a plane; bytes are put in order apart from it, through a
// buffer that stays in the cache.

template <typename T>
using BytesOf = typename LanesOf<uint8_t, T>::Vec;

// `count` bytes, at most kMax; those are one instruction.
template <size_t kMax>
void copy(void* to, const void* from, int64_t count) {
  if (count == int64_t(kMax)) {
    std::memcpy(to, from, kMax);
  } else {
    std::memcpy(to, from, size_t(count));
  }
}

// 2^z to 1e-7 of it for |z| <= 126, and exactly for whole z; NaN stays NaN.
template <typename C>
typename Simd<C>::Vec exp2_of(typename Simd<C>::Vec z) {
  constexpr int kMantissa = sizeof(C) == 8 ? 52 : 23, kBias = sizeof(C) == 8 ? 1023 : 127;
  // Added, it leaves z, rounded, in the low bits.
  constexpr C kRound = C(int64_t{3} << (kMantissa - 1));
  const auto whole = z + kRound;
  const auto f = z - (whole - kRound);  // [-0.5, 0.5]
  auto power = f * C(0.00132647273) + C(0.00967151277);
  power = power * f + C(0.0555073374);
  power = power * f + C(0.240222421);
  power = power * f + C(0.693146978);
  power = power * f + C(1);
  using Int = typename Simd<C>::Int;
  return power * (typename Simd<C>::Vec)(((Int)whole + kBias) << kMantissa);
}

template <typename T>
BytesOf<T> to_levels(VecOf<T> x, bool tanh) {
  using C = Compute<T>;
  VecOf<T> level;
  if (tanh) {
    VecOf<T> z = x * C(-2.8853900817779268);  // -2 log2(e)
    z = z < C(-126) ? VecOf<T>{} - C(126) : z;
    z = z > C(126) ? VecOf<T>{} + C(126) : z;
    level = C(255) / (C(1) + exp2_of<C>(z));
  } else {
    level = (x + C(1)) * C(127.5);
  }
  level = level > C(0) ? level : VecOf<T>{};  // NaN is not
  level = level < C(255) ? level : VecOf<T>{} + C(255);
  constexpr C kRound = C(int64_t{1} << (sizeof(C) == 8 ? 52 : 23));
  using Int = typename Simd<C>::Int;
  return __builtin_convertvector((Int)(level + kRound) & 255, BytesOf<T>);
}

// x [count] -> levels [count]
template <typename T>
void to_levels(const T* x, uint8_t* levels, int64_t count, bool tanh) {
  for (int64_t i = 0; i < count; i += kVectorLanes<T>) {
    const int64_t lanes = std::min<int64_t>(kVectorLanes<T>, count - i);
    const BytesOf<T> bytes = to_levels<T>(load(x + i, lanes), tanh);
    copy<sizeof bytes>(levels + i, &bytes, lanes);
  }
}

// planes [c, count] -> pixels [count, c]. kC as in arrange.
template <int kC>
void interleave(const uint8_t* __restrict planes, uint8_t* __restrict pixels, int64_t any_c,
                int64_t count) {
  const int64_t c = kC > 0 ? kC : any_c;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < c; ++k) pixels[i * c + k] = planes[k * count + i];
  }
}

// Slices [begin, end), through planes [c, kChunk].
template <typename T>
void run_typed(const ToUint8Params& p, uint8_t* planes, int64_t begin, int64_t end) {
  const int64_t chunks = ceil_div(p.pixels, kChunk);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t image = s / chunks, first = s % chunks * kChunk;
    const int64_t count = std::min(kChunk, p.pixels - first);
    const T* x = static_cast<const T*>(p.x) + image * p.c * p.pixels + first;
    uint8_t* levels = p.levels + (image * p.pixels + first) * p.c;
    if (p.c == 1) {
      to_levels(x, levels, count, p.tanh);
      continue;
    }
    for (int64_t k = 0; k < p.c; ++k)
      to_levels(x + k * p.pixels, planes + k * count, count, p.tanh);
    (p.c == 3 ? interleave<3> : interleave<0>)(planes, levels, p.c, count);
  }
}

// levels [count] -> y [count]
template <typename T>
void to_values(const uint8_t* levels, T* y, int64_t count) {
  using C = Compute<T>;
  for (int64_t i = 0; i < count; i += kVectorLanes<T>) {
    const int64_t lanes = std::min<int64_t>(kVectorLanes<T>, count - i);
    BytesOf<T> bytes = {};
    copy<sizeof bytes>(&bytes, levels + i, lanes);
    // By steps: gcc has an instruction for each, and takes a longer one lane by lane.
    const auto words = __builtin_convertvector(bytes, typename LanesOf<uint16_t, T>::Vec);
    const auto ints = __builtin_convertvector(words, typename LanesOf<int32_t, T>::Vec);
    const VecOf<T> level = __builtin_convertvector(ints, VecOf<T>);
    store(y + i, level * Inverse<C>::high + level * Inverse<C>::low - C(1), lanes);
  }
}

// A row of a crop, source [w, c], in the order of the output: row [c / inner, w, inner]. kC is c,
// or 0 for any: loops over a known number of channels become shuffles.
template <int kC>
void arrange(const uint8_t* __restrict source, const FromUint8Params& p, bool mirrored,
             uint8_t* __restrict row) {
  const int64_t c = kC > 0 ? kC : p.c, w = p.w;
  const uint8_t* __restrict last = source + (w - 1) * c;
  if (p.inner == 1 && !mirrored) {
    for (int64_t j = 0; j < w; ++j) {
      for (int64_t k = 0; k < c; ++k) row[k * w + j] = source[j * c + k];
    }
  } else if (p.inner == 1) {
    for (int64_t j = 0; j < w; ++j) {
      for (int64_t k = 0; k < c; ++k) row[k * w + j] = last[-j * c + k];
    }
  } else {  // mirrored: otherwise the source itself will do
    for (int64_t j = 0; j < w; ++j) {
      for (int64_t k = 0; k < c; ++k) row[j * c + k] = last[-j * c + k];
    }
  }
}

// Slices [begin, end), through row [w * c].
template <typename T>
void run_typed(const FromUint8Params& p, uint8_t* row, int64_t begin, int64_t end) {
  const int64_t planes = p.c / p.inner, run = p.w * p.inner;
  for (int64_t s = begin; s < end; ++s) {
    const int64_t image = s / p.h, i = s % p.h;
    const Crop crop = crop_of(p, image);
    const uint8_t* levels =
        p.pixels + ((image * p.height + crop.top + i) * p.width + crop.left) * p.c;
    if (crop.mirrored || planes > 1) {
      (p.c == 3 ? arrange<3> : p.c == 1 ? arrange<1> : arrange<0>)(levels, p, crop.mirrored, row);
      levels = row;
    }
    T* y = static_cast<T*>(p.y) + (image * planes * p.h + i) * run;
    for (int64_t k = 0; k < planes; ++k) to_values(levels + k * run, y + k * p.h * run, run);
  }
}

template <typename Params>
void run_slices(const Params& p, uint8_t* buffer, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::kFloat32:
      return run_typed<float>(p, buffer, begin, end);
    case DType::kBFloat16:
      return run_typed<BFloat16>(p, buffer, begin, end);
    case DType::kFloat16:
      return run_typed<Half>(p, buffer, begin, end);
    case DType::kFloat64:
      return run_typed<double>(p, buffer, begin, end);
  }
}
