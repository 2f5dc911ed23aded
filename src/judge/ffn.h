// The judge's FFN of one token: dense, or routed and shared experts.
#pragma once

#include <span>

#include "judge/judge.h"

namespace helix {

// The choice of experts from their logits; `bias` is empty or one number an expert.
JudgeRouting choose_experts(const Experts& experts, const Vector& logits, const Vector& bias,
                            Vector& gates);
// By what the outputs of chosen experts are weighted.
Vector gates_of(const Experts& experts, const Vector& logits, std::span<const int32_t> chosen);

// [2 width], gates then what they let through, to [width].
Vector swiglu(const Vector& both);

// What the FFN adds to the hidden state, from the normed one.
Vector feed_forward(const Tensors& tensors, int64_t layer, const Vector& input,
                    JudgeRouting& routing);

}  // namespace helix
