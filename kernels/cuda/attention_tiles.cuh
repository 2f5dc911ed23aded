// What a warp does with a tile of tokens in attention.cu, for each format of the cache: the two
// products, and how queries and outputs must stand for them. A policy has
//   warps, slots: of a block, of a warp's ring
//   tokens, slot_bytes, row_bytes: a tile of keys (or values) in a slot
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

// fp8 of D 128: tiles of 2 KB, which become fp16 on their way into products, exactly. A lane takes
// a quarter of a token's key, 32 bytes that lie side by side; the queries' numbers are put into the
// order in which these meet. Queries are scaled by a power of two into fp16's range. Widening takes
// longer than reading: more warps, and a ring that lets no second block onto an SM while another
// has none.
struct Fp8Tile {
  using Kv = fp8;
  static constexpr int warps = 8;
  static constexpr int slots = 7;
  static constexpr float out_factor = fp8_in_fp16;
  static constexpr int D = 128;
  static constexpr int tokens = attention_tile(D);
  static constexpr int row_bytes = D;
  static constexpr int slot_bytes = tokens * row_bytes;
  static constexpr int chunks = row_bytes / 16;
  static constexpr int q_row_bytes = 2 * D;
  static constexpr int q_bytes = max_group * q_row_bytes;
  static_assert(tokens == 16);

  // One warp a row in turn. Numbers d = 32 t + 16 (u ^ t / 2) + 4 j + i, i < 4, are those of lanes
  // t in step 4 u + j: so the lanes of a load lie in different banks. Numbers 1 and 3 of four come
  // before 0 and 2.
  __device__ static void load_queries(const bf16* q, int group, unsigned char* to, float* factors) {
    const int lane = static_cast<int>(threadIdx.x) & 31;
    for (int head = static_cast<int>(threadIdx.x) / 32; head < max_group;
         head += static_cast<int>(blockDim.x) / 32) {
      float v[4] = {};
      if (head < group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = to_float(q[head * D + 4 * lane + i]);
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
      if (lane == 0) factors[head] = factor * fp8_in_fp16;
      const int t = lane / 8;
      const int step = 4 * ((lane % 8 / 4) ^ (t / 2)) + lane % 4;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        unsigned char* at = to + swizzled(head, 2 * step + i, q_row_bytes) + 4 * t;
        *reinterpret_cast<uint32_t*>(at) = pack_halves(v[1 - i] * inverse, v[3 - i] * inverse);
      }
    }
  }

  // Four codes as the pairs 1, 3 and 0, 2.
  __device__ static void widen4(uint32_t codes, bool nan, uint32_t& odd, uint32_t& even) {
    odd = upper_halves(codes);
    even = upper_halves(codes << 8);
    if (nan) {
      odd = with_nan(odd, codes >> 8, codes >> 24, 0x7e00);
      even = with_nan(even, codes, codes >> 16, 0x7e00);
    }
  }

  __device__ static void add_logits(float (&logits)[2][4], uint32_t q, uint32_t keys, int lane) {
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      uint32_t codes[2][4];
      bool nan[2];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int chunk = 2 * (lane & 3) + (u ^ (lane & 3) >> 1);
        const uint4 v = load_shared(keys + swizzled(8 * n + lane / 4, chunk, row_bytes));
        codes[n][0] = v.x;
        codes[n][1] = v.y;
        codes[n][2] = v.z;
        codes[n][3] = v.w;
        nan[n] = any_nan(v.x, v.y, v.z, v.w);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t a[4];
        load_matrices(a, q + swizzled(lane & 15, 2 * (4 * u + j) + (lane >> 4), q_row_bytes));
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          uint32_t odd, even;
          widen4(codes[n][j], nan[n], odd, even);
          multiply_add_halves(logits[n], a, odd, even);
        }
      }
    }
  }

  // Transposed, a register has two numbers d, d + 1 of two tokens: even and odd numbers are two
  // products. out[2 c] and out[2 c + 1] are the even and odd ones of chunk c.
  __device__ static void add_values(const float (&weights)[2][4], uint32_t values, int lane,
                                    float (&out)[D / 8][4]) {
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = &weights[i / 2][2 * (i % 2)];
      a[i] = pack_halves(pair[0], pair[1]);
    }
#pragma unroll
    for (int chunk = 0; chunk < chunks; chunk += 2) {
      uint32_t b[4];
      load_transposed(b, values + swizzled(lane & 15, chunk + (lane >> 4), row_bytes));
      const bool nan = any_nan(b[0], b[1], b[2], b[3]);
#pragma unroll
      for (int i = 0; i < 4; i += 2) {  // chunk + i / 2
        uint32_t odd[2], even[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) widen4(b[i + r], nan, odd[r], even[r]);
        multiply_add_halves(out[2 * chunk + i], a, even[0], even[1]);
        multiply_add_halves(out[2 * chunk + i + 1], a, odd[0], odd[1]);
      }
    }
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
