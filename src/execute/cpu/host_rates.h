// How fast this host reads and multiplies, measured in a moment: the yardstick of a run's roofline.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>

#include "base/format.h"

namespace helix {

// The best rate of the passes that fit in `budget_s`, at least two. A pass does `work`.
template <class Pass>
double best_rate(double budget_s, double work, const Pass& pass) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point began) {
    return std::chrono::duration<double>(Clock::now() - began).count();
  };
  double best = std::numeric_limits<double>::infinity();
  const auto began = Clock::now();
  for (int done = 0; done < 2 || seconds_since(began) < budget_s; ++done) {
    const auto start = Clock::now();
    pass();
    best = std::min(best, seconds_since(start));
  }
  return work / best;
}

struct HostRates {
  // Bytes per second that all threads together read, of 1, 4, 16, 64 and 256 MiB: what fits the
  // caches is read faster than memory.
  std::array<double, 5> read_bytes_per_s = {};
  double flops_per_s = 0;       // fp32 multiply-adds (2 each) on registers
  double bf16_flops_per_s = 0;  // those of bf16 pairs into fp32 sums

  // Of a working set of so many bytes: the rate measured at the next smaller size.
  double read_rate(double bytes) const;
  // Of products with activations of this format: the best that any of them could do.
  double flops_rate(Format activations) const {
    return activations == Format::fp32 ? flops_per_s : std::max(flops_per_s, bf16_flops_per_s);
  }
};
// About half a second, with `threads` OpenMP threads.
HostRates measure_host(int threads);

}  // namespace helix
