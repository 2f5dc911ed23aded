// What MPI's messages take, against their size and the number of ranks.
#pragma once

#include <string>
#include <vector>

#include "bench/world.h"

namespace helix {

struct MessageTime {
  bool far = false;  // between the first rank and the last; else of all to all
  int ranks = 2;
  double bytes = 0;  // to each other rank
  double us = 0;     // the slowest rank's; the median of the fastest half
  double spread = 0;
  double gb_per_s() const { return 1e-3 * bytes * (ranks - 1) / us; }  // sent by a rank
};

// Of 8 bytes to 4 MiB among 2, 4, 8 … and all ranks of the world, and between the first and the
// last. Complete on rank 0; empty where there is one rank. Collective.
std::vector<MessageTime> measure_messages(World& world);

}  // namespace helix
