// A sweep cut into slices of equal work, for the tasks of a job array, and what such a task asks of
// Slurm.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/plan.h"

namespace helix {

// How long a point takes, roughly: bytes its widest rank reads in all passes over weights and KV
// history; the judge and loading count as some more passes. Good for comparing points, and for a
// limit on a job's time.
double work_of(Planner& planner, const Point& point);

// The slice, 1 to `slices`, of each point: the largest first, each to the slice with the least so
// far, so that no two slices differ by more than a point. The same for everyone who asks.
std::vector<int64_t> deal(const std::vector<double>& work, int64_t slices);
std::vector<int64_t> deal(Planner& planner, const std::vector<Point>& points, int64_t slices);

// The options of sbatch for a job that runs these points, `ranks_per_node` at most on a node.
// `work`: of all of them together, or of the largest slice.
std::string slurm_options(int ranks, double bytes_per_rank, double work, int ranks_per_node);

}  // namespace helix
