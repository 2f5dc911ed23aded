// Verification of scope `tasks`: where a whole step is too much for the judge, or its other ranks
// are not there, each task is held against the judge's formulas on that task's own inputs.
#pragma once

#include "bench/verification.h"

namespace helix {

// Decodes one token of each request, from the history's end, and judges the tasks of this rank's
// first passage: of the last layer of each kind, the prologue and the epilogue. Exchanges are
// judged from what their ranks had read, and not those of a shard. `max_rel_err` is of the
// worst task, relative to the largest number of its row, and infinite where one decided wrongly.
// The executor stands at its history's end again. Collective over `ranks`; the result is the same
// on all of them.
Comparison compare_tasks(MPI_Comm ranks, Executor& executor, const Assignment& work);

// The largest error of a task that is still rounding.
double tasks_tolerance(const Precision& precision);

}  // namespace helix
