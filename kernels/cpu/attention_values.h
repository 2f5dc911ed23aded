// The values of a tile, added to the outputs of its heads.
#pragma once

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/tokens.h"

namespace helix::cpu {

// Heads x Vectors sums of an output: multiplied by what they keep, and stored back after `add` has
// added to them.
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
[[gnu::noinline]] void add_values(const float* weights, const float* keep,
                                  const Piece<float>& piece, const Ahead& keys, int64_t d,
                                  float* out, int64_t stride, Read&& read) {
  const auto add = [&](Lanes(&sum)[Heads][Vectors]) __attribute__((always_inline)) {
    for (int64_t t = 0; t < piece.tokens; ++t) {
      const float* const row = piece.v.data + t * piece.v_stride + d;
      Lanes value[Vectors];
#pragma GCC unroll 16
      for (int j = 0; j < Vectors; ++j) {
        if (t >= keys.fetched) keys.fetch(t, d + j * lane_count);
        value[j] = read(row + j * lane_count);
      }
#pragma GCC unroll 16
      for (int i = 0; i < Heads; ++i) {
        const Lanes weight = all(weights[i * tile_of<float> + t]);
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j) sum[i][j] = multiply_add(weight, value[j], sum[i][j]);
      }
    }
  };
  update<Heads, Vectors>(out + d, stride, keep, add);
}
template <int Heads>
void add_all_values(const Group<float>& group, const float* weights, const float* keep,
                    const Piece<float>& piece, const Ahead& keys, float* out) {
  const auto add = [&]<int Vectors>(int64_t d, auto read) {
    add_values<Heads, Vectors>(weights, keep, piece, keys, d, out, group.value_stride, read);
  };
  int64_t d = 0;
  for (; d + 4 * lane_count <= group.value_size; d += 4 * lane_count)
    add.template operator()<4>(d, Load{});
  for (; d + lane_count <= group.value_size; d += lane_count) add.template operator()<1>(d, Load{});
  if (d < group.value_size) add.template operator()<1>(d, LoadTail{group.value_size - d});
}

// Weights of V's rows, rounded to bf16.
template <int Heads, class Kv>
class Rounded {
 public:
  Rounded(const float* weights, int64_t tokens) {
    for (int64_t i = 0; i < Heads * stride; i += stride)
      for (int64_t t = i; t < i + tokens; t += 2 * lane_count)
        store_rounded(load(weights + t), load(weights + t + lane_count), values_ + t);
  }
  // Of tokens t and t + 1, for the j-th sixteen values of a Part.
  template <int Part>
  HELIX_INLINE Pairs at(int i, int64_t t, int /*j*/) const {
    return broadcast_pair(values_ + i * stride + t);
  }

 private:
  static constexpr int64_t stride = tile_of<Kv>;
  alignas(64) uint16_t values_[Heads * stride];
};
// nvfp4: times the scales of the line at d of `size`.
template <int Heads>
class Rounded<Heads, nvfp4> {
 public:
  Rounded(const float* weights, const Piece<nvfp4>& piece, int64_t d, int64_t size) {
    if (size - d >= line_values<nvfp4>) multiply(weights, piece, d, Whole());
    else multiply(weights, piece, d, FirstBytes{(size - d) / 2});
  }
  template <int Part>
  HELIX_INLINE Pairs at(int i, int64_t t, int j) const {
    return load_weights(values_ + index(i, t), 2 * Part + j / 2);
  }

 private:
  static constexpr int64_t index(int64_t i, int64_t t) {  // four tokens of all heads stand together
    return (t / 4 * 4 * Heads + i * 4 + t % 4) * block_weights;
  }
  template <class Read>
  [[gnu::noinline]] void multiply(const float* weights, const Piece<nvfp4>& piece, int64_t d,
                                  Read read) {
    const fp8* row = piece.v.at(d).scales;
    const int64_t stride = piece.v_stride / nvfp4_block;
    const auto apart = [&](int64_t rows) __attribute__((always_inline)) {
      const auto codes = [&](int64_t r) {
        return read_scales(row + std::min(r, rows - 1) * stride, read);
      };
      return scales_of_rows<ScalesOfPairs>({codes(0), codes(1), codes(2), codes(3)});
    };
    const auto four = [&](int64_t t, const BlockScales& scales) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < Heads; ++i)
        store_weights(weights + i * tile_of<nvfp4> + t, scales, values_ + index(i, t));
      row += 4 * stride;
    };
    const bool together = std::is_same_v<Read, Whole> && stride == sizeof(uint64_t);
    int64_t t = 0;
    for (; t + 4 <= piece.tokens; t += 4)
      four(t, together ? scales_of_rows<ScalesOfPairs>(row) : apart(4));
    if (t < piece.tokens) four(t, apart(piece.tokens - t));
  }

  alignas(64) uint16_t values_[Heads * tile_of<nvfp4> * block_weights];
};

// The same in bf16, two tokens at once, for sixteen times Vectors values of the lines from d.
// GoesOn: the row does, to the end of these lines.
template <int Heads, int Part, int Vectors, bool GoesOn, class Kv>
[[gnu::noinline]] void add_values(const Rounded<Heads, Kv>& weights, const float* keep,
                                  const Piece<Kv>& piece, const Ahead& keys, int64_t d,
                                  int64_t size, float* out, int64_t stride) {
  const auto add = [&](auto& sum) __attribute__((always_inline)) {
    const auto add_two = [&](int64_t t, int64_t next) __attribute__((always_inline)) {
      Pairs values[Vectors];
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j += loaded_beside<Kv>) {
        const int64_t from = d + j / loaded_beside<Kv> * line_values<Kv>;
        const int64_t at = t * piece.v_stride + from;
        if (at < 0 || next < 0) __builtin_unreachable();  // spares signed divisions
        const auto first = piece.v.at(at);
        const auto second = piece.v.at(at + next);
        if constexpr (GoesOn) {
          load_beside<Part>(first, second, Whole(), values + j);
        } else {
          const int64_t count = std::clamp<int64_t>(size - from, 0, line_values<Kv>);
          load_beside<Part>(first, second, FirstBytes{count * 64 / line_values<Kv>}, values + j);
        }
        if (Part == 0 && t >= keys.fetched) keys.fetch_rows<2>(t, from);
      }
#pragma GCC unroll 16
      for (int i = 0; i < Heads; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j)
          sum[i][j] = multiply_add(weights.template at<Part>(i, t, j), values[j], sum[i][j]);
      }
    };
    int64_t t = 0;
    for (; t + 2 <= piece.tokens; t += 2) add_two(t, piece.v_stride);
    if (t < piece.tokens) add_two(t, 0);  // beyond the last the weight is 0
  };
  update<Heads, Vectors>(out + d + Part * Vectors * lane_count, stride, keep, add);
}
template <int Heads, class Kv>
void add_all_values(const Group<bf16>& group, const float* weights, const float* keep,
                    const Piece<Kv>& piece, const Ahead& keys, float* out) {
  const auto add = [&]<int Vectors, bool GoesOn>(const Rounded<Heads, Kv>& rounded, int64_t d) {
    add_values<Heads, 0, Vectors, GoesOn>(rounded, keep, piece, keys, d, group.value_size, out,
                                          group.value_stride);
    if constexpr (std::is_same_v<Kv, nvfp4>) {
      if (group.value_size - d > Vectors * lane_count)
        add_values<Heads, 1, Vectors, GoesOn>(rounded, keep, piece, keys, d, group.value_size, out,
                                              group.value_stride);
    }
  };
  constexpr int64_t step = std::max<int64_t>(64, line_values<Kv>);
  const auto add_lines = [&](const Rounded<Heads, Kv>& rounded, int64_t d) {
    if (d + step <= group.value_size) add.template operator()<4, true>(rounded, d);
    else if (std::is_same_v<Kv, bf16> && group.value_size - d <= 32)
      add.template operator()<2, false>(rounded, d);
    else add.template operator()<4, false>(rounded, d);
  };
  if constexpr (std::is_same_v<Kv, nvfp4>) {
    for (int64_t d = 0; d < group.value_size; d += step)
      add_lines(Rounded<Heads, Kv>(weights, piece, d, group.value_size), d);
  } else {
    const Rounded<Heads, Kv> rounded(weights, piece.tokens);
    for (int64_t d = 0; d < group.value_size; d += step) add_lines(rounded, d);
  }
}

}  // namespace helix::cpu
