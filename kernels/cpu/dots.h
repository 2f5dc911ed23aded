// The inner loop of products and of attention's logits: up to sixteen dot products at once.
#pragma once

#include "kernels/cpu/lanes.h"

namespace helix::cpu {

// Lane r * Columns + c of the result is the dot product of x[r] and w[c], r < Rows, c < Columns,
// without w's scale, each summed in sixteen lanes in order of k and folded by one tree: its bits
// depend on its two vectors alone.
template <int Rows, int Columns, class Weight>
HELIX_INLINE Lanes dots(const float* x, int64_t x_stride, const Values<const Weight> (&w)[Columns],
                        int64_t size) {
  static_assert(Rows * Columns <= 16);
  Lanes sum[16];
#pragma GCC unroll 16
  for (Lanes& lanes : sum) lanes = zero();
  const auto step = [&](int64_t k, auto&& read) {
    Lanes row[Rows];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) row[r] = read(x + r * x_stride + k);
#pragma GCC unroll 16
    for (int c = 0; c < Columns; ++c) {
      const Lanes column = read(w[c].at(k));
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
        sum[r * Columns + c] = multiply_add(row[r], column, sum[r * Columns + c]);
    }
  };
  int64_t k = 0;
  if constexpr (std::is_same_v<Weight, nvfp4>) {
    for (; k + 4 * lane_count <= size; k += 4 * lane_count) {
#pragma GCC unroll 16
      for (int c = 0; c < Columns; ++c) {
        Lanes column[4];
        load_four(w[c].at(k), column);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
#pragma GCC unroll 16
          for (int r = 0; r < Rows; ++r)
            sum[r * Columns + c] = multiply_add(load(x + r * x_stride + k + i * lane_count),
                                                column[i], sum[r * Columns + c]);
      }
    }
  }
  for (; k + lane_count <= size; k += lane_count) step(k, Load{});
  if (k < size) step(k, LoadTail{size - k});
  return sums(sum);
}

}  // namespace helix::cpu
