// The communicating tasks over MPI. Every one is non-blocking and may take several rounds of messages, so that the
// exchange lane progresses between the tiles of attention; the compute lane waits.
//
// An all-reduce gives the same bits on all ranks: shares are exchanged, summed in rank order, and gathered.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "execute/cpu/store.h"
#include "execute/exchange/mpi.h"

namespace helix::cpu {

class Collectives {
 public:
  // Collective over `ranks`: makes the communicators of all groups of the schedule.
  Collectives(MPI_Comm ranks, const Schedule& schedule, const Store& store, Format activations);

  // Starts the task, or goes on with it; true when it is finished. `wait`: do not return before.
  bool progress(const Task& task, bool wait);
  void barrier() const;
  MPI_Comm ranks() const { return ranks_.get(); }

 private:
  struct Shares {  // of `values` among the group, in values
    std::vector<int64_t> count, first;
  };
  bool next_round(const Task& task, Pending& pending);  // false: nothing is left to do
  bool all_to_all(const Task& task, Pending& pending);
  bool all_reduce(const Task& task, Pending& pending);
  bool all_gather(const Task& task, Pending& pending);
  bool reduce_scatter(const Task& task, Pending& pending);
  void sum(const Task& task, int64_t values, std::byte* out);

  MPI_Comm group(const Task& task) const;
  int64_t values(Id id, int chunk) const;
  int64_t element(Id id) const;
  Shares shares(const Task& task) const;
  int64_t row_bytes(Id id) const;
  void replica_counts(int64_t row_bytes, std::vector<int>& counts, std::vector<int>& at) const;
  const BlockType& heads_type(const Task& task, Id wide, Id narrow);

  const Schedule& schedule_;
  const Store& store_;
  Format activations_;
  Communicator ranks_;
  std::map<std::tuple<int, int, int>, Communicator> groups_;  // size, first, stride
  std::map<const Task*, BlockType> types_;
  struct InFlight {
    Pending pending;
    Counts counts;
  };
  std::map<const Task*, std::unique_ptr<InFlight>> in_flight_;
};

}  // namespace helix::cpu
