// How much of a point is held against the judge.
#pragma once

#include <cstdint>

namespace helix {

// A whole step, its single tasks, or nothing; `automatic`: a step, or its tasks where the judge
// would take long for one, or rounding alone may be more than a step is allowed.
enum class Scope : uint8_t { none, step, tasks, automatic };

}  // namespace helix
