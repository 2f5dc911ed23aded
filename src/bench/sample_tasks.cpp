#include "bench/sample_tasks.h"

#include <algorithm>

#include "bench/point_run.h"
#include "bench/statistics.h"
#include "bench/timing.h"
#include "execute/simulate/rates.h"

namespace helix {

namespace {

// What differs from rank to rank.
constexpr double TimedTask::*numbers[] = {&TimedTask::us, &TimedTask::read_us,
                                          &TimedTask::compute_us, &TimedTask::send_us};
constexpr double SampledTask::*others[] = {&SampledTask::sent_bytes, &SampledTask::share,
                                           &SampledTask::spread, &SampledTask::scatter};
constexpr double Machine::Shape::*lengths[] = {&Machine::Shape::flops_a_byte,
                                               &Machine::Shape::bytes, &Machine::Shape::count};

std::vector<SampledTask> gather(MPI_Comm ranks, const std::vector<SampledTask>& mine) {
  std::vector<double> sent;
  for (const SampledTask& task : mine) {
    for (const auto number : numbers) sent.push_back(task.timed.*number);
    for (const auto other : others) sent.push_back(task.*other);
    for (const auto length : lengths) sent.push_back(task.shape.*length);
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
      for (const auto number : numbers) task.timed.*number = *from++;
      for (const auto other : others) task.*other = *from++;
      for (const auto length : lengths) task.shape.*length = *from++;
      tasks.push_back(std::move(task));
    }
  return tasks;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return nearest_rank(values, 50);
}

// Of one executor, in order of its covers.
SampledPoint sample(MPI_Comm ranks, const ExecutorChoice& how, const Machine& peaks,
                    const Point& point, bool alone) {
  const std::shared_ptr<const Model> model = executed_model(point);
  Assignment work = assignment_of(point, *model);
  if (alone) {
    work.shard = 0;
    work.choices = busiest_choices(work);
  }
  const auto executor = make_executor(how, ranks, work);
  const Schedule& schedule = executor->schedule();
  const std::span<const Cover> covers = executor->covers();
  warm_up(*executor, point.warmup, point.steps);
  std::vector<std::vector<double>> times(covers.size());
  for (const std::vector<double>& step : timed_passes(ranks, *executor))
    for (size_t c = 0; c < covers.size(); ++c)
      times[c].push_back(step[c] / layers_of(schedule, covers[c]));
  SampledPoint once;
  once.alone = alone;
  double step_us = 0;
  for (size_t c = 0; c < covers.size(); ++c) {
    if (alone && communicates(schedule, covers[c])) continue;
    std::ranges::sort(times[c]);
    SampledTask& task =
        once.tasks.emplace_back(untimed_task(schedule, covers[c], executor->state(), peaks));
    task.timed.us = nearest_rank(times[c], 50);
    task.spread = task.timed.us / nearest_rank(times[c], 25) - 1;
    task.share = task.timed.us * layers_of(schedule, covers[c]);
    step_us += task.share;
  }
  for (SampledTask& task : once.tasks) task.share /= step_us;
  once.ttl_us = median(measure_steps(ranks, *executor, point.steps, [] {}).samples_us);
  once.tasks = gather(ranks, once.tasks);
  int rank = 0;
  HELIX_MPI(MPI_Comm_rank(ranks, &rank));
  return rank == 0 ? once : SampledPoint();
}

}  // namespace

SampledPoint median_of(const std::vector<SampledPoint>& rounds) {
  SampledPoint all = rounds.front();
  for (size_t c = 0; c < all.tasks.size(); ++c) {
    std::vector<double> times, spreads;
    for (const SampledPoint& once : rounds) {
      times.push_back(once.tasks[c].timed.us);
      spreads.push_back(once.tasks[c].spread);
    }
    const auto [least, most] = std::ranges::minmax(times);
    SampledTask& task = all.tasks[c];
    task.timed.us = median(times);
    task.spread = median(spreads);
    task.scatter = (most - least) / task.timed.us;
  }
  std::vector<double> ttls_us;
  for (const SampledPoint& once : rounds) ttls_us.push_back(once.ttl_us);
  all.ttl_us = median(ttls_us);
  return all;
}

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
  const int chunk = schedule.tasks[static_cast<size_t>(cover.begin)].chunk;
  task.shape = simulated::shape_of(simulated::terms_of(schedule, cover), rates.value_bytes,
                                   simulated::symbols_of(state, chunk));
  task.timed = {.read_us = c.early * rates.early_byte_us + c.late * rates.late_byte_us,
                .compute_us = c.flops * rates.flop_us,
                .send_us = c.sent * rates.sent_byte_us};
  return task;
}

SampledPoint sample_point(World& world, const ExecutorChoice& how, const Machine& peaks,
                          const Point& point) {
  const bool alone = point.layout.ranks() > world.size();
  const MPI_Comm ranks = world.first(alone ? 1 : point.layout.ranks()).get();
  SampledPoint sampled;
  if (ranks != MPI_COMM_NULL) sampled = sample(ranks, how, peaks, point, alone);
  world.meet();
  return sampled;
}

}  // namespace helix
