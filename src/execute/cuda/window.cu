#include "execute/cuda/window.h"

#include "kernels/cuda/check.h"

#if __has_include(<nccl_device.h>)
#include <nccl.h>
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <nccl_device.h>
#pragma GCC diagnostic pop

namespace helix::cuda {

namespace {
__global__ void tell_bases(ncclWindow_t window, int count, std::byte** bases) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    bases[i] = static_cast<std::byte*>(ncclGetLsaPointer(window, 0, i));
}
}  // namespace

void window_bases(void* window, int count, std::byte** bases) {
  tell_bases<<<1, 32>>>(static_cast<ncclWindow_t>(window), count, bases);
  HELIX_CUDA(cudaGetLastError());
}

}  // namespace helix::cuda

#else

namespace helix::cuda {
void window_bases(void*, int, std::byte**) {
  throw RunError("NCCL's windows: this program is built without NCCL 2.28");
}
}  // namespace helix::cuda

#endif
