#include "bench/timing.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "bench/statistics.h"
#include "execute/exchange/mpi.h"

namespace helix {

namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return nearest_rank(values, 50);
}

// Where each task's time is added up: its name's place, in order of the step.
struct Names {
  std::vector<std::string> names;
  std::vector<size_t> of_task;

  explicit Names(const Schedule& schedule) {
    for (const Task& task : schedule.tasks) {
      const auto at = std::find(names.begin(), names.end(), task.name);
      of_task.push_back(static_cast<size_t>(at - names.begin()));
      if (at == names.end()) names.emplace_back(task.name);
    }
  }
};

}  // namespace

std::vector<double> maximum(MPI_Comm ranks, std::vector<double> values) {
  const int count = count_of(static_cast<int64_t>(values.size()));
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, values.data(), count, MPI_DOUBLE, MPI_MAX, ranks));
  return values;
}

void warm_up(Executor& executor, int64_t steps, int64_t capacity) {
  for (int64_t i = 0; i < steps; ++i) {
    if (i % capacity == 0) executor.rewind();
    executor.step();
  }
}

StepTimes measure_steps(MPI_Comm ranks, Executor& executor, int64_t steps,
                        const std::function<void()>& after_first) {
  executor.rewind();
  std::vector<Clock::time_point> ends;
  ends.reserve(static_cast<size_t>(steps) + 1);
  double exposed_us = 0;
  HELIX_MPI(MPI_Barrier(ranks));
  ends.push_back(Clock::now());
  for (int64_t i = 0; i < steps; ++i) {
    executor.step();
    ends.push_back(Clock::now());
    exposed_us += executor.exposed_us();
    if (i == 0) after_first();
  }
  std::vector<double> values;
  for (size_t i = 1; i < ends.size(); ++i)
    values.push_back(std::chrono::duration<double, std::micro>(ends[i] - ends[i - 1]).count());
  values.push_back(exposed_us / static_cast<double>(steps));
  values = maximum(ranks, std::move(values));
  const double exposed = values.back();
  values.pop_back();
  return {std::move(values), exposed};
}

// All ranks of a layout have the same tasks, so their sums stand at the same places.
TaskTimes measure_tasks(MPI_Comm ranks, Executor& executor, int passes) {
  const Schedule& schedule = executor.schedule();
  const Names names(schedule);
  const size_t count = names.names.size();
  std::vector<std::vector<double>> samples(count + 2);
  for (int pass = 0; pass < passes; ++pass) {
    executor.rewind();
    const std::vector<double> times = executor.instrumented_step();
    std::vector<double> sums(count + 2, 0);
    for (size_t i = 0; i < times.size(); ++i) {
      const Task& task = schedule.tasks[i];
      sums[names.of_task[i]] += times[i];
      if (communicates(task.op)) sums[count] += times[i];
      if (communicates(task.op) && task.lane == Lane::compute) sums[count + 1] += times[i];
    }
    sums = maximum(ranks, std::move(sums));
    for (size_t i = 0; i < sums.size(); ++i) samples[i].push_back(sums[i]);
  }
  TaskTimes result;
  for (size_t i = 0; i < count; ++i)
    result.tasks_us.emplace_back(names.names[i], median(samples[i]));
  result.exchanges_us = median(samples[count]);
  result.exchanges_on_compute_us = median(samples[count + 1]);
  return result;
}

Roofline roofline(MPI_Comm ranks, const Executor& executor, double bytes_per_s,
                  double flops_per_s) {
  const Cost c = step_cost(executor.schedule(), executor.state());
  const double bytes = c.early + c.late;
  std::array<double, 3> mine = {bytes, c.flops,
                                1e6 * std::max(bytes / bytes_per_s, c.flops / flops_per_s)};
  struct {
    double floor_us;
    int rank;
  } busiest{.floor_us = mine[2], .rank = 0};
  HELIX_MPI(MPI_Comm_rank(ranks, &busiest.rank));
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &busiest, 1, MPI_DOUBLE_INT, MPI_MAXLOC, ranks));
  HELIX_MPI(MPI_Bcast(mine.data(), 3, MPI_DOUBLE, busiest.rank, ranks));
  return {mine[0], mine[1], mine[2]};
}

}  // namespace helix
