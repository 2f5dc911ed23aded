// What ends a run before its last point: a signal, or the time limit. The point in hand is dropped
// whole at its next phase, so that every line is whole and --resume goes on.
#pragma once

#include <mpi.h>

#include <chrono>
#include <optional>
#include <string>

namespace helix {

// From here on SIGTERM, SIGINT and SIGUSR1 only ask to stop; a file that may not grow (SIGXFSZ) is
// an error of write(). Before MPI_Init, which takes long on many nodes.
void hear_signals();
bool asked_to_stop();  // of this rank

class Stop {
 public:
  explicit Stop(std::optional<double> limit_s);

  // Whether any rank was asked to, the same on all ranks of `ranks`. Collective.
  bool agreed(MPI_Comm ranks);
  // Of what was agreed: "SIGUSR1", "the time limit".
  std::string cause() const;

 private:
  std::optional<std::chrono::steady_clock::time_point> limit_;
  int cause_ = 0;
};

}  // namespace helix
