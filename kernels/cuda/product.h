// Matrix products with few rows on a GPU. Twin: kernels/cpu/reference.h.
#pragma once

#include <cstdint>

#include "base/format.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

struct ProductShape {
  int rows = 0;  // m, at most 8
  int outputs = 0;
  int inputs = 0;  // a multiple of 8
  int64_t x_stride = 0;
  int64_t y_stride = 0;
};
inline constexpr int max_product_rows = 8;

// y[m][n] = sum over k of x[m][k] w[n][k], sums in fp32; x, y rows x_stride, y_stride values apart,
// w dense, all 16-byte aligned. The bits depend neither on m nor on the rows beside; w is read
// ahead of the kernel launched before.
template <class Activation>
void product(const ProductShape& shape, const Activation* x, const bf16* w, Activation* y,
             const Launch& launch);

}  // namespace helix::cuda
