// Random numbers without a state: draw number n of a seed is a function of the two, the same on
// every device.
#pragma once

#include "types.h"

namespace cyclegan_fast {

// SplitMix64 (Steele, Lea and Flood 2014): 64 bits, the `number`-th after seeding, from 0.
CYCLEGAN_FAST_HD inline uint64_t splitmix64(uint64_t seed, uint64_t number) {
  uint64_t z = seed + (number + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The top bit: the least structured one.
CYCLEGAN_FAST_HD inline bool coin_of(uint64_t bits) { return bits >> 63 != 0; }

// The low 32 bits as an integer in [0, bound), for bound < 2^32.
CYCLEGAN_FAST_HD inline int64_t below(uint64_t bits, int64_t bound) {
  return static_cast<int64_t>(((bits & 0xffffffffu) * static_cast<uint64_t>(bound)) >> 32);
}

}  // namespace cyclegan_fast
