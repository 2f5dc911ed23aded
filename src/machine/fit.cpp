#include "machine/fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace helix {

namespace {

constexpr double TaskFactors::*fields[] = {&TaskFactors::fixed_us, &TaskFactors::read,
                                           &TaskFactors::compute, &TaskFactors::link};

constexpr double linear_from = 0.3;  // of a logarithm
constexpr double pull = 1e-5;        // towards what is expected, a task's weight

double loss(double error) {
  const double size = std::abs(error);
  return size < linear_from ? size * size : linear_from * (2 * size - linear_from);
}

struct Search {
  std::span<const TimedTask> tasks;
  const TaskFactors& expected;
  const TaskFactors& low;
  const TaskFactors& high;

  double cost(const TaskFactors& f) const {
    double sum = 0;
    for (const TimedTask& task : tasks) sum += loss(std::log(f.us(task) / task.us));
    sum /= static_cast<double>(tasks.size());
    for (const auto field : fields)
      if (low.*field < high.*field) sum += pull * loss(std::log(f.*field / expected.*field));
    return sum;
  }

  // Each factor in turn is made larger and smaller by a step that halves when nothing is won.
  TaskFactors from(TaskFactors at) const {
    for (const auto field : fields) at.*field = std::clamp(at.*field, low.*field, high.*field);
    double least = cost(at);
    for (double step = 2; step > 1.0005;) {
      bool won = false;
      for (const auto field : fields)
        for (const double times : {step, 1 / step}) {
          TaskFactors next = at;
          next.*field = std::clamp(at.*field * times, low.*field, high.*field);
          if (const double now = cost(next); now < least) {
            at = next;
            least = now;
            won = true;
          }
        }
      if (!won) step = std::sqrt(step);
    }
    return at;
  }
};

}  // namespace

double TaskFactors::us(const TimedTask& task) const {
  return fixed_us + std::max({task.read_us / read, task.compute_us / compute, task.send_us / link});
}

TaskFit fit_factors(std::span<const TimedTask> tasks, const TaskFactors& expected,
                    const TaskFactors& low, const TaskFactors& high) {
  const Search search{tasks, expected, low, high};
  TaskFit best;
  double least = std::numeric_limits<double>::infinity();
  // Which of reading and computing bounds a task is a matter of where the search begins.
  for (const double read : {0.1, 1.0})
    for (const double compute : {0.1, 1.0})
      for (const double fixed : {0.1, 1.0}) {
        const TaskFactors found = search.from({.fixed_us = expected.fixed_us * fixed,
                                               .read = read,
                                               .compute = compute,
                                               .link = expected.link});
        const double cost = search.cost(found);
        if (!(cost < least)) continue;
        least = cost;
        best.factors = found;
      }
  for (const TimedTask& task : tasks)
    best.worst_error = std::max(best.worst_error, std::abs(best.factors.us(task) / task.us - 1));
  return best;
}

}  // namespace helix
