// `simulate`: every point of a sweep priced on a machine, a line of results each. Needs no MPI.
#pragma once

#include <string>
#include <vector>

#include "bench/pricer.h"
#include "bench/results.h"

namespace helix {

struct SimulateOptions {
  std::string sweep;    // a file, or "" with `from`
  std::string from;     // "RESULTS#KEY": the point of a result line
  std::string machine;  // a name of configs/machines, or a file
  Accounting accounting = Accounting::chunks;
  std::string folder;  // "": results/NAME-MACHINE
  Resume resume = Resume::no;
  std::vector<const char*> command;  // of this launch
};
// Returns the exit code. Throws InputError, and writes nothing, for a bad sweep or machine.
int simulate(const SimulateOptions& options);

// The line of a priced point; skipped where it does not fit.
Json line_of(const Point& point, const Setting& setting, const Priced& priced);
// How the lines of a machine are set.
Setting setting_of(const Machine& machine, Accounting accounting, const Point& point);

}  // namespace helix
