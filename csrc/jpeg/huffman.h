// The Huffman codes of a JPEG, and the bits that they are found in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bytes.h"

namespace cyclegan_fast::jpeg {

constexpr size_t kBeyond = 256;  // bytes of zeros after the end: no block runs further over it

struct Table {
  Bytes counts;   // [16] or fewer: codes of each length
  Bytes symbols;  // in the codes' order
};

// The codes of a Huffman table. Those of one length follow each other, and the longer ones follow
// the shorter ones: all windows (16 bits) that begin with a code of some length are one range.
class Codes {
 public:
  explicit Codes(const Table& table) : symbols_(table.symbols) {
    uint32_t code = 0;
    size_t index = 0;
    for (int length = 1; length <= 16; ++length) {
      const int count =
          size_t(length) <= table.counts.size() ? table.counts[size_t(length - 1)] : 0;
      first_[length] = index;
      index += size_t(count), code += uint32_t(count);
      end_[length] = code << (16 - length);
      code <<= 1;
    }
    if (index > symbols_.size()) nonsense();
    // Beyond the short codes stays 0.
    const uint32_t short_end = std::min<uint32_t>(end_[kShort] >> (16 - kShort), 1 << kShort);
    for (uint32_t i = 0; i < short_end; ++i) short_[i] = search(i << (16 - kShort), 1);
  }

  // 256 times the length of the code that a window begins with, and its symbol; 0 for no code.
  int operator[](uint32_t window) const {
    const int found = short_[window >> (16 - kShort)];
    return found != 0 ? found : search(window, kShort + 1);
  }

 private:
  static constexpr int kShort = 10;  // bits: most codes are no longer, and their table stays in L1

  uint16_t search(uint32_t window, int length) const {
    for (; length <= 16; ++length) {
      if (window >= end_[length]) continue;
      const size_t index = first_[length] + ((window - end_[length - 1]) >> (16 - length));
      return uint16_t(length << 8 | symbols_[index]);
    }
    return 0;
  }

  Bytes symbols_;
  uint32_t end_[17] = {};  // [length]: behind the last window
  size_t first_[17] = {};  // [length]: index of the first symbol
  uint16_t short_[1 << kShort] = {};
};

// The bits of one restart interval, behind which zeros follow.
class Bits {
 public:
  // Takes the stuffing out of `piece`: a 0 behind each 0xFF.
  void assign(Bytes piece) {
    bytes_.resize(piece.size() + kBeyond + 4);
    uint8_t* out = bytes_.data();
    while (!piece.empty()) {
      const void* found = std::memchr(piece.data(), 0xff, piece.size());
      const size_t count = found == nullptr
                               ? piece.size()
                               : size_t(static_cast<const uint8_t*>(found) - piece.data()) + 1;
      std::memcpy(out, piece.data(), count);
      out += count;
      const bool stuffed = found != nullptr && count < piece.size() && piece[count] == 0;
      piece = piece.from(count + stuffed);
    }
    const size_t size = size_t(out - bytes_.data());
    count_ = 8 * size;
    bytes_.resize(size + kBeyond + 4);
    std::memset(bytes_.data() + size, 0, kBeyond + 4);
  }

  size_t count() const { return count_; }
  // Whether all bytes from this one on are zeros, with which some encoders fill the last interval.
  bool zeros_from(size_t byte) const {
    const auto end = bytes_.begin() + std::ptrdiff_t(count_ / 8);
    return std::all_of(bytes_.begin() + std::ptrdiff_t(std::min(byte, count_ / 8)), end,
                       [](uint8_t value) { return value == 0; });
  }
  // The 16 bits from a position on.
  uint32_t window(size_t position) const {
    if (position >= count_ + 8 * kBeyond) nonsense();
    const uint8_t* at = bytes_.data() + position / 8;
    const uint32_t four =
        uint32_t(at[0]) << 24 | uint32_t(at[1]) << 16 | uint32_t(at[2]) << 8 | at[3];
    return four << position % 8 >> 16;
  }

 private:
  std::vector<uint8_t> bytes_;
  size_t count_ = 0;
};

}  // namespace cyclegan_fast::jpeg
