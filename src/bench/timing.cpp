#include "bench/timing.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "bench/statistics.h"
#include "execute/exchange/mpi.h"

namespace helix {

namespace {

constexpr int least_passes = 5;
constexpr int most_passes = 31;
constexpr double passes_us = 1e5;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return nearest_rank(values, 50);
}

// The names of covers in order of the step, with those that only later stages have at the end: the
// same on all ranks. Of each of this rank's covers, its name's place.
struct Names {
  std::vector<std::string> names;
  std::vector<size_t> of_cover;

  Names(MPI_Comm ranks, const Executor& executor) {
    std::vector<std::string> own;
    std::string mine;
    for (const Cover& cover : executor.covers())
      mine += own.emplace_back(name_of(executor.schedule(), cover)) + "\n";
    for (const std::string& text : gather_texts(ranks, mine))
      for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1)
        static_cast<void>(place(text.substr(at, text.find('\n', at) - at)));
    for (const std::string& name : own) of_cover.push_back(place(name));
  }

 private:
  size_t place(const std::string& name) {
    const auto at = std::find(names.begin(), names.end(), name);
    const auto index = static_cast<size_t>(at - names.begin());
    if (at == names.end()) names.push_back(name);
    return index;
  }
};

struct HostFloor {
  double bytes_per_s;  // of the step's working set: each task finds the caches full of the others'
  double flops_per_s;
  double sharing;  // ranks that work at a time

  // Of costs side by side, on all ranks alike: the rank with the most of each as if it were alone,
  // or all of them on what they share, where some have little to do (dp_ep with few requests).
  struct Least {
    std::vector<double> us, compute_us;
  };
  Least least(MPI_Comm ranks, const std::vector<Cost>& costs) const {
    const size_t count = costs.size();
    std::vector<double> read, compute;
    for (const Cost& c : costs) {
      read.push_back(1e6 * (c.early + c.late) / bytes_per_s);
      compute.push_back(1e6 * c.flops / flops_per_s);
    }
    const auto shared = [&](std::vector<double> us) {
      const std::vector<double> most = maximum(ranks, us);
      int size = 1;
      HELIX_MPI(MPI_Comm_size(ranks, &size));
      HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, us.data(), count_of(std::ssize(us)), MPI_DOUBLE,
                              MPI_SUM, ranks));
      for (size_t i = 0; i < count; ++i) us[i] = std::max(most[i], sharing * us[i] / size);
      return us;
    };
    Least all{.us = shared(std::move(read)), .compute_us = shared(std::move(compute))};
    for (size_t i = 0; i < count; ++i) all.us[i] = std::max(all.us[i], all.compute_us[i]);
    return all;
  }
};

std::vector<Roofline::Task> task_floors(MPI_Comm ranks, const Executor& executor,
                                        const HostFloor& floor) {
  const Schedule& schedule = executor.schedule();
  const std::span<const Cover> covers = executor.covers();
  const Names names(ranks, executor);
  std::vector<Cost> costs(names.names.size());
  for (int i = 0; i < schedule.place.l.pp; ++i) {
    const StepState state = executor.state(i);
    for (size_t c = 0; c < covers.size(); ++c)
      for (int layer = 0; layer < layers_of(schedule, covers[c]); ++layer)
        costs[names.of_cover[c]] += cost(schedule, covers[c], state);
  }
  const HostFloor::Least least = floor.least(ranks, costs);
  std::vector<Roofline::Task> tasks;
  for (size_t i = 0; i < costs.size(); ++i)
    tasks.push_back(
        {names.names[i], least.us[i], least.us[i] > 0 && least.compute_us[i] >= least.us[i]});
  return tasks;
}

// Of this rank: what it waits for others in an exchange is not the exchange's; the last of them
// waits for nobody.
struct Alone {
  double all_us = 0;
  double on_compute_us = 0;  // that nothing hides
};
Alone exchanges_alone(MPI_Comm ranks, const Executor& executor, const Names& names,
                      std::vector<double> times) {
  const std::span<const Cover> covers = executor.covers();
  const auto is_exchange = [&](const Cover& cover) {
    return communicates(executor.schedule(), cover);
  };
  if (executor.times_in_place()) {
    constexpr double none = std::numeric_limits<double>::infinity();
    std::vector<double> least(names.names.size(), -none);  // negated
    for (size_t i = 0; i < times.size(); ++i) {
      double& sum = least[names.of_cover[i]];
      if (is_exchange(covers[i])) sum = std::isinf(sum) ? -times[i] : sum - times[i];
    }
    std::vector<double> mine = least;
    least = maximum(ranks, std::move(least));
    for (size_t i = 0; i < times.size(); ++i) {
      const size_t name = names.of_cover[i];
      if (is_exchange(covers[i]) && mine[name] < 0) times[i] *= least[name] / mine[name];
    }
  }
  Alone alone;
  for (size_t i = 0; i < times.size(); ++i) {
    if (!is_exchange(covers[i])) continue;
    alone.all_us += times[i];
    if (lane_of(executor.schedule(), covers[i]) == Lane::compute) alone.on_compute_us += times[i];
  }
  return alone;
}

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
  executor.fill();
  HELIX_MPI(MPI_Barrier(ranks));
  executor.mark();
  for (int64_t i = 0; i < steps; ++i) {
    executor.step();
    executor.mark();
    if (i == 0) after_first();
  }
  std::vector<double> values = executor.take_intervals_us();
  values.push_back(executor.waited_us());
  values = maximum(ranks, std::move(values));
  const double waited = values.back();
  values.pop_back();
  return {std::move(values), waited};
}

std::optional<double> exchanges_exposed_us(MPI_Comm ranks, Executor& executor,
                                           const std::vector<double>& samples_us) {
  constexpr int64_t most_steps = 20;
  if (!executor.leave_out_exchanges(true)) return std::nullopt;
  const StepTimes without =
      measure_steps(ranks, executor, std::min(most_steps, std::ssize(samples_us)), [] {});
  executor.leave_out_exchanges(false);
  return std::max(0.0, median(samples_us) - median(without.samples_us));
}

std::vector<std::vector<double>> timed_passes(MPI_Comm ranks, Executor& executor) {
  std::vector<std::vector<double>> passes;
  double spent_us = 0;  // the same on all ranks
  while (std::ssize(passes) < least_passes ||
         (std::ssize(passes) < most_passes && spent_us < passes_us)) {
    executor.rewind();
    const std::vector<double>& times = passes.emplace_back(executor.instrumented_step());
    spent_us += maximum(ranks, {std::accumulate(times.begin(), times.end(), 0.0)}).front();
  }
  executor.rewind();
  return passes;
}

std::optional<SharedCores> shared_cores(MPI_Comm ranks, const Executor& executor) {
  const std::optional<SharedCores> mine = executor.shared_cores();
  if (!mine) return std::nullopt;
  const std::vector<double> most = maximum(
      ranks, {mine->waited_us, static_cast<double>(mine->runs), static_cast<double>(mine->shared)});
  return SharedCores{.waited_us = most[0],
                     .runs = static_cast<int64_t>(most[1]),
                     .shared = static_cast<int64_t>(most[2])};
}

TaskTimes measure_tasks(MPI_Comm ranks, Executor& executor) {
  const Names names(ranks, executor);
  const size_t count = names.names.size();
  std::vector<std::vector<double>> samples(count + 2);
  for (const std::vector<double>& times : timed_passes(ranks, executor)) {
    std::vector<double> sums(count + 2, 0);
    for (size_t i = 0; i < times.size(); ++i) sums[names.of_cover[i]] += times[i];
    const Alone alone = exchanges_alone(ranks, executor, names, times);
    sums[count] = alone.all_us;
    sums[count + 1] = alone.on_compute_us;
    sums = maximum(ranks, std::move(sums));
    for (size_t i = 0; i < sums.size(); ++i) samples[i].push_back(sums[i]);
  }
  TaskTimes result;
  for (size_t i = 0; i < count; ++i)
    result.tasks_us.emplace_back(names.names[i], median(samples[i]));
  result.exchanges_us = median(samples[count]);
  result.exchanges_on_compute_us = median(samples[count + 1]);
  std::vector<double> at_once;
  for (int pass = 0; pass < least_passes; ++pass)
    at_once.push_back(maximum(ranks, {executor.exchanges_us()}).front());
  result.back_to_back_us = median(at_once);
  result.shared_cores = shared_cores(ranks, executor);
  return result;
}

Json experts_touched(MPI_Comm ranks, const Executor& executor) {
  const Schedule& schedule = executor.schedule();
  double layers = 0;
  for (const Segment& segment : schedule.segments)
    if (segment.kind == "moe") layers += segment.layers;
  double touched = 0;  // a layer's mean
  for (int i = 0; i < schedule.place.l.pp; ++i)
    touched += executor.state(i).touched / schedule.place.l.pp;
  std::array<double, 2> sums = {layers, layers * touched};
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, sums.data(), 2, MPI_DOUBLE, MPI_SUM, ranks));
  const double busiest = maximum(ranks, {layers > 0 ? touched : 0}).front();
  if (sums[0] == 0) return {};
  return {{"mean", sums[1] / sums[0]}, {"busiest", busiest}};
}

Roofline roofline(MPI_Comm ranks, const Executor& executor, Format activations,
                  const HostRates& host, double sharing, double at_once) {
  Cost c;
  for (int i = 0; i < executor.schedule().place.l.pp; ++i)
    c += step_cost(executor.schedule(), executor.state(i));
  const double bytes = c.early + c.late;
  HostFloor floor{host.read_rate(bytes * sharing), host.flops_rate(activations), sharing};
  const double floor_us = floor.least(ranks, {c}).us.front();
  struct {
    double us;
    int rank;
  } busiest{.us = std::max(bytes / floor.bytes_per_s, c.flops / floor.flops_per_s), .rank = 0};
  HELIX_MPI(MPI_Comm_rank(ranks, &busiest.rank));
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &busiest, 1, MPI_DOUBLE_INT, MPI_MAXLOC, ranks));
  std::array<double, 2> most = {bytes, c.flops};
  HELIX_MPI(MPI_Bcast(most.data(), 2, MPI_DOUBLE, busiest.rank, ranks));
  floor.sharing = at_once;
  return {most[0], most[1], floor_us, task_floors(ranks, executor, floor)};
}

}  // namespace helix
