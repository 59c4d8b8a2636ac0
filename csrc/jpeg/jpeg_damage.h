// jpeg_damage: finds damage in the middle of a JPEG, which most decoders turn into wrong pixels.
//
// A scan holds one Huffman code after the other and nothing that could check them. But damage
// leaves traces: a code that does not exist, an image that is complete before its bits are used up
// or the other way round, and brightness, which is coded as differences from block to block, that
// leaves the range of 8 bits. So the codes of every scan are followed to the end, and no pixel is
// computed (ITU T.81: annex F sequential, G progressive). Damage without such a trace cannot be
// told from an image. Arithmetic coding and lossless JPEG are passed over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace cyclegan_fast {

// What is wrong with the coded pixels of a JPEG, in a few words; nothing for a sound one. Any bytes
// may be given; meant are those that a decoder has read without an error.
// content [size]
std::optional<std::string> find_jpeg_damage(const uint8_t* content, size_t size);

}  // namespace cyclegan_fast
