// One step of all ranks as a Chrome trace, which Perfetto opens: a process is a rank, a thread is a
// lane.
#pragma once

#include <mpi.h>

#include <string>

#include "execute/executor.h"

namespace helix {

// Decodes one step of the point with this key from the first token after the history. Collective
// over the executor's ranks; the JSON document on their rank 0, "" on the others.
std::string trace_step(MPI_Comm ranks, Executor& executor, const std::string& key);

}  // namespace helix
