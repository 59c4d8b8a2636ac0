// A span of a JPEG file whose every access is checked, and what is thrown where damage is found.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace cyclegan_fast::jpeg {

struct Damage {  // thrown
  std::string what;
};

[[noreturn]] inline void damaged(const char* what) { throw Damage{what}; }
[[noreturn]] inline void too_early() { damaged("the coded pixels end too early"); }
[[noreturn]] inline void nonsense() { damaged("a header inside the file makes no sense"); }

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

}  // namespace cyclegan_fast::jpeg
