// `run`: a sweep's points executed one after another, a line of results each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/results.h"
#include "bench/scope.h"
#include "bench/shard.h"
#include "bench/world.h"
#include "execute/factory.h"

namespace helix {

struct RunOptions {
  std::string sweep;  // a file, or "" with `from`
  std::string from;   // "RESULTS#KEY": the point of a result line
  ExecutorChoice how;
  std::string exchange = "auto";  // mpi, nccl or auto
  std::string folder;             // "": results/NAME
  Resume resume = Resume::no;
  double lock_wait_s = 0;                      // for another run to leave the folder
  std::pair<int64_t, int64_t> slice = {1, 1};  // I of N
  // Whose prices make slices equal ("": roughly, by bytes), and a shard's exchanges have ("":
  // none).
  std::string machine;
  std::optional<double> time_limit_s;
  int64_t repeat = 1;
  std::optional<int64_t> warmup;
  std::optional<int64_t> steps;
  NoiseTarget noise;  // percent 0: the sweep's
  int threads = 0;    // a rank; 0: all cores shared out
  bool dry_run = false;
  Scope scope = Scope::automatic;    // of verification
  std::string trace;                 // a file
  std::optional<Shard> shard;        // one rank alone; none: all of them
  std::vector<const char*> command;  // of this launch
};

// Collective over the world; returns the exit code, the same on all ranks. Throws InputError and
// AgreedError on all ranks alike; any other exception is known to one rank alone.
int run(World& world, const RunOptions& options);

}  // namespace helix
