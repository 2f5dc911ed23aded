// Values by (stream, index) alone, one thread a value: base/random.h is constexpr, and nvcc compiles
// the same functions for the device.
#include "kernels/cuda/generate.h"

#include <algorithm>
#include <cassert>

#include "base/random.h"
#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

template <class T>
__global__ void fill(Draw draw, Drawn which, T* out) {
  release_next();
  wait_for_previous();
  const int64_t step = int64_t{blockDim.x} * gridDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < which.rows * which.width;
       i += step) {
    const int64_t row = i / which.width;
    const int64_t index = which.first + i % which.width +
                          (row / which.run * which.jump + row % which.run) * which.stride;
    const float uniform = uniform_at(draw.stream, static_cast<uint64_t>(index));
    out[i] = from_float<T>(fmaf(uniform, draw.scale, draw.offset));
  }
}

}  // namespace

template <class T>
void generate(const Draw& draw, const Drawn& which, T* out, const Launch& how) {
  const int64_t count = which.rows * which.width;
  assert(which.run > 0);
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((count + 255) / 256, 1 << 16));
  launch("generate", fill<T>, dim3(blocks), 256, 0, how, draw, which, out);
}

template void generate(const Draw&, const Drawn&, float*, const Launch&);
template void generate(const Draw&, const Drawn&, bf16*, const Launch&);

}  // namespace helix::cuda
