#include "bench/sample_tasks.h"

#include <algorithm>

#include "bench/point_run.h"
#include "bench/statistics.h"
#include "bench/timing.h"
#include "execute/simulate/rates.h"

namespace helix {

namespace {

constexpr int allocations = 3;  // on CPUs the same bytes elsewhere in memory take another time
constexpr int passes = 9;       // in each
constexpr int warm_up_steps = 2;

// What differs from rank to rank.
constexpr double TimedTask::*numbers[] = {&TimedTask::us, &TimedTask::read_us,
                                          &TimedTask::compute_us, &TimedTask::send_us};

std::vector<SampledTask> gather(MPI_Comm ranks, const std::vector<SampledTask>& mine) {
  constexpr size_t width = std::size(numbers) + 2;
  std::vector<double> sent;
  for (const SampledTask& task : mine) {
    for (const auto number : numbers) sent.push_back(task.timed.*number);
    sent.push_back(task.sent_bytes);
    sent.push_back(task.spread);
  }
  int size = 0;
  HELIX_MPI(MPI_Comm_size(ranks, &size));
  std::vector<double> all(sent.size() * static_cast<size_t>(size));
  const int count = count_of(std::ssize(sent));
  HELIX_MPI(MPI_Gather(sent.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, 0, ranks));
  std::vector<SampledTask> tasks;
  const double* from = all.data();
  for (int rank = 0; rank < size; ++rank)
    for (SampledTask task : mine) {
      for (size_t i = 0; i < std::size(numbers); ++i) task.timed.*numbers[i] = from[i];
      task.sent_bytes = from[width - 2];
      task.spread = from[width - 1];
      from += width;
      tasks.push_back(std::move(task));
    }
  return tasks;
}

std::vector<SampledTask> sample(MPI_Comm ranks, const ExecutorChoice& how, const Machine& peaks,
                                const Point& point) {
  const Assignment work = assignment_of(point);
  std::vector<std::vector<double>> times;  // of a cover
  std::vector<SampledTask> tasks;
  const int times_anew = peaks.gpu ? 1 : allocations;
  for (int i = 0; i < times_anew; ++i) {
    const auto executor = make_executor(how, ranks, work);
    const Schedule& schedule = executor->schedule();
    const std::span<const Cover> covers = executor->covers();
    times.resize(covers.size());
    warm_up(*executor, warm_up_steps, point.steps);
    for (int pass = 0; pass < passes; ++pass) {
      executor->rewind();
      const std::vector<double> step = executor->instrumented_step();
      for (size_t c = 0; c < covers.size(); ++c)
        times[c].push_back(step[c] / layers_of(schedule, covers[c]));
    }
    if (i + 1 < times_anew) continue;
    executor->rewind();
    for (size_t c = 0; c < covers.size(); ++c) {
      std::ranges::sort(times[c]);
      SampledTask& task =
          tasks.emplace_back(untimed_task(schedule, covers[c], executor->state(), peaks));
      task.timed.us = nearest_rank(times[c], 25);
      task.spread = nearest_rank(times[c], 50) / task.timed.us - 1;
    }
  }
  int rank = 0;
  HELIX_MPI(MPI_Comm_rank(ranks, &rank));
  tasks = gather(ranks, tasks);
  if (rank != 0) tasks.clear();
  return tasks;
}

}  // namespace

SampledTask untimed_task(const Schedule& schedule, const Cover& cover, const StepState& state,
                         const Machine& peaks) {
  SampledTask task;
  task.name = name_of(schedule, cover);
  for (int i = cover.begin; i < cover.end; ++i) {
    const Task& part = schedule.tasks[static_cast<size_t>(i)];
    const Work work = row_of(part.op).work;
    task.attends |= work == Work::attend;
    task.multiplies |= work == Work::product || work == Work::experts;
    task.reduces |= part.op == Op::all_reduce;
    if (!communicates(part.op)) continue;
    task.communicates = true;
    task.ranks = part.group.size;
  }
  const simulated::Rates rates = simulated::rates_of(schedule, cover, peaks);
  const Cost c = cost(schedule, cover, state);
  task.sent_bytes = c.sent;
  task.timed = {.read_us = c.early * rates.early_byte_us + c.late * rates.late_byte_us,
                .compute_us = c.flops * rates.flop_us,
                .send_us = c.sent * rates.sent_byte_us};
  return task;
}

std::vector<SampledTask> sample_tasks(World& world, const ExecutorChoice& how, const Machine& peaks,
                                      const Point& point) {
  const MPI_Comm ranks = world.first(point.layout.ranks()).get();
  std::vector<SampledTask> tasks;
  if (ranks != MPI_COMM_NULL) tasks = sample(ranks, how, peaks, point);
  world.meet();
  return tasks;
}

}  // namespace helix
