// A sweep cut into slices of equal work, for the tasks of a job array, and what such a task asks of
// Slurm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/pricer.h"

namespace helix {

// How long points take: good for comparing them, and for a limit on a job's time. The judge,
// loading and the instrumented passes count as some more steps.
class Estimator {
 public:
  // Steps as they are priced on a machine (a name, or a file); "": roughly, by the bytes that the
  // widest rank reads.
  explicit Estimator(const std::string& machine);

  struct Estimate {
    double seconds = 0;
    double ttl_us = 0;    // 0 without a machine
    std::string why_not;  // it does not fit the machine; "": it does
  };
  Estimate operator()(const Point& point);
  Planner& planner() { return pricer_ ? pricer_->planner() : planner_; }

 private:
  Planner planner_;
  std::optional<Pricer> pricer_;
};

// The slice, 1 to `slices`, of each point: the largest first, each to the slice with the least so
// far, so that no two slices differ by more than a point. The same for everyone who asks.
std::vector<int64_t> deal(const std::vector<double>& work, int64_t slices);
std::vector<int64_t> deal(Estimator& estimator, const std::vector<Point>& points, int64_t slices);

// The options of sbatch for a job that runs these points, `ranks_per_node` at most on a node.
// `seconds`: of all of them together, or of the largest slice.
std::string slurm_options(int ranks, double bytes_per_rank, double seconds, int ranks_per_node);

}  // namespace helix
