#include "bench/pricer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "layout/requests.h"

namespace helix {

Pricer::Pricer(Machine machine, Accounting accounting)
    : machine_(std::move(machine)),
      fusions_(machine_.gpu ? gpu_fusions() : cpu_fusions()),
      accounting_(accounting) {}

void Pricer::set_machine(Machine machine) {
  machine_ = std::move(machine);
  passages_.clear();
}

void Pricer::set_fusions(std::span<const Fusion> fusions) {
  if (fusions.data() == fusions_.data() && fusions.size() == fusions_.size()) return;
  fusions_ = fusions;
  passages_.clear();
}

simulated::Passage& Pricer::passage(const Schedule& schedule) {
  auto& known = passages_[&schedule];
  if (!known)
    known = std::make_unique<simulated::Passage>(schedule, fusions_, machine_, accounting_);
  return *known;
}

// What the busiest EP rank gets, in place of what an average one does.
void Pricer::route(const Point& p, StepState& state) {
  const Layout& l = p.layout;
  const auto [router, isnew] = routers_.try_emplace({p.model.get(), p.zipf.value_or(0), p.seed},
                                                    *p.model, p.zipf.value_or(0), p.seed);
  const bool own = l.ffn == Ffn::replica || l.dp == 1;
  const double tokens = own ? state.all.rows : state.stage_rows;
  const simulated::Choices& choices = router->second.choices(static_cast<int64_t>(tokens), l.ep);
  state.touched = choices.touched.busiest;
  state.routed = choices.routed.busiest;
  priced_.experts = choices.touched;
  if (l.moe != Moe::dispatch) return;
  state.leaving = state.all.rows * (l.dp - 1) * choices.tokens.mean / tokens;
  state.arrived = choices.tokens.busiest;
  state.returning = state.arrived * (1 - state.all.rows / state.stage_rows);
}

StepState Pricer::load(const Point& p, const Schedule& schedule, const Slice& micro_batch) {
  const auto requests =
      std::span<const int64_t>(planner_.lengths(p))
          .subspan(static_cast<size_t>(micro_batch.first), static_cast<size_t>(micro_batch.count));
  StepState state = state_of(schedule, *p.model, {requests, p.interval});
  if (p.model->experts.count > 0) route(p, state);
  return state;
}

void Pricer::add(const simulated::PassagePrice& passage, int ticks) {
  const double ttl_us = ticks * passage.us;
  if (ttl_us > priced_.ttl_us) {
    priced_.ttl_us = ttl_us;
    priced_.exchange.alone = ticks * passage.exchange_us;
    priced_.exchange.exposed = ticks * passage.exposed_us;
    priced_.exchange.hidden = std::max(0.0, priced_.exchange.alone - priced_.exchange.exposed);
  }
  Roofline floor{.bytes = 0, .flops = 0, .floor_us = ticks * passage.floor_us};
  for (const CoverPrice& one : passage.covers) {
    CoverPrice cover = one;
    for (double CoverPrice::*part : {&CoverPrice::us, &CoverPrice::bytes, &CoverPrice::flops,
                                     &CoverPrice::sent_bytes, &CoverPrice::floor_us})
      cover.*part *= ticks;
    floor.bytes += cover.bytes;
    floor.flops += cover.flops;
    const auto known = std::ranges::find(priced_.covers, cover.name, &CoverPrice::name);
    if (known == priced_.covers.end()) priced_.covers.push_back(cover);
    else if (cover.us > known->us) *known = cover;
  }
  if (floor.floor_us > priced_.roofline.floor_us) priced_.roofline = floor;
}

void Pricer::begin(const Point& p) {
  priced_ = {};
  priced_.memory = planner_.widest_rank(p);
  if (const double bytes = priced_.memory.total(); !(bytes <= machine_.usable_bytes()))
    priced_.why_not = fmt::format("needs {:.1f} GB a rank, {} has {:.1f} GB", bytes / 1e9,
                                  machine_.name, machine_.usable_bytes() / 1e9);
}

const Priced& Pricer::price_alone(const Point& p, int rank,
                                  const std::vector<std::pair<std::string, double>>& exchanges_us) {
  begin(p);
  const Schedule schedule = Planner::schedule_of_rank(p, rank);
  const std::vector<Cover> covers = covers_of(schedule, fusions_);
  std::vector<std::pair<std::string, double>> exchanges = exchanges_us;
  for (const Cover& cover : covers)
    if (communicates(schedule, cover) &&
        std::ranges::find(exchanges, name_of(schedule, cover),
                          [](const auto& e) { return e.first; }) == exchanges.end())
      exchanges.emplace_back(name_of(schedule, cover), 0);
  Machine machine = with_times(machine_, schedule, covers, exchanges);
  machine.link_efficiency = machine.network_efficiency = std::numeric_limits<double>::infinity();
  alone_ = std::make_unique<simulated::Passage>(schedule, fusions_, machine, accounting_);
  for (const Slice& micro_batch : cut(planner_.lengths(p), p.layout.pp))
    if (const StepState state = load(p, schedule, micro_batch); state.all.rows > 0)
      add(alone_->price(state), p.layout.pp);
  return priced_;
}

const Priced& Pricer::price(const Point& p) {
  begin(p);
  Point point = p;  // paper accounting: one chunk stands for all requests
  if (accounting_ == Accounting::paper && p.hop_b) point.chunks = 2;
  const bool equal = p.context.low == p.context.high;
  const std::vector<Slice> micro_batches = cut(planner_.lengths(p), p.layout.pp);
  for (int dp = 0; dp < (equal ? 1 : p.layout.dp); ++dp) {
    const Planner::Stages& stages = planner_.stages(point, dp);
    // Of equal requests the first micro-batch has the most.
    for (size_t i = 0; i < (equal ? 1 : micro_batches.size()); ++i) {
      if (micro_batches[i].count == 0) continue;
      const StepState state = load(p, *stages.front(), micro_batches[i]);
      if (state.all.rows == 0) continue;
      for (const auto& stage : stages) add(passage(*stage).price(state), p.layout.pp);
    }
  }
  return priced_;
}

}  // namespace helix
