// A schedule in words: `plan --schedule`.
#pragma once

#include <string>

#include "schedule/cost.h"

namespace helix {

// One layer's tasks of each layer kind, with prologue and epilogue, as an aligned table; the
// numbers are those of one step under the load `state`.
std::string print_schedule(const Schedule& schedule, const StepState& state);
// "W_Q[16, 128, 512]"; what only a run knows stands as its symbol: "x[rows, 512]".
std::string shape_of(const Tensor& tensor);

}  // namespace helix
