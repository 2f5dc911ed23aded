#include "kernels/cpu/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/product.h"

namespace helix::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The indices of the `count` largest, ascending. Equals: the lowest index. NaN loses against what
// came before.
std::vector<int32_t> largest(std::span<const float> values, int64_t count) {
  std::vector<int32_t> best;
  std::vector<bool> taken(values.size());
  for (int64_t i = 0; i < count; ++i) {
    int32_t next = -1;
    for (int32_t j = 0; j < static_cast<int32_t>(values.size()); ++j)
      if (!taken[j] && (next < 0 || values[j] > values[next])) next = j;
    taken[next] = true;
    best.push_back(next);
  }
  std::sort(best.begin(), best.end());
  return best;
}

std::vector<float> competing(std::span<const float> scores, std::span<const float> bias) {
  std::vector<float> sums(scores.begin(), scores.end());
  for (size_t i = 0; i < bias.size(); ++i) sums[i] += bias[i];
  return sums;
}

std::vector<float> group_scores(const Routing& routing, std::span<const float> compared) {
  const int64_t size = routing.experts / routing.groups;
  std::vector<float> sums;
  for (int64_t group = 0; group < routing.groups; ++group) {
    float first = -infinity, second = -infinity;
    for (const float value :
         compared.subspan(static_cast<size_t>(group * size), static_cast<size_t>(size))) {
      if (value > first) second = std::exchange(first, value);
      else if (value > second) second = value;
    }
    sums.push_back(first + second);
  }
  return sums;
}

void mask(const Routing& routing, uint64_t groups, std::vector<float>& compared) {
  const int64_t size = routing.experts / routing.groups;
  for (int64_t i = 0; i < routing.experts; ++i)
    if ((groups >> (i / size) & 1U) == 0) compared[i] = -infinity;
}

uint64_t bits_of(const std::vector<int32_t>& indices) {
  uint64_t bits = 0;
  for (const int32_t i : indices) bits |= uint64_t{1} << i;
  return bits;
}

// Rows x[row_of[i]], one after another, as they may stand already.
template <class Activation>
const Activation* gather(std::span<const int32_t> row_of, int64_t first, int64_t count,
                         int64_t width, const Activation* x) {
  if (row_of.empty()) return x + first * width;
  static thread_local Scratch scratch;
  auto* const rows = scratch.take<Activation>(count * width);
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(x + row_of[first + i] * width, width, rows + i * width);
  return rows;
}

}  // namespace

template <class Weight, class Activation>
void router_logits(const Routing& routing, int64_t rows, int64_t width, const Activation* x,
                   const Weight* w, float* logits) {
  const ProductShape shape{.rows = rows,
                           .outputs = routing.experts,
                           .inputs = width,
                           .x_stride = width,
                           .y_stride = routing.experts,
                           .fixed_order = true};
  product(shape, x, Values<const Weight>(w), logits);
  if (routing.skew.empty()) return;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < routing.experts; ++i)
      logits[row * routing.experts + i] += routing.skew[i];
}

void score(const Routing& routing, std::span<float> row) {
  if (routing.sigmoid) {
    for (float& value : row) value = 1 / (1 + exponential(-value));
    return;
  }
  const float top = *std::max_element(row.begin(), row.end());
  float sum = 0;
  for (float& value : row) sum += value = exponential(value - top);
  for (float& value : row) value /= sum;
}

void choose(const Routing& routing, std::span<const float> scores, std::span<const float> bias,
            std::span<Choice> out) {
  std::vector<float> compared = competing(scores, bias);
  if (routing.groups > 1)
    mask(routing, bits_of(largest(group_scores(routing, compared), routing.chosen_groups)),
         compared);
  const std::vector<int32_t> best = largest(compared, routing.chosen);
  for (size_t i = 0; i < out.size(); ++i) out[i].expert = best[i];
  set_gates(routing, scores, out);
}

void set_gates(const Routing& routing, std::span<const float> scores, std::span<Choice> choice) {
  float sum = 1e-20F;
  for (const Choice& c : choice) sum += scores[static_cast<size_t>(c.expert)];
  const float factor = routing.renormalise ? routing.scale / sum : routing.scale;
  for (Choice& c : choice) c.gate = scores[static_cast<size_t>(c.expert)] * factor;
}

template <class Weight, class Activation, class Out>
void experts_product(std::span<const ExpertRows> experts, std::span<const int32_t> row_of,
                     int64_t outputs, int64_t inputs, const Activation* x,
                     const Values<const Weight>& w, Out* y) {
  for (const ExpertRows& e : experts) {
    const ProductShape shape{.rows = e.count,
                             .outputs = outputs,
                             .inputs = inputs,
                             .x_stride = inputs,
                             .y_stride = outputs};
    product(shape, gather(row_of, e.first, e.count, inputs, x), w.at(e.expert * outputs * inputs),
            y + e.first * outputs);
  }
}

template <class Activation>
void sum_pairs(std::span<const int32_t> row_of, std::span<const float> gates, int64_t rows,
               int64_t width, const float* y, Activation* out) {
  std::vector<std::vector<int32_t>> pairs_of(static_cast<size_t>(rows));
  for (size_t p = 0; p < row_of.size(); ++p) pairs_of[row_of[p]].push_back(static_cast<int32_t>(p));
  for_blocks(rows, static_cast<int64_t>(row_of.size()) * width, [&](int64_t row) {
    for_lanes(width, [&](int64_t i, auto read, auto write) {
      Lanes sum = zero();
      for (const int32_t p : pairs_of[row])
        sum = multiply_add(all(gates[p]), read(y + p * width + i), sum);
      write(sum, out + row * width + i);
    });
  });
}

#define ROUTER(Weight, Activation)                                                                \
  template void router_logits(const Routing&, int64_t, int64_t, const Activation*, const Weight*, \
                              float*);
ROUTER(float, float)
ROUTER(float, bf16)
ROUTER(bf16, float)
ROUTER(bf16, bf16)
#undef ROUTER
#define EXPERTS(Weight, Activation, Out)                                                        \
  template void experts_product(std::span<const ExpertRows>, std::span<const int32_t>, int64_t, \
                                int64_t, const Activation*, const Values<const Weight>&, Out*);
#define ALL_EXPERTS(Weight)     \
  EXPERTS(Weight, float, float) \
  EXPERTS(Weight, bf16, bf16)   \
  EXPERTS(Weight, bf16, float)
ALL_EXPERTS(float)
ALL_EXPERTS(bf16)
ALL_EXPERTS(fp8)
ALL_EXPERTS(nvfp4)
#undef ALL_EXPERTS
#undef EXPERTS
template void sum_pairs(std::span<const int32_t>, std::span<const float>, int64_t, int64_t,
                        const float*, float*);
template void sum_pairs(std::span<const int32_t>, std::span<const float>, int64_t, int64_t,
                        const float*, bf16*);

}  // namespace helix::cpu
