#include "kernels/cuda/read.h"

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

// Four 16-byte loads a thread under way.
__global__ void __launch_bounds__(512) read(int64_t count, const uint4* from, float* sink) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  uint32_t seen = 0;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(from + i + j * step);
#pragma unroll
    for (int j = 0; j < 4; ++j) seen ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < count; i += step) seen ^= from[i].x;
  if (seen == 0x9e3779b9U) *sink = 1;
}

}  // namespace

void read_all(int64_t bytes, const std::byte* from, float* sink, const Launch& how) {
  launch("read", read, dim3(static_cast<unsigned>(4 * how.blocks)), 512, 0, how, 1, bytes / 16,
         reinterpret_cast<const uint4*>(from), sink);
}

cudaError_t kernels_fit() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, read);
  static_cast<void>(cudaGetLastError());
  return error;
}

}  // namespace helix::cuda
