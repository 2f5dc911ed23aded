// How a command ends, alone or among ranks.
#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "bench/world.h"

namespace helix {

// Says why, once however many ranks read the same command line, and returns the exit code.
int refuse(const std::string& reason, Exit code);

// Runs a command between MPI's start and end, under a watchdog that ends all ranks after
// `silence_s` without a sign of life.
int in_world(double silence_s, const std::function<int(World&)>& command);

}  // namespace helix
