// Slots of weights for products on tensor cores: 16 rows of w times one chunk of inputs, copied to
// shared memory as they stand in device memory. Quantised weights become bf16 in registers,
// exactly; what all have in common is multiplied in at the end.
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

// w [16 outputs][32 inputs] of a slot as bf16, in two fragments of 16 inputs: lane (g, t) has
// outputs g and g + 8, inputs 2 t, 2 t + 1 and 8 more.
using Fragments = uint32_t[2][4];

__device__ inline void load_fragments(const unsigned char* slot, int part, int lane, const bf16*,
                                      Fragments& to) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {  // half of the outputs, of a fragment's inputs, fragment
    const int row = (lane >> 2) + i % 2 * 8;
    to[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(
        slot + swizzled(row, 4 * part + i / 2, 256) + 4 * (lane & 3));
  }
}
// An e4m3 code in the upper byte of a half; its exponent put into bf16's is 2^120 too small.
__device__ inline uint32_t widen_upper(uint32_t codes) {
  return multiply_pairs((codes & 0x80008000U) | (codes >> 4 & 0x07f007f0U), 0x7b807b80U);
}
__device__ inline void load_fragments(const unsigned char* slot, int part, int lane, const fp8*,
                                      Fragments& to) {
  const uint32_t own = 0x1100U + (lane & 3) * 0x2222U;  // bytes 2 t and 2 t + 1 of eight
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 v = *reinterpret_cast<const uint4*>(
          slot + swizzled((lane >> 2) + 8 * half, 2 * part + i, 128));
      to[i][half] = widen_upper(__byte_perm(v.x, v.y, own));
      to[i][half + 2] = widen_upper(__byte_perm(v.z, v.w, own));
    }
  }
}
// Byte t of eight codes is a pair. Times the block's scale, and 2^119: rest_of_scale.
__device__ inline uint32_t widen_codes(uint32_t codes, uint32_t own, uint32_t scale) {
  const uint32_t pair = __byte_perm(codes << 4, codes, own);
  return multiply_pairs((pair & 0x80008000U) | (pair >> 6 & 0x01c001c0U), scale);
}
__device__ inline void load_fragments(const unsigned char* slot, int part, int lane, const nvfp4*,
                                      Fragments& to) {
  const uint32_t own = 0x4400U + (lane & 3) * 0x1111U;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = (lane >> 2) + 8 * half;
    const uint4 v = *reinterpret_cast<const uint4*>(slot + swizzled(row, part, 128));
    const uint32_t codes = *reinterpret_cast<const uint16_t*>(
        slot + tile_rows * 128 + row * Chunk<nvfp4>::row_scales + 2 * part);
    const uint32_t both =
        multiply_pairs(widen_upper(__byte_perm(codes, 0, 0x1404)), 0x7b007b00U);  // 2^119
    const uint32_t first = __byte_perm(both, 0, 0x1010), second = __byte_perm(both, 0, 0x3232);
    to[0][half] = widen_codes(v.x, own, first);
    to[0][half + 2] = widen_codes(v.y, own, first);
    to[1][half] = widen_codes(v.z, own, second);
    to[1][half + 2] = widen_codes(v.w, own, second);
  }
}

// An e2m1 code in bf16's exponent is 2^126 too small; its block's scale makes good for 2^119.
template <class Weight>
__device__ float rest_of_scale(float scale) {
  return std::is_same_v<Weight, nvfp4> ? scale * 0x1p7F : scale;
}

}  // namespace helix::cuda
