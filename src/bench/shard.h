// One rank of a layout carried out alone (`--shard RANK/N`): its weights, its part of the KV cache
// and its kernels; nothing is exchanged.
#pragma once

#include <string>
#include <vector>

#include "bench/line.h"

namespace helix {

class Executor;
struct Machine;

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

// Takes the exchanges, which were not carried out, out of what was measured, and says so: with what
// `machine` (null: none) takes for them in a step whose other tasks take what was measured.
void leave_out_exchanges(Measured& measured, const Executor& executor, const Machine* machine);

}  // namespace helix
