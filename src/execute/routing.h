// What every executor says of routing: its rules, and how its choices differ from the judge's.
#pragma once

#include <span>

#include "execute/executor.h"
#include "kernels/cpu/moe.h"

namespace helix {

cpu::Routing routing_of(const Experts& experts);

// dp_ep: of `experts`, those of which the rank of replica `dp` with my place in it holds a slice.
Slice experts_of(const Place& me, int64_t experts, int dp);

// Counts one row's choice beside the judge's, which is ascending. True: they differ, and the
// judge's is to be used.
bool note_choice(ForcedRouting& met, const cpu::Routing& routing, std::span<const float> scores,
                 std::span<const float> bias, std::span<const int32_t> judged,
                 std::span<const cpu::Choice> choice);

}  // namespace helix
