// The inner loop of products and of attention's logits: up to sixteen dot products at once.
#pragma once

#include "kernels/cpu/lines.h"

namespace helix::cpu {

// sums[r] += x[r] times the line, lane by lane, for r < Rows; x: a line's values in its order. Rows
// go side by side, and nvfp4's products, which wait for their scale, in two sums: each step of one
// sum waits for the one before.
template <int Rows, class X, class T>
HELIX_INLINE void add_products(const X* x, int64_t x_stride, const Line<T>& line,
                               Lanes* const (&sums)[Rows]) {
  if constexpr (std::is_same_v<T, float>) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
      *sums[r] = multiply_add(load(x + r * x_stride), line.values, *sums[r]);
  } else if constexpr (std::is_same_v<T, nvfp4>) {
    Lanes products[2][Rows];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p)
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
        products[p % 2][r] = multiply_add(x + r * x_stride + 32 * p, line.values[p],
                                          p < 2 ? zero() : products[p % 2][r]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
      *sums[r] = multiply_add(products[0][r] + products[1][r], line.scales, *sums[r]);
  } else {
#pragma GCC unroll 4
    for (int p = 0; p < Line<T>::pairs; ++p)
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
        *sums[r] = multiply_add(x + r * x_stride + 32 * p, line.values[p], *sums[r]);
  }
}

// sum[r * Columns + c] += x[r] times w[c], r < Rows, c < Columns, without w's scale, each in
// sixteen lanes in order of k: its bits depend on its two vectors alone. x: arranged in w's order,
// to whole lines. ahead(c, k) is called beside the line at value k of column c, to prefetch what
// comes later.
template <int Rows, int Columns, class X, class Weight, class Ahead>
HELIX_INLINE void add_dots(const X* x, int64_t x_stride, const Values<const Weight> (&w)[Columns],
                           int64_t size, Ahead&& ahead, Lanes (&sum)[16]) {
  static_assert(Rows * Columns <= 16);
  const auto step = [&](int64_t k, auto&& read) {
#pragma GCC unroll 16
    for (int c = 0; c < Columns; ++c) {
      const Line<Weight> line = read(w[c].at(k));
      ahead(c, k);
      Lanes* column[Rows];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) column[r] = &sum[r * Columns + c];
      const X* operand = x + k;
      // Read anew for each column: of so many values the compiler would hold only some.
      if constexpr (line_values < Weight >> 32) asm("" : "+r"(operand));
      add_products<Rows>(operand, x_stride, line, column);
    }
  };
  int64_t k = 0;
  for (; k + line_values<Weight> <= size; k += line_values<Weight>)
    step(k, [](const auto& from) { return load_line(from); });
  if (k < size) step(k, [&](const auto& from) { return load_line(from, size - k); });
}

// Lane r * Columns + c of the result is the dot product of x[r] and w[c], folded by one tree.
template <int Rows, int Columns, class X, class Weight, class Ahead>
HELIX_INLINE Lanes dots(const X* x, int64_t x_stride, const Values<const Weight> (&w)[Columns],
                        int64_t size, Ahead&& ahead) {
  Lanes sum[16];
#pragma GCC unroll 16
  for (Lanes& lanes : sum) lanes = zero();
  add_dots<Rows>(x, x_stride, w, size, ahead, sum);
  return sums(sum);
}

}  // namespace helix::cpu
