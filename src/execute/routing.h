// What every executor says of routing: its rules, and who holds which experts.
#pragma once

#include "execute/executor.h"
#include "kernels/cpu/moe.h"

namespace helix {

cpu::Routing routing_of(const Experts& experts);

// Of Assignment::choices; empty where there are none.
std::span<const int32_t> given_choice(const Assignment& work, int layer, int64_t request);

// dp_ep: of `experts`, those of which the rank of replica `dp` with my place in it holds a slice.
Slice experts_of(const Place& me, int64_t experts, int dp);

}  // namespace helix
