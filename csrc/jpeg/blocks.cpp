#include "blocks.h"

namespace cyclegan_fast::jpeg {
namespace {

[[noreturn]] void unknown_code() { damaged("an unknown code among the coded pixels"); }
[[noreturn]] void long_block() { damaged("a block with more than 64 coefficients"); }
[[noreturn]] void long_run() { damaged("a run of empty blocks leaves the image"); }

}  // namespace

size_t follow_blocks(const Bits& bits, int64_t mcus, const std::vector<Coder>& coders) {
  if (coders.empty()) nonsense();
  size_t position = 0;
  std::vector<int64_t> levels(coders.back().component + 1, 0);
  for (int64_t mcu = 0; mcu < mcus; ++mcu) {
    for (const Coder& coder : coders) {
      if (position > bits.count()) too_early();
      const int found = (*coder.dc)[bits.window(position)];
      if (found == 0) unknown_code();
      position += size_t(found >> 8);
      if (const int size = found & 15) {
        const int value = int(bits.window(position) >> (16 - size));
        int64_t& level = levels[coder.component];
        level += value >> (size - 1) ? value : value + 1 - (1 << size);
        if (level < -coder.max_dc || level > coder.max_dc) damaged("brightness leaves its range");
        position += size_t(size);
      }
      if (coder.ac == nullptr) continue;
      int k = 1;
      while (k < 64) {
        const int step = (*coder.ac)[bits.window(position)];
        if (step == 0) unknown_code();
        const int run = step >> 4 & 15, size = step & 15;
        position += size_t((step >> 8) + size);
        if (size == 0 && run < 15) break;
        k += run + 1;
      }
      if (k > 64) long_block();
    }
  }
  return position;
}

size_t follow_first(const Bits& bits, const Band& band, const Codes& codes, NonZero& nonzero) {
  size_t position = 0;
  int64_t block = band.begin;
  while (block < band.end) {
    if (position > bits.count()) too_early();
    const int64_t current = block++;
    int k = band.first;
    bool ended = false;
    while (k <= band.last && !ended) {
      const int found = codes[bits.window(position)];
      if (found == 0) unknown_code();
      position += size_t(found >> 8);
      const int run = found >> 4 & 15, size = found & 15;
      ended = size == 0 && run < 15;
      if (ended) {  // this block, and so do the following ones
        block += (1 << run) - 1 + int64_t(bits.window(position) >> (16 - run));
        position += size_t(run);
      } else {
        position += size_t(size);
        k += run + 1;
        if (size > 0 && k <= band.last + 1) nonzero[current] |= uint64_t{1} << (k - 1);
      }
    }
    if (!ended && k > band.last + 1) long_block();
  }
  if (block > band.end) long_run();
  return position;
}

size_t follow_refinement(const Bits& bits, const Band& band, const Codes& codes, NonZero& nonzero) {
  size_t position = 0;
  int64_t empty = 0;  // blocks, this one included, that gain no coefficient from here on
  for (int64_t block = band.begin; block < band.end; ++block) {
    if (position > bits.count()) too_early();
    const uint64_t known = nonzero.at(block);
    uint64_t gained = 0;
    int k = band.first;
    for (; k <= band.last && empty == 0; ++k) {
      const int found = codes[bits.window(position)];
      if (found == 0) unknown_code();
      position += size_t(found >> 8);
      int run = found >> 4 & 15;
      const int size = found & 15;
      if (size > 1) unknown_code();
      if (size == 0 && run < 15) {
        empty = (int64_t{1} << run) + int64_t(bits.window(position) >> (16 - run));
        position += size_t(run);
        break;
      }
      position += size_t(size);
      for (; k <= band.last; ++k) {
        if (known >> k & 1) {
          ++position;
        } else if (run-- == 0) {
          break;
        }
      }
      if (size == 0) continue;
      if (k > band.last) long_block();
      gained |= uint64_t{1} << k;
    }
    if (gained != 0) nonzero[block] |= gained;
    if (empty == 0) continue;
    --empty;
    for (; k <= band.last; ++k) position += known >> k & 1;
  }
  if (empty > 0) long_run();
  return position;
}

}  // namespace cyclegan_fast::jpeg
