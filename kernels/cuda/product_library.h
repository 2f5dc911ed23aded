// Products by cuBLASLt: of bf16 activations and weights, sums in fp32. Its bits are the same from
// run to run, but may differ with the number of rows. Twin: kernels/cpu/reference.h.
#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/check.h"
#include "kernels/cuda/product.h"

struct cublasLtContext;

namespace helix::cuda {

class ProductLibrary {
 public:
  // Was this built with it?
  static const bool found;
  // The one rule of when it is the better: results/published/h200-products.md has the table.
  static bool better(const ProductShape& shape);

  // For one stream: products that run at once may not share its workspace.
  ProductLibrary();
  ~ProductLibrary();
  ProductLibrary(ProductLibrary&&) = delete;

  // As experts_product, of `matrices` with shape.rows each (a head each, or one). x, w, y and what
  // stands between their rows are multiples of 16 bytes. The first of a shape chooses an algorithm
  // and loads it, the very first also allocates: never while a stream is captured, or another rank
  // waits for this one.
  template <class Out>
  void product(const ProductShape& shape, int matrices, const bf16* x, const bf16* w, Out* y,
               const Launch& launch);

 private:
  struct Plan;
  // rows, outputs, inputs, x_stride, y_stride; matrices, fp32 outputs, SMs
  using Key = std::tuple<int, int, int, int64_t, int64_t, int, bool, int>;
  const Plan& plan_of(const Key& key);

  void open();
  cublasLtContext* handle_ = nullptr;
  Buffer<std::byte> workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace helix::cuda
