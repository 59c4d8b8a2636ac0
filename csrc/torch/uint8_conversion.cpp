// Binding of to_uint8 and from_uint8: check, fill the parameters, allocate, launch. See
// csrc/kernels/uint8_conversion.h.
#include "uint8_conversion.h"

#include "tensors.h"

namespace cyclegan_fast {
namespace {

template <bool kCuda>
Tensor to_uint8(const Tensor& images, bool tanh) {
  constexpr const char* kOp = "to_uint8";
  STD_TORCH_CHECK(images.dim() == 4, kOp, ": images must have 4 axes, got ",
                  to_string(shape_of(images)));
  ToUint8Params p{};
  p.dtype = dtype_of(kOp, images.scalar_type());
  p.n = images.size(0), p.c = images.size(1), p.pixels = images.size(2) * images.size(3);
  p.tanh = tanh;
  const Tensor levels =
      empty_like(images, {images.size(0), images.size(2), images.size(3), images.size(1)},
                 ScalarType::Byte, Layout::kNCHW);
  if (layout_of(kOp, "images", images) == Layout::kNHWC || p.c == 1)
    p.pixels = images.numel(), p.n = p.c = 1;
  p.x = images.const_data_ptr();
  p.levels = static_cast<uint8_t*>(levels.mutable_data_ptr());
  if (images.numel() == 0) return levels;
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(images.get_device_index());
    check_status(kOp, to_uint8_cuda(p, current_stream(images)), images);
  }
#endif
  if constexpr (!kCuda) {
    parallel_slices(to_uint8_cpu_slices(p), images.numel(),
                    [&](int64_t begin, int64_t end) { to_uint8_cpu(p, begin, end); });
  }
  return levels;
}

void check(const char* op, const Tensor& pixels, int64_t h, int64_t w,
           const std::optional<Tensor>& placement) {
  STD_TORCH_CHECK(
      pixels.dim() == 4 && pixels.scalar_type() == ScalarType::Byte && pixels.is_contiguous(), op,
      ": pixels must be contiguous uint8 [N, H, W, C]");
  STD_TORCH_CHECK(h >= 0 && h <= pixels.size(1) && w >= 0 && w <= pixels.size(2), op,
                  ": the crop must lie in the image");
  if (!placement.has_value()) return;
  STD_TORCH_CHECK(shape_of(*placement) == Shape({pixels.size(0), 3}) &&
                      placement->scalar_type() == ScalarType::Int && placement->is_contiguous() &&
                      placement->device() == pixels.device(),
                  op, ": placement must be contiguous int32 [N, 3] on the device of pixels");
}

template <bool kCuda>
Tensor from_uint8(const Tensor& pixels, int64_t h, int64_t w,
                  const std::optional<Tensor>& placement, ScalarType dtype, bool channels_last) {
  constexpr const char* kOp = "from_uint8";
  check(kOp, pixels, h, w, placement);
  FromUint8Params p{};
  p.dtype = dtype_of(kOp, dtype);
  p.n = pixels.size(0), p.height = pixels.size(1), p.width = pixels.size(2), p.c = pixels.size(3);
  p.h = h, p.w = w;
  p.inner = channels_last ? p.c : 1;
  const Tensor y =
      empty_like(pixels, {p.n, p.c, h, w}, dtype, channels_last ? Layout::kNHWC : Layout::kNCHW);
  p.pixels = static_cast<const uint8_t*>(pixels.const_data_ptr());
  if (placement.has_value()) p.placement = static_cast<const int32_t*>(placement->const_data_ptr());
  p.y = y.mutable_data_ptr();
  if (y.numel() == 0) return y;
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(pixels.get_device_index());
    check_status(kOp, from_uint8_cuda(p, current_stream(pixels)), pixels);
  }
#endif
  if constexpr (!kCuda) {
    parallel_slices(from_uint8_cpu_slices(p), y.numel(),
                    [&](int64_t begin, int64_t end) { from_uint8_cpu(p, begin, end); });
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def("to_uint8(Tensor images, bool tanh) -> Tensor");
  m.def(
      "from_uint8(Tensor pixels, int h, int w, Tensor? placement, ScalarType dtype, bool "
      "channels_last) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("to_uint8", TORCH_BOX(&to_uint8<false>));
  m.impl("from_uint8", TORCH_BOX(&from_uint8<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("to_uint8", TORCH_BOX(&to_uint8<true>));
  m.impl("from_uint8", TORCH_BOX(&from_uint8<true>));
}
#endif

}  // namespace cyclegan_fast
