// Values by (stream, index) alone, eight a thread (64-bit divisions cost more than the hashes):
// base/random.h is constexpr, and nvcc compiles the same functions for the device.
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
  const int64_t count = which.rows * which.width;
  const int64_t step = int64_t{8} * blockDim.x * gridDim.x;
  for (int64_t i = 8 * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x); i < count; i += step) {
    int64_t row = i / which.width;
    int64_t column = i % which.width;
    const auto index_of = [&](int64_t r) {
      return which.first + (r / which.run * which.jump + r % which.run) * which.stride;
    };
    int64_t first = index_of(row);
    float values[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float uniform = uniform_at(draw.stream, static_cast<uint64_t>(first + column));
      values[j] = fmaf(uniform, draw.scale, draw.offset);
      if (++column == which.width) {
        column = 0;
        first = index_of(++row);
      }
    }
    if (i + 8 <= count) {
      store8(values, out + i);
    } else {
      for (int64_t j = i; j < count; ++j) out[j] = from_float<T>(values[j - i]);
    }
  }
}

}  // namespace

template <class T>
void generate(const Draw& draw, const Drawn& which, T* out, const Launch& how) {
  const int64_t count = which.rows * which.width;
  assert(which.run > 0);
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((count + 2047) / 2048, 1 << 16));
  launch("generate", fill<T>, dim3(blocks), 256, 0, how, 1, draw, which, out);
}

template void generate(const Draw&, const Drawn&, float*, const Launch&);
template void generate(const Draw&, const Drawn&, bf16*, const Launch&);

}  // namespace helix::cuda
