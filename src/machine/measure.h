// What this host can do and has, measured in a moment: the yardstick of a run's roofline.
#pragma once

#include <array>
#include <cstdint>

namespace helix {

struct HostRates {
  // Bytes per second that all threads together read, of 1, 4, 16, 64 and 256 MiB: what fits the
  // caches is read faster than memory.
  std::array<double, 5> read_bytes_per_s = {};
  double flops_per_s = 0;  // fp32 multiply-adds (2 each) on registers

  // Of a working set of so many bytes: the rate measured at the next smaller size.
  double read_rate(double bytes) const;
};
// About half a second, with `threads` OpenMP threads.
HostRates measure_host(int threads);

// Bytes that can be allocated on this host without swapping; a container's limit counts.
double available_memory();

// Largest resident memory of this process since the last reset (since its start where the system
// has no reset).
int64_t peak_resident_bytes();
void reset_peak_resident();

}  // namespace helix
