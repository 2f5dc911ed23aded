// `explain`: one line of a results folder: its tasks against their floors, what limits it, and the
// command that runs it again.
#pragma once

#include <string>
#include <vector>

#include "bench/results.h"

namespace helix {

struct ExplainedTask {
  std::string name;
  double us = 0;        // alone, of a step
  double floor_us = 0;  // of its bytes and FLOPs at the peaks that the line was measured with
  bool communicates = false;
  bool computes = false;  // its floor is that of its FLOPs
  // As the schedule counts them for a replica's first rank; experts as an even router chooses them.
  double bytes = 0;
  double flops = 0;
  double sent_bytes = 0;

  double above_us() const { return us > floor_us ? us - floor_us : 0; }
};

struct Explanation {
  std::vector<ExplainedTask> tasks;  // in order of the step
  std::string limit;                 // what takes most of the tasks' time, a sentence
  std::string command;               // runs it again
};
// Of an ok line of the results `path`.
Explanation explain(const Node& line, const std::string& path);

// Prints each measurement of that key, the last repeat of each. Throws InputError where there is no
// such key, with the nearest one.
int explain_key(const std::string& path, const std::string& key);

}  // namespace helix
