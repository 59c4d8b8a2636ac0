// find_jpeg_damage on files that are made here, whole and mutated, in memory that ends where the
// file ends. Files of a real encoder: tests/images/test_jpeg_damage.py.
#include "harness.h"

#ifdef CYCLEGAN_FAST_TEST_CUDA
void test_jpeg_damage() {}
#else

#include <algorithm>

#include "../../csrc/jpeg/jpeg_damage.h"

using namespace cyclegan_fast;

namespace {

using File = std::vector<uint8_t>;

// Symbols of Huffman tables: those of two codes of 4 bits, then those of one each of 5, 6, ...
// bits.
using Symbols = std::vector<uint8_t>;
constexpr int kFourBits = 2;
const Symbols kDc = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
const Symbols kAc = {0x00, 0x01, 0x02, 0x11, 0x12, 0x21, 0x31, 0x05, 0xf0, 0x0a, 0xf1, 0x1a};
const Symbols kRuns = {0x00, 0x01, 0x02, 0x11, 0x10, 0x21, 0x20, 0x05, 0xf0, 0x70, 0x50};
const Symbols kRefined = {0x01, 0x11, 0x00, 0x21, 0x10, 0x81, 0xf0, 0x20};

// Writes a JPEG, segment by segment, and codes with random values.
class Writer {
 public:
  explicit Writer(uint32_t seed) : random_(seed) { bytes({0xff, 0xd8}); }

  void bytes(std::initializer_list<int> values) {
    for (int value : values) file_.push_back(uint8_t(value));
  }
  void table(int number, const Symbols& symbols) {
    const int count = int(symbols.size());
    bytes({0xff, 0xc4, 0, 19 + count, number, 0, 0, 0, kFourBits});
    for (int i = 0; i < 12; ++i) bytes({kFourBits + i < count});
    file_.insert(file_.end(), symbols.begin(), symbols.end());
  }
  void quantisation() {
    bytes({0xff, 0xdb, 0, 67, 0});
    for (int i = 0; i < 64; ++i) bytes({8});
  }
  int below(int bound) { return int(random_() % uint32_t(bound)); }
  void bit(int value) {
    last_ = last_ << 1 | value;
    if (++filled_ < 8) return;
    file_.push_back(uint8_t(last_));
    if (file_.back() == 0xff) file_.push_back(0);
    last_ = filled_ = 0;
  }
  void bits(int value, int count) {
    while (count-- > 0) bit(value >> count & 1);
  }
  void code(size_t index) {
    int length = 4, code = std::min(int(index), kFourBits - 1);
    for (int longer = kFourBits; longer <= int(index); ++longer) code = (code + 1) << 1, ++length;
    bits(code, length);
  }
  void end_of_piece() {
    while (filled_ != 0) bit(1);
  }
  // One block of a sequential scan, whose brightness comes back to the middle.
  void block(int& level) {
    const int difference = level == 0 ? below(3) - 1 : -level;
    level += difference;
    code(difference == 0 ? 0 : 1);
    if (difference != 0) bit(difference > 0);
    for (int k = 1; k < 64;) {
      const size_t index = size_t(below(int(kAc.size())));
      const int symbol = kAc[index], run = symbol >> 4, size = symbol & 15;
      if (symbol != 0 && k + run > 63) continue;
      code(index);
      if (symbol == 0) return;
      bits(below(1 << size), size);
      k += run + 1;
    }
  }
  const File& file() {
    if (file_.back() != 0xd9) bytes({0xff, 0xd9});
    return file_;
  }

 private:
  File file_;
  std::mt19937 random_;
  int last_ = 0, filled_ = 0;
};

// 37 x 29 pixels, 4:2:0: 3 x 2 MCUs of six blocks; restarts every `interval` MCUs, or 0.
File sequential(uint32_t seed, int interval) {
  Writer w(seed);
  w.quantisation(), w.table(0x00, kDc), w.table(0x10, kAc);
  w.bytes({0xff, 0xdd, 0, 4, 0, interval});
  w.bytes({0xff, 0xc0, 0, 17, 8, 0, 29, 0, 37, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0});
  w.bytes({0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0});
  int levels[3] = {};
  for (int mcu = 0; mcu < 6; ++mcu) {
    if (interval != 0 && mcu > 0 && mcu % interval == 0) {
      w.end_of_piece();
      w.bytes({0xff, 0xd0 + (mcu / interval - 1) % 8});
      for (int& level : levels) level = 0;
    }
    for (int block = 0; block < 6; ++block) w.block(levels[block < 4 ? 0 : block - 3]);
  }
  w.end_of_piece();
  return w.file();
}

constexpr int kBlocks = 21;

// The last bit of the AC coefficients, of which `nonzero` [kBlocks] has those that are known, and
// new coefficients of +-1.
void refine(Writer& w, const std::vector<uint64_t>& nonzero) {
  w.table(0x10, kRefined);
  w.bytes({0xff, 0xda, 0, 8, 1, 1, 0, 1, 63, 0x10});
  int empty = 0;
  for (int block = 0; block < kBlocks; ++block) {
    const uint64_t known = nonzero[size_t(block)];
    int k = 1;
    const auto correct_up_to = [&](int end) {
      for (; k < end; ++k) {
        if (known >> k & 1) w.bit(w.below(2));
      }
    };
    while (k < 64 && empty == 0) {
      const size_t index = size_t(w.below(int(kRefined.size())));
      const int symbol = kRefined[index], run = symbol >> 4, size = symbol & 15;
      if (size == 0 && run < 15) {
        const int value = w.below(1 << run);
        if (block + (1 << run) + value > kBlocks) continue;
        w.code(index), w.bits(value, run);
        empty = (1 << run) + value;
        break;
      }
      int end = k;
      for (int zeros = run; end < 64; ++end) {
        if (!(known >> end & 1) && zeros-- == 0) break;
      }
      if (end == 64) continue;
      w.code(index);
      if (size == 1) w.bit(w.below(2));
      correct_up_to(end);
      k = end + 1;
    }
    if (empty == 0) continue;
    --empty;
    correct_up_to(64);
  }
  w.end_of_piece();
}

// 50 x 20 grey pixels: 7 x 3 blocks. The DC coefficients, their last bit, then a band of AC
// coefficients with runs of empty blocks, and their last bit.
File progressive(uint32_t seed) {
  std::vector<uint64_t> nonzero(kBlocks, 0);
  Writer w(seed);
  w.quantisation(), w.table(0x00, kDc), w.table(0x10, kRuns);
  w.bytes({0xff, 0xc2, 0, 11, 8, 0, 20, 0, 50, 1, 1, 0x11, 0});
  w.bytes({0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0x01});
  for (int i = 0; i < kBlocks; ++i) w.code(0);
  w.end_of_piece();
  w.bytes({0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0x10});
  for (int i = 0; i < kBlocks; ++i) w.bit(w.below(2));
  w.end_of_piece();
  w.bytes({0xff, 0xda, 0, 8, 1, 1, 0, 1, 63, 0x01});
  for (int block = 0; block < kBlocks;) {
    ++block;
    for (int k = 1; k < 64;) {
      const size_t index = size_t(w.below(int(kRuns.size())));
      const int symbol = kRuns[index], run = symbol >> 4, size = symbol & 15;
      const bool ends = size == 0 && run < 15;
      if (ends ? block + (2 << run) > kBlocks && run > 0 : k + run > 63) continue;
      w.code(index);
      const int value = w.below(1 << (ends ? run : size));
      w.bits(value, ends ? run : size);
      if (ends) {
        block += (1 << run) - 1 + value;
        break;
      }
      k += run + 1;
      if (size > 0) nonzero[size_t(block) - 1] |= uint64_t{1} << (k - 1);
    }
  }
  w.end_of_piece();
  refine(w, nonzero);
  return w.file();
}

// Looks at a copy that ends where its memory ends.
std::string damage_of(const File& file) {
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[file.size()]);
  std::copy(file.begin(), file.end(), copy.get());
  return find_jpeg_damage(copy.get(), file.size()).value_or("");
}

File mutated(File file, std::mt19937& random) {
  const auto below = [&](size_t bound) { return random() % bound; };
  for (size_t times = 1 + below(3); times > 0 && !file.empty(); --times) {
    const size_t at = below(file.size()), count = std::min(below(40), file.size() - at);
    const auto place = file.begin() + std::ptrdiff_t(at);
    switch (below(6)) {
      case 0:
        file[at] ^= uint8_t(1u << below(8));
        break;
      case 1:
        file[at] = uint8_t(random());
        break;
      case 2:
        std::fill_n(place, count, uint8_t(0));
        break;
      case 3:
        file.erase(place, place + std::ptrdiff_t(count));
        break;
      case 4:
        file.insert(place, {0xff, uint8_t(0xc0 + below(32))});
        break;
      case 5:
        file.resize(at);
        break;
    }
  }
  return file;
}

}  // namespace

void test_jpeg_damage() {
  std::vector<File> files;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    for (int interval : {0, 1, 4}) files.push_back(sequential(seed, interval));
    files.push_back(progressive(seed));
  }
  std::mt19937 random(1);
  int found = 0;
  for (const File& file : files) {
    const std::string damage = damage_of(file);
    expect(damage.empty(), "jpeg_damage: a sound file: " + damage);
    File padded(file.begin(), file.end() - 2);
    padded.insert(padded.end(), {0, 0, 0, 0xff, 0xd9});
    expect(damage_of(padded).empty(), "jpeg_damage: zeros behind the pixels: " + damage_of(padded));
    padded.insert(padded.end() - 2, 5);
    expect(!damage_of(padded).empty(), "jpeg_damage: bytes that are left over pass");
    File cut(file.begin(), file.end() - 12);
    expect(!damage_of(cut).empty(), "jpeg_damage: a cut file passes");
    for (int i = 0; i < (quick ? 100 : 2000); ++i)
      found += !damage_of(mutated(file, random)).empty();
    File noise(300);
    for (uint8_t& byte : noise) byte = uint8_t(random());
    damage_of(noise);
  }
  expect(found > int(files.size()) * (quick ? 100 : 2000) / 4, "jpeg_damage: little is found");
  damage_of({});
}

#endif
