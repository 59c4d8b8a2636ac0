// A batch that lies in several tensors, its members: images of one shape, concatenated or split
// on the way through a kernel.
#pragma once

#include "types.h"

namespace cyclegan_fast {

constexpr int kMaxMembers = 8;

template <typename Pointer>
struct Members {
  Pointer data[kMaxMembers];       // of each member, dense; null: not needed, or all zeros
  int64_t first[kMaxMembers + 1];  // images first[k] .. first[k + 1] - 1 of the batch are member k
  int size;                        // members in use

  CYCLEGAN_FAST_HD int64_t images() const { return first[size]; }
  CYCLEGAN_FAST_HD int member_of(int64_t image) const {
    int k = 0;
    while (image >= first[k + 1]) ++k;
    return k;
  }
};

}  // namespace cyclegan_fast
