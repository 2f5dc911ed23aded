// Slots of weights for products on tensor cores: 16 rows of w times one chunk of inputs, copied to
// shared memory as they stand in device memory. Quantised weights become bf16 in registers, exactly
// (product.cu, product_wide.cu); what all have in common is multiplied in at the end.
#pragma once

#include <type_traits>

#include "base/format.h"
#include "kernels/cuda/device.cuh"

namespace helix::cuda {

inline constexpr int tile_rows = 16;

// A slot's chunk of w: rows of `row_bytes`, for nvfp4 their blocks' scales behind all of them.
template <class Weight>
struct Chunk {
  static constexpr int inputs = std::is_same_v<Weight, nvfp4> ? 256 : 128;
  static constexpr int row_bytes = std::is_same_v<Weight, bf16> ? 2 * inputs : 128;
  static constexpr int row_scales = std::is_same_v<Weight, nvfp4> ? inputs / nvfp4_block : 0;
  static constexpr int bytes = tile_rows * (row_bytes + row_scales);
  static constexpr int x_row_bytes = inputs * sizeof(bf16);  // of the chunk of x beside it
};

// Where 16 bytes of a row stand that is `rows` below the one at `place` (swizzled: device.cuh); the
// bits of `rows` are not among those of that one.
template <int RowBytes>
__device__ uint32_t below(uint32_t place, int rows) {
  return (place ^ (rows & 7) << 4) + rows * RowBytes;
}
// Begins to copy 16 bytes of every Step-th of `rows` rows, from `first` on, which stands at `from`,
// `stride` bytes apart from the next row, and goes to `to`; zeros if they are not inside.
template <int RowBytes, int Step, int Count>
__device__ void fetch_rows(uint32_t to, const void* from, int stride, int first, int rows,
                           bool inside) {
  const auto* at = static_cast<const unsigned char*>(from);
#pragma unroll
  for (int i = 0; i < Count; ++i, at += Step * stride) {
    if (first + i * Step < rows) copy_chunk(below<RowBytes>(to, i * Step), at, inside);
  }
}

// Whether rows of block scales begin where asynchronous copies take them.
template <class Weight>
__device__ __host__ constexpr bool copies_scales(int inputs) {
  return !std::is_same_v<Weight, nvfp4> || inputs % 64 == 0;
}
// A word of four block scales a lane, to `to`: of 16 rows.
__device__ inline void fetch_scales(uint32_t to, const Values<const nvfp4>& from, int stride,
                                    int rows, int inputs, int lane) {
  const int first = lane / 4;
  const fp8* const at = from.at(int64_t{first} * stride + lane % 4 * 64).scales;
  const bool inside = lane % 4 * 64 < inputs;
  if (first < rows) copy_word(to + lane * 4, at, inside);
  if (first + 8 < rows) copy_word(to + lane * 4 + 128, at + stride / 2, inside);
}
// Begins to copy a slot, by one warp: from `from` on, rows `stride` values apart; `rows` and
// `inputs` are left. Zeros beyond the inputs; beyond the rows nothing, for it makes nothing but
// outputs that nobody reads. AnyScales: also those that must be loaded and stored.
template <bool AnyScales, class Weight>
__device__ void fetch_tile(unsigned char* slot, const Values<const Weight>& from, int stride,
                           int rows, int inputs, int lane) {
  using C = Chunk<Weight>;
  constexpr int row_chunks = C::row_bytes / 16;
  constexpr int values = C::inputs / row_chunks;  // of 16 bytes
  constexpr int step = 32 / row_chunks;
  const uint32_t to = shared_address(slot);
  const int column = lane % row_chunks;
  const int first = lane / row_chunks;
  const auto source = from.at(int64_t{first} * stride + column * values);
  const void* data = nullptr;
  if constexpr (std::is_same_v<Weight, nvfp4>) data = source.codes;
  else data = source.data;
  fetch_rows<C::row_bytes, step, tile_rows / step>(to + swizzled(first, column, C::row_bytes), data,
                                                   stride / values * 16, first, rows,
                                                   column * values < inputs);
  if constexpr (std::is_same_v<Weight, nvfp4>) {
    constexpr int scales_at = tile_rows * C::row_bytes;
    if (!AnyScales || copies_scales<Weight>(stride)) {
      fetch_scales(to + scales_at, from, stride, rows, inputs, lane);
    } else {
#pragma unroll 1
      for (int row = lane / 8; row < min(rows, tile_rows); row += 4) {
        const auto source = from.at(int64_t{row} * stride + lane % 8 * 32);
        *reinterpret_cast<uint16_t*>(slot + scales_at + row * C::row_scales + lane % 8 * 2) =
            lane % 8 * 32 < inputs ? *reinterpret_cast<const uint16_t*>(source.scales)
                                   : uint16_t{0};
      }
    }
  }
}

// An e2m1 code in bf16's exponent is 2^126 too small; its block's scale makes good for 2^119.
template <class Weight>
__device__ float rest_of_scale(float scale) {
  return std::is_same_v<Weight, nvfp4> ? scale * 0x1p7F : scale;
}

}  // namespace helix::cuda
