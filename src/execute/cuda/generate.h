// A card's memory, and the generator's values in it.
#pragma once

#include "execute/store.h"

namespace helix::cuda {

Block allocate(size_t bytes);
// Fills every weight and history of the store with the values that cpu::generate gives.
void generate(const Store& store, const Assignment& work, int blocks);

}  // namespace helix::cuda
