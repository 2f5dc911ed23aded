// A machine's factors from tasks that were timed on it: the same formula as the simulator's, fixed
// time and then the longest of reading, computing and sending, solved the other way round.
#pragma once

#include <span>

namespace helix {

// A task that was timed alone, and what its bytes, FLOPs and messages take at the machine's peaks.
struct TimedTask {
  double us = 0;
  double read_us = 0;
  double compute_us = 0;
  double send_us = 0;
};

struct TaskFactors {
  double fixed_us = 0;
  double read = 1;  // efficiencies: shares of the peaks
  double compute = 1;
  double link = 1;

  double us(const TimedTask& task) const;
};

struct TaskFit {
  TaskFactors factors;
  double worst_error = 0;  // |simulated / timed - 1|
};

// The factors that bring the sum of squared log(simulated / timed) to its least; what is off by
// more than a third counts linearly, so that a task which was disturbed decides little. What the
// tasks do not tell (the compute efficiency of tasks that all read longer than they compute) stays
// near `expected`. Within `low` and `high`; equal bounds pin a factor. `tasks` is not empty, and
// times are positive.
TaskFit fit_factors(std::span<const TimedTask> tasks, const TaskFactors& expected,
                    const TaskFactors& low, const TaskFactors& high);

}  // namespace helix
