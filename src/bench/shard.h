// One rank of a layout carried out alone (`--shard RANK/N`): its weights, its part of the KV cache
// and its kernels; nothing is exchanged.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/line.h"
#include "machine/machine.h"

namespace helix {

class Executor;
struct Assignment;

struct Shard {
  int rank = 0;
  int ranks = 1;  // of the layout
};
std::string text_of(const Shard& shard);  // "RANK/N"
// Throws InputError for anything but "RANK/N" with 0 <= RANK < N.
Shard shard_of(const std::string& text);
// Throws InputError for the first point whose layout has another number of ranks, or that needs all
// of them.
void check_shard(const Shard& shard, const std::vector<Point>& points);

// Who chooses which experts where `work.shard` is the busiest rank of its EP group in each layer:
// the simulator's model of routing (execute/simulate/routing.h), a draw a layer, in which that rank
// changes its experts for those of the rank that has most to read. For Assignment::choices.
std::vector<int32_t> busiest_choices(const Assignment& work);

// `machine`, on which the named covers of a step take exactly these times.
Machine with_times(Machine machine, const Schedule& schedule, std::span<const Cover> covers,
                   const std::vector<std::pair<std::string, double>>& tasks_us);

// Takes the exchanges, which were not carried out, out of what was measured, and says so: with what
// `machine` (null: none) takes for them in a step whose other tasks take what was measured.
void leave_out_exchanges(Measured& measured, const Executor& executor, const Machine* machine);

}  // namespace helix
