// jpeg_damage: finds damage in the middle of a JPEG, which most decoders turn into wrong pixels.
//
// It follows the Huffman codes of every scan to the end and computes no pixel. The twin of
// cyclegan_fast/images/jpeg_damage.py, which explains what is looked for: the two say the same of
// every file, word for word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace cyclegan_fast {

// What is wrong with a JPEG, in a few words; nothing for a sound one. Any bytes may be given.
// content [size]
std::optional<std::string> find_jpeg_damage(const uint8_t* content, size_t size);

}  // namespace cyclegan_fast
