// The one timing loop, for all executors. Collective over an executor's ranks; results are the
// maximum over them, the same on all.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/line.h"
#include "execute/cpu/host_rates.h"
#include "execute/executor.h"

namespace helix {

// Element by element over the ranks.
std::vector<double> maximum(MPI_Comm ranks, std::vector<double> values);

// Begins again after the history whenever `capacity` steps, all that the KV cache has room for, are
// done.
void warm_up(Executor& executor, int64_t steps, int64_t capacity);

struct StepTimes {
  std::vector<double> samples_us;  // a step each
  double waited_us = 0;  // a step's mean wait for the exchange lane, of the rank that waits most
};
// From the first token after the history. No barrier and no synchronisation inside: a step begins
// where the one before ended. `after_first` is for faults.
StepTimes measure_steps(MPI_Comm ranks, Executor& executor, int64_t steps,
                        const std::function<void()>& after_first);

// How much longer steps took than some without their exchanges do, by the medians; nothing where
// the executor cannot leave them out. Their results are void.
std::optional<double> exchanges_exposed_us(MPI_Comm ranks, Executor& executor,
                                           const std::vector<double>& samples_us);

// What each of this rank's covers takes in instrumented passes of the first step, a pass each. As
// many as some 100 ms hold: of a step of a millisecond the first few find cold caches and are off
// by half.
std::vector<std::vector<double>> timed_passes(MPI_Comm ranks, Executor& executor);

// What the executor knows of them, of the rank with the most of each.
std::optional<SharedCores> shared_cores(MPI_Comm ranks, const Executor& executor);

struct TaskTimes {
  // A cover's name each (schedule/covers.h), chunks and layers summed.
  std::vector<std::pair<std::string, double>> tasks_us;
  double exchanges_us = 0;             // those that communicate, without waits for other ranks
  double exchanges_on_compute_us = 0;  // of them, those that nothing hides
  double back_to_back_us = 0;          // all of a step at once; not a number where unknown
  std::optional<SharedCores> shared_cores;
};
// The median of the timed passes, cover by cover.
TaskTimes measure_tasks(MPI_Comm ranks, Executor& executor);

// {"mean":, "busiest":}: experts of a rank that some token chose in a layer of the last step, mean
// over ranks, layers and micro-batches, and over those of the rank with the most. Null where there
// are no experts.
Json experts_touched(MPI_Comm ranks, const Executor& executor);

// What the busiest rank has to move and to compute in its next step, and how long the step takes at
// least when `sharing` ranks share a host: the busiest as if alone, or all of them together. Of a
// task timed alone: when `at_once` of them run at a time, as no more have a core.
Roofline roofline(MPI_Comm ranks, const Executor& executor, Format activations,
                  const HostRates& host, double sharing, double at_once);

}  // namespace helix
