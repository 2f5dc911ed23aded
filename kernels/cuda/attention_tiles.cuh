// What a warp does with a tile of tokens in attention.cu, for each format of the cache: the two
// products, and how queries and outputs must stand for them. A policy has
//   warps, slots: of a block, of a warp's ring
//   tokens, slot_bytes: a tile of keys (or values) in a slot
//   fetch(from, first, there, to, lane): copies into a slot: the tile that begins with token
//     `first` of a pair; zeros for its tokens from `there` on
//   load_queries(…): 16 rows of D into shared memory; rows beyond the group are 0. Logits come out
//     `factors[row]` too small
//   add_logits(logits, q, keys, lane): logits[n] is the fragment of tokens [8 n, 8 n + 8)
//   add_values(weights, values, lane, out), write(out, …): out [16][D] in fragments, `out_factor`
//     too small
// A lane is (g, t) = (lane / 4, lane % 4).
#pragma once

#include "kernels/cuda/attention.cuh"

namespace helix::cuda {

inline constexpr int max_group = 16;  // query heads a KV head: the rows of a tensor-core product

// The tile of `tokens` rows of `row_bytes` that begins at row `first`.
template <int tokens, int row_bytes>
__device__ void fetch_rows(const void* rows, int64_t first, int there, uint32_t to, int lane) {
  constexpr int chunks = row_bytes / 16;
  constexpr int copies = tokens * chunks / 32;
  const uint4* const from = static_cast<const uint4*>(rows) + first * chunks + lane;
  const auto at = [&](int i) {
    const int chunk = lane + 32 * i;
    return to + swizzled(chunk / chunks, chunk % chunks, row_bytes);
  };
  if (there >= tokens) {  // mostly
#pragma unroll
    for (int i = 0; i < copies; ++i) copy_chunk(at(i), from + 32 * i, true);
    return;
  }
#pragma unroll 1
  for (int i = 0; i < copies; ++i) {
    const bool valid = lane + 32 * i < there * chunks;
    copy_chunk(at(i), valid ? from + 32 * i : rows, valid);
  }
}

// bf16: tiles of 4 KB, as they lie in memory. Few warps with long rings: a block leaves registers
// to the kernels before and after it, and has few outputs to merge.
template <int D>
struct PlainTile {
  using Kv = bf16;
  static constexpr int warps = 4;
  static constexpr int slots = 6;
  static constexpr float out_factor = 1;
  static constexpr int tokens = attention_tile(D);
  static constexpr int row_bytes = 2 * D;
  static constexpr int slot_bytes = tokens * row_bytes;
  static constexpr int chunks = row_bytes / 16;
  static constexpr int q_bytes = max_group * row_bytes;

  __device__ static void fetch(const Values<const bf16>& from, int64_t first, int there,
                               uint32_t to, int lane) {
    fetch_rows<tokens, row_bytes>(from.data, first, there, to, lane);
  }

  __device__ static void load_queries(const bf16* q, int group, unsigned char* to, float* factors) {
    for (int i = static_cast<int>(threadIdx.x); i < max_group * chunks;
         i += static_cast<int>(blockDim.x)) {
      const int head = i / chunks;
      const int chunk = i % chunks;
      if (chunk == 0) factors[head] = 1;
      float v[8] = {};
      if (head < group) load8(q + head * D + chunk * 8, v);
      store8(v, reinterpret_cast<bf16*>(to + swizzled(head, chunk, row_bytes)));
    }
  }

  __device__ static void add_logits(float (&logits)[tokens / 8][4], uint32_t q, uint32_t keys,
                                    int lane) {
    const int row = lane & 7;
    const int half = lane >> 3 & 1;
    const int other = lane >> 4;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t a[4];
      load_matrices(a, q + swizzled(row + 8 * half, 2 * step + other, row_bytes));
#pragma unroll
      for (int n = 0; n < tokens / 8; n += 2) {
        uint32_t b[4];
        load_matrices(b, keys + swizzled(8 * n + row + 8 * other, 2 * step + half, row_bytes));
        multiply_add(logits[n], a, b[0], b[1]);
        multiply_add(logits[n + 1], a, b[2], b[3]);
      }
    }
  }

  __device__ static void add_values(const float (&weights)[tokens / 8][4], uint32_t values,
                                    int lane, float (&out)[D / 8][4]) {
#pragma unroll
    for (int n = 0; n < tokens / 8; n += 2) {
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &weights[n + i / 2][2 * (i % 2)];
        a[i] = pack(pair[0], pair[1]);
      }
#pragma unroll
      for (int chunk = 0; chunk < chunks; chunk += 2) {
        uint32_t b[4];
        load_transposed(b, values + swizzled(8 * n + (lane & 15), chunk + (lane >> 4), row_bytes));
        multiply_add(out[chunk], a, b[0], b[1]);
        multiply_add(out[chunk + 1], a, b[2], b[3]);
      }
    }
  }

  __device__ static void write(const float (&out)[D / 8][4], int half, int lane, float* row) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      *reinterpret_cast<float2*>(row + 8 * n + 2 * (lane & 3)) =
          make_float2(out[n][2 * half], out[n][2 * half + 1]);
    }
  }
};

// Quantised tiles of D 128 become fp16 on their way into products, exactly but for a power of two.
// A lane takes a quarter of a token's key, numbers that lie side by side in memory; the queries'
// numbers are put into the order in which these meet: number d stands where `Tile::place(d)` says
// in a row of 16 chunks. Queries are scaled by a power of two into fp16's range.
inline constexpr int quantised_size = 128;
inline constexpr int half_row_bytes = 2 * quantised_size;
struct Place {
  int chunk;
  int byte;
};
// One warp a row in turn.
template <class Tile>
__device__ void load_half_queries(const bf16* q, int group, unsigned char* to, float* factors) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  for (int head = static_cast<int>(threadIdx.x) / 32; head < max_group;
       head += static_cast<int>(blockDim.x) / 32) {
    float v[4] = {};
    if (head < group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = to_float(q[head * quantised_size + 4 * lane + i]);
    }
    float most = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
    for (int step = 16; step > 0; step /= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0U, most, step));
    }
    // The largest lies in [2^11, 2^12): sums stay far from fp32's ends.
    const int exponent = static_cast<int>(__float_as_uint(most) >> 23) - 127 - 11;
    const bool usual = most > 0x1p-100F && most < 0x1p100F;
    const float factor = usual ? __uint_as_float((127U + exponent) << 23) : 1;
    const float inverse = usual ? __uint_as_float((127U - exponent) << 23) : 1;
    if (lane == 0) factors[head] = factor * Tile::out_factor;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Place at = Tile::place(4 * lane + i);
      *reinterpret_cast<__half*>(to + swizzled(head, at.chunk, half_row_bytes) + at.byte) =
          __float2half_rn(v[i] * inverse);
    }
  }
}
__device__ inline void load_half_query(uint32_t (&a)[4], uint32_t q, int step, int lane) {
  load_matrices(a, q + swizzled(lane & 15, 2 * step + (lane >> 4), half_row_bytes));
}
__device__ inline void pack_weights(const float (&weights)[2][4], uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* pair = &weights[i / 2][2 * (i % 2)];
    a[i] = pack_halves(pair[0], pair[1]);
  }
}

// NaN is looked for beside the products, as it is rare: what has one makes a column of the product
// NaN. `nan`: in what this lane gave of column lane / 4.
__device__ inline void spoil(float (&product)[4], bool nan, int lane) {
  const uint32_t lanes = __ballot_sync(~0U, nan) >> (8 * (lane & 3));
  if ((lanes & 0x0fU) != 0) product[0] = product[2] = NAN;
  if ((lanes & 0xf0U) != 0) product[1] = product[3] = NAN;
}
__device__ inline bool any_nan(const uint4& codes) {
  return any_nan(codes.x, codes.y, codes.z, codes.w);
}

// fp8: tiles of 2 KB. Widening takes longer than reading: more warps.
struct Fp8Tile {
  using Kv = fp8;
  static constexpr int warps = 12;
  static constexpr int slots = 8;
  static constexpr float out_factor = fp8_in_fp16;
  static constexpr int D = quantised_size;
  static constexpr int tokens = attention_tile(D);
  static constexpr int row_bytes = D;
  static constexpr int slot_bytes = tokens * row_bytes;
  static constexpr int chunks = row_bytes / 16;
  static constexpr int q_bytes = max_group * half_row_bytes;
  static_assert(tokens == 16);

  __device__ static void fetch(const Values<const fp8>& from, int64_t first, int there, uint32_t to,
                               int lane) {
    fetch_rows<tokens, row_bytes>(from.data, first, there, to, lane);
  }

  // Numbers d = 32 t + 16 (u ^ t / 2) + 4 j + i, i < 4, are those of lanes t in step 4 u + j: so
  // the lanes of a load lie in different banks. Numbers 1 and 3 of four come before 0 and 2.
  __device__ static Place place(int d) {
    const int t = d / 32;
    const int step = 4 * ((d % 32 / 16) ^ (t / 2)) + d % 16 / 4;
    return {2 * step + 1 - d % 2, 4 * t + d % 4 / 2 * 2};
  }
  __device__ static void load_queries(const bf16* q, int group, unsigned char* to, float* factors) {
    load_half_queries<Fp8Tile>(q, group, to, factors);
  }
  __device__ static uint32_t odd(uint32_t codes) { return upper_halves(codes); }
  __device__ static uint32_t even(uint32_t codes) {  // upper_halves(codes << 8), in other units
    return (codes << 8 & 0x80008000U) | (codes << 7 & 0x3f803f80U);
  }

  __device__ static void add_logits(float (&logits)[2][4], uint32_t q, uint32_t keys, int lane) {
    bool nan[2] = {};
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      uint32_t codes[2][4];  // of a step each
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int chunk = 2 * (lane & 3) + (u ^ (lane & 3) >> 1);
        const uint4 v = load_shared(keys + swizzled(8 * n + lane / 4, chunk, row_bytes));
        codes[n][0] = v.x;
        codes[n][1] = v.y;
        codes[n][2] = v.z;
        codes[n][3] = v.w;
        nan[n] |= any_nan(v);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t a[4];
        load_half_query(a, q, 4 * u + j, lane);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          multiply_add_halves(logits[n], a, odd(codes[n][j]), even(codes[n][j]));
        }
      }
    }
    if (__any_sync(~0U, nan[0] || nan[1])) {
      spoil(logits[0], nan[0], lane);
      spoil(logits[1], nan[1], lane);
    }
  }

  // Transposed, a register has two numbers d, d + 1 of two tokens: even and odd numbers are two
  // products. out[2 c] and out[2 c + 1] are the even and odd ones of chunk c.
  __device__ static void add_values(const float (&weights)[2][4], uint32_t values, int lane,
                                    float (&out)[D / 8][4]) {
    uint32_t a[4];
    pack_weights(weights, a);
    bool nan = false;
#pragma unroll
    for (int chunk = 0; chunk < chunks; chunk += 2) {
      uint32_t b[4];
      load_codes(b, values, chunk, lane);
      nan |= any_nan(b[0], b[1], b[2], b[3]);
#pragma unroll
      for (int i = 0; i < 4; i += 2) {  // chunk + i / 2
        multiply_add_halves(out[2 * chunk + i], a, even(b[i]), even(b[i + 1]));
        multiply_add_halves(out[2 * chunk + i + 1], a, odd(b[i]), odd(b[i + 1]));
      }
    }
    if (!__any_sync(~0U, nan)) return;
#pragma unroll
    for (int chunk = 0; chunk < chunks; chunk += 2) {
      uint32_t b[4];
      load_codes(b, values, chunk, lane);
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const auto has = [&](uint32_t of) { return any_nan(b[i] & of, b[i + 1] & of, 0, 0); };
        spoil(out[2 * chunk + i], has(0x00ff00ff), lane);
        spoil(out[2 * chunk + i + 1], has(0xff00ff00), lane);
      }
    }
  }
  // Tokens 2 t and 2 t + 1, then 8 further on; of a chunk, then of the next.
  __device__ static void load_codes(uint32_t (&b)[4], uint32_t values, int chunk, int lane) {
    load_transposed(b, values + swizzled(lane & 15, chunk + (lane >> 4), row_bytes));
  }

  __device__ static void write(const float (&out)[D / 8][4], int half, int lane, float* row) {
#pragma unroll
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const float* const even = &out[2 * chunk][2 * half];
      const float* const odd = &out[2 * chunk + 1][2 * half];
      *reinterpret_cast<float4*>(row + 16 * chunk + 4 * (lane & 3)) =
          make_float4(even[0], odd[0], even[1], odd[1]);
    }
  }
};

}  // namespace helix::cuda
