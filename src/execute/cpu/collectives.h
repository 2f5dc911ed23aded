// The communicating tasks over MPI. Every one is non-blocking and may take several rounds of
// messages, so that the exchange lane progresses between the tiles of attention; the compute lane
// waits.
//
// An all-reduce gives the same bits on all ranks: shares are exchanged, summed in rank order, and
// gathered.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "execute/cpu/exchange.h"
#include "execute/exchange/groups.h"

namespace helix::cpu {

class Collectives final : public Exchange {
 public:
  // Collective over `ranks`: makes the communicators of all groups of the schedule.
  Collectives(MPI_Comm ranks, const Schedule& schedule, const Store& store, const Assignment& work);

  bool progress(const Task& task, bool wait) override;
  void observe(StepState& state) const override;
  void plan(const Shift& shift) override { shift_ = shift; }
  void barrier() const override;
  bool stage_agrees(bool mine) const override;

 private:
  struct Shares {  // of `values` among the group, in values
    std::vector<int64_t> count, first;
  };
  bool next_round(const Task& task, Pending& pending);  // false: nothing is left to do
  bool all_to_all(const Task& task, Pending& pending);
  bool all_reduce(const Task& task, Pending& pending);
  bool all_gather(const Task& task, Pending& pending);
  bool reduce_scatter(const Task& task, Pending& pending);
  bool shift(const Task& task, Pending& pending);
  void sum(const Task& task, int64_t count, std::byte* out);

  // Tokens to their experts and back (dispatch.cpp).
  bool dispatch(const Task& task, Pending& pending);
  bool combine(const Task& task, Pending& pending);
  void find_travellers(const Task& task);
  std::byte* pack(const Task& task, int dp, std::byte* to) const;
  void unpack(const Task& task, int dp, int64_t behind, const std::byte* from);
  template <class T>
  void sum_travellers(const Task& task);

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
  int64_t experts_;  // E
  Communicator ranks_;
  Groups groups_;
  std::map<std::pair<const Task*, int>, BlockType> types_;  // a micro-batch each
  Shift shift_;
  struct InFlight {
    Pending pending;
    Counts counts;
  };
  std::map<const Task*, std::unique_ptr<InFlight>> in_flight_;
  struct Travel {                            // between a dispatch and its combine, a DP peer
    std::vector<std::vector<int32_t>> sent;  // rows of mine
    std::vector<int64_t> received;           // how many of theirs
  };
  Travel travel_;
  std::vector<std::byte*> messages_;  // of a dispatch under way, a peer
};

}  // namespace helix::cpu
