// What a cover's bytes, FLOPs and messages take on a machine.
#pragma once

#include <array>
#include <vector>

#include "machine/machine.h"
#include "schedule/covers.h"

namespace helix::simulated {

struct Rates {          // microseconds
  double fixed_us = 0;  // of a kernel, or of a collective of nothing
  double early_byte_us = 0;
  double late_byte_us = 0;
  double flop_us = 0;
  double sent_byte_us = 0;
  double touched_us = 0;    // of each expert touched
  double peak_flop_us = 0;  // without factors
  bool communicates = false;

  // By what all of that is to be multiplied for a layer's bytes and FLOPs: the ratios of the shapes
  // that were timed, by their nearness (Shepard's interpolation, of logarithms).
  double correction(double bytes, double flops) const;
  struct Known {
    std::array<double, 3> place;
    double log_ratio;
  };
  std::vector<Known> known;
  double value_bytes = 0;
};
Rates rates_of(const Schedule& schedule, const Cover& cover, const Machine& machine);

}  // namespace helix::simulated
