// Tiles of an nvfp4 cache (attention_tiles.cuh).
#pragma once

#include "kernels/cuda/attention_tiles.cuh"

namespace helix::cuda {

// nvfp4: tiles of 1 KB of codes, rows of 64 bytes, and behind them each token's eight scales. A
// code in fp16's exponent is 2^14 too small; the scale makes good for 2^7 of it, and their product
// has 6 bits: it is exact. Only scales can be NaN.
struct Nvfp4Tile {
  using Kv = nvfp4;
  static constexpr int warps = 12;
  static constexpr int slots = 8;
  static constexpr float out_factor = 0x1p7F;
  static constexpr int D = quantised_size;
  static constexpr int tokens = attention_tile(D);
  static constexpr int row_bytes = D / 2;
  static constexpr int row_scales = D / nvfp4_block;
  static constexpr int scales_at = tokens * row_bytes;
  static constexpr int slot_bytes = scales_at + tokens * row_scales;
  static constexpr int q_bytes = max_group * half_row_bytes;
  static_assert(tokens == 16 && tokens * row_scales == 32 * 4);

  // Two rows fill the banks once.
  __device__ static uint32_t chunk_at(int row, int chunk) {
    return static_cast<uint32_t>(row * row_bytes + ((chunk ^ (row >> 1 & 3)) << 4));
  }
  __device__ static void fetch(const Values<const nvfp4>& from, int64_t first, int there,
                               uint32_t to, int lane) {
    const uint8_t* const codes = from.codes + first * row_bytes + 16 * lane;
    const uint32_t at = to + chunk_at(lane / 4, lane % 4);
    const fp8* const scales = from.scales + first * row_scales + 4 * lane;
    const uint32_t scales_to = to + scales_at + 4 * lane;
    if (there >= tokens) {  // mostly
      copy_chunk(at, codes, true);
      copy_chunk(at + 512, codes + 512, true);
      copy_word(scales_to, scales, true);
      return;
    }
    const int row = lane / 4;
    copy_chunk(at, row < there ? codes : from.codes, row < there);
    copy_chunk(at + 512, row + 8 < there ? codes + 512 : from.codes, row + 8 < there);
    copy_word(scales_to, lane / 2 < there ? scales : from.scales, lane / 2 < there);
  }

  // Numbers d = 32 t + 8 w + i and d + 4 are those of lanes t in half i % 2 of step 2 w + i / 2.
  __device__ static Place place(int d) {
    return {d % 32 / 8 * 4 + d % 4, d / 32 * 4 + d % 8 / 4 * 2};
  }
  __device__ static void load_queries(const bf16* q, int group, unsigned char* to, float* factors) {
    load_half_queries<Nvfp4Tile>(q, group, to, factors);
  }

  __device__ static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t both;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(both) : "r"(a), "r"(b));
    return both;
  }
  // Codes i and i + 4 of eight. Four at a time become upper bytes of fp16.
  __device__ static void widen(uint32_t codes, uint32_t (&pairs)[4]) {
    const uint32_t even = (codes << 4 & 0x80808080U) | (codes << 1 & 0x0e0e0e0eU);
    const uint32_t odd = (codes & 0x80808080U) | (codes >> 3 & 0x0e0e0e0eU);
    pairs[0] = __byte_perm(even, 0, 0x2404);
    pairs[1] = __byte_perm(odd, 0, 0x2404);
    pairs[2] = even & 0xff00ff00U;
    pairs[3] = odd & 0xff00ff00U;
  }
  // Bytes of two words, chosen by nibbles 1 and 3 of `which`; no scale is negative.
  __device__ static uint32_t widen_scales(uint32_t a, uint32_t b, uint32_t which) {
    const uint32_t codes = __byte_perm(a, b, which);
    return multiply(codes >> 1 & 0x3f803f80U, 0x78007800U);  // 2^15, and 2^-8
  }

  __device__ static void add_logits(float (&logits)[2][4], uint32_t q, uint32_t keys, int lane) {
    const int t = lane & 3;
    uint32_t codes[2][4];
    uint32_t scales[2][2];  // of two words each
    bool nan[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int token = 8 * n + lane / 4;
      const uint4 v = load_shared(keys + chunk_at(token, t));
      codes[n][0] = v.x;
      codes[n][1] = v.y;
      codes[n][2] = v.z;
      codes[n][3] = v.w;
      // Scales 2 t and 2 t + 1 of eight.
      const uint32_t word = load_word(keys + scales_at + token * row_scales + t / 2 * 4);
      const uint32_t which = 0x2020 * (t & 1);
      scales[n][0] = widen_scales(word, word, which);
      scales[n][1] = widen_scales(word, word, which + 0x1010);
      nan[n] = any_nan(word, 0, 0, 0);
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      uint32_t a[2][4];
      load_half_query(a[0], q, 2 * w, lane);
      load_half_query(a[1], q, 2 * w + 1, lane);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        uint32_t b[4];
        widen(codes[n][w], b);
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i] = multiply(b[i], scales[n][w / 2]);
        multiply_add_halves(logits[n], a[0], b[0], b[1]);
        multiply_add_halves(logits[n], a[1], b[2], b[3]);
      }
    }
    if (__any_sync(~0U, nan[0] || nan[1])) {
      spoil(logits[0], nan[0], lane);
      spoil(logits[1], nan[1], lane);
    }
  }

  // Transposed, a register has four numbers d … d + 3 of two tokens: four products. out[4 c + i]
  // are numbers 32 c + 4 column + i.
  __device__ static void add_values(const float (&weights)[2][4], uint32_t values, int lane,
                                    float (&out)[D / 8][4]) {
    const int t = lane & 3;
    uint32_t a[4];
    pack_weights(weights, a);
    const uint4 first =
        load_shared(values + scales_at + 2 * t * row_scales);  // tokens 2 t, 2 t + 1
    const uint4 second = load_shared(values + scales_at + (2 * t + 8) * row_scales);
    // Scale 2 c + lane / 16 of either token.
    const auto scales_of = [&](const uint4& v, int c) {
      const uint32_t which = (c % 2 == 0 ? 0x4000 : 0x6020) + 0x1010 * (lane >> 4);
      return widen_scales(c < 2 ? v.x : v.y, c < 2 ? v.z : v.w, which);
    };
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
      uint32_t b[4];
      load_transposed(b, values + chunk_at(lane & 15, c + (lane >> 4)));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t scales[2] = {scales_of(first, c + j), scales_of(second, c + j)};
        uint32_t pairs[2][4];
        widen(b[2 * j], pairs[0]);
        widen(b[2 * j + 1], pairs[1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          multiply_add_halves(out[4 * (c + j) + i], a, multiply(pairs[0][i], scales[0]),
                              multiply(pairs[1][i], scales[1]));
        }
      }
    }
    if (__any_sync(~0U, any_nan(load_word(values + scales_at + 4 * lane), 0, 0, 0))) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const uint32_t mask = 0xffU << (8 * (2 * (c % 2) + (lane >> 4)));
        const auto has = [&](const uint4& v) {
          return any_nan((c < 2 ? v.x : v.y) & mask, (c < 2 ? v.z : v.w) & mask, 0, 0);
        };
        const bool nan = has(first) || has(second);
#pragma unroll
        for (int i = 0; i < 4; ++i) spoil(out[4 * c + i], nan, lane);
      }
    }
  }

  __device__ static void write(const float (&out)[D / 8][4], int half, int lane, float* row) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // columns 2 t and 2 t + 1
        const int at = 2 * half + i;
        *reinterpret_cast<float4*>(row + 32 * c + 8 * (lane & 3) + 4 * i) =
            make_float4(out[4 * c][at], out[4 * c + 1][at], out[4 * c + 2][at], out[4 * c + 3][at]);
      }
    }
  }
};

}  // namespace helix::cuda
