// One tile of tokens of decode attention, for the query heads that share a KV head: logits, their
// softmax so far, and the weighted sum of values. Two kinds of arithmetic:
//   fp32   all of it; codes are widened to fp32 first.
//   bf16   of bf16 activations over bf16, fp8 or nvfp4: products of bf16 values, which codes are,
//          summed in fp32. The softmax is fp32; its weights, nvfp4's times the scales of blocks,
//          are rounded to bf16 for the product with the values, as matrix units take them.
#pragma once

#include <limits>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/dots.h"
#include "kernels/cpu/tokens.h"

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
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r, line += row_bytes_) __builtin_prefetch(line, 0, 2);
  }
  HELIX_INLINE void fetch(int64_t t, int64_t d) const { fetch_rows(t, d); }

 private:
  static constexpr char nothing_ = 0;
  const char* rows_ = &nothing_;
  int64_t row_bytes_ = 0;
  int bits_log_ = 0;  // a value's bits are a power of two
};

// So many of the next tile's keys are fetched during the softmax, for memory not to wait for it.
inline constexpr int64_t fetched_first = 16;

// Tokens that stand in consecutive rows.
template <class Kv>
struct Tile {
  Values<const Kv> k, v;
  int64_t k_stride, v_stride, tokens;
};

// The query heads that read one KV head, and where their results go. X: fp32 or bf16, the
// arithmetic.
template <class X>
struct Group {
  int64_t heads, size, value_size;
  float scale;  // of the logits, the keys' scale included
  const X* q;   // [heads][q_stride], arranged as X
  int64_t q_stride;
  float* out;  // [heads][value_stride], arranged as fp32
  int64_t value_stride;
  Running* running;
};

// sums[.][i] += x[i] times four rows, a block of four lanes having a token in each.
template <int Heads, class Kv, class Read>
HELIX_INLINE void add_four(const bf16* x, const Values<const Kv> (&rows)[4], Read read,
                           Lanes (&sums)[2][Heads]) {
  constexpr bool scaled = std::is_same_v<Kv, nvfp4>;
  Lanes products[2][Heads];
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) {
    products[0][i] = scaled ? zero() : sums[0][i];
    products[1][i] = scaled ? zero() : sums[1][i];
  }
  for_four_lines(
      rows, read, [&](int p, int j, const Pairs& pairs) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int i = 0; i < Heads; ++i)
          products[j / 2][i] =
              multiply_add(x + ((4 * p + j) * Heads + i) * 32, pairs, products[j / 2][i]);
      });
  if constexpr (scaled) {
    const BlockScales scales = scales_of_rows<ScalesOfFour>(
        {read_scales(rows[0].scales, read), read_scales(rows[1].scales, read),
         read_scales(rows[2].scales, read), read_scales(rows[3].scales, read)});
#pragma GCC unroll 4
    for (int i = 0; i < Heads; ++i) {
      sums[0][i] = multiply_add(products[0][i], scales.halves[0], sums[0][i]);
      sums[1][i] = multiply_add(products[1][i], scales.halves[1], sums[1][i]);
    }
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < Heads; ++i) {
      sums[0][i] = products[0][i];
      sums[1][i] = products[1][i];
    }
  }
}

// x[i] times four rows from t, in blocks as add_four has them.
template <int Heads, class Kv>
HELIX_INLINE void dot_four(const Group<bf16>& group, const Tile<Kv>& tile, const Ahead& values,
                           int64_t t, Lanes (&dots)[Heads]) {
  Lanes sums[2][Heads];
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) sums[0][i] = sums[1][i] = zero();
  const int64_t first = t * tile.k_stride;
  const int64_t last = (tile.tokens - 1) * tile.k_stride;
  const auto step = [&](int64_t d, auto read) __attribute__((always_inline)) {
    const auto row = [&](int64_t r) {
      const int64_t at = std::min(first + r * tile.k_stride, last) + d;
      if (at < 0) __builtin_unreachable();  // spares signed divisions
      return tile.k.at(at);
    };
    values.fetch_rows<4>(t, d);
    add_four<Heads>(group.q + 4 * Heads * d, {row(0), row(1), row(2), row(3)}, read, sums);
  };
  int64_t d = 0;
  for (; d + line_values<Kv> <= group.size; d += line_values<Kv>) step(d, Whole());
  if (d < group.size) step(d, FirstBytes{(group.size - d) * 64 / line_values<Kv>});
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) dots[i] = sums[0][i] + sums[1][i];
}

// Logits of sixteen tokens from t.
template <int Heads, class Kv>
HELIX_INLINE void logits_of_codes(const Group<bf16>& group, const Tile<Kv>& tile,
                                  const Ahead& values, int64_t t, float* logits) {
  Lanes eight[2][Heads];
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Lanes four[2][Heads];
    dot_four(group, tile, values, t + 8 * half, four[0]);
    dot_four(group, tile, values, t + 8 * half + 4, four[1]);
#pragma GCC unroll 4
    for (int i = 0; i < Heads; ++i) eight[half][i] = fold_blocks(four[0][i], four[1][i]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i)
    store(fold_blocks(eight[0][i], eight[1][i]) * group.scale, logits + i * tile_tokens);
}

// Logits of Heads heads from h: logits[i][t] for t < tokens, -inf to the end of the tile.
template <int Heads, class X, class Kv>
[[gnu::noinline]] void logits_of(const Group<X>& group, int64_t h, const Tile<Kv>& tile,
                                 const Ahead& values, float* logits) {
  if constexpr (std::is_same_v<Kv, fp8> || std::is_same_v<Kv, nvfp4>) {
    for (int64_t t = 0; t < tile.tokens; t += lane_count)
      logits_of_codes<Heads>(group, tile, values, t, logits + t);
  } else {
    constexpr int columns = Heads == 1 ? 16 : Heads == 2 ? 8 : 4;
    for (int64_t t = 0; t < tile.tokens; t += columns) {
      Values<const Kv> rows[columns];
      for (int64_t c = 0; c < columns; ++c)
        rows[c] = tile.k.at(std::min(t + c, tile.tokens - 1) * tile.k_stride);
      float sums[16];
      store(dots<Heads, columns>(group.q + h * group.q_stride, group.q_stride, rows, group.size,
                                 [&](int c, int64_t d) { values.fetch(t + c, d); }) *
                group.scale,
            sums);
      for (int i = 0; i < Heads; ++i)
        std::memcpy(logits + i * tile_tokens + t, sums + i * columns, columns * sizeof(float));
    }
  }
  for (int i = 0; i < Heads; ++i)
    std::fill(logits + i * tile_tokens + tile.tokens, logits + (i + 1) * tile_tokens,
              -std::numeric_limits<float>::infinity());
}

// Turns a tile's logits into weights under the new maximum; keep: what the older sums are
// multiplied by. Heads go side by side: each step alone waits for the one before.
template <int Heads>
[[gnu::noinline]] void weigh(float* logits, int64_t tokens, Running* running, float (&keep)[16],
                             const Ahead& keys) {
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) {
    Lanes most = all(running[i].max);
    for (int64_t t = 0; t < tokens; t += lane_count)
      most = larger(load(logits + i * tile_tokens + t), most);
    const float max = largest(most);
    keep[i] = running[i].max - max;
    running[i].max = max;
  }
  store(exponential(load(keep)), keep);
  Lanes total[Heads];
  for (Lanes& lanes : total) lanes = zero();
  for (int64_t t = 0; t < tokens; t += lane_count) {
    for (int64_t row = t / 4; row < t / 4 + fetched_first / 4; ++row) keys.fetch_row(row);
#pragma GCC unroll 4
    for (int i = 0; i < Heads; ++i) {
      float* const at = logits + i * tile_tokens + t;
      const Lanes weight = exponential(load(at) - running[i].max);
      store(weight, at);
      total[i] = total[i] + weight;
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) running[i].sum = running[i].sum * keep[i] + sum(total[i]);
}

// Heads x Vectors sums of an output, `apart` from each other: multiplied by what they keep, and
// stored back after `add` has added to them.
template <int Heads, int Vectors, class Add>
HELIX_INLINE void update(float* out, int64_t stride, int64_t apart, const float* keep, Add&& add) {
  Lanes sum[Heads][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Heads; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) sum[i][j] = load(out + i * stride + j * apart) * keep[i];
  }
  add(sum);
#pragma GCC unroll 16
  for (int i = 0; i < Heads; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) store(sum[i][j], out + i * stride + j * apart);
  }
}

// out[i][d] = keep[i] out[i][d] + sum over t of weights[i][t] v[t][d], in order of t, for Vectors
// times sixteen values from d.
template <int Heads, int Vectors, class Read>
[[gnu::noinline]] void add_values(const float* weights, const float* keep, const Tile<float>& tile,
                                  const Ahead& keys, int64_t d, float* out, int64_t stride,
                                  Read&& read) {
  update<Heads, Vectors>(out + d, stride, lane_count, keep, [&](Lanes(&sum)[Heads][Vectors]) {
    for (int64_t t = 0; t < tile.tokens; ++t) {
      const float* const row = tile.v.data + t * tile.v_stride + d;
      Lanes value[Vectors];
#pragma GCC unroll 16
      for (int j = 0; j < Vectors; ++j) {
        if (t >= fetched_first) keys.fetch(t, d + j * lane_count);
        value[j] = read(row + j * lane_count);
      }
#pragma GCC unroll 16
      for (int i = 0; i < Heads; ++i) {
        const Lanes weight = all(weights[i * tile_tokens + t]);
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j) sum[i][j] = multiply_add(weight, value[j], sum[i][j]);
      }
    }
  });
}
template <int Heads>
void add_all_values(const Group<float>& group, const float* weights, const float* keep,
                    const Tile<float>& tile, const Ahead& keys, float* out) {
  const auto add = [&]<int Vectors>(int64_t d, auto read) {
    add_values<Heads, Vectors>(weights, keep, tile, keys, d, out, group.value_stride, read);
  };
  int64_t d = 0;
  for (; d + 4 * lane_count <= group.value_size; d += 4 * lane_count)
    add.template operator()<4>(d, Load{});
  for (; d + lane_count <= group.value_size; d += lane_count) add.template operator()<1>(d, Load{});
  if (d < group.value_size) add.template operator()<1>(d, LoadTail{group.value_size - d});
}

// Weights of V's rows, rounded to bf16.
template <int Heads, class Kv>
struct Rounded {
  alignas(64) uint16_t values[Heads * tile_tokens];

  Rounded(const float* weights, const Tile<Kv>&, int64_t /*d*/, int64_t /*size*/) {
    for (int64_t t = 0; t < Heads * tile_tokens; t += 2 * lane_count)
      store_rounded(load(weights + t), load(weights + t + lane_count), values + t);
  }
  // Of tokens t and t + 1.
  template <int Part>
  HELIX_INLINE Pairs at(int i, int64_t t) const {
    return broadcast_pair(values + i * tile_tokens + t);
  }
};
// nvfp4: times the scales of the line at d of `size`.
template <int Heads>
struct Rounded<Heads, nvfp4> {
  alignas(64) uint16_t values[Heads * tile_tokens * block_weights];

  Rounded(const float* weights, const Tile<nvfp4>& tile, int64_t d, int64_t size) {
    const int64_t last = (tile.tokens - 1) * tile.v_stride;
    for (int64_t t = 0; t < tile.tokens; t += 4) {
      const auto scales_of = [&](int64_t r) {
        const int64_t at = std::min((t + r) * tile.v_stride, last) + d;
        if (at < 0) __builtin_unreachable();  // spares a signed division
        const fp8* scales = tile.v.at(at).scales;
        return size - d >= line_values<nvfp4> ? read_scales(scales, Whole())
                                              : read_scales(scales, FirstBytes{(size - d) / 2});
      };
      const BlockScales scales =
          scales_of_rows<ScalesOfPairs>({scales_of(0), scales_of(1), scales_of(2), scales_of(3)});
#pragma GCC unroll 4
      for (int64_t i = 0; i < Heads; ++i)
        store_weights(weights + i * tile_tokens + t, scales,
                      values + (i * tile_tokens + t) * block_weights);
    }
  }
  template <int Part>
  HELIX_INLINE Pairs at(int i, int64_t t) const {
    return load_weights<Part>(values + (i * tile_tokens + t) * block_weights);
  }
};

// The same in bf16, two tokens at once, for sixteen times Vectors values of the lines from d.
// GoesOn: the row does, to the end of these lines.
template <int Heads, int Part, int Vectors, bool GoesOn, class Kv>
[[gnu::noinline]] void add_values(const Rounded<Heads, Kv>& weights, const float* keep,
                                  const Tile<Kv>& tile, const Ahead& keys, int64_t d, int64_t size,
                                  float* out, int64_t stride) {
  // nvfp4's other Part stands between.
  constexpr int64_t apart = std::is_same_v<Kv, nvfp4> ? 2 * lane_count : lane_count;
  update<Heads, Vectors>(out + d + Part * lane_count, stride, apart, keep, [&](auto& sum) {
    const auto add_two = [&](int64_t t, int64_t next) __attribute__((always_inline)) {
      Pairs values[Vectors];
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j += loaded_beside<Kv>) {
        const int64_t from = d + j / loaded_beside<Kv> * line_values<Kv>;
        const int64_t at = t * tile.v_stride + from;
        if (at < 0 || next < 0) __builtin_unreachable();  // spares signed divisions
        const auto first = tile.v.at(at);
        const auto second = tile.v.at(at + next);
        if constexpr (GoesOn) {
          load_beside<Part>(first, second, Whole(), values + j);
        } else {
          const int64_t count = std::clamp<int64_t>(size - from, 0, line_values<Kv>);
          load_beside<Part>(first, second, FirstBytes{count * 64 / line_values<Kv>}, values + j);
        }
        if (Part == 0 && t >= fetched_first) keys.fetch_rows<2>(t, from);
      }
#pragma GCC unroll 16
      for (int i = 0; i < Heads; ++i) {
        const Pairs weight = weights.template at<Part>(i, t);
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) sum[i][j] = multiply_add(weight, values[j], sum[i][j]);
      }
    };
    int64_t t = 0;
    for (; t + 2 <= tile.tokens; t += 2) add_two(t, tile.v_stride);
    if (t < tile.tokens) add_two(t, 0);  // beyond the last the weight is 0
  });
}
template <int Heads, class Kv>
void add_all_values(const Group<bf16>& group, const float* weights, const float* keep,
                    const Tile<Kv>& tile, const Ahead& keys, float* out) {
  const auto add = [&]<int Vectors, bool GoesOn>(const Rounded<Heads, Kv>& rounded, int64_t d) {
    add_values<Heads, 0, Vectors, GoesOn>(rounded, keep, tile, keys, d, group.value_size, out,
                                          group.value_stride);
    if constexpr (std::is_same_v<Kv, nvfp4>)
      add_values<Heads, 1, Vectors, GoesOn>(rounded, keep, tile, keys, d, group.value_size, out,
                                            group.value_stride);
  };
  constexpr int64_t step = std::max<int64_t>(64, line_values<Kv>);
  for (int64_t d = 0; d < group.value_size; d += step) {
    const Rounded<Heads, Kv> rounded(weights, tile, d, group.value_size);
    if (d + step <= group.value_size) add.template operator()<4, true>(rounded, d);
    else if (std::is_same_v<Kv, bf16> && group.value_size - d <= 32)
      add.template operator()<2, false>(rounded, d);
    else add.template operator()<4, false>(rounded, d);
  }
}

// One tile for Heads heads from h.
template <int Heads, class X, class Kv>
void attend_tile(const Group<X>& group, int64_t h, const Tile<Kv>& tile, const Ahead& values,
                 const Ahead& keys) {
  alignas(64) float logits[Heads * tile_tokens];
  alignas(64) float keep[lane_count] = {};
  logits_of<Heads>(group, h, tile, values, logits);
  weigh<Heads>(logits, tile.tokens, group.running + h, keep, keys);
  add_all_values<Heads>(group, logits, keep, tile, keys, group.out + h * group.value_stride);
}

}  // namespace helix::cpu
