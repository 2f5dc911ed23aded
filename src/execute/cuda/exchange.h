// The communicating tasks of one rank, between GPU buffers.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "execute/exchange/mpi.h"
#include "execute/passages.h"
#include "execute/store.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

// Does it run beside a later chunk's attention? Behind the last chunk's there is nothing to hide an
// exchange: it stays on the compute lane, where kernels begin early.
inline bool runs_beside(const Schedule& schedule, const Task& task) {
  return task.lane == Lane::exchange && task.chunk + 1 < schedule.chunks;
}

class Exchange {
 public:
  virtual ~Exchange() = default;
  // Are its launches all that happens, so that they can be captured into a graph? A shift's never:
  // it changes from tick to tick.
  virtual bool captures(const Task& task) const = 0;
  // Before it is first captured or run, for the micro-batch in hand: what takes memory. `met`
  // [3], in device memory: dispatches that happen on the card add to it the rows that left, arrived
  // and returned.
  virtual void prepare(const Task& /*task*/, int64_t* /*met*/) {}
  // After what the stream has to do so far; what is launched into it later comes after. May wait.
  // True: the last launch was a kernel of ours, so that the next may begin before it ends.
  virtual bool run(const Task& task, const Launch& how) = 0;
  // Can it carry out both, `next` following `task`, as one? Then what stands between them is not
  // written.
  virtual bool fuses(const Task& task, const Task& next) const {
    static_cast<void>(task), static_cast<void>(next);
    return false;
  }
  virtual void run_both(const Task&, const Task&, int /*layer*/, const Launch&) {}
  // Throws RunError if a message of what was synchronised with did not come.
  virtual void check() const {}
  virtual void plan(const Shift& shift) = 0;
  // Rows that the last dispatch met: leaving, arrived, returning; where the host knows them.
  virtual void observe(StepState& /*state*/) const {}
  // How peers' memory is mapped; empty where kernels do not write to it.
  virtual std::string_view peer_memory() const { return ""; }
  // In device memory: how many rows the last dispatch brought.
  virtual const int32_t* arrived() const = 0;

  // Of all ranks of this stage; of all ranks.
  virtual void stage_barrier() const = 0;
  virtual void barrier() const = 0;
};

// Collective over `ranks`. `store`: of the device; it may be filled later.
std::unique_ptr<Exchange> make_mpi_exchange(MPI_Comm ranks, const Schedule& schedule,
                                            const Store& store, const Assignment& work);
std::unique_ptr<Exchange> make_nccl_exchange(MPI_Comm ranks, const Schedule& schedule,
                                             const Store& store, const Assignment& work);

// Of a shard.
std::unique_ptr<Exchange> make_stand_in(const Schedule& schedule, const Store& store,
                                        const Assignment& work);

struct FusedPlace {
  bool own_card = true;   // no other rank works on this rank's
  int blocks = 0;         // SMs of an exchange
  int blocks_beside = 0;  // of one that attention runs beside
  double patience_s = 0;  // that a kernel waits for a message
};
std::unique_ptr<Exchange> make_fused_exchange(MPI_Comm ranks, const Schedule& schedule,
                                              const Store& store, const Assignment& work,
                                              const FusedPlace& place);

}  // namespace helix::cuda
