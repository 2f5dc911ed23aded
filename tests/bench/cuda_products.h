// Products, of few rows and of many, of bf16 weights also by cuBLASLt.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_library.h"
#include "tests/bench/cuda_timing.h"

namespace helix::cuda {

struct ProductCase {
  int outputs, inputs;
  Quoted quoted;
};
template <class Weight>
constexpr const char* by_weight() {
  return std::is_same_v<Weight, fp8> ? ", fp8" : std::is_same_v<Weight, nvfp4> ? ", nvfp4" : "";
}
// Weights in turn, more than L2 holds. Codes: any bits.
template <class Weight>
struct Turns {
  int64_t values;
  std::vector<Buffer<bf16>> memory;
  explicit Turns(int64_t count) : values(count) {
    const double bytes = bytes_per_value * static_cast<double>(count);
    const int turns = std::max(2, static_cast<int>(std::ceil(256e6 / bytes)));
    for (int i = 0; i < turns; ++i) {
      memory.push_back(drawn<bf16>(static_cast<int64_t>(bytes) / 2 + 8, 0.02F));
    }
  }
  Values<const Weight> at(int i) const {
    const Buffer<bf16>& buffer = memory[i % memory.size()];
    return values_at<const Weight>(reinterpret_cast<const std::byte*>(buffer.data()), values, 1);
  }
  static constexpr double bytes_per_value = std::is_same_v<Weight, fp8>     ? 1
                                            : std::is_same_v<Weight, nvfp4> ? 0.5625
                                                                            : 2;
};

template <class Weight>
void time_product(int rows, const ProductCase& c) {
  const std::string name = "product " + std::to_string(rows) + " x " + std::to_string(c.outputs) +
                           " x " + std::to_string(c.inputs) + by_weight<Weight>();
  if (!wanted(name)) return;
  const Turns<Weight> w(int64_t{c.outputs} * c.inputs);
  const double bytes = w.bytes_per_value * static_cast<double>(w.values);
  const auto x = drawn<bf16>(int64_t{rows} * c.inputs, 1);
  const Buffer<bf16> y(int64_t{rows} * c.outputs);
  const double us = node_us(nodes_for(bytes), [&](int i) {
    product({rows, c.outputs, c.inputs, c.inputs, c.outputs}, x.data(), w.at(i), y.data(), how());
  });
  print(name, bytes, 2.0 * rows * static_cast<double>(w.values), us,
        std::is_same_v<Weight, bf16> ? c.quoted : Quoted{}, "cuBLAS");
}

// `touched` of `held` experts have `each` pairs.
template <class Weight>
void time_experts(int held, int touched, int each, int outputs, int inputs) {
  const std::string name = "experts " + std::to_string(touched) + " of " + std::to_string(held) +
                           ", " + std::to_string(each) + " x " + std::to_string(outputs) + " x " +
                           std::to_string(inputs) + by_weight<Weight>();
  if (!wanted(name)) return;
  const Turns<Weight> w(int64_t{held} * outputs * inputs);
  const double bytes = w.bytes_per_value * touched * outputs * inputs;
  std::vector<int32_t> begins = {0}, row_of(touched * each, 0);
  for (int e = 0; e < held; ++e) {
    begins.push_back(begins.back() + (e * touched / held < (e + 1) * touched / held ? each : 0));
  }
  const Buffer<int32_t> b{std::span<const int32_t>(begins)}, r{std::span<const int32_t>(row_of)};
  const auto x = drawn<bf16>(inputs, 1);
  const Buffer<bf16> y(int64_t{touched} * each * outputs);
  const double us = node_us(nodes_for(bytes), [&](int i) {
    experts_product({each, outputs, inputs, inputs, outputs}, Experts{held, b.data(), r.data()},
                    x.data(), w.at(i), y.data(), how());
  });
  print(name, bytes, 0, us, {}, "");
}

// A matrix for each of `heads`: y[row][head][n] = x[row][head][k] w[head][n][k].
struct HeadsCase {
  int outputs, inputs, heads = 1;
  int64_t values() const { return int64_t{heads} * outputs * inputs; }
};
template <class Weight>
void time_wide(const std::string& name, int rows, const HeadsCase& c, ProductLibrary& library) {
  if (!wanted(name)) return;
  const Turns<Weight> w(c.values());
  const auto x = drawn<bf16>(int64_t{rows} * c.heads * c.inputs, 1);
  const auto y = drawn<bf16>(int64_t{rows} * c.heads * c.outputs, 1);
  const ProductShape shape{rows, c.outputs, c.inputs, c.inputs, c.outputs};
  const double bytes = w.bytes_per_value * static_cast<double>(w.values);
  // As in a step: behind each stands a small kernel of ours that begins early, whose own time is
  // taken off.
  const auto behind = [&](int) { add(8, x.data(), y.data(), how()); };
  static const double own_us = node_us(200, behind);
  const auto us = [&](auto&& product) {
    return node_us(nodes_for(bytes), [&](int i) { product(i), behind(i); }) - own_us;
  };
  const double ours = us([&](int i) {
    experts_product(shape, Experts{.count = c.heads, .rows_each = rows}, x.data(), w.at(i),
                    y.data(), how());
  });
  double peer = 0;
  if constexpr (std::is_same_v<Weight, bf16>)
    if (ProductLibrary::found) {
      const auto product = [&](int i) {
        library.product(shape, c.heads, x.data(), w.at(i).data, y.data(), how());
      };
      product(0);  // it is not first met in a graph
      peer = us(product);
    }
  print(name + by_weight<Weight>(), bytes, 2.0 * rows * static_cast<double>(w.values), ours,
        {peer, peer}, "cuBLASLt");
}
// Of one rank of 64, DeepSeek-R1 (router, W_DQ, W_UQ, W_DKV, W_UK, shared experts) and Llama-405B;
// and llama-3.1-8b, whole.
inline void time_wide() {
  ProductLibrary library;
  for (const HeadsCase& c : {HeadsCase{256, 7168},
                             {1536, 7168},
                             {24576, 1536},
                             {576, 7168},
                             {512, 128, 128},
                             {7168, 32},
                             {2048, 16384},
                             {1664, 16384},
                             {16384, 832},
                             {256, 16384},
                             {16384, 256},
                             {6144, 4096},
                             {4096, 4096},
                             {28672, 4096},
                             {4096, 14336},
                             {128256, 4096}}) {
    for (const int rows : {1, 4, 6, 8, 16, 32, 64, 128, 256}) {
      const std::string name = std::to_string(rows) + " x " +
                               (c.heads > 1 ? std::to_string(c.heads) + " heads, " : "") +
                               std::to_string(c.outputs) + " x " + std::to_string(c.inputs);
      time_wide<bf16>("wide " + name, rows, c, library);
      if (rows <= 64) time_wide<nvfp4>("shard " + name, rows, c, library);
    }
  }
}

// The whole router of DeepSeek-R1, and the list of its pairs on one rank of 8 groups of experts.
inline void time_route(int rows) {
  const std::string name = "route " + std::to_string(rows) + " x 256 x 7168";
  if (!wanted(name)) return;
  const int width = 7168, experts = 256, chosen = 8, held = 32;
  const Turns<bf16> w(int64_t{experts} * width);
  const auto x = drawn<bf16>(int64_t{rows} * width, 1);
  const auto skew = drawn<float>(experts, 0.1F);
  const Buffer<float> logits(int64_t{rows} * experts);
  const Buffer<Choice> choices(int64_t{rows} * chosen);
  const Buffer<int32_t> begins(held + 1), row_of(rows * chosen), pair_of(rows * chosen);
  const Buffer<int64_t> met(3);
  const Routing routing{experts, chosen, 8, 4, true, true, 2.5F, skew.data()};
  const auto choose = [&](int i) {
    const Stored gains{reinterpret_cast<const std::byte*>(w.at(i).data), w.values};
    route(routing, rows, width, x.data(), gains, Stored{}, {}, logits.data(), choices.data(),
          how());
  };
  const double bytes = w.bytes_per_value * static_cast<double>(w.values);
  print(name, bytes, 0, node_us(100, choose), {}, "");
  print(name + ", with pairs", bytes, 0,
        node_us(100,
                [&](int i) {
                  choose(i);
                  pair_up(rows, nullptr, chosen, choices.data(), 0, held,
                          {begins.data(), row_of.data(), pair_of.data()}, met.data(), how());
                }),
        {}, "");
}

inline void time_products() {
  for (const int rows : {1, 2, 4, 8}) {
    for (const ProductCase& c : {ProductCase{53248, 16384, {447, 629}},
                                 {16384, 16384, {133, 195}},
                                 {6656, 16384, {64, 89}},
                                 {2048, 16384, {28.5, 36}},
                                 {16384, 2048, {26.8, 35}},
                                 {2048, 7168, {19.7, 23}},
                                 {512, 16384, {}},
                                 {128, 16384, {}}}) {
      if (rows == 1 || rows == 8 || c.inputs * int64_t{c.outputs} < 40000000) {
        time_product<bf16>(rows, c);
      }
    }
  }
  for (const int rows : {1, 8}) {
    for (const ProductCase& c : {ProductCase{16384, 16384, {}},
                                 {6656, 16384, {}},
                                 {2048, 16384, {}},
                                 {16384, 2048, {}},
                                 {16384, 832, {}},
                                 {2048, 7168, {}},
                                 {512, 16384, {}}}) {
      time_product<fp8>(rows, c);
      time_product<nvfp4>(rows, c);
    }
  }
  // DeepSeek-R1, TPF 8 x EP 8: 3 of 32 experts at batch 1, 15 at batch 8, 20 at 64 on one rank
  // alone.
  for (const auto& [touched, each] : {std::pair{3, 1}, {15, 1}, {20, 3}, {30, 2}, {32, 32}}) {
    time_experts<bf16>(32, touched, each, 512, 7168);
    time_experts<bf16>(32, touched, each, 7168, 256);
    time_experts<nvfp4>(32, touched, each, 512, 7168);
    time_experts<nvfp4>(32, touched, each, 7168, 256);
  }
  for (const int rows : {1, 8, 64}) time_route(rows);
  time_wide();
}

}  // namespace helix::cuda
