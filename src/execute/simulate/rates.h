// What a cover's bytes, FLOPs and messages take on a machine.
#pragma once

#include "execute/simulate/shapes.h"
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
  int64_t library_rows = 0;  // of a product that is a library's if it has more; 0: it never is

  double value_bytes = 0;  // of a weight, or of the KV cache
  TimedShapes timed;       // where there are any, they say the time, and all of that its parts
};
Rates rates_of(const Schedule& schedule, const Cover& cover, const Machine& machine);

}  // namespace helix::simulated
