#include "bench/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/error.h"
#include "base/text.h"
#include "execute/executor.h"
#include "execute/simulate/passage.h"

namespace helix {

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();  // null in the line

// Whose tasks take what was measured: nothing else is left to price but the exchanges.
Machine with_measured(const Machine& machine, const Executor& executor, const Measured& measured) {
  Machine as_measured = machine;
  as_measured.read_ahead_mb = as_measured.touched_expert_us = 0;
  std::map<std::string, double> times;  // in a step each is carried out
  for (const Cover& cover : executor.covers())
    times[name_of(executor.schedule(), cover)] += layers_of(executor.schedule(), cover);
  for (const auto& [name, us] : measured.tasks_us)
    as_measured.covers[name] = {us / times[name], std::numeric_limits<double>::infinity(),
                                std::numeric_limits<double>::infinity()};
  return as_measured;
}

void price(NotExecuted& left_out, const Executor& executor, const Machine& machine) {
  const Schedule& schedule = executor.schedule();
  simulated::Passage passage(schedule, cpu_fusions(), machine, simulated::Accounting::chunks);
  double alone_us = 0;
  left_out.machine = machine.name;
  left_out.exposed_us = 0;
  for (auto& [name, us] : left_out.tasks_us) us = 0;
  for (int i = 0; i < schedule.place.l.pp; ++i) {
    const simulated::PassagePrice& price = passage.price(executor.state(i));
    left_out.exposed_us += price.exposed_us;
    alone_us += price.exchange_us;
    for (auto& [name, us] : left_out.tasks_us)
      us += std::ranges::find(price.covers, name, &simulated::CoverPrice::name)->us;
  }
  left_out.hidden_us = std::max(0.0, alone_us - left_out.exposed_us);
}

}  // namespace

std::string text_of(const Shard& shard) { return fmt::format("{}/{}", shard.rank, shard.ranks); }

Shard shard_of(const std::string& text) {
  Shard shard;
  const char* const end = text.data() + text.size();
  const auto rank = std::from_chars(text.data(), end, shard.rank);
  if (rank.ec == std::errc{} && rank.ptr != end && *rank.ptr == '/') {
    const auto ranks = std::from_chars(rank.ptr + 1, end, shard.ranks);
    if (ranks.ec == std::errc{} && ranks.ptr == end && shard.rank >= 0 && shard.rank < shard.ranks)
      return shard;
  }
  throw InputError(fmt::format("--shard: {} is not RANK/N with 0 <= RANK < N", in_quotes(text)));
}

void check_shard(const Shard& shard, const std::vector<Point>& points) {
  for (const Point& point : points) {
    if (const int ranks = point.layout.ranks(); ranks != shard.ranks)
      throw InputError(
          fmt::format("--shard {}: {} has {} ranks; a sweep's points need N of them each",
                      text_of(shard), describe(point.layout), ranks));
    if (point.prompt)
      throw InputError(
          fmt::format("--shard {}: {} has a prompt, which takes all ranks to read; give a context",
                      text_of(shard), describe(point.layout)));
  }
}

void leave_out_exchanges(Measured& m, const Executor& executor, const Machine* machine) {
  NotExecuted left_out{.machine = "", .tasks_us = {}, .exposed_us = unknown, .hidden_us = unknown};
  for (const Cover& cover : executor.covers()) {
    const std::string name = name_of(executor.schedule(), cover);
    if (!communicates(executor.schedule(), cover)) continue;
    if (std::erase_if(m.tasks_us, [&](const auto& task) { return task.first == name; }) > 0)
      left_out.tasks_us.emplace_back(name, unknown);
    if (m.roofline)
      std::erase_if(m.roofline->tasks,
                    [&](const Roofline::Task& task) { return task.name == name; });
  }
  m.exchange.reset();
  if (machine != nullptr) price(left_out, executor, with_measured(*machine, executor, m));
  m.not_executed = std::move(left_out);
}

}  // namespace helix
