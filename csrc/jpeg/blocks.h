// Follows the codes of blocks from the first bit to the last, and computes no pixel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "huffman.h"

namespace cyclegan_fast::jpeg {

// Which coefficients of a component's blocks are not zero: a bit each, in zigzag order. Blocks
// beyond the last one that holds any cost no memory, whatever size the header promises.
class NonZero {
 public:
  uint64_t& operator[](int64_t block) {
    if (size_t(block) >= bits_.size()) bits_.resize(size_t(block) + 1);
    return bits_[size_t(block)];
  }
  uint64_t at(int64_t block) const {
    return size_t(block) < bits_.size() ? bits_[size_t(block)] : 0;
  }

 private:
  std::vector<uint64_t> bits_;
};

// How one block of an MCU is read.
struct Coder {
  size_t component;
  const Codes *dc, *ac;  // ac: null where DC coefficients are alone
  int64_t max_dc;        // of the DC coefficient, quantised
};

// A band of AC coefficients, first to last, of the blocks [begin, end) of one component.
struct Band {
  int first, last;
  int64_t begin, end;
};

// Returns the bits that so many MCUs take: sequential, or the DC coefficients alone of a
// progressive scan.
size_t follow_blocks(const Bits& bits, int64_t mcus, const std::vector<Coder>& coders);

// Returns the bits that a band takes in the progressive scan that codes it first.
size_t follow_first(const Bits& bits, const Band& band, const Codes& codes, NonZero& nonzero);

// Returns the bits that a band takes in a progressive scan that adds one bit to its coefficients:
// a bit for each that is not zero yet, between the codes of those that become +-1.
size_t follow_refinement(const Bits& bits, const Band& band, const Codes& codes, NonZero& nonzero);

}  // namespace cyclegan_fast::jpeg
