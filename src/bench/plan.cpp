#include "bench/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "bench/slices.h"
#include "bench/sweep.h"
#include "layout/requests.h"
#include "schedule/print.h"

namespace helix {

namespace {

// All that a schedule depends on; the strategy's name is not.
std::array<int64_t, 11> schedule_key(const Point& p, int dp) {
  const Layout& l = p.layout;
  int64_t choices = 0;
  for (const int choice :
       {static_cast<int>(l.query), static_cast<int>(l.merge), static_cast<int>(l.mla),
        static_cast<int>(l.ffn), static_cast<int>(l.moe)})
    choices = choices * 8 + choice;
  const Precision& f = p.precision;
  for (const Format format : {f.weights, f.kv, f.activations, f.attention, f.experts, f.lm_head})
    choices = choices * 8 + static_cast<int>(format);
  return {static_cast<int64_t>(reinterpret_cast<intptr_t>(p.model.get())),
          p.depths ? p.depths->second : 0,
          p.chunks,
          l.pp,
          l.dp,
          l.kvp,
          l.tpa,
          l.tpf,
          l.ep,
          choices,
          dp};
}

Model model_of(const Point& p) {
  return p.depths ? at_depth(*p.model, p.depths->second) : *p.model;
}
Plan plan_of(const Point& p, const Model& model) {
  return {&model, p.layout, p.precision, static_cast<int>(p.chunks)};
}

Requests requests_of(const Point& p, std::span<const int64_t> lengths) {
  return {.lengths = lengths, .interval = p.interval, .kv_layout = p.kv_layout};
}

// Stages that differ in what they hold: the first, the last, and of those between one of each kind.
bool like(const Schedule& a, const Schedule& b) {
  return std::ranges::equal(a.segments, b.segments, [](const Segment& x, const Segment& y) {
    return x.kind == y.kind && x.layers == y.layers && x.end - x.begin == y.end - y.begin;
  });
}

}  // namespace

const Planner::Stages& Planner::stages(const Point& p, int dp) {
  const auto [entry, isnew] = stages_.try_emplace(schedule_key(p, dp));
  Stages& built = entry->second;
  if (!isnew) return built;
  models_.push_back(p.model);
  const Model model = model_of(p);
  const Plan plan = plan_of(p, model);
  for (int stage = 0; stage < p.layout.pp; ++stage) {
    const int rank = stage * p.layout.stage_ranks() + dp * p.layout.replica_ranks();
    auto schedule = std::make_unique<Schedule>(build_schedule(plan, rank));
    if (std::ranges::none_of(built, [&](const auto& s) { return like(*s, *schedule); }))
      built.push_back(std::move(schedule));
  }
  return built;
}

const std::vector<int64_t>& Planner::lengths(const Point& p) {
  const auto [entry, isnew] =
      lengths_.try_emplace({p.batch, p.context.low, p.context.high, p.seed});
  if (isnew) entry->second = lengths_of(p);
  return entry->second;
}

Memory Planner::widest_rank(const Point& p) {
  const std::span<const int64_t> all = lengths(p);
  const std::vector<Slice> micro_batches =
      p.layout.pp == 1 ? std::vector<Slice>{whole(p.batch)} : cut(all, p.layout.pp);
  // Replicas are cut by tokens: with equal requests the first is the widest.
  const int replicas = p.context.low == p.context.high ? 1 : p.layout.dp;
  Memory widest;
  std::vector<StepState> states;
  for (int dp = 0; dp < replicas; ++dp) {
    const Stages& built = stages(p, dp);
    states.clear();
    for (const Slice& batch : micro_batches) {
      const auto mine =
          all.subspan(static_cast<size_t>(batch.first), static_cast<size_t>(batch.count));
      states.push_back(capacity_of(*built.front(), *p.model, requests_of(p, mine), p.steps));
    }
    for (const auto& stage : built)
      if (const Memory m = memory(*stage, states); m.total() > widest.total()) widest = m;
  }
  return widest;
}

Schedule Planner::schedule_of_rank(const Point& p, int rank) {
  const Model model = model_of(p);
  return build_schedule(plan_of(p, model), rank);
}

Memory Planner::of_rank(const Point& p, int rank) {
  const Model model = model_of(p);
  const Schedule schedule = build_schedule(plan_of(p, model), rank);
  const std::vector<int64_t> lengths = lengths_of(p);
  return memory(schedule, capacities_of(schedule, model, requests_of(p, lengths), p.steps));
}

StepState Planner::load(const Point& p) {
  const std::span<const int64_t> all = lengths(p);
  const Slice first = cut(all, p.layout.pp).front();
  return state_of(schedule(p), *p.model, {all.first(static_cast<size_t>(first.count)), p.interval});
}

namespace {

struct Totals {
  int64_t points = 0;
  int64_t runnable = 0;
  int64_t layouts = 0;
  int ranks = 0;
  double bytes_per_rank = 0;
  double seconds = 0;
};

class Report {
 public:
  explicit Report(const PlanOptions& options)
      : options_(options), sweep_(read_sweep(options.sweep)), estimate_(options.machine) {
    if (options.shard) check_shard(*options.shard, sweep_.points);
  }

  void print() {
    switch (options_.format) {
      case PlanFormat::table: table(); break;
      case PlanFormat::json: json(); break;
      case PlanFormat::slurm: slurm(); break;
    }
    flush(0);
  }

 private:
  struct Line {
    const Point& point;
    Memory memory;
    Estimator::Estimate estimate;
    std::string why_skipped;  // "" where it can run
  };
  template <class Print>
  void each(Print print);
  Memory bytes(const Point& point) {
    return options_.shard ? Planner::of_rank(point, options_.shard->rank)
                          : planner_.widest_rank(point);
  }
  bool priced() const { return !options_.machine.empty(); }
  void table();
  void table_end();
  void json();
  void slurm();
  void schedules();
  const Json& json_of(const Point& point);
  void flush(size_t limit);

  const PlanOptions& options_;
  Sweep sweep_;
  Estimator estimate_;
  Planner& planner_ = estimate_.planner();
  Totals totals_;
  std::map<std::string, int64_t> skipped_;
  fmt::memory_buffer text_;
  Json json_;  // of point json_of_
  const Point* json_of_ = nullptr;
};

void Report::flush(size_t limit) {
  if (text_.size() <= limit) return;
  if (std::fwrite(text_.data(), 1, text_.size(), options_.out) != text_.size() ||
      std::fflush(options_.out) != 0)
    throw_errno("cannot write the plan");
  text_.clear();
}

template <class Print>
void Report::each(Print print) {
  const Point* before = nullptr;
  for (const Point& point : sweep_.points) {
    Line line{point, bytes(point), estimate_(point), ""};
    line.why_skipped = line.estimate.why_not;
    const int ranks = point.layout.ranks();
    if (options_.ranks && ranks > *options_.ranks)
      line.why_skipped = fmt::format("needs {} ranks, {} are there", ranks, *options_.ranks);
    ++totals_.points;
    if (line.why_skipped.empty()) {
      ++totals_.runnable;
      totals_.seconds += line.estimate.seconds;
    } else ++skipped_[line.why_skipped];
    if (before == nullptr || before->layout != point.layout || before->model != point.model)
      ++totals_.layouts;
    totals_.ranks = std::max(totals_.ranks, ranks);
    totals_.bytes_per_rank = std::max(totals_.bytes_per_rank, line.memory.total());
    print(line);
    flush(1 << 16);
    before = &point;
  }
}

std::string interval_text(const Point& p) {
  return fmt::format("{}{}", p.interval, p.kv_layout == KvLayout::paged ? " paged" : "");
}
std::string text_of(const Context& c) {
  return c.low == c.high ? std::to_string(c.low) : fmt::format("{}-{}", c.low, c.high);
}
std::string text_of(const Precision& p) {
  return p.weights == p.kv && p.kv == p.activations
             ? std::string(name_of(p.weights))
             : fmt::format("{}/{}/{}", name_of(p.weights), name_of(p.kv), name_of(p.activations));
}

std::string model_text(const Point& p) {
  return p.depths
             ? fmt::format("{} at {}, {} layers", p.model->name, p.depths->first, p.depths->second)
             : p.model->name;
}

void Report::table() {
  size_t models = 5, layouts = 6;
  const Point* before = nullptr;
  for (const Point& p : sweep_.points) {
    models = std::max(models, model_text(p).size());
    if (before == nullptr || before->layout != p.layout)
      layouts = std::max(layouts, describe(p.layout).size());
    before = &p;
  }
  const auto out = [&] { return std::back_inserter(text_); };
  constexpr auto columns =
      "{:<{}}  {:<{}}  {:>5}  {:>6}  {:>13}  {:>14}  {:>6}  {:>8}  {:>12}  {:>12}  {:>12}  {:>12}";
  fmt::format_to(out(), fmt::runtime(std::string(columns) + "\n"), "model", models, "layout",
                 layouts, "ranks", "batch", "context", "precision", "chunks", "interval",
                 "weights [MB]", "kv [MB]", "buffers [MB]", "a rank [MB]");
  if (priced()) {
    text_.resize(text_.size() - 1);
    fmt::format_to(out(), "  {:>10}  {:>8}\n", "TTL [ms]", "time [s]");
  }
  std::string layout;
  before = nullptr;
  each([&](const Line& line) {
    const Point& p = line.point;
    if (before == nullptr || before->layout != p.layout) layout = describe(p.layout);
    before = &p;
    const auto mb = [](double bytes) { return fmt::format("{:.3f}", bytes / 1e6); };
    fmt::format_to(out(), columns, model_text(p), models, layout, layouts, p.layout.ranks(),
                   p.batch, text_of(p.context), text_of(p.precision),
                   p.hop_b ? std::to_string(p.chunks) : "-", interval_text(p),
                   mb(line.memory.weights), mb(line.memory.kv), mb(line.memory.buffers),
                   mb(line.memory.total()));
    if (priced())
      fmt::format_to(out(), "  {:>10.3f}  {:>8.1f}", line.estimate.ttl_us / 1e3,
                     line.estimate.seconds);
    if (!line.why_skipped.empty()) fmt::format_to(out(), "  skipped: {}", line.why_skipped);
    text_.push_back('\n');
  });
  table_end();
  if (options_.schedule) schedules();
}

void Report::table_end() {
  const auto out = std::back_inserter(text_);
  fmt::format_to(out,
                 "\n{} points of {} layouts, {} can run; up to {} ranks and {:.3f} MB a rank\n",
                 totals_.points, totals_.layouts, totals_.runnable, totals_.ranks,
                 totals_.bytes_per_rank / 1e6);
  if (priced())
    fmt::format_to(out, "{:.0f} s in all on {}, steps and what stands beside them\n",
                   totals_.seconds, options_.machine);
  for (const auto& [why, count] : skipped_)
    fmt::format_to(out, "skipped {:>8} points: {}\n", count, why);
  for (const auto& [why, count] : sweep_.left_out)
    fmt::format_to(out, "left out {:>7} layouts: {}\n", count, why);
}

void Report::schedules() {
  std::set<const Schedule*> seen;
  for (const Point& p : sweep_.points) {
    const Schedule& s = planner_.schedule(p);
    if (!seen.insert(&s).second) continue;
    fmt::format_to(std::back_inserter(text_), "\n{}, {}, {}: rank 0, batch {}, context {}\n{}",
                   p.model->name, describe(p.layout),
                   p.hop_b ? fmt::format("HOP-B {}", p.chunks) : "no HOP-B", p.batch,
                   text_of(p.context), print_schedule(s, planner_.load(p)));
    flush(1 << 16);
  }
}

// Neighbours differ in their load alone: the rest of the JSON is not made again.
const Json& Report::json_of(const Point& p) {
  const Point* q = std::exchange(json_of_, &p);
  if (q == nullptr || q->model != p.model || q->layout != p.layout || q->precision != p.precision ||
      q->interval != p.interval || q->kv_layout != p.kv_layout || q->depths != p.depths ||
      q->zipf != p.zipf || q->seed != p.seed)
    return json_ = to_json(p);
  json_["batch"] = p.batch;
  json_["context"] = to_json(p.context);
  json_["hop_b"] = p.hop_b;
  json_["chunks"] = p.chunks;
  return json_;
}

void Report::json() {
  const auto out = [&] { return std::back_inserter(text_); };
  const std::vector<int64_t> slice_of = deal(estimate_, sweep_.points, options_.slices);
  fmt::format_to(out(), R"({{"schema": "helix-bench/plan/1", "name": {}, "points": [)",
                 Json(sweep_.name).dump());
  std::string_view comma = "\n";
  each([&](const Line& line) {
    const Memory& m = line.memory;
    fmt::format_to(out(),
                   R"({}{{"key": "{}", "slice": {}, "point": {}, "ranks": {}, "bytes_per_rank": )"
                   R"({{"weights": {:.0f}, "kv": {:.0f}, "buffers": {:.0f}}}, "seconds": {:.3f}, )"
                   R"("ttl_us": {}, "skipped": {}}})",
                   comma, key_of(line.point), slice_of[static_cast<size_t>(totals_.points - 1)],
                   json_of(line.point).dump(), line.point.layout.ranks(), m.weights, m.kv,
                   m.buffers, line.estimate.seconds,
                   priced() ? fmt::format("{:.3f}", line.estimate.ttl_us) : "null",
                   line.why_skipped.empty() ? "null" : Json(line.why_skipped).dump());
    comma = ",\n";
  });
  const Json totals = {{"points", totals_.points},
                       {"layouts", totals_.layouts},
                       {"can_run", totals_.runnable},
                       {"ranks", totals_.ranks},
                       {"bytes_per_rank", totals_.bytes_per_rank},
                       {"seconds", totals_.seconds}};
  fmt::format_to(out(), "],\n\"skipped\": {}, \"left_out\": {}, \"totals\": {}}}\n",
                 Json(skipped_).dump(), Json(sweep_.left_out).dump(), totals.dump());
}

// One line for all slices: the largest of them.
void Report::slurm() {
  const std::vector<int64_t> slice_of = deal(estimate_, sweep_.points, options_.slices);
  std::vector<double> seconds(static_cast<size_t>(options_.slices));
  each([&](const Line& line) {
    if (line.why_skipped.empty())
      seconds[static_cast<size_t>(slice_of[static_cast<size_t>(totals_.points - 1)] - 1)] +=
          line.estimate.seconds;
  });
  fmt::format_to(std::back_inserter(text_), "{}\n",
                 slurm_options(totals_.ranks, totals_.bytes_per_rank, std::ranges::max(seconds),
                               options_.ranks_per_node));
}

}  // namespace

int plan(const PlanOptions& options) {
  if (options.schedule && options.format != PlanFormat::table)
    throw InputError("--schedule prints a table: leave out --format json and --slurm");
  Report(options).print();
  return static_cast<int>(Exit::done);
}

}  // namespace helix
