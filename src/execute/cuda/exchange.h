// The communicating tasks of one rank, between GPU buffers.
#pragma once

#include <memory>
#include <vector>

#include "execute/exchange/mpi.h"
#include "execute/passages.h"
#include "execute/store.h"
#include "kernels/cuda/check.h"

namespace helix::cuda {

class Exchange {
 public:
  virtual ~Exchange() = default;
  // Are its launches all that happens, so that they can be captured into a graph? A shift never is:
  // it changes from tick to tick.
  virtual bool captures() const = 0;
  // After what `stream` has to do so far; what is launched into it later comes after. May wait.
  virtual void run(const Task& task, cudaStream_t stream) = 0;
  virtual void plan(const Shift& shift) = 0;
  // Rows that the last dispatch met: leaving, arrived, returning.
  virtual void observe(StepState& state) const = 0;
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

}  // namespace helix::cuda
