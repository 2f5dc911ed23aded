// The logits of a tile, and the softmax that they are part of.
#pragma once

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/dots.h"
#include "kernels/cpu/tokens.h"

namespace helix::cpu {

// The r-th of rows `stride` values apart. Values::at would divide what r is part of: eight
// addresses in place of two.
template <class Kv>
HELIX_INLINE Values<const Kv> row_at(const Values<const Kv>& first, int64_t r, int64_t stride) {
  if constexpr (std::is_same_v<Kv, nvfp4>)
    return {first.codes + r * (stride / 2), first.scales + r * (stride / nvfp4_block), first.scale};
  else return first.at(r * stride);
}

// sums[f][i] += x[i] times rows [4 f, 4 f + 4), a block of four lanes having a row in each.
template <int Heads, class Kv, class Read>
HELIX_INLINE void add_eight(const bf16* x, const Values<const Kv> (&rows)[8], Read read,
                            Lanes (&sums)[2][Heads]) {
  BlockScales scales[2];
  const auto add_half = [&]<int Half>() __attribute__((always_inline)) {
    using Lines = FourLines<Kv, Half>;
    const Lines first({rows[0], rows[1], rows[2], rows[3]}, read);
    const Lines second({rows[4], rows[5], rows[6], rows[7]}, read);
    const auto add = [&]<int I>(Lanes(&to)[2][Heads]) __attribute__((always_inline)) {
      const Pairs a = first.template pairs<I>();
      const Pairs b = second.template pairs<I>();
#pragma GCC unroll 4
      for (int i = 0; i < Heads; ++i) {
        const Pairs operand = load_pairs(x + (Lines::place(I) * Heads + i) * 32);
        to[0][i] = multiply_add(a, operand, to[0][i]);
        to[1][i] = multiply_add(b, operand, to[1][i]);
      }
    };
    const auto add_four = [&]<int I>(Lanes(&to)[2][Heads]) __attribute__((always_inline)) {
      add.template operator()<I>(to);
      add.template operator()<I + 1>(to);
      add.template operator()<I + 2>(to);
      add.template operator()<I + 3>(to);
    };
    if constexpr (std::is_same_v<Kv, nvfp4>) {
      Lanes products[2][Heads];
#pragma GCC unroll 4
      for (int i = 0; i < Heads; ++i) products[0][i] = products[1][i] = zero();
      add_four.template operator()<0>(products);
      if constexpr (Half == 0) {
        const auto scales_of = [&](int f) __attribute__((always_inline)) {
          const auto codes = [&](int r) { return read_scales(rows[4 * f + r].scales, read); };
          return scales_of_rows<ScalesOfFour>({codes(0), codes(1), codes(2), codes(3)});
        };
        scales[0] = scales_of(0);
        scales[1] = scales_of(1);
      }
      add_four.template operator()<4>(products);
#pragma GCC unroll 4
      for (int i = 0; i < Heads; ++i) {
        sums[0][i] = multiply_add(products[0][i], scales[0].halves[Half], sums[0][i]);
        sums[1][i] = multiply_add(products[1][i], scales[1].halves[Half], sums[1][i]);
      }
    } else {
      add_four.template operator()<0>(sums);
    }
    // The other half is read when this one is done with: registers hold one of them.
    asm volatile("" ::: "memory");
  };
  add_half.template operator()<0>();
  add_half.template operator()<1>();
}

// x[i] times eight rows from t; lanes 4 b + r and 4 b + 8 + r … have those of row r and r + 4.
template <int Heads, bool Full, class Kv>
HELIX_INLINE void dot_eight(const Group<bf16>& group, const Piece<Kv>& piece, const Ahead& values,
                            int64_t t, Lanes (&dots)[Heads]) {
  Lanes sums[2][Heads];
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) sums[0][i] = sums[1][i] = zero();
  const int64_t last = Full ? 7 : piece.tokens - 1 - t;
  const auto step = [&](int64_t d, auto read) __attribute__((always_inline)) {
    const Values<const Kv> first = piece.k.at(t * piece.k_stride + d);
    const auto row = [&](int64_t r) __attribute__((always_inline)) {
      return row_at(first, Full ? r : std::min(r, last), piece.k_stride);
    };
    values.fetch_rows<8>(t, d);
    const bf16* x = group.q + 4 * Heads * d;
    asm volatile("" : "+r"(x));  // Read anew: of so many values registers would hold only some.
    add_eight<Heads>(x, {row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)}, read,
                     sums);
  };
  int64_t d = 0;
  for (; d + line_values<Kv> <= group.size; d += line_values<Kv>) step(d, Whole());
  if (d < group.size) step(d, FirstBytes{(group.size - d) * 64 / line_values<Kv>});
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) dots[i] = fold_blocks(sums[0][i], sums[1][i]);
}

// Logits of sixteen tokens from t.
template <int Heads, bool Full, class Kv>
HELIX_INLINE void logits_of_codes(const Group<bf16>& group, const Piece<Kv>& piece,
                                  const Ahead& values, int64_t t, float* logits) {
  Lanes eight[2][Heads];
  dot_eight<Heads, Full>(group, piece, values, t, eight[0]);
  dot_eight<Heads, Full>(group, piece, values, t + 8, eight[1]);
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i)
    store(fold_blocks(eight[0][i], eight[1][i]) * group.scale, logits + i * tile_of<Kv>);
}

// Logits of Heads heads from h: logits[i][t] for t < tokens; to a multiple of sixteen those beyond
// may change.
template <int Heads, class X, class Kv>
[[gnu::noinline]] void logits_of(const Group<X>& of_group, int64_t h, const Piece<Kv>& of_piece,
                                 const Ahead& of_values, float* logits) {
  // Copies, which are not read anew after each half of the lines.
  const Group<X> group = of_group;
  const Piece<Kv> piece = of_piece;
  const Ahead values = of_values;
  if constexpr (std::is_same_v<Kv, fp8> || std::is_same_v<Kv, nvfp4>) {
    int64_t t = 0;
    for (; t + lane_count <= piece.tokens; t += lane_count)
      logits_of_codes<Heads, true>(group, piece, values, t, logits + t);
    if (t < piece.tokens) logits_of_codes<Heads, false>(group, piece, values, t, logits + t);
  } else {
    constexpr int columns = Heads == 1 ? 16 : Heads == 2 ? 8 : 4;
    for (int64_t t = 0; t < piece.tokens; t += columns) {
      Values<const Kv> rows[columns];
      for (int64_t c = 0; c < columns; ++c)
        rows[c] = piece.k.at(std::min(t + c, piece.tokens - 1) * piece.k_stride);
      float sums[16];
      store(dots<Heads, columns>(group.q + h * group.q_stride, group.q_stride, rows, group.size,
                                 [&](int c, int64_t d) { values.fetch(t + c, d); }) *
                group.scale,
            sums);
      for (int i = 0; i < Heads; ++i)
        std::memcpy(logits + i * tile_of<Kv> + t, sums + i * columns, columns * sizeof(float));
    }
  }
}

// Turns a tile's logits into weights under the new maximum; keep: what the older sums are
// multiplied by. Heads go side by side: each step alone waits for the one before.
template <int Heads, class Kv>
[[gnu::noinline]] void weigh(float* logits, int64_t tokens, Running* running, float (&keep)[16],
                             const Ahead& keys) {
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) {
    Lanes most = all(running[i].max);
    for (int64_t t = 0; t < tokens; t += lane_count)
      most = larger(load(logits + i * tile_of<Kv> + t), most);
    const float max = largest(most);
    keep[i] = running[i].max - max;
    running[i].max = max;
  }
  store(exponential(load(keep)), keep);
  Lanes total[4];
#pragma GCC unroll 4
  for (Lanes& lanes : total) lanes = zero();
  constexpr int64_t fetched = tile_of<Kv> / fetched_first<Kv>;  // one row of so many
  for (int64_t t = 0; t < tokens; t += lane_count) {
    for (int64_t row = t / fetched; row < (t + lane_count) / fetched; ++row) keys.fetch_row(row);
#pragma GCC unroll 4
    for (int i = 0; i < Heads; ++i) {
      float* const at = logits + i * tile_of<Kv> + t;
      const Lanes weight = exponential(load(at) - running[i].max);
      store(weight, at);
      total[i] = total[i] + weight;
    }
  }
  float added[lane_count];
  store(sums(total), added);
  for (int i = 0; i < Heads; ++i) running[i].sum = running[i].sum * keep[i] + added[i];
}

}  // namespace helix::cpu
