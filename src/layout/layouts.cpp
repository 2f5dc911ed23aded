// All layouts of a number of ranks, and the nearest legal one.
#include <algorithm>
#include <cmath>
#include <limits>
#include <ranges>

#include "layout/strategy.h"

namespace helix {

namespace {

constexpr int64_t most_ranks = int64_t{1} << 20;  // beyond, widths would not fit their products

// The divisors of n that are listed; an empty list has all.
std::vector<int64_t> listed_divisors(int64_t n, const std::vector<int64_t>& list) {
  std::vector<int64_t> values = divisors(n);
  if (!list.empty())
    std::erase_if(values, [&](int64_t v) { return !std::ranges::binary_search(list, v); });
  return values;
}

// What to try of a choice: what is listed; its own where nothing is, or a null.
template <class T>
std::vector<T> choices(const std::vector<T>& list, const std::vector<T>& own, bool applies) {
  if (!applies) return {T{}};
  if (list.empty()) return own;
  std::vector<T> values;
  for (const T value : list) {
    if (value == T{}) values.insert(values.end(), own.begin(), own.end());
    else values.push_back(value);
  }
  return values;
}

class Enumeration {
 public:
  Enumeration(const Model& model, const Precision& precision, const Strategy& strategy,
              LayoutQuery query, const OnRefusal& refused)
      : model_(model),
        precision_(precision),
        strategy_(strategy),
        list_(std::move(query)),
        refused_(refused) {
    for (auto* list : {&list_.pp, &list_.dp, &list_.kvp, &list_.tpa, &list_.tpf, &list_.ep})
      std::ranges::sort(*list);
    if (list_.ffn.empty()) list_.ffn = {strategy.ffn};
  }

  std::vector<Layout> on(int64_t ranks) {
    if (ranks < 1 || ranks > most_ranks) return {};
    Layout l;
    l.strategy = strategy_.name;
    for (const int64_t pp : listed_divisors(ranks, list_.pp)) {
      l.pp = static_cast<int>(pp);
      stage(l, ranks / pp);
    }
    return std::move(found_);
  }

 private:
  void stage(Layout l, int64_t n) {
    const bool alone = strategy_.shares == Shares::nothing;
    for (const int64_t dp : alone ? std::vector{n} : listed_divisors(n, list_.dp)) {
      l.dp = static_cast<int>(dp);
      replica(l, n / dp);
    }
  }

  void replica(Layout l, int64_t a) {
    const bool sharded = strategy_.shares == Shares::sequence;
    const std::vector<int64_t> kvps =
        sharded ? listed_divisors(a, list_.kvp) : std::vector<int64_t>{1};
    for (const int64_t kvp : kvps) {
      l.kvp = static_cast<int>(kvp);
      l.tpa = static_cast<int>(a / kvp);
      if (sharded && !takes_tpa(l.tpa)) continue;
      for (const Ffn ffn : list_.ffn) {
        l.ffn = ffn;
        widths(l);
      }
    }
  }
  bool takes_tpa(int64_t tpa) const {
    return list_.tpa.empty() ? tpa <= model_.attention.kv_heads
                             : std::ranges::binary_search(list_.tpa, tpa);
  }

  void widths(Layout l) {
    const int64_t ffn_ranks = l.ffn == Ffn::all ? l.stage_ranks() : l.tpa;
    for (const int64_t tpf : listed_divisors(ffn_ranks, list_.tpf)) {
      l.tpf = static_cast<int>(tpf);
      l.ep = static_cast<int>(ffn_ranks / tpf);
      if (list_.ep.empty() || std::ranges::binary_search(list_.ep, l.ep)) options(l);
    }
  }

  void options(Layout l) {
    const size_t first = found_.size();
    const bool exchanges = l.kvp > 1;
    const bool meet = l.dp > 1 && model_.experts.count > 0 && strategy_.ffn == Ffn::all;
    const std::vector<Moe> moes =
        choices(list_.moe, meet ? strategy_.moe : std::vector<Moe>(1), meet || !list_.moe.empty());
    for (const Query query : choices(list_.query, {strategy_.query.front()}, exchanges))
      for (const Merge merge : choices(list_.merge, {strategy_.merge.front()}, exchanges))
        for (const Mla mla : choices(list_.mla, {Mla::latent}, exchanges && model_.attention.mla()))
          for (const Moe moe : moes) {
            l.query = query;
            l.merge = merge;
            l.mla = mla;
            l.moe = moe;
            keep(l, first);
          }
  }

  void keep(const Layout& raw, size_t first) {
    if (const Rule* rule = broken_rule({model_, precision_, raw, strategy_})) {
      if (refused_) refused_(raw, *rule);
      return;
    }
    const Layout l = canonical(model_, raw);
    if (std::find(found_.begin() + static_cast<std::ptrdiff_t>(first), found_.end(), l) ==
        found_.end())
      found_.push_back(l);
  }

  const Model& model_;
  const Precision& precision_;
  const Strategy& strategy_;
  LayoutQuery list_;
  const OnRefusal& refused_;
  std::vector<Layout> found_;
};

double distance(const Layout& a, const Layout& b) {
  const auto one = [](int x, int y) {
    return std::abs(std::log2(double(std::max(x, 1)) / std::max(y, 1)));
  };
  return one(a.pp, b.pp) + one(a.dp, b.dp) + one(a.kvp, b.kvp) + one(a.tpa, b.tpa) +
         one(a.tpf, b.tpf) + one(a.ep, b.ep);
}

// Of any widths, without overflow.
int64_t ranks_of(const Layout& l) {
  int64_t ranks = 1;
  for (const int width : {l.pp, l.dp, l.kvp, l.tpa})
    ranks = std::min(most_ranks + 1, ranks * std::max(width, 1));
  return ranks;
}

// Numbers of ranks to look at, nearest first.
std::vector<int64_t> ranks_near(int64_t ranks) {
  std::vector<int64_t> all;
  for (int64_t r = 1; r <= 256; ++r) all.push_back(r);
  for (int64_t r = 512; r <= 4096; r *= 2) all.push_back(r);
  std::ranges::stable_sort(
      all, {}, [&](int64_t r) { return std::abs(std::log2(double(r) / double(ranks))); });
  return all;
}

}  // namespace

std::vector<Layout> layouts(const Model& model, const Precision& precision,
                            const Strategy& strategy, int64_t ranks, const LayoutQuery& query,
                            const OnRefusal& refused) {
  return Enumeration(model, precision, strategy, query, refused).on(ranks);
}

std::optional<Layout> nearest_legal(const Model& model, const Precision& precision,
                                    const Layout& layout, int64_t ranks) {
  if (ranks == 0) ranks = ranks_of(layout);
  LayoutQuery own;
  own.pp = own.dp = {};
  LayoutQuery same = own;  // the choices as they are, where they apply
  same.query = {layout.query};
  same.merge = {layout.merge};
  same.mla = {layout.mla};
  same.moe = {layout.moe};
  std::optional<Layout> nearest;
  const auto look = [&](const Strategy& strategy, int64_t on, LayoutQuery query) {
    query.tpa = divisors(on);
    for (const Layout& l : layouts(model, precision, strategy, on, query))
      if (!nearest || distance(l, layout) < distance(*nearest, layout)) nearest = l;
  };
  const Strategy* strategy = find_strategy(layout.strategy);
  if (strategy != nullptr) look(*strategy, ranks, same);
  if (strategy != nullptr && !nearest) look(*strategy, ranks, own);
  for (const int64_t r : ranks_near(ranks))
    if (strategy != nullptr && !nearest) look(*strategy, r, own);
  if (!nearest)
    for (const Strategy& other : strategies()) look(other, ranks, own);
  for (const int64_t r : ranks_near(ranks))
    if (!nearest) look(*find_strategy("tp"), r, own);
  return nearest;
}

}  // namespace helix
