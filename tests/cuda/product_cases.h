// Products and experts' products against the plain twin, for each format of weights.
#pragma once

#include <string>

#include "kernels/cpu/reference.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/plain.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {

template <class Activation>
inline constexpr double product_tolerance = std::is_same_v<Activation, bf16> ? 1.0 / 128 : 1e-5;

// Random weights, rounded to what the format can hold; here and on the device.
template <class Weight>
struct Weights {
  static constexpr float scale = std::is_same_v<Weight, nvfp4> ? 0.002F : 0.03F;
  std::vector<float> values;
  Buffer<std::byte> codes;
  explicit Weights(int64_t count) : values(normals<float>(count)) {
    const std::vector<std::byte> bytes = encoded<Weight>(values, scale);
    values = decoded<Weight>(bytes, count, scale);
    codes = Buffer<std::byte>(std::span<const std::byte>(bytes));
  }
  Stored view() const {
    return {codes.data(), std::ssize(values), format_of<Weight>,
            quantised(format_of<Weight>) ? scale : 1};
  }
};

// The fewest rows for which a row has the bits that it has among `rows`.
inline int fewest_with_bits_of(int rows) {
  return rows > max_product_rows ? max_product_rows + 1 : 1;
}

template <class Weight, class Activation>
void product_cases(bool quick) {
  struct Case {
    int rows, outputs, inputs;
  };
  std::vector<Case> cases = {{1, 1, 8},      {3, 200, 136},  {8, 1000, 512}, {2, 131, 1032},
                             {5, 3000, 264}, {1, 17, 4096},  {4, 33, 64},    {17, 300, 192},
                             {2, 40, 3200},  {6, 2500, 128}, {8, 700, 832},  {9, 50, 48},
                             {64, 33, 320},  {48, 300, 32},  {16, 1, 64},    {129, 40, 576}};
  if constexpr (std::is_same_v<Activation, bf16>) {  // more than eight rows, of any number
    for (int i = 0; i < (quick ? 4 : 16); ++i) {
      cases.push_back({integer(9, quick ? 70 : 200), integer(1, 600), 32 * integer(1, 40)});
    }
    // As many outputs as blocks take in one pass, and more; one chunk of inputs, and many.
    if (!quick) {
      cases.insert(cases.end(), {{64, 20000, 64},
                                 {64, 40000, 96},
                                 {17, 2048, 4096},
                                 {33, 256, 7168},
                                 {64, 9000, 256},
                                 {64, 64, 9216}});
    }
  }
  if (!quick) {
    cases.push_back({1, 256, 7168});
    cases.push_back({8, 2560, 4096});
    cases.push_back({4, 20000, 256});
    cases.push_back({8, 9000, 512});
  }
  for (const Case& c : cases) {
    if (std::is_same_v<Weight, nvfp4> && c.inputs % nvfp4_block != 0) continue;
    const int64_t x_stride = c.inputs + 16;
    const int64_t y_stride = c.outputs + 3;
    const auto x = normals<Activation>(c.rows * x_stride);
    const Weights<Weight> w(int64_t{c.outputs} * c.inputs);
    std::vector<Activation> expected(c.rows * y_stride, from_float<Activation>(-1));
    cpu::reference::product<float, Activation>({.rows = c.rows,
                                                .outputs = c.outputs,
                                                .inputs = c.inputs,
                                                .x_stride = x_stride,
                                                .y_stride = y_stride},
                                               x.data(), Values<const float>(w.values.data()),
                                               expected.data());
    const Buffer<Activation> xs{std::span<const Activation>(x)};
    const auto run = [&](int rows) {
      const std::vector<Activation> before(rows * y_stride, from_float<Activation>(-1));
      const Buffer<Activation> ys{std::span<const Activation>(before)};
      any_product({rows, c.outputs, c.inputs, x_stride, y_stride}, xs.data(), w.view(), ys.data(),
                  how());
      HELIX_CUDA(cudaStreamSynchronize(stream.get()));
      return ys.read();
    };
    const std::string what = std::string("product ") + name_of<Activation> + " by " +
                             name_of<Weight> + " " + std::to_string(c.rows) + " x " +
                             std::to_string(c.outputs) + " x " + std::to_string(c.inputs);
    const auto all = run(c.rows);
    expect_close(all, expected, product_tolerance<Activation>, what);
    const int fewest = fewest_with_bits_of(c.rows);
    expect(same_bits(run(fewest), {all.begin(), all.begin() + fewest * y_stride}),
           what + ": rows 0 to " + std::to_string(fewest - 1) + " alone have the same bits");
  }
}

// Out is what the products leave: activations before the gate, fp32 before the sum of pairs.
template <class Weight, class Activation, class Out>
void experts_cases(bool quick) {
  struct Case {
    std::vector<int32_t> counts;  // of pairs, an expert each
    int outputs, inputs;
    bool gathered;
    int expected = 1;  // pairs of an expert
  };
  std::vector<Case> cases = {{{0, 3, 1, 0, 17}, 48, 192, true},
                             {{2}, 130, 64, false},
                             {{2, 11}, 70, 48, true},
                             {{0, 0}, 16, 64, true},
                             {{0, 0}, 16, 64, true, 9},
                             {{1, 0, 0, 8, 0, 9}, 1000, 128, false},
                             {{1, 0, 70, 8, 0, 9, 64}, 200, 288, true, 20},
                             {{33}, 17, 512, false, 33}};
  if (!quick) {
    std::vector<int32_t> many(300, 0);
    for (int i = 0; i < 40; ++i) ++many[integer(0, 299)];
    cases.push_back({many, 64, 256, true});
    cases.push_back({{1, 0, 2, 1, 0, 0, 4, 0}, 3000, 256, false});
    cases.push_back({{130, 0, 9, 1, 40, 0, 64, 65}, 1100, 800, true, 40});
  }
  for (const Case& c : cases) {
    std::vector<int32_t> begins = {0};
    for (int32_t count : c.counts) begins.push_back(begins.back() + count);
    const int pairs = begins.back();
    const int rows = c.gathered ? 20 : pairs;
    std::vector<int32_t> row_of;
    for (int pair = 0; pair < pairs; ++pair) {
      row_of.push_back(c.gathered ? integer(0, rows - 1) : pair);
    }
    const auto x = normals<Activation>(int64_t{rows} * c.inputs);
    const int64_t matrix = int64_t{c.outputs} * c.inputs;
    const Weights<Weight> w(std::ssize(c.counts) * matrix);
    std::vector<Out> expected(int64_t{pairs} * c.outputs);
    for (size_t expert = 0; expert < c.counts.size(); ++expert) {
      for (int pair = begins[expert]; pair < begins[expert + 1]; ++pair) {
        std::vector<float> row, y(c.outputs);
        for (int k = 0; k < c.inputs; ++k) {
          row.push_back(to_float(x[int64_t{row_of[pair]} * c.inputs + k]));
        }
        cpu::reference::product<float, float>(
            {.rows = 1,
             .outputs = c.outputs,
             .inputs = c.inputs,
             .x_stride = c.inputs,
             .y_stride = c.outputs},
            row.data(), Values<const float>(&w.values[expert * matrix]), y.data());
        for (int n = 0; n < c.outputs; ++n) {
          expected[int64_t{pair} * c.outputs + n] = from_float<Out>(y[n]);
        }
      }
    }
    const Buffer<Activation> xs{std::span<const Activation>(x)};
    const Buffer<int32_t> b{std::span<const int32_t>(begins)}, r{std::span<const int32_t>(row_of)};
    const std::vector<Out> before(expected.size(), from_float<Out>(nan));
    const Experts experts{static_cast<int>(c.counts.size()), b.data(),
                          c.gathered ? r.data() : nullptr};
    const auto run = [&](int blocks) {
      const Buffer<Out> y{std::span<const Out>(before)};
      any_experts_product({c.expected, c.outputs, c.inputs, c.inputs, c.outputs}, experts,
                          xs.data(), w.view(), y.data(), {stream.get(), blocks});
      HELIX_CUDA(cudaStreamSynchronize(stream.get()));
      return y.read();
    };
    const std::string what = std::string("experts ") + name_of<Activation> + " by " +
                             name_of<Weight> + " to " + name_of<Out> + ", " +
                             std::to_string(pairs) + " pairs of " +
                             std::to_string(c.counts.size()) + " experts, " +
                             std::to_string(c.outputs) + " x " + std::to_string(c.inputs);
    const std::vector<Out> whole = run(sms);
    expect_close(whole, expected, product_tolerance<Out>, what);
    expect(same_bits(whole, run(3)), what + ": the same bits by 3 blocks");
  }
}

// A matrix a head, and what is only carried along; heads in one part, or in messages of some.
template <class Weight, class Activation>
void per_head_cases() {
  struct Case {
    int rows, heads, made, inputs, carried, part_heads;
  };
  for (const Case& c : {Case{1, 128, 512, 128, 64, 128},
                        {3, 4, 40, 64, 8, 4},
                        {17, 5, 24, 128, 0, 5},
                        {8, 2, 128, 512, 0, 2},
                        {9, 6, 20, 48, 16, 6},
                        {64, 9, 512, 128, 64, 9},
                        {75, 3, 40, 96, 8, 3},
                        {5, 8, 16, 64, 8, 2}}) {
    if (std::is_same_v<Weight, nvfp4> && c.inputs % nvfp4_block != 0) continue;
    const int x_size = c.inputs + c.carried, y_size = c.made + c.carried;
    const auto x = normals<Activation>(int64_t{c.rows} * c.heads * x_size);
    const Weights<Weight> w(int64_t{c.heads} * c.made * c.inputs);
    std::vector<Activation> expected(int64_t{c.rows} * c.heads * y_size);
    const int64_t part = int64_t{c.rows} * c.part_heads * y_size;  // values of a message
    for (int row = 0; row < c.rows; ++row)
      for (int head = 0; head < c.heads; ++head) {
        const Activation* const from = &x[(int64_t{row} * c.heads + head) * x_size];
        Activation* const to =
            &expected[head / c.part_heads * part +
                      (int64_t{row} * c.part_heads + head % c.part_heads) * y_size];
        cpu::reference::product<float, Activation>(
            {.rows = 1,
             .outputs = c.made,
             .inputs = c.inputs,
             .x_stride = x_size,
             .y_stride = y_size},
            from, Values<const float>(&w.values[int64_t{head} * c.made * c.inputs]), to);
        std::copy_n(from + c.inputs, c.carried, to + c.made);
      }
    const Buffer<Activation> xs{std::span<const Activation>(x)};
    const std::vector<Activation> before(expected.size(), from_float<Activation>(nan));
    const Buffer<Activation> y{std::span<const Activation>(before)};
    per_head({.rows = c.rows,
              .heads = c.heads,
              .made = c.made,
              .inputs = c.inputs,
              .x_size = x_size,
              .y_size = y_size,
              .part_heads = c.part_heads,
              .part_bytes = part * static_cast<int64_t>(sizeof(Activation))},
             xs.data(), w.view(), reinterpret_cast<std::byte*>(y.data()), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    expect_close(y.read(), expected, product_tolerance<Activation>,
                 std::string("per head ") + name_of<Activation> + " by " + name_of<Weight> + " " +
                     std::to_string(c.rows) + " x " + std::to_string(c.heads) + " heads, " +
                     std::to_string(c.made) + " x " + std::to_string(c.inputs));
  }
}

}  // namespace helix::cuda
