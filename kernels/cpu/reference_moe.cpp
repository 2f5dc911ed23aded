#include "kernels/cpu/reference_moe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace helix::cpu::reference {
namespace {

double dot(int64_t size, const auto* a, const auto& b) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += double{to_float(a[i])} * double{value_at(b, i)};
  return sum;
}

// All indices, the largest value first, equals by index.
std::vector<int32_t> ranked(const std::vector<float>& values) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  return order;
}

}  // namespace

template <class Weight, class Activation>
void router_logits(const Routing& routing, int64_t rows, int64_t width, const Activation* x,
                   const Weight* w, float* logits) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t e = 0; e < routing.experts; ++e)
      logits[row * routing.experts + e] =
          static_cast<float>(dot(width, x + row * width, Values(w + e * width)) +
                             (routing.skew.empty() ? 0 : routing.skew[e]));
}

void score(const Routing& routing, std::span<float> row) {
  double sum = 0;
  for (const float logit : row) sum += std::exp(double{logit});
  for (float& value : row)
    value = static_cast<float>(routing.sigmoid ? 1 / (1 + std::exp(-double{value}))
                                               : std::exp(double{value}) / sum);
}

void choose(const Routing& routing, std::span<const float> scores, std::span<const float> bias,
            std::span<Choice> out) {
  std::vector<float> compared(scores.begin(), scores.end());
  for (size_t i = 0; i < bias.size(); ++i) compared[i] += bias[i];
  const int64_t size = routing.experts / routing.groups;
  std::vector<float> groups;
  for (int64_t group = 0; group < routing.groups && routing.groups > 1; ++group) {
    std::vector<float> mine(compared.begin() + group * size, compared.begin() + (group + 1) * size);
    std::sort(mine.begin(), mine.end(), std::greater<>());
    groups.push_back(mine[0] + mine[1]);
  }
  const std::vector<int32_t> by_group = ranked(groups);
  for (auto rank = static_cast<size_t>(routing.chosen_groups); rank < by_group.size(); ++rank)
    for (int64_t i = 0; i < size; ++i)
      compared[by_group[rank] * size + i] = -std::numeric_limits<float>::infinity();
  std::vector<int32_t> best = ranked(compared);
  best.resize(static_cast<size_t>(routing.chosen));
  std::sort(best.begin(), best.end());
  double sum = 0;
  for (const int32_t expert : best) sum += scores[expert];
  for (size_t i = 0; i < best.size(); ++i)
    out[i] = {best[i], static_cast<float>(scores[best[i]] * double{routing.scale} /
                                          (routing.renormalise ? sum : 1))};
}

template <class Weight, class Activation, class Out>
void experts_product(std::span<const ExpertRows> experts, std::span<const int32_t> row_of,
                     int64_t outputs, int64_t inputs, const Activation* x,
                     const Values<const Weight>& w, Out* y) {
  for (const ExpertRows& e : experts)
    for (int64_t p = e.first; p < e.first + e.count; ++p)
      for (int64_t n = 0; n < outputs; ++n)
        y[p * outputs + n] = from_float<Out>(
            static_cast<float>(dot(inputs, x + (row_of.empty() ? p : row_of[p]) * inputs,
                                   w.at((e.expert * outputs + n) * inputs))));
}

template <class Activation>
void sum_pairs(std::span<const int32_t> row_of, std::span<const float> gates, int64_t rows,
               int64_t width, const float* y, Activation* out) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < width; ++i) {
      double sum = 0;
      for (size_t p = 0; p < row_of.size(); ++p)
        if (row_of[p] == row) sum += double{gates[p]} * y[static_cast<int64_t>(p) * width + i];
      out[row * width + i] = from_float<Activation>(static_cast<float>(sum));
    }
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

}  // namespace helix::cpu::reference
