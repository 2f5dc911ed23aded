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
  Machine::Shape shape;
  TimedTask timed;     // a layer's, of one rank
  double share = 1;    // of its step, all layers
  double spread = 0;   // from pass to pass: the median over that of the fastest half, less 1
  double scatter = 0;  // from round to round: the slowest less the fastest, of the median
};

struct SampledPoint {
  std::vector<SampledTask> tasks;  // of all ranks
  bool alone = false;              // of rank 0, without its exchanges
  double ttl_us = 0;               // of its steps, as `run` measures them
};

// One layer's, with no time.
SampledTask untimed_task(const Schedule& schedule, const Cover& cover, const StepState& state,
                         const Machine& peaks);

// Each cover carried out by all ranks of the layout as a run of the point would time it, after its
// warm-up steps: the median of the passes. PP 1. On rank 0, nothing elsewhere. A layout of more
// ranks than there are is sampled as its rank 0 alone, as `run --shard` would; a point with depths
// at the deeper one. Collective over the world; throws what one rank alone knows of.
SampledPoint sample_point(World& world, const ExecutorChoice& how, const Machine& peaks,
                          const Point& point);
// Of a point that was sampled several times: the median of each time.
SampledPoint median_of(const std::vector<SampledPoint>& rounds);

}  // namespace helix
