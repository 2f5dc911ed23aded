// Norms, rotation, gates, sums, choices: one block a row for the norm of hidden states, one thread
// eight values (norm, gate) or one pair (rotation) otherwise. They take a microsecond whatever they
// do; what counts is that they are dependent launches, and few. One kernel for both formats of
// activations, but for the norm of hidden states.
#include "kernels/cuda/elementwise.h"

#include <algorithm>
#include <cassert>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int norm_threads = 1024;
constexpr int norm_vectors = 2;  // of 8 values a thread
constexpr int widest_row = norm_threads * norm_vectors * 8;

// hidden, y, out: [rows][width]; w: [width]. Without y hidden is only read. The sum of squares goes
// over a thread's vectors, the lanes of a warp, the warps, in a fixed tree.
template <class Activation>
__global__ void __launch_bounds__(norm_threads)
    add_norm(int width, Activation* hidden, const Activation* y, Stored w, float eps,
             Activation* out) {
  __shared__ float of_warps[32];
  const int64_t row = int64_t{blockIdx.x} * width;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  release_next();
  float gains[norm_vectors][8];
#pragma unroll
  for (int v = 0; v < norm_vectors; ++v) {
    const int i = (static_cast<int>(threadIdx.x) + v * norm_threads) * 8;
    if (i < width) load8(w, i, gains[v]);
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

constexpr int warps = 8;

// A warp a vector.
__global__ void __launch_bounds__(32 * warps)
    norm_heads(Format format, NormShape shape, const void* from, Stored w, float eps, void* to) {
  with_type(format, [&]<class Activation>(Activation*) {
    const Activation* x = static_cast<const Activation*>(from);
    Activation* out = static_cast<Activation*>(to);
    release_next();
    wait_for_previous();
    const int vector = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) & 31;
    if (vector >= shape.rows * shape.each) return;
    const int64_t row = vector / shape.each;
    const int64_t at = int64_t{vector % shape.each} * shape.width;
    x += row * shape.x_stride + at;
    out += row * shape.out_stride + at;
    float squares = 0;
    for (int i = lane; i < shape.width; i += 32) squares += to_float(x[i]) * to_float(x[i]);
    for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0U, squares, step);
    const float scale = rsqrtf(squares / static_cast<float>(shape.width) + eps);
    for (int i = lane; i < shape.width; i += 32) {
      out[i] = from_float<Activation>(to_float(x[i]) * scale * plain_at(w, i));
    }
  });
}

__global__ void turn(int rows, int pairs, const int64_t* positions, const double* frequencies,
                     float* out) {
  release_next();
  wait_for_previous();
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < rows * pairs;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    const int row = i / pairs;
    const int pair = i % pairs;
    double sine, cosine;
    sincos(static_cast<double>(positions[row]) * frequencies[pair], &sine, &cosine);
    out[2 * row * pairs + pair] = static_cast<float>(cosine);
    out[(2 * row + 1) * pairs + pair] = static_cast<float>(sine);
  }
}

// Threads [0, size - 2 pairs) of a head copy, the others rotate; each value is its thread's alone.
__global__ void rotate(Format format, RopeShape shape, const float* angles, const void* from,
                       void* to) {
  with_type(format, [&]<class Activation>(Activation*) {
    const Activation* x = static_cast<const Activation*>(from);
    Activation* out = static_cast<Activation*>(to);
    release_next();
    wait_for_previous();
    const int64_t row = blockIdx.x / shape.heads;
    const int64_t at = row * shape.stride + int64_t{blockIdx.x % shape.heads} * shape.size;
    const int plain = shape.size - 2 * shape.pairs;
    const float* const cosines = angles + 2 * row * shape.pairs;
    const float* const sines = cosines + shape.pairs;
    x += at;
    out += at;
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
      const float cosine = cosines[pair];
      const float sine = sines[pair];
      out[left] = from_float<Activation>(a * cosine - b * sine);
      out[right] = from_float<Activation>(b * cosine + a * sine);
    }
  });
}

// x: [rows][2][width], out: [rows][width]. `each` values a thread: eight where rows begin at
// multiples of eight, one otherwise.
__global__ void gate(Format format, int each, int width, const int32_t* rows_there,
                     const void* from, void* to) {
  with_type(format, [&]<class Activation>(Activation*) {
    const Activation* x = static_cast<const Activation*>(from);
    Activation* out = static_cast<Activation*>(to);
    release_next();
    wait_for_previous();
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * each;
    const int64_t row = blockIdx.y;
    if (i >= width || (rows_there != nullptr && row >= *rows_there)) return;
    const Activation* const gates = x + 2 * row * width + i;
    const auto gated = [](float g, float up) { return up * (g / (1 + expf(-g))); };
    if (each == 8) {
      float g[8], up[8];
      load8(gates, g);
      load8(gates + width, up);
#pragma unroll
      for (int j = 0; j < 8; ++j) up[j] = gated(g[j], up[j]);
      store8(up, out + row * width + i);
    } else {
      out[row * width + i] =
          from_float<Activation>(gated(to_float(*gates), to_float(gates[width])));
    }
  });
}

// The first part stands anywhere, the others one after another.
__global__ void sum(Format format, int parts, int64_t count, const void* one, const void* more,
                    int64_t stride, void* to) {
  with_type(format, [&]<class Activation>(Activation*) {
    const Activation* first = static_cast<const Activation*>(one);
    const Activation* others = static_cast<const Activation*>(more);
    Activation* out = static_cast<Activation*>(to);
    release_next();
    wait_for_previous();
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
         i += int64_t{gridDim.x} * blockDim.x) {
      float total = to_float(first[i]);
      for (int part = 1; part < parts; ++part) total += to_float(others[(part - 1) * stride + i]);
      out[i] = from_float<Activation>(total);
    }
  });
}

__global__ void look_up(Format format, int64_t first, int64_t count, int width,
                        const int32_t* tokens, Stored table, void* to) {
  with_type(format, [&]<class Activation>(Activation*) {
    Activation* out = static_cast<Activation*>(to);
    release_next();
    wait_for_previous();
    const int64_t row = blockIdx.x;
    const int64_t word = tokens[row] - first;
    const bool mine = word >= 0 && word < count;
    for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
      out[row * width + i] =
          from_float<Activation>(mine ? plain_at(table, word * width + i) : 0.0F);
    }
  });
}

__device__ bool better(const Best& a, const Best& b) {
  const bool a_nan = a.value != a.value;
  const bool b_nan = b.value != b.value;
  if (a_nan != b_nan) return a_nan;
  if (a_nan || a.value == b.value) return a.index < b.index;
  return a.value > b.value;
}
__device__ Best best_of_warp(Best best) {
  for (int step = 16; step > 0; step /= 2) {
    const Best other{__shfl_xor_sync(~0U, best.value, step),
                     __shfl_xor_sync(~0U, best.index, step)};
    if (better(other, best)) best = other;
  }
  return best;
}

__global__ void __launch_bounds__(1024)
    pick_best(int width, int first_index, Stored logits, Best* best) {
  __shared__ Best of_warps[32];
  release_next();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  Best mine{-INFINITY, first_index};
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    const Best other{plain_at(logits, row * width + i), first_index + i};
    if (better(other, mine)) mine = other;
  }
  mine = best_of_warp(mine);
  if ((threadIdx.x & 31) == 0) of_warps[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  mine = best_of_warp(of_warps[threadIdx.x]);
  if (threadIdx.x == 0) best[row] = mine;
}

unsigned blocks_for(int64_t threads, int each) {
  return static_cast<unsigned>(std::min<int64_t>((threads + each - 1) / each, 1 << 16));
}

}  // namespace

template <class Activation>
void add_rms_norm(int rows, int width, Activation* hidden, const Activation* y, const Stored& w,
                  float eps, Activation* out, const Launch& how) {
  assert(rows > 0 && width % 8 == 0 && width <= widest_row);
  launch("add norm", add_norm<Activation>, dim3(static_cast<unsigned>(rows)), norm_threads, 0, how,
         1, width, hidden, y, w, eps, out);
}

template <class Activation>
void rms_norm(const NormShape& shape, const Activation* x, const Stored& w, float eps,
              Activation* out, const Launch& how) {
  const int width = shape.width;
  if (width >= norm_threads && width % 8 == 0 && width <= widest_row && shape.x_stride == width &&
      shape.out_stride == width)  // a block a row
    return add_rms_norm<Activation>(shape.rows, width, const_cast<Activation*>(x), nullptr, w, eps,
                                    out, how);
  const auto blocks = static_cast<unsigned>((shape.rows * shape.each + warps - 1) / warps);
  launch("norm", norm_heads, dim3(blocks), 32 * warps, 0, how, 1, format_of<Activation>, shape, x,
         w, eps, out);
}

void angles(int rows, int pairs, const int64_t* positions, const double* frequencies, float* out,
            const Launch& how) {
  launch("angles", turn, dim3(blocks_for(int64_t{rows} * pairs, 64)), 64, 0, how, 1, rows, pairs,
         positions, frequencies, out);
}

template <class Activation>
void rope(const RopeShape& shape, const float* angles, const Activation* x, Activation* out,
          const Launch& how) {
  assert(shape.rows > 0 && shape.heads > 0 && 2 * shape.pairs <= shape.size);
  assert(shape.stride >= int64_t{shape.heads} * shape.size);
  launch("rope", rotate, dim3(static_cast<unsigned>(shape.rows * shape.heads)), 64, 0, how, 1,
         format_of<Activation>, shape, angles, x, out);
}

template <class Activation>
void swiglu(int rows, int width, const int32_t* rows_there, const Activation* x, Activation* out,
            const Launch& how) {
  assert(rows > 0 && width > 0);
  const int each = width % 8 == 0 ? 8 : 1;
  const dim3 grid(static_cast<unsigned>((width / each + 127) / 128), static_cast<unsigned>(rows));
  launch("swiglu", gate, grid, 128, 0, how, 1, format_of<Activation>, each, width, rows_there, x,
         out);
}

template <class Activation>
void sum_in_order(int parts, int64_t count, int64_t stride, const Activation* from, Activation* out,
                  const Launch& how) {
  if (count == 0) return;
  launch("sum in order", sum, dim3(blocks_for(count, 256)), 256, 0, how, 1, format_of<Activation>,
         parts, count, from, from + stride, stride, out);
}

template <class Activation>
void add(int64_t count, Activation* to, const Activation* from, const Launch& how) {
  launch("add", sum, dim3(blocks_for(count, 256)), 256, 0, how, 1, format_of<Activation>, 2, count,
         to, from, 0, to);
}

template <class Activation>
void embed(int rows, int64_t first, int64_t count, int width, const int32_t* tokens,
           const Stored& table, Activation* out, const Launch& how) {
  launch("embed", look_up, dim3(static_cast<unsigned>(rows)), 256, 0, how, 1, format_of<Activation>,
         first, count, width, tokens, table, out);
}

void pick(int rows, int width, int first_index, const Stored& logits, Best* best,
          const Launch& how) {
  launch("pick", pick_best, dim3(static_cast<unsigned>(rows)), 1024, 0, how, 1, width, first_index,
         logits, best);
}

#define INSTANTIATE(Activation)                                                                  \
  template void add_rms_norm(int, int, Activation*, const Activation*, const Stored&, float,     \
                             Activation*, const Launch&);                                        \
  template void rms_norm(const NormShape&, const Activation*, const Stored&, float, Activation*, \
                         const Launch&);                                                         \
  template void rope(const RopeShape&, const float*, const Activation*, Activation*,             \
                     const Launch&);                                                             \
  template void swiglu(int, int, const int32_t*, const Activation*, Activation*, const Launch&); \
  template void sum_in_order(int, int64_t, int64_t, const Activation*, Activation*,              \
                             const Launch&);                                                     \
  template void add(int64_t, Activation*, const Activation*, const Launch&);                     \
  template void embed(int, int64_t, int64_t, int, const int32_t*, const Stored&, Activation*,    \
                      const Launch&);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE

}  // namespace helix::cuda
