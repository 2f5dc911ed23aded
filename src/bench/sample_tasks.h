// Tasks of a point timed one by one, beside what they take at a machine's peaks.
#pragma once

#include <string>
#include <vector>

#include "bench/point.h"
#include "bench/world.h"
#include "execute/factory.h"
#include "machine/fit.h"
#include "machine/machine.h"

namespace helix {

struct SampledTask {
  std::string name;  // of the cover, as tasks_us has it
  bool attends = false;
  bool multiplies = false;  // any other product
  bool communicates = false;
  bool reduces = false;  // by an all-reduce
  int ranks = 1;         // that exchange
  double sent_bytes = 0;
  TimedTask timed;    // a layer's, of one rank
  double spread = 0;  // of its times: the median over that of the fastest half, less 1
};

// One layer's, with no time.
SampledTask untimed_task(const Schedule& schedule, const Cover& cover, const StepState& state,
                         const Machine& peaks);

// Each cover carried out by all ranks of the layout, a barrier before each, several times over in
// memory of several allocations; of the times of each rank the median of the fastest half. PP 1.
// All ranks' tasks on rank 0, nothing elsewhere. Collective over the world; throws what one rank
// alone knows of.
std::vector<SampledTask> sample_tasks(World& world, const ExecutorChoice& how, const Machine& peaks,
                                      const Point& point);

}  // namespace helix
