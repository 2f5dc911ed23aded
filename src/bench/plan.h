// What a sweep would do, before anything runs: its points, the ranks they need and the bytes a rank
// holds.
#pragma once

#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bench/point.h"
#include "bench/shard.h"
#include "schedule/cost.h"

namespace helix {

// Bytes of a point's widest rank, or of one. A schedule is built once for all batches and contexts
// of a layout.
class Planner {
 public:
  Memory widest_rank(const Point& point);
  static Memory of_rank(const Point& point, int rank);
  static Schedule schedule_of_rank(const Point& point, int rank);
  // The schedule of the first rank of stage 0, and the load of its first step.
  const Schedule& schedule(const Point& point) { return *stages(point, 0).front(); }
  StepState load(const Point& point);
  // The schedules of stages that differ, for the first rank of a replica; they stay where they are.
  using Stages = std::vector<std::unique_ptr<Schedule>>;
  const Stages& stages(const Point& point, int dp);
  const std::vector<int64_t>& lengths(const Point& point);

 private:
  std::map<std::array<int64_t, 11>, Stages> stages_;
  // Keys have their addresses, which nothing else may take.
  std::vector<std::shared_ptr<const Model>> models_;
  std::map<std::tuple<int64_t, int64_t, int64_t, uint64_t>, std::vector<int64_t>> lengths_;
};

enum class PlanFormat : uint8_t { table, json, slurm };  // slurm: sbatch's options
struct PlanOptions {
  std::string sweep;
  PlanFormat format = PlanFormat::table;
  bool schedule = false;       // one layer's tasks of each schedule, after the table
  std::optional<int> ranks;    // points that need more are skipped
  std::optional<Shard> shard;  // whose bytes, in place of the widest rank's
  int64_t slices = 1;          // of a job array
  std::string machine;         // whose prices say how long a point takes; "": bytes do, roughly
  int ranks_per_node = 8;      // for Slurm
  std::FILE* out = stdout;
};
// Prints the plan; returns the exit code. Throws InputError for a bad sweep.
int plan(const PlanOptions& options);

}  // namespace helix
