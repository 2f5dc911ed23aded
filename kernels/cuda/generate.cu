// Values by (stream, index) alone, sixteen a thread (64-bit divisions cost more than the hashes):
// base/random.h and base/format.h are constexpr, and nvcc compiles the same functions for the
// device.
#include "kernels/cuda/generate.h"

#include <algorithm>
#include <cassert>

#include "base/random.h"
#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int at_once = 16;  // values a thread: a block of nvfp4

template <class T>
__device__ void store16(const float (&from)[at_once], const Values<T>& to) {
  if constexpr (std::is_same_v<T, nvfp4>) {
    alignas(8) uint8_t codes[8];
    encode(from, at_once, Values<nvfp4>(codes, to.scales, to.scale));
    *reinterpret_cast<uint2*>(to.codes) = *reinterpret_cast<const uint2*>(codes);
  } else if constexpr (std::is_same_v<T, fp8>) {
    alignas(16) fp8 codes[at_once];
    encode(from, at_once, Values<fp8>(codes, to.scale));
    *reinterpret_cast<uint4*>(to.data) = *reinterpret_cast<const uint4*>(codes);
  } else {
    store8(reinterpret_cast<const float(&)[8]>(from[0]), to.data);
    store8(reinterpret_cast<const float(&)[8]>(from[8]), to.data + 8);
  }
}

// Values of a format that is known at run time alone.
struct Target {
  void* data;
  fp8* scales;
  float scale;
  Format format;
  template <class T>
  __device__ Values<T> as() const {
    if constexpr (std::is_same_v<T, nvfp4>) return {static_cast<uint8_t*>(data), scales, scale};
    else return Values<T>(static_cast<T*>(data), scale);
  }
};
template <class T>
Target target(const Values<T>& out) {
  return {out.data, nullptr, out.scale,
          std::is_same_v<T, float>  ? Format::fp32
          : std::is_same_v<T, bf16> ? Format::bf16
                                    : Format::fp8};
}
Target target(const Values<nvfp4>& out) {
  return {out.codes, out.scales, out.scale, Format::nvfp4};
}

__global__ void fill(Draw draw, Drawn which, Target out) {
  release_next();
  wait_for_previous();
  const int64_t count = which.rows * which.width;
  const int64_t step = int64_t{at_once} * blockDim.x * gridDim.x;
  for (int64_t i = at_once * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x); i < count;
       i += step) {
    int64_t row = i / which.width;
    int64_t column = i % which.width;
    const auto index_of = [&](int64_t r) {
      return which.first + (r / which.run * which.jump + r % which.run) * which.stride;
    };
    int64_t first = index_of(row);
    float values[at_once];
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      const float uniform = uniform_at(draw.stream, static_cast<uint64_t>(first + column));
      values[j] = fmaf(uniform, draw.scale, draw.offset);
      if (++column == which.width) {
        column = 0;
        first = index_of(++row);
      }
    }
    with_stored(out.format, [&]<class T>(T*) {
      const Values<T> to = out.as<T>().at(i);
      if (i + at_once <= count) {
        store16(values, to);
      } else {
        encode(values, count - i, to);
      }
    });
  }
}

}  // namespace

template <class T>
void generate(const Draw& draw, const Drawn& which, const Values<T>& out, const Launch& how) {
  const int64_t count = which.rows * which.width;
  assert(which.run > 0 && (!std::is_same_v<T, nvfp4> || which.width % nvfp4_block == 0));
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((count + 4095) / 4096, 1 << 16));
  launch("generate", fill, dim3(blocks), 256, 0, how, 1, draw, which, target(out));
}

template void generate(const Draw&, const Drawn&, const Values<float>&, const Launch&);
template void generate(const Draw&, const Drawn&, const Values<bf16>&, const Launch&);
template void generate(const Draw&, const Drawn&, const Values<fp8>&, const Launch&);
template void generate(const Draw&, const Drawn&, const Values<nvfp4>&, const Launch&);

}  // namespace helix::cuda
