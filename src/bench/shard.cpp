#include "bench/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "execute/executor.h"
#include "execute/simulate/passage.h"
#include "execute/simulate/routing.h"
#include "layout/requests.h"

namespace helix {

namespace {

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();  // null in the line

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

std::optional<NotExecuted::Experts> experts_of(const Executor& executor) {
  const int64_t count = executor.model().experts.count;
  if (count == 0) return std::nullopt;
  const Place& me = executor.schedule().place;
  return NotExecuted::Experts{share(count, me.l.ep, me.expert_rank() / me.l.tpf), me.l.ep};
}

}  // namespace

namespace {

// The EP rank with most experts to read, and of these with most tokens on them.
int busiest(std::span<const int32_t> choices, int ep, int64_t held) {
  std::vector<int64_t> pairs(static_cast<size_t>(ep * held));
  for (const int32_t expert : choices) ++pairs[static_cast<size_t>(expert)];
  std::pair<int64_t, int64_t> most = {-1, -1};
  int found = 0;
  for (int rank = 0; rank < ep; ++rank) {
    const auto mine =
        std::span(pairs).subspan(static_cast<size_t>(rank * held), static_cast<size_t>(held));
    const std::pair load = {held - std::ranges::count(mine, 0),
                            std::accumulate(mine.begin(), mine.end(), int64_t{0})};
    if (load > most) {
      most = load;
      found = rank;
    }
  }
  return found;
}

// Two EP ranks change their experts; a token's stay in order.
void exchange_experts(std::span<int32_t> choices, int64_t chosen, int64_t held, int a, int b) {
  for (int32_t& expert : choices) {
    const int64_t rank = expert / held;
    const int64_t other = rank == a ? b : rank == b ? a : rank;
    expert += static_cast<int32_t>((other - rank) * held);
  }
  for (auto token = choices.begin(); token != choices.end(); token += chosen)
    std::sort(token, token + chosen);
}

}  // namespace

std::vector<int32_t> busiest_choices(const Assignment& work) {
  const Experts& e = work.model->experts;
  const Layout& l = work.layout;
  std::vector<int32_t> all;
  if (e.count == 0) return all;
  const int mine = Place(l, work.shard.value()).expert_rank() / l.tpf;
  const simulated::Router router(*work.model, work.zipf, work.seed);
  for (int64_t layer = work.model->dense_layers; layer < work.model->layers; ++layer)
    for (const Slice& batch : cut(work.lengths, l.pp)) {
      const auto lengths =
          std::span(work.lengths)
              .subspan(static_cast<size_t>(batch.first), static_cast<size_t>(batch.count));
      // Whose tokens meet in the experts.
      for (const Slice& tokens : cut(lengths, l.ffn == Ffn::replica ? l.dp : 1)) {
        std::vector<int32_t> choices = router.draw(layer, tokens.count);
        exchange_experts(choices, e.chosen, e.count / l.ep, mine,
                         busiest(choices, l.ep, e.count / l.ep));
        all.insert(all.end(), choices.begin(), choices.end());
      }
    }
  return all;
}

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

Machine with_times(Machine machine, const Schedule& schedule, std::span<const Cover> covers,
                   const std::vector<std::pair<std::string, double>>& tasks_us) {
  constexpr double at_once = std::numeric_limits<double>::infinity();
  std::map<std::string, double> times;  // in a step each is carried out
  for (const Cover& cover : covers) times[name_of(schedule, cover)] += layers_of(schedule, cover);
  for (const auto& [name, us] : tasks_us)
    machine.covers[name] = {us / times[name], at_once, at_once};
  return machine;
}

void leave_out_exchanges(Measured& m, const Executor& executor, const Machine* machine) {
  NotExecuted left_out{.machine = "",
                       .tasks_us = {},
                       .exposed_us = unknown,
                       .hidden_us = unknown,
                       .experts = experts_of(executor)};
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
  if (machine != nullptr) {  // nothing but the exchanges is left to price
    Machine as_measured = with_times(*machine, executor.schedule(), executor.covers(), m.tasks_us);
    as_measured.read_ahead_mb = as_measured.launch_ahead_us = as_measured.touched_expert_us = 0;
    price(left_out, executor, as_measured);
  }
  m.not_executed = std::move(left_out);
}

}  // namespace helix
