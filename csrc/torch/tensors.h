// What every binding needs: checks, dtype and layout of a tensor, allocation in the same layout,
// the current stream. Written against torch's stable ABI only, so that one binary loads on every
// torch since 2.11.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#ifdef CYCLEGAN_FAST_WITH_CUDA
#include "cuda/launch_failure.h"
#endif
#include "types.h"

namespace cyclegan_fast {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

inline Shape shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return Shape(sizes.begin(), sizes.end());
}

inline bool has_shape(const Tensor& t, const Shape& shape) {
  const auto sizes = t.sizes();
  return std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end());
}

inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

inline DType dtype_of(const char* op, ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, op, ": the type must be float32, bfloat16, float16 or float64");
  }
}

inline ScalarType stat_type_of(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

// True where [N, C, H, W] lies dense as [N, H, W, C]; axes of size 1 may have any stride, as in
// torch.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4) return false;
  int64_t expected = 1;
  for (int axis : {1, 3, 2, 0}) {
    if (t.size(axis) != 1 && t.stride(axis) != expected) return false;
    expected *= t.size(axis);
  }
  return true;
}

// The layout of a dense tensor. One that is both (C = 1, say) counts as NCHW.
inline Layout layout_of(const char* op, const char* name, const Tensor& t) {
  if (t.is_contiguous()) return Layout::kNCHW;
  STD_TORCH_CHECK(is_channels_last(t), op, ": ", name,
                  " must be contiguous or channels_last, got strides ",
                  to_string(Shape(t.strides().begin(), t.strides().end())), " for shape ",
                  to_string(shape_of(t)));
  return Layout::kNHWC;
}

inline MemoryFormat format_of(Layout layout) {
  return layout == Layout::kNHWC ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// The strides of a dense tensor, as torch counts them.
inline Shape strides_of(const Shape& shape, Layout layout) {
  Shape strides(shape.size());
  int64_t dense = 1;
  const auto next = [&](size_t axis) {
    strides[axis] = dense;
    dense *= std::max<int64_t>(shape[axis], 1);
  };
  if (layout == Layout::kNHWC) {
    for (size_t axis : {1, 3, 2, 0}) next(axis);
  } else {
    for (size_t axis = shape.size(); axis-- > 0;) next(axis);
  }
  return strides;
}

inline int64_t bytes_of(const Shape& shape, ScalarType type) {
  int64_t bytes = type == ScalarType::Double || type == ScalarType::Long     ? 8
                  : type == ScalarType::Float || type == ScalarType::Int     ? 4
                  : type == ScalarType::Half || type == ScalarType::BFloat16 ? 2
                                                                             : 1;
  for (const int64_t side : shape) bytes *= side;
  return bytes;
}

// Straight through the C shim: torch::stable::empty looks aten::empty up by its name each time,
// half a microsecond a tensor. The shim keeps the reason of a failure to itself, which with these
// arguments is memory.
inline Tensor empty_like(const Tensor& like, const Shape& shape, ScalarType type, Layout layout) {
  const Shape strides = strides_of(shape, layout);
  const auto device = like.device();
  AtenTensorHandle handle;
  const bool full =
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                               static_cast<int32_t>(type), static_cast<int32_t>(device.type()),
                               device.index(), &handle) != TORCH_SUCCESS;
  STD_TORCH_CHECK(!full, "out of memory on the ", like.is_cuda() ? "GPU" : "host",
                  ": tried to allocate ", bytes_of(shape, type), " bytes for a tensor of shape ",
                  to_string(shape));
  return Tensor(handle);
}
inline Tensor empty_bytes(const Tensor& like, int64_t bytes) {
  return empty_like(like, {bytes}, ScalarType::Byte, Layout::kNCHW);
}

// `t` in `layout`: itself, or a copy where it lies otherwise (a gradient or a residual from an op
// of another layout).
inline Tensor in_layout(const Tensor& t, Layout layout) {
  const bool fits = layout == Layout::kNCHW ? t.is_contiguous() : is_channels_last(t);
  return fits ? t : torch::stable::contiguous(t, format_of(layout));
}

inline void check_like(const char* op, const char* name, const Tensor& t, const Shape& shape,
                       const Tensor& like) {
  STD_TORCH_CHECK(has_shape(t, shape), op, ": ", name, " must have shape ", to_string(shape),
                  ", got ", to_string(shape_of(t)));
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), op, ": ", name,
                  " must have the type of x");
  STD_TORCH_CHECK(t.device() == like.device(), op, ": ", name, " must be on the device of x");
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
inline std::string name_of(ScalarType type) {
  if (type == ScalarType::Byte) return "uint8";
  if (type == ScalarType::Char) return "int8";
  return std::array{"float32", "bfloat16", "float16", "float64"}[size_t(dtype_of("", type))];
}

// The kernel's verdict as an exception. `t` is the tensor whose size decides the launch.
inline void check_status(const char* op, Status status, const Tensor& t) {
  if (status == Status::kOk) return;
  const std::string on = to_string(shape_of(t)) + " " + name_of(t.scalar_type());
  STD_TORCH_CHECK(status != Status::kInvalidArgument, op, ": ", on, " is too large for one launch");
  const LaunchFailure& failure = last_launch_failure();
  STD_TORCH_CHECK(false, op, ": ", failure.kernel, " could not be launched on ", on, ": ",
                  failure.error);
}
#endif

// Runs f(begin, end) over [0, slices) on torch's threads, where `elements` is the whole work.
template <typename F>
void parallel_slices(int64_t slices, int64_t elements, const F& f) {
  constexpr int64_t kElementsPerThread = 32768;
  const int64_t grain = slices > 0 ? kElementsPerThread * slices / (elements + 1) + 1 : 1;
  torch::stable::parallel_for(0, slices, grain, f);
}

// The stream that torch launches on now, on the device of `t`.
Stream current_stream(const Tensor& t);

}  // namespace cyclegan_fast
