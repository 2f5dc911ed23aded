// The judge's attention of one token: projections, RoPE, append, softmax over all positions, W_O.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "judge/judge.h"
#include "judge/memory.h"

namespace helix {

void rms_norm(std::span<double> x, const Vector& weight, double eps);
// Turns the pairs of `x` as far as `position` asks.
void rotate(std::span<double> x, const Vector& frequencies, int64_t position, bool interleaved);

// Softmax weights of one head over all positions; may be changed.
using SeeWeights = std::function<void(int64_t head, std::span<double> weights)>;

// What attention adds to the hidden state, from the normed one. Appends to `memory`.
Vector attend(const Tensors& tensors, KvMemory& memory, int64_t layer, int64_t position,
              const Vector& input, MlaForm form, const SeeWeights& see);

}  // namespace helix
