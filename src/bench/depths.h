// A point of `depths` [a, b]: measured on the model cut to a layers and to b, the whole model by
// calculation.
#pragma once

#include <cstdint>
#include <utility>

#include "bench/line.h"

namespace helix {

// Of a model of `layers` layers. What a layer takes is (T(b) - T(a)) / (b - a), by the medians;
// each sample is one of b and the layers that it lacks. Tasks, exchanges and the roofline are
// continued in the same way; memory, verification and experts touched are those of b. Throws
// RunError where b took no longer than a: the difference is noise.
Measured whole_model(const Measured& shallow, const Measured& deep,
                     std::pair<int64_t, int64_t> depths, int64_t layers);

}  // namespace helix
