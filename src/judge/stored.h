// A published checkpoint as the judge reads it: row by row, by an account of its own of what stands
// where, so that a mistake in the executors' way (model/checkpoint.h) is seen.
#pragma once

#include <cstdint>

#include "model/weights.h"

namespace helix {

// Fills out[...] with the part of a weight of a layer, row-major, in the precision's format.
void read_stored(const Model& model, const Precision& precision, W weight, int64_t layer,
                 const Part& part, float* out);

}  // namespace helix
