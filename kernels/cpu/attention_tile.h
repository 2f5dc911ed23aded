// One tile of tokens of decode attention, for the query heads that share a KV head. Its steps:
// logits and their softmax so far (attention_logits.h), and the weighted sum of values
// (attention_values.h), in two kinds of arithmetic:
//   fp32   all of it; codes are widened to fp32 first.
//   bf16   of bf16 activations over bf16, fp8 or nvfp4: products of bf16 values, which codes are,
//          summed in fp32. The softmax is fp32; its weights, nvfp4's times the scales of blocks,
//          are rounded to bf16 for the product with the values, as matrix units take them.
#pragma once

#include <limits>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/lines.h"

namespace helix::cpu {

// Softmax so far of one query head: outputs beside it are sums of exp(logit - max) v. It starts at
// the lowest finite maximum, so that no difference of infinities arises.
struct Running {
  float max = std::numeric_limits<float>::lowest();
  float sum = 0;
};

// Rows that are read next: they are fetched into cache while the rows before them are computed
// with, V during K and the next tile's K during V. Memory then never waits for arithmetic; without
// it the two took turns.
class Ahead {
 public:
  Ahead() = default;  // nothing: the same line again and again
  template <class Kv>
  Ahead(const Values<const Kv>& from, int64_t stride)
      : row_bytes_(stride * static_cast<int64_t>(sizeof(Kv))) {
    if constexpr (std::is_same_v<Kv, nvfp4>) {  // scales are few: the hardware sees to them
      rows_ = reinterpret_cast<const char*>(from.codes);
      row_bytes_ = stride / 2;
      bits_log_ = 2;
    } else {
      rows_ = reinterpret_cast<const char*>(from.data);
      bits_log_ = std::bit_width(8 * sizeof(Kv)) - 1;
    }
  }
  void fetch_row(int64_t t) const {
    for (int64_t at = 0; at < row_bytes_; at += 64)
      __builtin_prefetch(rows_ + t * row_bytes_ + at, 0, 2);
  }
  // Of the lines of value d of Rows rows from t.
  template <int Rows = 1>
  HELIX_INLINE void fetch_rows(int64_t t, int64_t d) const {
    const char* line = rows_ + t * row_bytes_ + (d << bits_log_ >> 3);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r, line += row_bytes_) __builtin_prefetch(line, 0, 2);
  }
  HELIX_INLINE void fetch(int64_t t, int64_t d) const { fetch_rows(t, d); }

  int64_t fetched = 0;  // so many of the rows already are

 private:
  static constexpr char nothing_ = 0;
  const char* rows_ = &nothing_;
  int64_t row_bytes_ = 0;
  int bits_log_ = 0;  // a value's bits are a power of two
};

// Tokens of a tile. What surrounds them takes as long as five tokens do; rows of codes are short
// enough for more of them to wait in cache.
template <class Kv>
inline constexpr int64_t tile_of = tile_tokens;
template <>
inline constexpr int64_t tile_of<fp8> = 4 * tile_tokens;
template <>
inline constexpr int64_t tile_of<nvfp4> = 4 * tile_tokens;

// So many of the next tile's keys are fetched during the softmax, for memory not to wait for it:
// 4 KiB at a head size of 128, fp8 twice that. Of fp32 twice that is slower by a tenth.
template <class Kv>
inline constexpr int64_t fetched_first = tile_of<Kv> / (std::is_same_v<Kv, float> ? 8 : 4);

// Tokens of a tile that stand in consecutive rows: all of a dense cache's, a paged one's of a
// block.
template <class Kv>
struct Piece {
  Values<const Kv> k, v;
  int64_t k_stride, v_stride, tokens;
};

// The query heads that read one KV head, and where their results go. X: fp32 or bf16, the
// arithmetic.
template <class X>
struct Group {
  int64_t heads, size, value_size;
  float scale;  // of the logits, the keys' scale included
  const X* q;   // [heads][q_stride], arranged as X; beside codes in bf16: spread (tokens.h)
  int64_t q_stride;
  float* out;  // [heads][value_stride], arranged as fp32
  int64_t value_stride;
  Running* running;
};

}  // namespace helix::cpu
