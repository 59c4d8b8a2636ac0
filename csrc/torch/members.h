// What the bindings of operators on members share.
#pragma once

#include "members.h"
#include "tensors.h"

namespace cyclegan_fast {

using Tensors = std::vector<Tensor>;

// The members' sizes; they hold `batches` images each.
template <typename Pointer>
Members<Pointer> members_of(const char* op, const Shape& batches) {
  STD_TORCH_CHECK(!batches.empty() && batches.size() <= kMaxMembers, op, ": from 1 to ",
                  kMaxMembers, " members, got ", batches.size());
  Members<Pointer> members{};
  members.size = static_cast<int>(batches.size());
  for (int k = 0; k < members.size; ++k) members.first[k + 1] = members.first[k] + batches[k];
  return members;
}

}  // namespace cyclegan_fast
