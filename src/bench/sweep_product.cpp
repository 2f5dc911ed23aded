#include "bench/sweep_product.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <unordered_map>

#include "base/random.h"
#include "bench/sweep.h"

namespace helix {

namespace {

constexpr int64_t most_points = 1'000'000;
constexpr int64_t most_auto_chunks = 4;

[[noreturn]] void fail_too_many(const Node& where) {
  where.fail(fmt::format("over {} points; cut the sweep into several", most_points));
}

class Loads {
 public:
  Loads(const Axes& axes, const std::vector<Exclusion>& exclusions, const Node& where,
        std::vector<Point>& points)
      : axes_(axes),
        exclusions_(exclusions),
        where_(where),
        points_(points),
        chunks_(axes.chunks.values) {
    std::ranges::sort(chunks_);
  }
  void add(const Point& layout);

 private:
  void add_batches(Point point);
  void add_chunks(Point& point);
  const std::vector<int64_t>& chunk_counts(const Point& point);
  int64_t requests(const Point& point);

  const Axes& axes_;
  const std::vector<Exclusion>& exclusions_;
  const Node& where_;
  std::vector<Point>& points_;
  std::vector<int64_t> chunks_;  // ascending, auto first
  std::vector<int64_t> counts_;
  std::vector<const Exclusion*> active_;  // those that match the layout at hand
  std::map<std::tuple<int64_t, int64_t, int64_t, int, int>, int64_t> requests_;  // of uneven ones
  int64_t combinations_ = 0;
};

void Loads::add(const Point& layout) {
  active_.clear();
  for (const Exclusion& exclusion : exclusions_)
    if (exclusion.matches_layout(layout)) active_.push_back(&exclusion);
  Point point = layout;
  for (const int64_t interval : axes_.interval.values) {
    point.interval = interval;
    for (const KvLayout kv_layout : axes_.kv_layout.values) {
      point.kv_layout = kv_layout;
      for (const Context& context : axes_.context.values) {
        point.context = context;
        add_batches(point);
      }
    }
  }
}

void Loads::add_batches(Point point) {
  bool plain = false;  // without experts any routing is one
  for (const std::optional<double>& zipf : axes_.zipf.values) {
    const bool applies = zipf && *zipf > 0 && point.model->experts.count > 0;
    if (!applies && std::exchange(plain, true)) continue;
    point.zipf = applies ? zipf : std::nullopt;
    for (const int64_t batch : axes_.batch.values) {
      point.batch = batch;
      add_chunks(point);
    }
  }
}

void Loads::add_chunks(Point& point) {
  for (const int64_t chunks : chunk_counts(point)) {
    if (++combinations_ > most_points) fail_too_many(where_);
    point.chunks = chunks;
    point.hop_b = chunks > 1;
    const auto excludes = [&](const Exclusion* e) { return e->matches_load(point); };
    if (std::ranges::none_of(active_, excludes)) points_.push_back(point);
  }
}

// Distinct and ascending; 1 is HOP-B off.
const std::vector<int64_t>& Loads::chunk_counts(const Point& point) {
  counts_.clear();
  const Layout& l = point.layout;
  // Medha overlaps nothing (helix.md).
  const bool overlaps = l.kvp > 1 && l.merge != Merge::all_reduce;
  for (const bool on : axes_.hop_b.values) {
    if (!on || !overlaps) {
      counts_.push_back(1);
      continue;
    }
    const int64_t most = requests(point);
    for (const int64_t chunks : chunks_) {
      counts_.push_back(std::min(chunks == auto_chunks ? most_auto_chunks : chunks, most));
      if (chunks >= most) break;
    }
  }
  std::ranges::sort(counts_);
  counts_.erase(std::unique(counts_.begin(), counts_.end()), counts_.end());
  return counts_;
}

int64_t Loads::requests(const Point& point) {
  if (point.context.low == point.context.high) return most_requests(point);
  const auto [at, added] = requests_.try_emplace(
      {point.batch, point.context.low, point.context.high, point.layout.pp, point.layout.dp}, 0);
  if (added) at->second = most_requests(point);
  return at->second;
}

}  // namespace

void add_points(const std::vector<Family>& families, const Axes& axes,
                const std::vector<Exclusion>& exclusions, const Node& where,
                std::vector<Point>& points) {
  double combinations = 0;  // at least; said before a million points are made
  for (const Family& family : families) combinations += static_cast<double>(family.layouts.size());
  for (const size_t values : {axes.interval.values.size(), axes.kv_layout.values.size(),
                              axes.context.values.size(), axes.batch.values.size()})
    combinations *= static_cast<double>(values);
  if (combinations > most_points) fail_too_many(where);
  Loads loads(axes, exclusions, where, points);
  for (const Family& family : families)
    for (const Layout& layout : family.layouts) {
      Point point;
      point.model = family.model;
      point.precision = family.precision;
      point.layout = layout;
      point.depths = axes.depths;
      point.prompt = axes.prompt;
      point.seed = axes.seed;
      point.steps = axes.steps;
      point.warmup = axes.warmup;
      point.noise = axes.noise;
      loads.add(point);
    }
}

namespace {

// An entry of `points`: widths that follow from the others may be left out.
class Entry {
 public:
  Entry(const Node& entry, const Node& sweep, Models& models)
      : node_(entry), axes_(read_axes({entry, &sweep}, models)) {}
  Point point();

 private:
  void check_single() const;
  void find_ranks();
  std::optional<int64_t> said(size_t width) const;  // by the entry itself
  std::vector<Layout> matching(const std::vector<Layout>& all) const;
  Layout as_said(const std::vector<Layout>& others) const;
  [[noreturn]] void fail_illegal(const LayoutList& list, const std::vector<Layout>& others) const;

  Node node_;
  Axes axes_;
};

void Entry::check_single() const {
  const auto check = [&](std::string_view key, const auto& axis) {
    if (axis.values.size() == 1) return;
    if (node_.has(key)) node_[key].fail("an explicit point has one value");
    node_.fail(
        fmt::format("key {} is missing, and the sweep has no single value of it", in_quotes(key)));
  };
  check("model", axes_.model);
  check("strategy", axes_.strategy);
  check("batch", axes_.batch);
  check("context", axes_.context);
  check("interval", axes_.interval);
  check("kv_layout", axes_.kv_layout);
  check("hop_b", axes_.hop_b);
  check("chunks", axes_.chunks);
  check("precision", axes_.precision);
  check("routing", axes_.zipf);
  for (size_t i = 0; i <= width_count; ++i)
    if (!axes_.width[i].values.empty()) check(width_names[i], axes_.width[i]);
  for (size_t i = 0; i < choice_count; ++i)
    if (!axes_.choice[i].values.empty()) check(choice_names[i], axes_.choice[i]);
}

std::optional<int64_t> Entry::said(size_t width) const {
  if (!node_.has(width_names[width]) || axes_.width[width].values.empty()) return std::nullopt;
  return axes_.width[width].values.front();
}

// The ranks, where the entry says none but all that they follow from.
void Entry::find_ranks() {
  if (said(ranks_axis)) return;
  const Shares shares = axes_.strategy.values.front()->shares;
  const auto width = [&](size_t i) {
    return axes_.width[i].values.empty() ? 0 : axes_.width[i].values.front();
  };
  const int64_t kvp = shares == Shares::sequence ? said(2).value_or(0) : 1;
  const int64_t tpa = shares == Shares::nothing ? 1 : said(3).value_or(0);
  const int64_t dp = shares == Shares::nothing ? said(1).value_or(0) : width(1);
  const int64_t ranks = width(0) * dp * kvp * tpa;
  Axis<int64_t>& axis = axes_.width[ranks_axis];
  if (ranks == 0 && axis.values.empty())
    node_.fail("key \"ranks\" is missing, and the widths do not give it");
  if (ranks == 0) return;
  if (ranks > 4096) node_.fail(fmt::format("{} ranks, allowed are 1 to 4096", ranks));
  axis = {};
  axis.values = {ranks};
  axis.place = {-1};
}

std::vector<Layout> Entry::matching(const std::vector<Layout>& all) const {
  std::vector<Layout> match;
  for (const Layout& l : all) {
    bool same = true;
    for (size_t i = 0; i <= width_count; ++i)
      same = same && said(i).value_or(width_of(l, i)) == width_of(l, i);
    if (same) match.push_back(l);
  }
  return match;
}

// A layout with the widths that the entry says.
Layout Entry::as_said(const std::vector<Layout>& others) const {
  const Strategy& strategy = *axes_.strategy.values.front();
  Layout l;
  l.strategy = strategy.name;
  l.query = strategy.query.front();
  l.merge = strategy.merge.front();
  l.ffn = strategy.ffn;
  if (axes_.model.values.front()->attention.mla()) l.mla = Mla::latent;
  if (!others.empty()) l = others.front();
  int* const widths[] = {&l.pp, &l.dp, &l.kvp, &l.tpa, &l.tpf, &l.ep};
  for (size_t i = 0; i < width_count; ++i)
    *widths[i] = static_cast<int>(said(i).value_or(*widths[i]));
  const int ffn_ranks = l.ffn == Ffn::all ? l.stage_ranks() : l.tpa;
  if (!said(4)) l.tpf = std::max(1, ffn_ranks / l.ep);
  return l;
}

void Entry::fail_illegal(const LayoutList& list, const std::vector<Layout>& others) const {
  const Model& model = *axes_.model.values.front();
  Illegal bad{
      &model, axes_.precision.values.front(), {}, nullptr, axes_.width[ranks_axis].values.front()};
  if (others.empty() && list.nearly()) {
    bad = *list.nearly();
  } else {
    bad.layout = as_said(others);
    bad.rule = broken_rule({model, bad.precision, bad.layout, *axes_.strategy.values.front()});
  }
  const std::string near = nearest_text(bad);
  const std::string knob(bad.rule != nullptr ? bad.rule->knob : "");
  if (bad.rule == nullptr)
    node_.fail(fmt::format("the widths do not give {} ranks; {}", bad.ranks, near));
  if (node_.has(knob))
    node_[knob].fail(
        fmt::format("found {}: {}; {}", node_[knob].json().dump(), rule_text(bad), near));
  node_.fail(fmt::format("{}: {}; {}", knob, rule_text(bad), near));
}

Point Entry::point() {
  check_single();
  find_ranks();
  LayoutList list(axes_, node_);
  Family& family = list.families().front();
  const std::vector<Layout> match = matching(family.layouts);
  if (match.empty()) fail_illegal(list, family.layouts);
  Layout first = match.front();
  for (Layout l : match) {
    l.moe = first.moe;  // its own first choice
    if (l == first) continue;
    node_.fail(fmt::format("{} layouts fit, give more widths: {}; {}", match.size(),
                           describe(first), describe(l)));
  }
  family.layouts = {first};
  std::vector<Point> points;
  add_points({family}, axes_, {}, node_, points);
  return points.front();
}

auto weights_of(const Point& p) {
  const Layout& l = p.layout;
  const Precision& f = p.precision;
  return std::tuple(p.model.get(), p.seed, l.strategy, l.pp, l.dp, l.kvp, l.tpa, l.tpf, l.ep,
                    l.query, l.merge, l.mla, l.ffn, l.moe, f.weights, f.kv, f.activations,
                    f.attention, f.experts, f.lm_head);
}
auto load_of(const Point& p) {
  return std::tuple(p.batch, p.context.low, p.context.high, p.chunks, p.interval, p.kv_layout,
                    p.depths, p.zipf, p.prompt ? *p.prompt : std::vector<int32_t>());
}

}  // namespace

Point explicit_point(const Node& entry, const Node& sweep, Models& models) {
  std::vector<std::string_view> keys;
  for (const std::string_view key : sweep_keys())
    if (key != "schema" && key != "name" && key != "exclude" && key != "points")
      keys.push_back(key);
  entry.only(keys);
  return Entry(entry, sweep, models).point();
}

void make_distinct(std::vector<Point>& points) {
  using Weights = decltype(weights_of(points.front()));
  std::map<Weights, std::pair<int, std::set<decltype(load_of(points.front()))>>> groups;
  std::vector<std::pair<int, Point>> kept;
  for (Point& point : points) {
    const auto next = static_cast<int>(groups.size());
    auto& [group, loads] =
        groups.try_emplace(weights_of(point), next, std::set<decltype(load_of(point))>{})
            .first->second;
    if (loads.insert(load_of(point)).second) kept.emplace_back(group, std::move(point));
  }
  std::ranges::stable_sort(kept, {}, [](const auto& entry) { return entry.first; });
  points.clear();
  for (auto& [group, point] : kept) points.push_back(std::move(point));
}

}  // namespace helix
