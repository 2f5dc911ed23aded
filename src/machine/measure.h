// What memory this host has left, and what this process took of it.
#pragma once

#include <cstdint>

namespace helix {

// Bytes that can be allocated on this host without swapping; a container's limit counts.
double available_memory();

// Largest resident memory of this process since the last reset (since its start where the system
// has no reset).
int64_t peak_resident_bytes();
void reset_peak_resident();

}  // namespace helix
