// A CPU rank's memory, and the generator's values in it.
#pragma once

#include "execute/store.h"

namespace helix::cpu {

Block allocate(size_t bytes);
// Fills every weight and history of the store.
void generate(const Store& store, const Assignment& work);

}  // namespace helix::cpu
