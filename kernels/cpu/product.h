// Matrix products with few rows: activations times weights.
#pragma once

#include <cstdint>
#include <functional>

#include "base/format.h"

namespace helix::cpu {

// y[m][n] = sum over k of x[m][k] w[n][k], sums in fp32; x, y rows x_stride, y_stride values apart,
// w dense, its scale included (nvfp4: inputs a multiple of 16). Products of bf16 activations and
// weights below fp32 are exact (an e4m3 or e2m1 value is one of bf16, too); all others are rounded
// to fp32. Our kernel reads w once up to four rows, and each sum's order depends on k alone (not
// on threads, nor on m or n), so equal rows give equal bits. All fp32 with rows >= wide_rows goes
// to BLAS in fixed blocks of outputs: bits independent of threads still, but not of the rows
// beside. Rows of w that start at multiples of 64 bytes are read fastest.
struct ProductShape {
  int64_t rows = 0;  // m
  int64_t outputs = 0;
  int64_t inputs = 0;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  // Never BLAS: for what every rank decides alone (routing, logits).
  bool fixed_order = false;
};
// From here BLAS is faster (measured: ours 1.5 times as fast at 32 rows, even at 200).
inline constexpr int64_t wide_rows = 256;

template <class Weight, class Activation, class Out>
void product(const ProductShape& shape, const Activation* x, const Values<const Weight>& w, Out* y,
             const std::function<void()>& poll = {});

// As product, but x is shared over `heads` matrices: y[m][h][n] = sum over k of x[m][h][k]
// w[h][n][k]. x: [rows][heads][x_stride], y: [rows][heads][y_stride] (strides of one head, in
// values).
template <class Weight, class Activation>
void product_per_head(const ProductShape& shape, int64_t heads, const Activation* x,
                      const Values<const Weight>& w, Activation* y);

}  // namespace helix::cpu
