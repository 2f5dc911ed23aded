#include "execute/simulate/passage.h"

#include <algorithm>
#include <utility>

namespace helix::simulated {

namespace {

bool has(const auto& ids, Id id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

// Its early bytes depend on a choice: of experts, or of rows of the embedding.
Id choice_before(const Task& task) {
  if (task.op == Op::experts) return task.reads[1];
  return task.op == Op::embed ? task.reads[0] : Id{-1};
}

}  // namespace

std::string_view name_of(Bound bound) {
  constexpr std::string_view names[] = {"fixed time", "reading", "computing", "link"};
  return names[static_cast<size_t>(bound)];
}

Passage::Passage(const Schedule& s, std::span<const Fusion> fusions, const Machine& machine,
                 Accounting accounting)
    : paper_(accounting == Accounting::paper && s.chunks > 1),
      read_ahead_bytes_(machine.read_ahead_mb * 1e6),
      launch_ahead_us_(machine.launch_ahead_us),
      peak_byte_us_(1e-3 / machine.read_gb_per_s),
      written_(s.tensors.size()) {
  const std::vector<Cover> covers = covers_of(s, fusions);
  auto cover = covers.begin();
  for (const Segment& g : s.segments) {
    parts_.push_back({entries_.size(), 0, g.layers});
    for (; cover != covers.end() && cover->begin < g.end; ++cover)
      if (!paper_ || s.tasks[static_cast<size_t>(cover->begin)].chunk <= 0)
        entries_.push_back(entry_of(s, *cover, machine));
    parts_.back().end = entries_.size();
  }
  for (const std::string& name : names_) price_.covers.push_back({.name = name});
  for (const Entry& e : entries_) price_.covers[e.name].communicates = e.rates.communicates;
}

Passage::Entry Passage::entry_of(const Schedule& s, const Cover& cover, const Machine& machine) {
  const Task& first = s.tasks[static_cast<size_t>(cover.begin)];
  const std::string name = helix::name_of(s, cover);
  Entry e;
  e.lane = first.lane;
  e.chunk = first.chunk;
  e.name = static_cast<size_t>(std::ranges::find(names_, name) - names_.begin());
  if (e.name == names_.size()) names_.push_back(name);
  const auto twin = std::ranges::find_if(entries_, [&](const Entry& other) {
    return other.name == e.name && other.chunk == 0 && e.chunk > 0;
  });
  e.terms = twin != entries_.end() ? twin->terms : terms_of(s, cover);
  e.rates = rates_of(s, cover, machine);
  for (int i = cover.begin; i < cover.end; ++i) {
    const Task& task = s.tasks[static_cast<size_t>(i)];
    for (const Id id : task.reads)
      if (s[id].kind != Kind::weight && s[id].kind != Kind::history && !has(e.writes, id) &&
          !has(e.waits_for, id))
        e.waits_for.push_back(id);
    for (const Id id : task.writes)
      if (!has(e.writes, id)) e.writes.push_back(id);
    e.early_after = std::max(e.early_after, choice_before(task));
  }
  return e;
}

// The time that follows from the shapes that were timed, over what the factors make of it.
double Passage::correction(const Entry& e, const Symbols& symbols) {
  if (e.rates.timed.empty()) return 1;
  const Shape own = shape_of(e.terms, e.rates.value_bytes, symbols);
  if (!(own.bytes > 0 && own.count > 0)) return 1;
  const auto factors = [&](const Shape& at) {
    const Symbols there = scaled(symbols, at.count / own.count);
    const double bytes = at.bytes / own.bytes;
    const double flops = own.flops_a_byte > 0 ? at.flops_a_byte / own.flops_a_byte : 1;
    const double reading = dot(e.terms.early, there) * e.rates.early_byte_us +
                           dot(e.terms.late, there) * e.rates.late_byte_us;
    return e.rates.fixed_us + e.rates.touched_us * there[touched_symbol] +
           bytes * std::max(reading, flops * dot(e.terms.flops, there) * e.rates.flop_us);
  };
  return e.rates.timed.us(own, factors) / factors(own);
}

void Passage::cost(Entry& e, const Symbols& symbols, int layers) {
  const double early = dot(e.terms.early, symbols), late = dot(e.terms.late, symbols);
  const double flops = dot(e.terms.flops, symbols), sent = dot(e.terms.sent, symbols);
  const double times = correction(e, symbols);
  e.early_us = times * early * e.rates.early_byte_us;
  e.late_us = times * late * e.rates.late_byte_us;
  const double computing = times * flops * e.rates.flop_us;
  const double sending = times * sent * e.rates.sent_byte_us;
  e.other_us = std::max(computing, sending);
  e.fixed_us = times * (e.rates.fixed_us + e.rates.touched_us * symbols[touched_symbol]);
  // A row multiplies and adds each weight once.
  const double rows = early > 0 ? flops * e.rates.value_bytes / (2 * early) : 0;
  e.in_turn = e.rates.library_rows > 0 && rows > static_cast<double>(e.rates.library_rows) + 0.5;
  CoverPrice& sum = price_.covers[e.name];
  const double reading = e.early_us + e.late_us;
  const double most = std::max({e.fixed_us, reading, computing, sending});
  if (sum.us == 0)
    sum.bound = most == e.fixed_us ? Bound::fixed
                : most == reading  ? Bound::read
                : most == sending  ? Bound::link
                                   : Bound::compute;
  const double us = e.us() * layers;
  sum.us += us;
  sum.bytes += (early + late) * layers;
  sum.flops += flops * layers;
  sum.sent_bytes += sent * layers;
  const double bytes_us = (early + late) * layers * peak_byte_us_;
  const double flops_us = flops * layers * e.rates.peak_flop_us;
  sum.floor_us += std::max(bytes_us, flops_us);
  sum.computes |= flops_us > bytes_us;
  bytes_us_ += bytes_us;
  flops_us_ += flops_us;
  if (!e.rates.communicates) return;
  price_.exchange_us += us;
  if (e.lane == Lane::compute) price_.exposed_us += us;
}

const PassagePrice& Passage::price(const StepState& state) {
  for (CoverPrice& cover : price_.covers)
    cover = {.name = cover.name, .communicates = cover.communicates};
  price_.us = price_.exchange_us = price_.exposed_us = bytes_us_ = flops_us_ = 0;
  const Symbols all = symbols_of(state, all_chunks);
  for (const Part& part : parts_)
    for (size_t i = part.begin; i < part.end; ++i) {
      Entry& e = entries_[i];
      const bool whole = paper_ || e.chunk == all_chunks;
      cost(e, whole ? all : symbols_of(state, e.chunk), part.layers);
    }
  price_.floor_us = std::max(bytes_us_, flops_us_);
  free_ = idle_ = {};
  in_turn_ = {};
  std::fill(written_.begin(), written_.end(), 0);
  for (const Part& part : parts_)
    for (int turn = 0; turn < std::min(2, part.layers);
         ++turn) {  // the second lap is the steady one
      const double laps = turn == 0 ? 1 : part.layers - 1;
      const double began = std::max(free_[0], free_[1]);
      waited_ = 0;
      lap(part, state.all.rows);
      price_.us += laps * (std::max(free_[0], free_[1]) - began);
      price_.exposed_us += laps * waited_;
    }
  return price_;
}

void Passage::lap(const Part& part, double requests) {
  for (size_t i = part.begin; i < part.end;)
    if (paper_ && entries_[i].chunk == 0) i = overlap(i, requests);
    else take(entries_[i++]);
}

void Passage::take(const Entry& e) {
  const auto lane = static_cast<size_t>(e.lane);
  double start = free_[lane];
  for (const Id id : e.waits_for) start = std::max(start, written_[static_cast<size_t>(id)]);
  if (e.lane == Lane::compute) waited_ += start - free_[lane];
  const bool in_turn = std::exchange(in_turn_[lane], e.in_turn) || e.in_turn;
  const double fixed_us =
      e.fixed_us - (e.rates.communicates || in_turn ? 0 : std::min(launch_ahead_us_, e.fixed_us));
  // Memory is idle in the fixed time, and reads of what follows may fill it.
  const double ahead_us =
      in_turn ? 0 : std::min(e.early_us, read_ahead_bytes_ * e.rates.early_byte_us);
  const double known = e.early_after < 0 ? 0 : written_[static_cast<size_t>(e.early_after)];
  const double read = std::max(start + fixed_us + e.late_us + e.early_us - ahead_us,
                               std::max(idle_[lane], known) + e.early_us + e.late_us);
  const double end = std::max(read, start + fixed_us + e.other_us);
  idle_[lane] = std::max(read - fixed_us, std::max(idle_[lane], known) + e.early_us + e.late_us);
  free_[lane] = end;
  for (const Id id : e.writes) written_[static_cast<size_t>(id)] = end;
}

// The covers of a chunk that stands for all requests; returns the first cover after them.
size_t Passage::overlap(size_t at, double requests) {
  const double began = free_[0];
  const double waited = waited_;
  double exchange = 0;
  const size_t begin = at;
  for (; at < entries_.size() && entries_[at].chunk == 0; ++at)
    if (entries_[at].lane == Lane::compute) take(entries_[at]);
    else exchange += entries_[at].us();
  const double attention = free_[0] - began;
  const double both = std::max(attention + exchange / requests, attention / requests + exchange);
  free_[0] = free_[1] = began + both;
  waited_ = waited + both - attention;
  for (size_t i = begin; i < at; ++i)
    for (const Id id : entries_[i].writes) written_[static_cast<size_t>(id)] = free_[0];
  return at;
}

}  // namespace helix::simulated
