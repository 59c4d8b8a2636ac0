#include "tensors.h"

// Weak: absent from a torch without CUDA, where no CUDA tensor can ask for it.
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream)
    __attribute__((weak));

namespace cyclegan_fast {

Stream current_stream(const Tensor& t) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "cyclegan_fast: this torch has no CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return stream;
}

}  // namespace cyclegan_fast
