// Covers: runs of consecutive tasks that an executor carries out as one, a kernel on a GPU. Which
// operations run as one is data, a table an executor, so that the simulator and `compare` know the
// kernels without linking them. Every task is in exactly one cover; `tasks_us` of a result line has
// a cover a key; a tensor that stays inside a cover moves no bytes.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "schedule/cost.h"
#include "schedule/schedule.h"

namespace helix {

using Fusion = std::vector<Op>;  // operations that run as one, where they follow each other
// The CPU executor carries out each task by itself.
std::span<const Fusion> cpu_fusions();
// What kernels on a GPU are meant to become: the simulator prices these.
std::span<const Fusion> gpu_fusions();
// What the GPU executor's fused exchange carries on with (execute/cuda/exchange_fused.cpp).
std::span<const Fusion> fused_exchange_fusions();

// Tasks [begin, end) of one segment, lane and chunk.
struct Cover {
  int begin;
  int end;
};
// In order of the schedule; of two fusions that fit, the longer.
std::vector<Cover> covers_of(const Schedule& schedule, std::span<const Fusion> fusions);

// The names of its tasks: "exchange+merge".
std::string name_of(const Schedule& schedule, const Cover& cover);

bool communicates(const Schedule& schedule, const Cover& cover);
Lane lane_of(const Schedule& schedule, const Cover& cover);
int layers_of(const Schedule& schedule, const Cover& cover);  // in which it is carried out

// Its tasks' costs, less the bytes of what is written and read inside it alone.
Cost cost(const Schedule& schedule, const Cover& cover, const StepState& state);

}  // namespace helix
