// Matrix products of bf16 activations on a GPU, by tensor cores: of up to eight rows (product.cu),
// and of more, or of a matrix a head, 64 at a time (product_wide.cu). Twins:
// kernels/cpu/reference.h and reference_moe.h. All pointers are device memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/format.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

struct ProductShape {
  int rows = 0;  // m; where experts choose: of an expert, about
  int outputs = 0;
  int inputs = 0;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
};
inline constexpr int max_product_rows = 8;  // of product.cu

// Whether these kernels take it: rows of w and their scales must be aligned to what is copied.
template <class Weight>
constexpr bool served(const ProductShape& shape) {
  constexpr int grain = std::is_same_v<Weight, nvfp4> ? 32 : std::is_same_v<Weight, fp8> ? 16 : 8;
  return shape.inputs % grain == 0;
}

// y[m][n] = sum over k of x[m][k] w[n][k], sums in fp32; x, y rows x_stride, y_stride values apart,
// w dense (quantised ones hold no NaN), all 16-byte aligned. The bits depend neither on the rows
// beside nor on m, but for whether it is above eight; w is read ahead of the kernel launched
// before.
template <class Weight>
void product(const ProductShape& shape, const bf16* x, const Values<const Weight>& w, bf16* y,
             const Launch& launch);

// Who chose which of `count` matrices (at most 512): pairs [begins[e], begins[e + 1]) expert e.
struct Experts {
  int count = 0;
  const int32_t* begins = nullptr;
  const int32_t* row_of = nullptr;  // of a pair; null: pair p reads row p
  // Without begins: matrix e has so many rows of x and of y: e, count + e, 2 count + e … (a head
  // each).
  int rows_each = 0;
};
// y[p][n] = sum over k of x[row of pair p][k] w[expert of p][n][k]: weights of the chosen alone are
// read, once for eight pairs, or for 64 where shape.rows is above eight.
template <class Weight, class Out>
void experts_product(const ProductShape& shape, const Experts& experts, const bf16* x,
                     const Values<const Weight>& w, Out* y, const Launch& launch);

}  // namespace helix::cuda
