// A warp an output: its lanes share the contraction, and eight rows of x share a row of w.
#include "kernels/cuda/plain.h"

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = 8;
constexpr int threads = 32 * warps;
constexpr int rows_at_once = 8;

// sums[r] = x[r] w over `inputs`, on all lanes; rows beyond `rows` repeat the last.
template <class Weight, class Activation>
__device__ void dots(float (&sums)[rows_at_once], int rows, int inputs, const Activation* x,
                     int64_t x_stride, const Values<const Weight>& w, int lane) {
#pragma unroll
  for (int r = 0; r < rows_at_once; ++r) sums[r] = 0;
  for (int k = lane; k < inputs; k += 32) {
    const float weight = value_at(w, k);
#pragma unroll
    for (int r = 0; r < rows_at_once; ++r) {
      sums[r] += weight * to_float(x[min(r, rows - 1) * x_stride + k]);
    }
  }
#pragma unroll
  for (int r = 0; r < rows_at_once; ++r) {
    for (int step = 16; step > 0; step /= 2) sums[r] += __shfl_xor_sync(~0U, sums[r], step);
  }
}

template <class Activation>
__device__ void dots(float (&sums)[rows_at_once], int rows, int inputs, const Activation* x,
                     int64_t x_stride, const Stored& w, int64_t first, int lane) {
  with_stored(w.format, [&]<class Weight>(Weight*) {
    dots(sums, rows, inputs, x, x_stride, w.as<Weight>().at(first), lane);
  });
}

template <class Activation>
__global__ void __launch_bounds__(threads)
    multiply(ProductShape shape, const Activation* x, Stored w, Activation* y) {
  release_next();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int output = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  if (output >= shape.outputs) return;
  const int first = static_cast<int>(blockIdx.y) * rows_at_once;
  const int rows = min(rows_at_once, shape.rows - first);
  float sums[rows_at_once];
  dots(sums, rows, shape.inputs, x + first * shape.x_stride, shape.x_stride, w,
       int64_t{output} * shape.inputs, lane);
#pragma unroll
  for (int r = 0; r < rows_at_once; ++r) {
    if (lane == 0 && r < rows) {
      y[(first + r) * shape.y_stride + output] = from_float<Activation>(sums[r]);
    }
  }
}

// Warps of one head take its outputs in turn, from `begin` on, then what is only carried along.
template <class Activation>
__global__ void __launch_bounds__(threads)
    multiply_heads(PerHeadShape shape, int begin, const Activation* x, Stored w, std::byte* y) {
  release_next();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int n = begin + static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  const int head = static_cast<int>(blockIdx.y);
  if (n >= shape.y_size) return;
  std::byte* const message = y + head / shape.part_heads * shape.part_bytes;
  const auto vector = [&](int row) {
    return int64_t{row} * shape.part_heads + head % shape.part_heads;
  };
  const int64_t x_stride = int64_t{shape.heads} * shape.x_size;
  x += int64_t{head} * shape.x_size;
  for (int first = 0; first < shape.rows; first += rows_at_once) {
    const int rows = min(rows_at_once, shape.rows - first);
    float sums[rows_at_once];
    if (n < shape.made) {
      dots(sums, rows, shape.inputs, x + first * x_stride, x_stride, w,
           (int64_t{head} * shape.made + n) * shape.inputs, lane);
    }
#pragma unroll
    for (int r = 0; r < rows_at_once; ++r) {
      if (lane > 0 || r >= rows) continue;
      const int row = first + r;
      const float value =
          n < shape.made ? sums[r] : to_float(x[row * x_stride + shape.inputs + n - shape.made]);
      reinterpret_cast<Activation*>(message)[vector(row) * shape.y_size + n] =
          from_float<Activation>(value);
      if (n == 0 && shape.lses != nullptr) {
        reinterpret_cast<float*>(message + shape.outputs_bytes)[vector(row)] =
            shape.lses[int64_t{row} * shape.heads + head];
      }
    }
  }
}

// A warp a (row, head).
template <class Activation>
__global__ void __launch_bounds__(threads)
    rescale(cpu::PartialLayout part, int parts, const std::byte* message, const float* lses,
            Activation* out) {
  release_next();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t vectors = part.rows * part.heads;
  const int64_t vector = int64_t{blockIdx.x} * warps + static_cast<int>(threadIdx.x) / 32;
  if (vector >= vectors) return;
  const float own = *reinterpret_cast<const float*>(message + part.lse_offset(0, vector));
  float max = -INFINITY;
  for (int p = 0; p < parts; ++p) max = fmaxf(max, lses[p * vectors + vector]);
  float total = 0;  // NaN and +inf come through: inf - inf is NaN
  for (int p = 0; p < parts; ++p) {
    const float lse = lses[p * vectors + vector];
    total += lse == -INFINITY ? 0 : expf(lse - max);
  }
  const bool empty = own == -INFINITY;
  const float share = empty ? 0 : expf(own - max) / total;
  const auto* const from =
      reinterpret_cast<const Activation*>(message + part.output_offset(0, vector));
  for (int d = lane; d < part.value_size; d += 32) {
    out[vector * part.value_size + d] =
        from_float<Activation>(empty ? 0 : to_float(from[d]) * share);
  }
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// By tensor cores; false where they do not serve.
template <class Weight>
bool multiply_tiles(const ProductShape& shape, const bf16* x, const Stored& w, bf16* y,
                    const Launch& how) {
  if (!served<Weight>(shape) || !aligned(x) || !aligned(w.base) || shape.x_stride % 8 != 0)
    return false;
  product(shape, x, w.as<Weight>(), y, how);
  return true;
}
bool by_tiles(const ProductShape& shape, const bf16* x, const Stored& w, bf16* y,
              const Launch& how) {
  switch (w.format) {
    case Format::bf16: return multiply_tiles<bf16>(shape, x, w, y, how);
    case Format::fp8: return multiply_tiles<fp8>(shape, x, w, y, how);
    case Format::nvfp4: return multiply_tiles<nvfp4>(shape, x, w, y, how);
    default: return false;
  }
}
bool by_tiles(const ProductShape&, const float*, const Stored&, float*, const Launch&) {
  return false;
}

// By tensor cores, where all heads stand in one part; not what is only carried along.
template <class Weight>
bool heads_by_tiles(const PerHeadShape& shape, const bf16* x, const Stored& w, std::byte* y,
                    const Launch& how) {
  const ProductShape one{.rows = shape.rows,
                         .outputs = shape.made,
                         .inputs = shape.inputs,
                         .x_stride = shape.x_size,
                         .y_stride = shape.y_size};
  const bool together = shape.part_heads == shape.heads && shape.lses == nullptr;
  if (!together || !served<Weight>(one) || !aligned(x) || !aligned(w.base) || shape.x_size % 8 != 0)
    return false;
  experts_product(one, {.count = shape.heads, .rows_each = shape.rows}, x, w.as<Weight>(),
                  reinterpret_cast<bf16*>(y), how);
  return true;
}
bool heads_by_tiles(const PerHeadShape& shape, const bf16* x, const Stored& w, std::byte* y,
                    const Launch& how) {
  switch (w.format) {
    case Format::bf16: return heads_by_tiles<bf16>(shape, x, w, y, how);
    case Format::fp8: return heads_by_tiles<fp8>(shape, x, w, y, how);
    case Format::nvfp4: return heads_by_tiles<nvfp4>(shape, x, w, y, how);
    default: return false;
  }
}
bool heads_by_tiles(const PerHeadShape&, const float*, const Stored&, std::byte*, const Launch&) {
  return false;
}

}  // namespace

template <class Activation>
void any_product(const ProductShape& shape, const Activation* x, const Stored& w, Activation* y,
                 const Launch& how) {
  if (shape.rows == 0 || shape.outputs == 0 || by_tiles(shape, x, w, y, how)) return;
  const dim3 grid(static_cast<unsigned>((shape.outputs + warps - 1) / warps),
                  static_cast<unsigned>((shape.rows + rows_at_once - 1) / rows_at_once));
  launch("plain product", multiply<Activation>, grid, threads, 0, how, 1, shape, x, w, y);
}

template <class Activation>
void per_head(const PerHeadShape& shape, const Activation* x, const Stored& w, std::byte* y,
              const Launch& how) {
  assert(shape.heads % shape.part_heads == 0 && shape.made <= shape.y_size);
  const int begin = heads_by_tiles(shape, x, w, y, how) ? shape.made : 0;
  if (begin == shape.y_size) return;
  const dim3 grid(static_cast<unsigned>((shape.y_size - begin + warps - 1) / warps),
                  static_cast<unsigned>(shape.heads));
  launch("per head", multiply_heads<Activation>, grid, threads, 0, how, 1, shape, begin, x, w, y);
}

template <class Activation>
void rescale_partial(const cpu::PartialLayout& part, int parts, const std::byte* message,
                     const float* lses, Activation* out, const Launch& how) {
  const int64_t vectors = part.rows * part.heads;
  if (vectors == 0) return;
  launch("rescale", rescale<Activation>, dim3(static_cast<unsigned>((vectors + warps - 1) / warps)),
         threads, 0, how, 1, part, parts, message, lses, out);
}

#define INSTANTIATE(Activation)                                                                 \
  template void any_product(const ProductShape&, const Activation*, const Stored&, Activation*, \
                            const Launch&);                                                     \
  template void per_head(const PerHeadShape&, const Activation*, const Stored&, std::byte*,     \
                         const Launch&);                                                        \
  template void rescale_partial(const cpu::PartialLayout&, int, const std::byte*, const float*, \
                                Activation*, const Launch&);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE

}  // namespace helix::cuda
