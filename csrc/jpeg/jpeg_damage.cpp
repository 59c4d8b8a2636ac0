#include "jpeg_damage.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

namespace cyclegan_fast {
namespace {

constexpr int kDht = 0xc4, kEoi = 0xd9, kSos = 0xda, kDqt = 0xdb, kDri = 0xdd;
constexpr int64_t kMaxDc = 1024 + 64;  // eight times the distance from mid-grey, and some grace
constexpr size_t kBeyond = 256;  // bytes of zeros after the end: no block runs further over it

struct Damage {  // thrown
  std::string what;
};

[[noreturn]] void damaged(const char* what) { throw Damage{what}; }
[[noreturn]] void too_early() { damaged("the coded pixels end too early"); }
[[noreturn]] void unknown_code() { damaged("an unknown code among the coded pixels"); }
[[noreturn]] void long_block() { damaged("a block with more than 64 coefficients"); }
[[noreturn]] void long_run() { damaged("a run of empty blocks leaves the image"); }
[[noreturn]] void nonsense() { damaged("a header inside the file makes no sense"); }

int64_t ceil_div(int64_t a, int64_t b) {
  if (b == 0) nonsense();
  return (a + b - 1) / b;
}

// A span of the file. No access leaves it.
class Bytes {
 public:
  Bytes() = default;
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int operator[](size_t i) const {
    if (i >= size_) nonsense();
    return data_[i];
  }
  int two(size_t i) const { return (*this)[i] << 8 | (*this)[i + 1]; }
  // As much of [begin, end) as there is.
  Bytes slice(size_t begin, size_t end) const {
    end = std::min(end, size_), begin = std::min(begin, end);
    return {data_ + begin, end - begin};
  }
  Bytes from(size_t begin) const { return slice(begin, size_); }
  // Where the next 0xFF is, from `begin` on, that a wanted byte follows; size() for none.
  template <typename F>
  size_t find_marker(size_t begin, F wanted) const {
    while (begin + 1 < size_) {
      const void* found = std::memchr(data_ + begin, 0xff, size_ - 1 - begin);
      if (found == nullptr) break;
      const size_t at = size_t(static_cast<const uint8_t*>(found) - data_);
      if (wanted(data_[at + 1])) return at;
      begin = at + 1;
    }
    return size_;
  }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

bool is_restart(int marker) { return 0xd0 <= marker && marker <= 0xd7; }
bool is_other(int marker) { return marker > 0 && marker < 0xff && !is_restart(marker); }
bool is_frame(int marker) { return 0xc0 <= marker && marker <= 0xc2; }
bool is_frame_of_another_kind(int marker) {  // lossless, hierarchical, arithmetic
  return 0xc3 <= marker && marker <= 0xcf && marker != kDht && marker != 0xc8 && marker != 0xcc;
}

struct Component {
  int across, down;  // sampling factors: blocks per MCU
  int quantisation;  // number of its table
};

struct Table {
  Bytes counts;   // [16] or fewer: codes of each length
  Bytes symbols;  // in the codes' order
};

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

// What the segments so far have defined.
struct State {
  int64_t width = 0, height = 0;
  bool progressive = false;
  std::map<int, Component> components;
  std::map<int, Table> tables;             // of class * 16 + id
  std::map<int, int64_t> dc_quantisation;  // of a table's number: its first entry
  int64_t interval = 0;                    // MCUs between restarts; 0 for none
  std::map<int, NonZero> nonzero;          // of a component, by its id

  // The largest sampling factors.
  Component finest() const {
    if (components.empty()) nonsense();
    Component finest = {};
    for (const auto& [id, c] : components) {
      finest.across = std::max(finest.across, c.across);
      finest.down = std::max(finest.down, c.down);
    }
    return finest;
  }
  // 8x8 blocks of a component that is alone in its scan.
  int64_t blocks(const Component& c) const {
    const int64_t w = ceil_div(width * c.across, finest().across);
    const int64_t h = ceil_div(height * c.down, finest().down);
    return ceil_div(w, 8) * ceil_div(h, 8);
  }
  // MCUs of a scan that interleaves several components.
  int64_t mcus() const {
    return ceil_div(width, 8 * finest().across) * ceil_div(height, 8 * finest().down);
  }
};

template <typename T>
const T& look_up(const std::map<int, T>& entries, int key) {
  const auto found = entries.find(key);
  if (found == entries.end()) nonsense();
  return found->second;
}

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

// How one block of an MCU is read.
struct Coder {
  size_t component;
  const Codes *dc, *ac;  // ac: null where DC coefficients are alone
  int64_t max_dc;        // of the DC coefficient, quantised
};

// Returns the bits that so many MCUs take: sequential, or the DC coefficients alone of a
// progressive scan.
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

// A band of AC coefficients, first to last, of the blocks [begin, end) of one component.
struct Band {
  int first, last;
  int64_t begin, end;
};

// Returns the bits that a band takes in the progressive scan that codes it first.
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

// Returns the bits that a band takes in a progressive scan that adds one bit to its coefficients:
// a bit for each that is not zero yet, between the codes of those that become +-1.
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

// Splits a scan at its restart markers.
std::vector<Bytes> split(Bytes data, int64_t count) {
  std::vector<Bytes> pieces;
  std::vector<int> restarts;
  size_t begin = 0;
  for (size_t at; (at = data.find_marker(begin, is_restart)) < data.size(); begin = at + 2) {
    pieces.push_back(data.slice(begin, at));
    restarts.push_back(data[at + 1]);
  }
  if (begin < data.size() || restarts.empty()) {
    pieces.push_back(data.from(begin));
  } else {
    restarts.pop_back();  // one restart too many at the end harms nobody
  }
  if (int64_t(pieces.size()) != count) {
    throw Damage{std::to_string(pieces.size()) + " restart intervals where " +
                 std::to_string(count) + " belong"};
  }
  for (size_t i = 0; i < restarts.size(); ++i) {
    if (restarts[i] != 0xd0 + int(i % 8)) damaged("restart markers are out of order");
  }
  return pieces;
}

// Follows the codes of one scan, restart interval by restart interval.
void check_scan(Bytes header, Bytes data, State& state) {
  const size_t count = size_t(header[0]);
  struct Chosen {
    Component part;
    int ids;
  };
  std::vector<Chosen> chosen;
  int64_t blocks_of_mcu = 0;
  for (size_t i = 0; i < count; ++i) {
    const Component& part = look_up(state.components, header[1 + 2 * i]);
    chosen.push_back({part, header[2 + 2 * i]});
    blocks_of_mcu += count == 1 ? 1 : part.across * part.down;
  }
  const int first = header[1 + 2 * count], last = header[2 + 2 * count];
  const int approximation = header[3 + 2 * count], shift = approximation & 15;
  const bool refines = state.progressive && approximation >> 4 > 0;
  const bool is_band = state.progressive && first > 0;
  if (is_band && (count != 1 || first > last || last > 63)) nonsense();
  const int64_t total = count == 1 ? state.blocks(chosen[0].part) : state.mcus();
  const int64_t interval = state.interval != 0 ? state.interval : total;
  const std::vector<Bytes> pieces = split(data, ceil_div(total, interval));

  std::vector<Codes> codes;
  codes.reserve(2 * count + 1);  // the coders point into it
  std::vector<Coder> coders;
  if (is_band) {
    codes.emplace_back(look_up(state.tables, 16 + (chosen[0].ids & 15)));
  } else if (!refines) {
    for (size_t i = 0; i < count; ++i) {
      const auto& [part, ids] = chosen[i];
      const int64_t quantisation = look_up(state.dc_quantisation, part.quantisation);
      if (quantisation == 0) nonsense();
      Coder coder = {i, nullptr, nullptr, ((kMaxDc / quantisation + 1) >> shift) + 1};
      if (!state.progressive) {
        coder.ac = &codes.emplace_back(look_up(state.tables, 16 + (ids & 15)));
      }
      coder.dc = &codes.emplace_back(look_up(state.tables, ids >> 4));
      coders.insert(coders.end(), count == 1 ? 1 : size_t(part.across * part.down), coder);
    }
  }

  Bits bits;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t begin = int64_t(i) * interval, end = std::min(begin + interval, total);
    bits.assign(pieces[i]);
    size_t used;
    if (is_band) {
      const auto follow = refines ? follow_refinement : follow_first;
      used = follow(bits, {first, last, begin, end}, codes[0], state.nonzero[header[1]]);
    } else if (refines) {
      used = size_t((end - begin) * blocks_of_mcu);  // one bit for each block
    } else {
      used = follow_blocks(bits, end - begin, coders);
    }
    if (used > bits.count()) too_early();
    const bool padded = i + 1 == pieces.size() && bits.zeros_from((used + 7) / 8);
    if (bits.count() - used >= 8 && !padded) damaged("coded pixels are left over");
  }
}

void read_frame(Bytes body, int marker, State& state) {
  state.progressive = marker == 0xc2;
  state.height = body.two(1), state.width = body.two(3);
  state.components.clear();
  state.nonzero.clear();
  const size_t count = size_t(body[5]);
  for (size_t i = 6; i < 6 + 3 * count; i += 3) {
    state.components[body[i]] = {body[i + 1] >> 4, body[i + 1] & 15, body[i + 2]};
  }
}

void read_tables(Bytes body, State& state) {
  while (!body.empty()) {
    const Bytes counts = body.slice(1, 17);
    size_t sum = 0;
    for (size_t i = 0; i < counts.size(); ++i) sum += size_t(counts[i]);
    state.tables[body[0]] = {counts, body.slice(17, 17 + sum)};
    body = body.from(17 + sum);
  }
}

void read_quantisation(Bytes body, State& state) {
  while (!body.empty()) {
    const size_t wide = size_t(body[0] >> 4);  // 1 for 16 bits an entry
    const Bytes entry = body.slice(1, 2 + wide);
    int64_t value = 0;
    for (size_t i = 0; i < entry.size(); ++i) {
      value = std::min(value << 8 | entry[i], 2 * kMaxDc);  // as good as any larger one
    }
    state.dc_quantisation[body[0] & 15] = value;
    body = body.from(1 + 64 * (1 + wide));
  }
}

// Goes from marker to marker up to the end of the first image.
void walk(Bytes content) {
  State state;
  size_t position = 2;
  while ((position = content.find_marker(position, is_other)) < content.size()) {
    const int marker = content[position + 1];
    if (marker == kEoi || is_frame_of_another_kind(marker)) return;
    position += 2;
    const size_t length = size_t(content.two(position));
    const Bytes body = content.slice(position + 2, position + length);
    position += length;
    if (is_frame(marker)) {
      read_frame(body, marker, state);
      if (state.height == 0) return;  // told after the scan: no encoder in use does that
    } else if (marker == kDht) {
      read_tables(body, state);
    } else if (marker == kDqt) {
      read_quantisation(body, state);
    } else if (marker == kDri) {
      if (body.size() != 2) nonsense();
      state.interval = body.two(0);
    } else if (marker == kSos) {
      const size_t stop = content.find_marker(position, is_other);
      Bytes data = content.slice(position, stop);
      while (!data.empty() && data[data.size() - 1] == 0xff) data = data.slice(0, data.size() - 1);
      check_scan(body, data, state);
      position = stop;
    }
  }
}

}  // namespace

std::optional<std::string> find_jpeg_damage(const uint8_t* content, size_t size) {
  try {
    walk({content, size});
  } catch (const Damage& damage) {
    return damage.what;
  }
  return std::nullopt;
}

}  // namespace cyclegan_fast
