// Ranks that decide alone have to hold the same bits: what is hashed, and compared over a replica.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "execute/executor.h"

namespace helix {

// Hashes of the hidden state after each block and of what is routed, of one rank.
class Hashes {
 public:
  explicit Hashes(Executor& executor);  // listens while it lives
  ~Hashes() { executor_.hooks().after = before_; }
  Hashes(const Hashes&) = delete;
  Hashes& operator=(const Hashes&) = delete;

  std::vector<uint64_t> take();

 private:
  void add(Id tensor);

  Executor& executor_;
  std::function<void(const Task&, int)> before_;
  std::vector<uint64_t> hashes_;
};

// How many layers' hashes are not those of the lowest rank of the replica. Stages have different
// numbers of layers. Collective over `ranks`.
int64_t count_differing(MPI_Comm ranks, const Place& place, std::vector<uint64_t> hashes);

}  // namespace helix
