// One tile of tokens of decode attention, for the query heads that share a KV head: logits, their
// softmax so far, and the weighted sum of values. Two kinds of arithmetic:
//   fp32   all of it; codes are widened to fp32 first.
//   bf16   of bf16 activations over bf16, fp8 or nvfp4: products of bf16 values, which codes are,
//          summed in fp32. The softmax is fp32; its weights are rounded to bf16 for the product
//          with the values, as matrix units take them.
#pragma once

#include <limits>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/dots.h"

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
  // Of the line of value d of row t.
  HELIX_INLINE void fetch(int64_t t, int64_t d) const {
    __builtin_prefetch(rows_ + t * row_bytes_ + (d << bits_log_ >> 3), 0, 2);
  }

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

// Logits of Heads heads from h: logits[i][t] for t < tokens, -inf up to the next multiple of
// sixteen.
template <int Heads, class X, class Kv>
[[gnu::noinline]] void logits_of(const Group<X>& group, int64_t h, const Tile<Kv>& tile,
                                 const Ahead& values, float* logits) {
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
  for (int i = 0; i < Heads; ++i)
    std::fill(logits + i * tile_tokens + tile.tokens,
              logits + i * tile_tokens + round_up(tile.tokens, lane_count),
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

// Heads x Vectors sums of an output, from d: multiplied by what they keep, and stored back after
// `add` has added to them.
template <int Heads, int Vectors, class Add>
HELIX_INLINE void update(float* out, int64_t stride, const float* keep, Add&& add) {
  Lanes sum[Heads][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Heads; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) sum[i][j] = load(out + i * stride + j * lane_count) * keep[i];
  }
  add(sum);
#pragma GCC unroll 16
  for (int i = 0; i < Heads; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) store(sum[i][j], out + i * stride + j * lane_count);
  }
}

// out[i][d] = keep[i] out[i][d] + sum over t of weights[i][t] v[t][d], in order of t, for Vectors
// times sixteen values from d.
template <int Heads, int Vectors, class Read>
[[gnu::noinline]] void add_values(const float* weights, const float* keep, const Tile<float>& tile,
                                  const Ahead& keys, int64_t d, float* out, int64_t stride,
                                  Read&& read) {
  update<Heads, Vectors>(out + d, stride, keep, [&](Lanes(&sum)[Heads][Vectors]) {
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

// Sixteen times Vectors values of two tokens, each value of one beside the other's, in the order of
// fp32. They are pairs 2 Part and on of the line (bf16: of two lines) at d. GoesOn: the row does,
// to the end of the line.
template <int Part, bool GoesOn, int Vectors, class Kv>
HELIX_INLINE void load_beside(const Values<const Kv>& a, const Values<const Kv>& b, int64_t d,
                              int64_t size, Pairs (&to)[Vectors]) {
  const auto line = [&](const Values<const Kv>& row, int64_t at) {
    if constexpr (GoesOn) return load_line(row.at(at));
    else return load_line(row.at(at), std::clamp<int64_t>(size - at, 0, line_values<Kv>));
  };
#pragma GCC unroll 2
  for (int j = 0; j < Vectors / 2; ++j) {
    if constexpr (std::is_same_v<Kv, nvfp4>) {
      const auto p = 2 * Part + j;
      const Line<Kv> first = line(a, d);
      const Line<Kv> second = line(b, d);
      to[2 * j] = upper_halves(even(first.values[p]) * first.scales,
                               even(second.values[p]) * second.scales);
      to[2 * j + 1] =
          upper_halves(odd(first.values[p]) * first.scales, odd(second.values[p]) * second.scales);
    } else {
      constexpr int pairs = Line<Kv>::pairs;
      const int64_t at = d + j / pairs * line_values<Kv>;
      const Pairs first = line(a, at).values[j % pairs];
      const Pairs second = line(b, at).values[j % pairs];
      to[2 * j] = evens(first, second);
      to[2 * j + 1] = odds(first, second);
    }
  }
}

// The same in bf16, two tokens at once, for the values at positions d + 64 Part on.
template <int Heads, int Part, int Vectors, bool GoesOn, class Kv>
[[gnu::noinline]] void add_values(const bf16* weights, const float* keep, const Tile<Kv>& tile,
                                  const Ahead& keys, int64_t d, int64_t size, float* out,
                                  int64_t stride) {
  update<Heads, Vectors>(out + d + 64 * Part, stride, keep, [&](Lanes(&sum)[Heads][Vectors]) {
    for (int64_t t = 0; t < tile.tokens; t += 2) {
      if (tile.v_stride < 0) __builtin_unreachable();         // spares a signed division
      const int64_t next = std::min(t + 1, tile.tokens - 1);  // beyond the last its weight is 0
      Pairs values[Vectors];
      load_beside<Part, GoesOn>(tile.v.at(t * tile.v_stride), tile.v.at(next * tile.v_stride), d,
                                size, values);
      if (Part == 0 && t >= fetched_first) {
#pragma GCC unroll 2
        for (int64_t i = 0; i < 16 * Vectors; i += line_values<Kv>) {
          keys.fetch(t, d + i);
          keys.fetch(next, d + i);
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < Heads; ++i) {
        const Pairs weight = broadcast_pair(weights + i * tile_tokens + t);
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) sum[i][j] = multiply_add(weight, values[j], sum[i][j]);
      }
    }
  });
}
template <int Heads, class Kv>
void add_all_values(const Group<bf16>& group, const float* weights, const float* keep,
                    const Tile<Kv>& tile, const Ahead& keys, float* out) {
  alignas(64) bf16 rounded[Heads * tile_tokens];
  for (int i = 0; i < Heads; ++i) {
    for (int64_t t = i * tile_tokens; t < i * tile_tokens + tile.tokens; t += lane_count)
      store(load(weights + t), rounded + t);
  }
  const auto add = [&]<int Part, int Vectors, bool GoesOn>(int64_t d) {
    add_values<Heads, Part, Vectors, GoesOn>(rounded, keep, tile, keys, d, group.value_size, out,
                                             group.value_stride);
  };
  constexpr int64_t step = std::max<int64_t>(64, line_values<Kv>);
  int64_t d = 0;
  for (; d + step <= group.value_size; d += step) {
    add.template operator()<0, 4, true>(d);
    if constexpr (step > 64) add.template operator()<1, 4, true>(d);
  }
  if (d == group.value_size) return;
  if (line_values<Kv> == 32 && group.value_size - d <= 32) {
    add.template operator()<0, 2, false>(d);
  } else {
    add.template operator()<0, 4, false>(d);
    if constexpr (step > 64) add.template operator()<1, 4, false>(d);
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
