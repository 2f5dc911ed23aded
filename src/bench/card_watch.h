// What the cards do while steps are measured, and what is taken of their memory. Collective over
// the ranks that work on a point; results are the same on all of them.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>

#include "bench/cards.h"
#include "bench/line.h"
#include "execute/executor.h"

namespace helix {

class CardWatch {
 public:
  CardWatch(Cards& cards, MPI_Comm ranks);  // from now
  CardNotes notes(int64_t tokens);          // until now, while so many were decoded

 private:
  double energy_j() const;  // so far; NaN: unknown

  Cards& cards_;
  MPI_Comm ranks_;
  bool leads_;  // the first of the ranks on its card
  std::chrono::steady_clock::time_point began_;
  double energy_before_j_;
};

DeviceBytes device_bytes(const Cards& cards, MPI_Comm ranks, const Executor& executor);

}  // namespace helix
