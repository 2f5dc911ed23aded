// A warp an output: its lanes share the contraction, and eight rows of x share a row of w.
#include "kernels/cuda/plain.h"

#include <algorithm>
#include <cassert>
#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/product_jobs.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = 8;
constexpr int threads = 32 * warps;
constexpr int rows_at_once = 8;

// sums[r] = x[r] w over `inputs`, on all lanes; x(r) is where row r stands. Rows beyond `rows`
// repeat the last.
template <class X>
__device__ void dots(float (&sums)[rows_at_once], int rows, int inputs, X&& x, const Stored& w,
                     int64_t first, int lane) {
#pragma unroll
  for (int r = 0; r < rows_at_once; ++r) sums[r] = 0;
  with_stored(w.format, [&]<class Weight>(Weight*) {
    const auto mine = w.as<Weight>().at(first);
    for (int k = lane; k < inputs; k += 32) {
      const float weight = value_at(mine, k);
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) sums[r] += weight * to_float(x(min(r, rows - 1))[k]);
    }
  });
#pragma unroll
  for (int r = 0; r < rows_at_once; ++r) {
    for (int step = 16; step > 0; step /= 2) sums[r] += __shfl_xor_sync(~0U, sums[r], step);
  }
}

template <class Activation>
__device__ void multiply(const ProductShape& shape, const Experts& experts, const Activation* x,
                         const Stored& w, void* y, bool wide_out) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int output = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  const int matrix = static_cast<int>(blockIdx.y);
  if (output >= shape.outputs) return;
  const bool chosen = experts.begins != nullptr;
  const int end = chosen ? experts.begins[matrix + 1] : experts.rows_each;
  for (int first =
           (chosen ? experts.begins[matrix] : 0) + static_cast<int>(blockIdx.z) * rows_at_once;
       first < end; first += static_cast<int>(gridDim.z) * rows_at_once) {
    const Job job{matrix, first, min(rows_at_once, end - first)};
    const Activation* rows[rows_at_once];
#pragma unroll
    for (int r = 0; r < rows_at_once; ++r) {
      rows[r] = x + row_of_x(experts, job, min(r, job.rows - 1)) * shape.x_stride;
    }
    float sums[rows_at_once];
    dots(
        sums, job.rows, shape.inputs, [&](int r) { return rows[r]; }, w,
        (int64_t{matrix} * shape.outputs + output) * shape.inputs, lane);
#pragma unroll
    for (int r = 0; r < rows_at_once; ++r) {
      if (lane > 0 || r >= job.rows) continue;
      const int64_t to = row_of_y(experts, job, r) * shape.y_stride + output;
      if (wide_out) static_cast<float*>(y)[to] = sums[r];
      else static_cast<Activation*>(y)[to] = from_float<Activation>(sums[r]);
    }
  }
}

// Warps of one head take its outputs in turn, then what is only carried along.
template <class Activation>
__device__ void multiply(const PerHeadShape& shape, const Activation* x, const Stored& w,
                         std::byte* y) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int n = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
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
      dots(
          sums, rows, shape.inputs, [&](int r) { return x + (first + r) * x_stride; }, w,
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

// What all heads carry along, where they stand in one part; a warp a (row, head).
__global__ void __launch_bounds__(threads) carry(PerHeadShape shape, const bf16* x, bf16* y) {
  release_next();
  wait_for_previous();
  const int64_t vector = int64_t{blockIdx.x} * warps + static_cast<int>(threadIdx.x) / 32;
  if (vector >= int64_t{shape.rows} * shape.heads) return;
  x += vector * shape.x_size + shape.inputs;
  y += vector * shape.y_size + shape.made;
  for (int i = static_cast<int>(threadIdx.x) & 31; i < shape.y_size - shape.made; i += 32)
    y[i] = x[i];
}

// A warp a (row, head).
template <class Activation>
__device__ void rescale(const cpu::PartialLayout& part, int parts, const std::byte* message,
                        const float* lses, Activation* out) {
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

// Along the grid: outputs, matrices, and for each its rows, eight at a time.
__global__ void __launch_bounds__(threads)
    product_of_any(Format activations, ProductShape shape, Experts experts, const void* x, Stored w,
                   void* y, bool wide_out) {
  release_next();
  wait_for_previous();
  with_type(activations, [&]<class A>(A*) {
    multiply(shape, experts, static_cast<const A*>(x), w, y, wide_out);
  });
}
__global__ void __launch_bounds__(threads) product_of_heads(Format activations, PerHeadShape shape,
                                                            const void* x, Stored w, std::byte* y) {
  release_next();
  wait_for_previous();
  with_type(activations, [&]<class A>(A*) { multiply(shape, static_cast<const A*>(x), w, y); });
}
__global__ void __launch_bounds__(threads)
    rescale_all(Format activations, cpu::PartialLayout part, int parts, const std::byte* message,
                const float* lses, void* out) {
  release_next();
  wait_for_previous();
  with_type(activations,
            [&]<class A>(A*) { rescale(part, parts, message, lses, static_cast<A*>(out)); });
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// By cuBLASLt; false where it does not serve or is not the better.
template <class Out>
bool by_library(const ProductShape& shape, const Experts& experts, const bf16* x, const Stored& w,
                Out* y, const Launch& how, ProductLibrary* library) {
  if (library == nullptr || experts.begins != nullptr || w.format != Format::bf16 ||
      !ProductLibrary::better(shape) || !aligned(x) || !aligned(w.base) || !aligned(y) ||
      shape.inputs % 8 != 0 || shape.x_stride % 8 != 0 || shape.y_stride % 8 != 0)
    return false;
  library->product(shape, experts.count, x, w.as<bf16>().data, y, how);
  return true;
}
bool by_library(const ProductShape&, const Experts&, const float*, const Stored&, float*,
                const Launch&, ProductLibrary*) {
  return false;
}

// By tensor cores; false where they do not serve.
template <class Weight, class Out>
bool by_tiles_of(const ProductShape& shape, const Experts& experts, const bf16* x, const Stored& w,
                 Out* y, const Launch& how) {
  if (!served<Weight>(shape) || !aligned(x) || !aligned(w.base) || shape.x_stride % 8 != 0)
    return false;
  experts_product(shape, experts, x, w.as<Weight>(), y, how);
  return true;
}
template <class Out>
bool by_tiles(const ProductShape& shape, const Experts& experts, const bf16* x, const Stored& w,
              Out* y, const Launch& how) {
  switch (w.format) {
    case Format::bf16: return by_tiles_of<bf16>(shape, experts, x, w, y, how);
    case Format::fp8: return by_tiles_of<fp8>(shape, experts, x, w, y, how);
    case Format::nvfp4: return by_tiles_of<nvfp4>(shape, experts, x, w, y, how);
    default: return false;
  }
}
bool by_tiles(const ProductShape&, const Experts&, const float*, const Stored&, float*,
              const Launch&) {
  return false;
}

unsigned blocks_for(int64_t count, int each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// Where all heads stand in one part.
bool heads_at_once(const PerHeadShape& shape, const bf16* x, const Stored& w, std::byte* to,
                   const Launch& how, ProductLibrary* library) {
  auto* const y = reinterpret_cast<bf16*>(to);
  if (shape.part_heads != shape.heads || shape.lses != nullptr) return false;
  const ProductShape each{.rows = shape.rows,
                          .outputs = shape.made,
                          .inputs = shape.inputs,
                          .x_stride = shape.x_size,
                          .y_stride = shape.y_size};
  const Experts heads{.count = shape.heads, .rows_each = shape.rows};
  if (!by_library(each, heads, x, w, y, how, library) && !by_tiles(each, heads, x, w, y, how))
    return false;
  if (shape.made < shape.y_size)
    launch("carry", carry, dim3(blocks_for(int64_t{shape.rows} * shape.heads, warps)), threads, 0,
           how, 1, shape, x, y);
  return true;
}
bool heads_at_once(const PerHeadShape&, const float*, const Stored&, std::byte*, const Launch&,
                   ProductLibrary*) {
  return false;
}

}  // namespace

template <class Activation, class Out>
void any_experts_product(const ProductShape& shape, const Experts& experts, const Activation* x,
                         const Stored& w, Out* y, const Launch& how, ProductLibrary* library) {
  if (shape.rows == 0 || shape.outputs == 0 || by_library(shape, experts, x, w, y, how, library) ||
      by_tiles(shape, experts, x, w, y, how))
    return;
  const auto blocks = [](int count, int of) {
    return static_cast<unsigned>((count + of - 1) / of);
  };
  const dim3 grid(blocks(shape.outputs, warps), static_cast<unsigned>(experts.count),
                  blocks(experts.begins != nullptr ? 1 : experts.rows_each, rows_at_once));
  launch("plain product", product_of_any, grid, threads, 0, how, 1, format_of<Activation>, shape,
         experts, x, w, y, std::is_same_v<Out, float>);
}

template <class Activation>
void any_product(const ProductShape& shape, const Activation* x, const Stored& w, Activation* y,
                 const Launch& how, ProductLibrary* library) {
  any_experts_product(shape, {.count = 1, .rows_each = shape.rows}, x, w, y, how, library);
}

template <class Activation>
void per_head(const PerHeadShape& shape, const Activation* x, const Stored& w, std::byte* y,
              const Launch& how, ProductLibrary* library) {
  assert(shape.heads % shape.part_heads == 0 && shape.made <= shape.y_size);
  if (heads_at_once(shape, x, w, y, how, library)) return;
  const dim3 grid(blocks_for(shape.y_size, warps), static_cast<unsigned>(shape.heads));
  launch("per head", product_of_heads, grid, threads, 0, how, 1, format_of<Activation>, shape, x, w,
         y);
}

template <class Activation>
void rescale_partial(const cpu::PartialLayout& part, int parts, const std::byte* message,
                     const float* lses, Activation* out, const Launch& how) {
  const int64_t vectors = part.rows * part.heads;
  if (vectors == 0) return;
  launch("rescale", rescale_all, dim3(blocks_for(vectors, warps)), threads, 0, how, 1,
         format_of<Activation>, part, parts, message, lses, out);
}

#define INSTANTIATE(Activation)                                                                 \
  template void any_product(const ProductShape&, const Activation*, const Stored&, Activation*, \
                            const Launch&, ProductLibrary*);                                    \
  template void any_experts_product(const ProductShape&, const Experts&, const Activation*,     \
                                    const Stored&, float*, const Launch&, ProductLibrary*);     \
  template void per_head(const PerHeadShape&, const Activation*, const Stored&, std::byte*,     \
                         const Launch&, ProductLibrary*);                                       \
  template void rescale_partial(const cpu::PartialLayout&, int, const std::byte*, const float*, \
                                Activation*, const Launch&);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE
template void any_experts_product(const ProductShape&, const Experts&, const bf16*, const Stored&,
                                  bf16*, const Launch&, ProductLibrary*);

}  // namespace helix::cuda
