// Binding of image_pool: check, fill the parameters, allocate, launch. See
// csrc/kernels/image_pool.h.
//
// Fakes in another layout than the pool are copied into that of the pool, which is returned as
// well.
#include "image_pool.h"

#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "image_pool_exchange";

int64_t* scalar_of(const char* name, const Tensor& t, const Tensor& pool) {
  STD_TORCH_CHECK(
      t.numel() == 1 && t.scalar_type() == ScalarType::Long && t.device() == pool.device(),
      "image_pool_exchange: ", name, " must be one int64 on the device of the pool");
  return static_cast<int64_t*>(t.mutable_data_ptr());
}

// [N, C, H, W] of the fakes: the images of the pool, as many as are offered.
Shape offered_shape(const Tensor& pool, const Tensor& fakes) {
  STD_TORCH_CHECK(pool.dim() > 0 && fakes.dim() > 0 && pool.size(0) > 0,
                  "image_pool_exchange: the pool must have a slot and the fakes a batch axis");
  Shape shape = shape_of(pool);
  shape[0] = fakes.size(0);
  return shape;
}

template <bool kCuda>
void run(ImagePoolParams& p, const Tensor& pool) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(pool.get_device_index());
    const ImagePoolPlan plan = plan_of(p);
    const Tensor workspace = empty_bytes(pool, plan.workspace_bytes);
    p.workspace = workspace.mutable_data_ptr();
    check_status(kOp, image_pool_exchange_cuda(p, plan, current_stream(pool)), pool);
  }
#endif
  if constexpr (!kCuda) {
    const int64_t slices = image_pool_cpu_slices(p), elements = p.n * p.elements;
    const Tensor workspace = empty_bytes(pool, image_pool_cpu_workspace_bytes(p));
    p.workspace = workspace.mutable_data_ptr();
    parallel_slices(p.n * slices, elements,
                    [&](int64_t begin, int64_t end) { image_pool_check_cpu(p, begin, end); });
    image_pool_decide_cpu(p);
    parallel_slices(slices, elements,
                    [&](int64_t begin, int64_t end) { image_pool_copy_cpu(p, begin, end); });
  }
}

template <bool kCuda>
Tensor exchange(const Tensor& pool, const Tensor& count, const Tensor& drawn, const Tensor& fakes,
                int64_t seed) {
  ImagePoolParams p{};
  const Shape shape = offered_shape(pool, fakes);
  const Layout layout = layout_of(kOp, "pool", pool);
  check_like(kOp, "fakes", fakes, shape, pool);
  p.dtype = dtype_of(kOp, pool.scalar_type());
  p.size = pool.size(0), p.n = shape[0], p.elements = pool.numel() / p.size;
  p.count = scalar_of("count", count, pool), p.drawn = scalar_of("drawn", drawn, pool);
  p.seed = static_cast<uint64_t>(seed);
  const Tensor offered = in_layout(fakes, layout);
  const Tensor returned = empty_like(pool, shape, pool.scalar_type(), layout);
  p.pool = pool.mutable_data_ptr(), p.fakes = offered.const_data_ptr();
  p.returned = returned.mutable_data_ptr();
  run<kCuda>(p, pool);
  return returned;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) {
  m.def(
      "image_pool_exchange(Tensor(a!) pool, Tensor(b!) count, Tensor(c!) drawn, Tensor fakes, "
      "int seed) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("image_pool_exchange", TORCH_BOX(&exchange<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("image_pool_exchange", TORCH_BOX(&exchange<true>));
}
#endif

}  // namespace cyclegan_fast
