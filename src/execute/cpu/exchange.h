// The communicating tasks of one rank, between buffers in the host's memory.
#pragma once

#include <memory>

#include "execute/passages.h"
#include "execute/store.h"

namespace helix::cpu {

class Exchange {
 public:
  virtual ~Exchange() = default;
  // Starts the task, or goes on with it; true when it is finished. `wait`: do not return before.
  virtual bool progress(const Task& task, bool wait) = 0;
  // What the last dispatch met: rows that left, arrived and go back.
  virtual void observe(StepState& state) const = 0;
  virtual void plan(const Shift& shift) = 0;

  // Of all ranks.
  virtual void barrier() const = 0;
  // A barrier of this stage's ranks: is it so on all of them?
  virtual bool stage_agrees(bool mine) const = 0;
};

// By MPI, collective over `ranks`; of a shard, without anyone. `store` may be filled later.
std::unique_ptr<Exchange> make_exchange(MPI_Comm ranks, const Schedule& schedule,
                                        const Store& store, const Assignment& work);

}  // namespace helix::cpu
