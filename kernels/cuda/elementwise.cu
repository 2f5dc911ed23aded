// Norms, rotation, gates: one block a row for the norm, one thread eight values (norm, gate) or one
// pair (rotation) otherwise. They take a microsecond whatever they do; what counts is that they are
// dependent launches, and few.
#include "kernels/cuda/elementwise.h"

#include <cassert>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int norm_threads = 1024;
constexpr int norm_vectors = 2;  // of 8 values a thread: widths up to 16384

// hidden, y, out: [rows][width]; w: [width]. The sum of squares goes over a thread's vectors, the
// lanes of a warp, the warps, in a fixed tree.
template <class Weight, class Activation>
__global__ void __launch_bounds__(norm_threads)
    add_norm(int width, Activation* hidden, const Activation* y, const Weight* w, float eps,
             Activation* out) {
  __shared__ float of_warps[32];
  const int64_t row = int64_t{blockIdx.x} * width;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  release_next();
  float gains[norm_vectors][8];
#pragma unroll
  for (int v = 0; v < norm_vectors; ++v) {
    const int i = (static_cast<int>(threadIdx.x) + v * norm_threads) * 8;
    if (i < width) load8(w + i, gains[v]);
  }
  wait_for_previous();
  float values[norm_vectors][8];
  float squares = 0;
#pragma unroll
  for (int v = 0; v < norm_vectors; ++v) {
    const int i = (static_cast<int>(threadIdx.x) + v * norm_threads) * 8;
    if (i >= width) break;
    load8(hidden + row + i, values[v]);
    if (y != nullptr) {
      float added[8];
      load8(y + row + i, added);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        values[v][j] = to_float(from_float<Activation>(values[v][j] + added[j]));
      }
      store8(values[v], hidden + row + i);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) squares += values[v][j] * values[v][j];
  }
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0U, squares, step);
  if (lane == 0) of_warps[threadIdx.x >> 5] = squares;
  __syncthreads();
  squares = of_warps[lane];
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0U, squares, step);
  const float scale = rsqrtf(squares / static_cast<float>(width) + eps);
#pragma unroll
  for (int v = 0; v < norm_vectors; ++v) {
    const int i = (static_cast<int>(threadIdx.x) + v * norm_threads) * 8;
    if (i >= width) break;
#pragma unroll
    for (int j = 0; j < 8; ++j) values[v][j] = values[v][j] * scale * gains[v][j];
    store8(values[v], out + row + i);
  }
}

// x, out: [rows][heads][size]. Threads [0, size - 2 pairs) of a head copy, the others rotate.
template <class Activation>
__global__ void rotate(RopeShape shape, const float* cosines, const float* sines,
                       const Activation* x, Activation* out) {
  release_next();
  wait_for_previous();
  const int64_t row = blockIdx.x / shape.heads;
  const int plain = shape.size - 2 * shape.pairs;
  x += int64_t{blockIdx.x} * shape.size;
  out += int64_t{blockIdx.x} * shape.size;
  for (int i = static_cast<int>(threadIdx.x); i < plain + shape.pairs; i += blockDim.x) {
    if (i < plain) {
      out[i] = x[i];
      continue;
    }
    const int pair = i - plain;
    const int left = plain + (shape.interleaved ? 2 * pair : pair);
    const int right = left + (shape.interleaved ? 1 : shape.pairs);
    const float a = to_float(x[left]);
    const float b = to_float(x[right]);
    const float cosine = cosines[row * shape.pairs + pair];
    const float sine = sines[row * shape.pairs + pair];
    out[left] = from_float<Activation>(a * cosine - b * sine);
    out[right] = from_float<Activation>(b * cosine + a * sine);
  }
}

// x: [rows][2][width], out: [rows][width].
template <class Activation>
__global__ void gate(int width, const Activation* x, Activation* out) {
  release_next();
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= width) return;
  const int64_t row = blockIdx.y;
  float gates[8], ups[8];
  load8(x + 2 * row * width + i, gates);
  load8(x + (2 * row + 1) * width + i, ups);
#pragma unroll
  for (int j = 0; j < 8; ++j) ups[j] *= gates[j] / (1 + expf(-gates[j]));
  store8(ups, out + row * width + i);
}

}  // namespace

template <class Weight, class Activation>
void add_rms_norm(int rows, int width, Activation* hidden, const Activation* y, const Weight* w,
                  float eps, Activation* out, const Launch& how) {
  assert(rows > 0 && width % 8 == 0 && width <= norm_threads * norm_vectors * 8);
  launch("add norm", add_norm<Weight, Activation>, dim3(static_cast<unsigned>(rows)), norm_threads,
         0, how, 1, width, hidden, y, w, eps, out);
}

template <class Activation>
void rope(const RopeShape& shape, const float* cosines, const float* sines, const Activation* x,
          Activation* out, const Launch& how) {
  assert(shape.rows > 0 && shape.heads > 0 && 2 * shape.pairs <= shape.size && x != out);
  launch("rope", rotate<Activation>, dim3(static_cast<unsigned>(shape.rows * shape.heads)), 64, 0,
         how, 1, shape, cosines, sines, x, out);
}

template <class Activation>
void swiglu(int rows, int width, const Activation* x, Activation* out, const Launch& how) {
  assert(rows > 0 && width % 8 == 0);
  const auto blocks = static_cast<unsigned>((width / 8 + 127) / 128);
  launch("swiglu", gate<Activation>, dim3(blocks, static_cast<unsigned>(rows)), 128, 0, how, 1,
         width, x, out);
}

template void add_rms_norm(int, int, float*, const float*, const float*, float, float*,
                           const Launch&);
template void add_rms_norm(int, int, bf16*, const bf16*, const bf16*, float, bf16*, const Launch&);
template void add_rms_norm(int, int, float*, const float*, const bf16*, float, float*,
                           const Launch&);
#define INSTANTIATE(Activation)                                                                    \
  template void rope(const RopeShape&, const float*, const float*, const Activation*, Activation*, \
                     const Launch&);                                                               \
  template void swiglu(int, int, const Activation*, Activation*, const Launch&);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE

}  // namespace helix::cuda
