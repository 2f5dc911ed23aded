// What this host can do and has, measured in a moment: the yardstick of a run's roofline.
#pragma once

#include <cstdint>

namespace helix {

struct HostRates {
  double read_bytes_per_s = 0;  // of memory, far larger than caches, by all threads together
  double flops_per_s = 0;       // fp32 multiply-adds (2 each) on registers
};
// About half a second, with `threads` OpenMP threads. A share over 1 is possible: a model that fits
// the caches is read faster than memory.
HostRates measure_host(int threads);

// Bytes that can be allocated on this host without swapping; a container's limit counts.
double available_memory();

// Largest resident memory of this process since the last reset (since its start where the system
// has no reset).
int64_t peak_resident_bytes();
void reset_peak_resident();

}  // namespace helix
