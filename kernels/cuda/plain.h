// Products of any shape on a GPU, and the products a head: by cuBLASLt where that is given and the
// better, by tensor cores where these serve, else by plain kernels. Twins: kernels/cpu/reference.h.
// All pointers are device memory.
#pragma once

#include "kernels/cpu/partial.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_library.h"

namespace helix::cuda {

// As `product`, for any number of rows and inputs, any alignment and any format. fp32 activations,
// which are for checking, are multiplied in fp32.
template <class Activation>
void any_product(const ProductShape& shape, const Activation* x, const Stored& w, Activation* y,
                 const Launch& launch, ProductLibrary* library = nullptr);

// As experts_product, in the same way.
template <class Activation, class Out>
void any_experts_product(const ProductShape& shape, const Experts& experts, const Activation* x,
                         const Stored& w, Out* y, const Launch& launch,
                         ProductLibrary* library = nullptr);

// A matrix a head: y[row][head][n] = sum over k < inputs of x[row][head][k] w[head][n][k], n <
// made. x: [rows][heads][x_size]; w: [heads][made][inputs]; y: vectors of y_size values, whose rest
// is what stands behind x's first `inputs`. y stands in messages of part_heads heads a row
// (cpu::PartialLayout), all heads in one where they are not exchanged.
struct PerHeadShape {
  int rows = 0;
  int heads = 0;
  int made = 0;
  int inputs = 0;
  int x_size = 0;
  int y_size = 0;
  int part_heads = 0;
  int64_t part_bytes = 0;
  // Log-sum-exps that travel along: [rows][heads], to behind the messages' outputs. Null: none.
  const float* lses = nullptr;
  int64_t outputs_bytes = 0;  // of one message
};
template <class Activation>
void per_head(const PerHeadShape& shape, const Activation* x, const Stored& w, std::byte* y,
              const Launch& launch, ProductLibrary* library = nullptr);

// As cpu::rescale_partial: one rank's partial outputs, scaled to its share of the whole.
template <class Activation>
void rescale_partial(const cpu::PartialLayout& part, int parts, const std::byte* message,
                     const float* lses, Activation* out, const Launch& launch);

}  // namespace helix::cuda
