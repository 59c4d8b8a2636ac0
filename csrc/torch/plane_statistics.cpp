// Binding of plane_statistics: check, fill the parameters, allocate, launch. See
// csrc/kernels/plane_statistics.h.
#include "plane_statistics.h"

#ifdef CYCLEGAN_FAST_WITH_CUDA
#include "cuda/device_properties.h"
#endif
#include "tensors.h"

namespace cyclegan_fast {
namespace {

constexpr const char* kOp = "plane_statistics";

template <bool kCuda>
void run(PlaneStatisticsParams& p, const Tensor& x) {
#ifdef CYCLEGAN_FAST_WITH_CUDA
  if constexpr (kCuda) {
    const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
    const PlaneStatisticsPlan plan = plan_of(p, current_device_properties());
    const Tensor workspace = empty_bytes(x, plan.workspace_bytes);
    p.workspace = workspace.mutable_data_ptr();
    check_status(kOp, plane_statistics_cuda(p, plan, current_stream(x)), x);
  }
#endif
  if constexpr (!kCuda) {
    parallel_slices(plane_statistics_cpu_slices(p.n, p.c, p.dtype, p.layout), p.n * p.c * p.h * p.w,
                    [&](int64_t begin, int64_t end) { plane_statistics_cpu(p, begin, end); });
  }
}

template <bool kCuda>
Tensor plane_statistics(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(2) * x.size(3) > 0,
                  "plane_statistics: x must have shape [N, C, H, W] with H and W above 0, got ",
                  to_string(shape_of(x)));
  PlaneStatisticsParams p{};
  p.n = x.size(0), p.c = x.size(1), p.h = x.size(2), p.w = x.size(3);
  p.dtype = dtype_of(kOp, x.scalar_type());
  p.layout = layout_of(kOp, "x", x);
  const Tensor statistics = empty_like(x, {3, p.n, p.c}, stat_type_of(p.dtype), Layout::kNCHW);
  p.x = x.const_data_ptr(), p.statistics = statistics.mutable_data_ptr();
  if (p.n * p.c > 0) run<kCuda>(p, x);
  return statistics;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(cyclegan_fast, m) { m.def("plane_statistics(Tensor x) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CPU, m) {
  m.impl("plane_statistics", TORCH_BOX(&plane_statistics<false>));
}

#ifdef CYCLEGAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(cyclegan_fast, CUDA, m) {
  m.impl("plane_statistics", TORCH_BOX(&plane_statistics<true>));
}
#endif

}  // namespace cyclegan_fast
