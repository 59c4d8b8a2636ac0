#include "jpeg_damage.h"

#include <algorithm>
#include <map>
#include <vector>

#include "blocks.h"

namespace cyclegan_fast {
namespace jpeg {
namespace {

constexpr int kDht = 0xc4, kEoi = 0xd9, kSos = 0xda, kDqt = 0xdb, kDri = 0xdd;
constexpr int64_t kMaxDc = 1024 + 64;  // eight times the distance from mid-grey, and some grace

int64_t ceil_div(int64_t a, int64_t b) {
  if (b == 0) nonsense();
  return (a + b - 1) / b;
}

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

// A component of a scan.
struct Chosen {
  Component part;
  int ids;  // of its tables: 16 times that of the DC coefficients, and that of the AC coefficients
};

// How the blocks of an MCU are read; the coders point into `codes`, which is empty and stays.
std::vector<Coder> coders_of(const std::vector<Chosen>& chosen, int shift, const State& state,
                             std::vector<Codes>& codes) {
  codes.reserve(2 * chosen.size());  // none of them moves
  std::vector<Coder> coders;
  for (size_t i = 0; i < chosen.size(); ++i) {
    const auto& [part, ids] = chosen[i];
    const int64_t quantisation = look_up(state.dc_quantisation, part.quantisation);
    if (quantisation == 0) nonsense();
    Coder coder = {i, nullptr, nullptr, ((kMaxDc / quantisation + 1) >> shift) + 1};
    if (!state.progressive) {
      coder.ac = &codes.emplace_back(look_up(state.tables, 16 + (ids & 15)));
    }
    coder.dc = &codes.emplace_back(look_up(state.tables, ids >> 4));
    const bool alone = chosen.size() == 1;
    coders.insert(coders.end(), alone ? 1 : size_t(part.across * part.down), coder);
  }
  return coders;
}

// Follows the codes of one scan, restart interval by restart interval.
void check_scan(Bytes header, Bytes data, State& state) {
  const size_t count = size_t(header[0]);
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
  std::vector<Coder> coders;
  if (is_band) {
    codes.emplace_back(look_up(state.tables, 16 + (chosen[0].ids & 15)));
  } else if (!refines) {
    coders = coders_of(chosen, shift, state, codes);
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
}  // namespace jpeg

std::optional<std::string> find_jpeg_damage(const uint8_t* content, size_t size) {
  try {
    jpeg::walk({content, size});
  } catch (const jpeg::Damage& damage) {
    return damage.what;
  }
  return std::nullopt;
}

}  // namespace cyclegan_fast
