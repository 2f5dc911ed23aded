#include "bench/depths.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace helix {

namespace {

using Named = std::vector<std::pair<std::string, double>>;

struct Line {      // through two measurements
  double missing;  // layers beyond the deeper one, counted in differences of both
  double at_whole(double shallow, double deep) const { return deep + missing * (deep - shallow); }

  // What a single task adds may drown in noise, but is never less than nothing.
  double grown(double shallow, double deep) const {
    return at_whole(std::min(shallow, deep), deep);
  }
  Named grown(const Named& shallow, const Named& deep) const {
    Named whole;
    for (const auto& [name, us] : deep) {
      const auto same = std::ranges::find(shallow, name, &Named::value_type::first);
      whole.emplace_back(name, grown(same == shallow.end() ? 0 : same->second, us));
    }
    return whole;
  }
};

ExchangeTimes grown(const Line& line, const ExchangeTimes& shallow, const ExchangeTimes& deep) {
  ExchangeTimes whole;
  for (double ExchangeTimes::*part : {&ExchangeTimes::alone, &ExchangeTimes::back_to_back,
                                      &ExchangeTimes::exposed, &ExchangeTimes::hidden})
    whole.*part = line.grown(shallow.*part, deep.*part);
  return whole;
}

NotExecuted grown(const Line& line, const NotExecuted& shallow, const NotExecuted& deep) {
  NotExecuted whole = deep;
  whole.tasks_us = line.grown(shallow.tasks_us, deep.tasks_us);
  for (double NotExecuted::*part : {&NotExecuted::exposed_us, &NotExecuted::hidden_us})
    whole.*part = line.grown(shallow.*part, deep.*part);
  return whole;
}

Roofline grown(const Line& line, const Roofline& shallow, const Roofline& deep) {
  Roofline whole;
  for (double Roofline::*part : {&Roofline::bytes, &Roofline::flops, &Roofline::floor_us})
    whole.*part = line.at_whole(shallow.*part, deep.*part);
  whole.tasks = deep.tasks;
  for (Roofline::Task& task : whole.tasks) {
    const auto same = std::ranges::find(shallow.tasks, task.name, &Roofline::Task::name);
    task.floor_us = line.grown(same == shallow.tasks.end() ? 0 : same->floor_us, task.floor_us);
  }
  return whole;
}

}  // namespace

Measured whole_model(const Measured& shallow, const Measured& deep,
                     std::pair<int64_t, int64_t> depths, int64_t layers) {
  const auto [a, b] = depths;
  const double ttl_a = statistics(shallow.samples_us).median;
  const double ttl_b = statistics(deep.samples_us).median;
  if (!(ttl_b > ttl_a))
    throw RunError(fmt::format(
        "{} layers took {:.1f} us and {} layers {:.1f} us: what a layer takes drowns in noise; "
        "more steps, or depths further apart",
        a, ttl_a, b, ttl_b));
  const Line line{static_cast<double>(layers - b) / static_cast<double>(b - a)};
  Measured whole = deep;
  for (double& sample : whole.samples_us) sample += line.missing * (ttl_b - ttl_a);
  whole.tasks_us = line.grown(shallow.tasks_us, deep.tasks_us);
  if (deep.exchange && shallow.exchange)
    whole.exchange = grown(line, *shallow.exchange, *deep.exchange);
  if (deep.not_executed && shallow.not_executed)
    whole.not_executed = grown(line, *shallow.not_executed, *deep.not_executed);
  if (deep.roofline && shallow.roofline)
    whole.roofline = grown(line, *shallow.roofline, *deep.roofline);
  whole.depths = {{a, shallow.samples_us}, {b, deep.samples_us}};
  return whole;
}

}  // namespace helix
