// cuBLASLt's products against the plain twin, and the rule that picks them.
#pragma once

#include <string>

#include "kernels/cpu/reference.h"
#include "kernels/cuda/product_library.h"
#include "tests/cuda/product_cases.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {

struct LibraryCase {
  int rows, outputs, inputs, matrices = 1;
  std::string name() const {
    return std::to_string(rows) + " x " + std::to_string(matrices) + " of " +
           std::to_string(outputs) + " x " + std::to_string(inputs);
  }
};

// Rows of x and of y stand apart; what stands between those of y is not touched.
template <class Out>
void library_case(ProductLibrary& library, const LibraryCase& c) {
  const int64_t x_stride = c.inputs + 8, y_stride = (c.outputs + 15) / 8 * 8;
  const int64_t vectors = int64_t{c.rows} * c.matrices, matrix = int64_t{c.outputs} * c.inputs;
  const auto x = normals<bf16>(vectors * x_stride);
  const Weights<bf16> w(c.matrices * matrix);
  std::vector<float> wide(x.size());
  std::transform(x.begin(), x.end(), wide.begin(), [](bf16 value) { return to_float(value); });
  std::vector<Out> expected(vectors * y_stride, from_float<Out>(-1));
  for (int64_t vector = 0; vector < vectors; ++vector) {
    std::vector<float> y(c.outputs);
    cpu::reference::product<float, float>(
        {.rows = 1,
         .outputs = c.outputs,
         .inputs = c.inputs,
         .x_stride = x_stride,
         .y_stride = y_stride},
        &wide[vector * x_stride], Values<const float>(&w.values[vector % c.matrices * matrix]),
        y.data());
    for (int n = 0; n < c.outputs; ++n) expected[vector * y_stride + n] = from_float<Out>(y[n]);
  }
  const Buffer<bf16> xs{std::span<const bf16>(x)};
  const std::vector<Out> before(expected.size(), from_float<Out>(-1));
  const ProductShape shape{c.rows, c.outputs, c.inputs, x_stride, y_stride};
  const auto run = [&](auto&& product) {
    const Buffer<Out> y{std::span<const Out>(before)};
    product(y.data());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    return y.read();
  };
  const auto by_library = [&](Out* y) {
    library.product(shape, c.matrices, xs.data(), w.view().template as<bf16>().data, y, how());
  };
  const std::string what = std::string("cuBLASLt to ") + name_of<Out> + " " + c.name();
  const auto found = run(by_library);
  expect_close(found, expected, product_tolerance<Out>, what);
  expect(same_bits(run(by_library), found), what + ": the same bits again");
  // Where it is not the better, kernels of ours have another order of sums, but seldom other bits.
  const auto picked = run([&](Out* y) {
    any_experts_product(shape, {.count = c.matrices, .rows_each = c.rows}, xs.data(), w.view(), y,
                        how(), &library);
  });
  expect_close(picked, expected, product_tolerance<Out>, what + ", as picked");
  if (ProductLibrary::better(shape)) expect(same_bits(picked, found), what + ": picked");
}

inline void library_cases() {
  if (!ProductLibrary::found) return;
  const int64_t held = held_bytes;
  ProductLibrary library;
  expect(held_bytes == held, "cuBLASLt takes no memory before its first product");
  std::vector<LibraryCase> cases = {{1, 8, 8},         {9, 33, 40},       {16, 1, 64},
                                    {17, 300, 192},    {64, 257, 72},     {33, 40, 128, 5},
                                    {3, 512, 128, 7},  {10, 1024, 256},   {64, 256, 16384},
                                    {129, 2048, 1024}, {256, 1000, 4096}, {65, 128, 512, 16}};
  for (int i = 0; i < 8; ++i)
    cases.push_back({integer(1, 300), integer(1, 600), 8 * integer(1, 160), integer(1, 3)});
  for (const LibraryCase& c : cases) {
    library_case<bf16>(library, c);
    library_case<float>(library, c);
  }
}

}  // namespace helix::cuda
