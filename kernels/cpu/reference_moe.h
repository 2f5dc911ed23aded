// The plain twins of moe.h: sums in double, one loop after another, never tuned.
#pragma once

#include "kernels/cpu/moe.h"

namespace helix::cpu::reference {

template <class Weight, class Activation>
void router_logits(const Routing& routing, int64_t rows, int64_t width, const Activation* x,
                   const Weight* w, float* logits);
void score(const Routing& routing, std::span<float> row);
void choose(const Routing& routing, std::span<const float> scores, std::span<const float> bias,
            std::span<Choice> out);
template <class Weight, class Activation, class Out>
void experts_product(std::span<const ExpertRows> experts, std::span<const int32_t> row_of,
                     int64_t outputs, int64_t inputs, const Activation* x,
                     const Values<const Weight>& w, Out* y);
template <class Activation>
void sum_pairs(std::span<const int32_t> row_of, std::span<const float> gates, int64_t rows,
               int64_t width, const float* y, Activation* out);

}  // namespace helix::cpu::reference
