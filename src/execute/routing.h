// What every executor says of routing: its rules, and who holds which experts.
#pragma once

#include "execute/executor.h"
#include "kernels/cpu/moe.h"

namespace helix {

cpu::Routing routing_of(const Experts& experts);

// dp_ep: of `experts`, those of which the rank of replica `dp` with my place in it holds a slice.
Slice experts_of(const Place& me, int64_t experts, int dp);

}  // namespace helix
