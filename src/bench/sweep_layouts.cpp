#include "bench/sweep_layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/random.h"

namespace helix {

namespace {

constexpr int64_t most_layouts = 1'000'000;
constexpr int64_t most_enumerations = 50'000;
constexpr size_t kvp_axis = 2, tpa_axis = 3, dp_axis = 1;

constexpr Rule whole_pipeline = {
    "pp", nullptr, [](const Case&) -> std::string { return "depths are measured at PP 1"; }};

// Whether the strategy takes this width from its list.
bool takes_width(const Strategy& strategy, size_t width) {
  if (width == kvp_axis || width == tpa_axis) return strategy.shares == Shares::sequence;
  return width != dp_axis || strategy.shares != Shares::nothing;
}

// Whether a comes after b in the table, so that a layout which breaks it keeps more rules.
bool later(const Rule* a, const Rule* b) {
  const auto at = [](const Rule* rule) {
    return rule == &whole_pipeline ? rules().size() : static_cast<size_t>(rule - rules().data());
  };
  return at(a) > at(b);
}

// What does not apply is as if it were not said.
Precision canonical(const Model& model, Precision precision) {
  if (model.experts.count == 0) precision.experts = precision.weights;
  return precision;
}

template <class T>
std::vector<T> as(const std::vector<int>& values) {
  std::vector<T> result;
  for (const int value : values) result.push_back(static_cast<T>(value));
  return result;
}

LayoutQuery query_of(const Axes& axes) {
  LayoutQuery query;
  std::vector<int64_t>* lists[] = {&query.pp,  &query.dp,  &query.kvp,
                                   &query.tpa, &query.tpf, &query.ep};
  for (size_t i = 0; i < width_count; ++i) *lists[i] = axes.width[i].values;
  query.query = as<Query>(axes.choice[0].values);
  query.merge = as<Merge>(axes.choice[1].values);
  query.mla = as<Mla>(axes.choice[2].values);
  for (const int ffn : axes.choice[3].values)
    if (ffn >= 0) query.ffn.push_back(static_cast<Ffn>(ffn));
  query.moe = as<Moe>(axes.choice[4].values);
  return query;
}

}  // namespace

std::string rule_text(const Illegal& i) {
  const Strategy& strategy = *find_strategy(i.layout.strategy);
  return i.rule->text({*i.model, i.precision, i.layout, strategy});
}

std::string nearest_text(const Illegal& i) {
  const auto near = nearest_legal(*i.model, i.precision, i.layout, i.ranks);
  if (!near) return "this model has no legal layout";
  return fmt::format("nearest legal layout: {} ({} ranks)", describe(*near), near->ranks());
}

LayoutList::LayoutList(const Axes& axes, const Node& where)
    : axes_(axes),
      query_(query_of(axes)),
      strategy_(axes.strategy),
      precision_(axes.precision),
      model_(axes.model) {
  double enumerations = 1;
  for (const size_t count : {axes.model.values.size(), axes.precision.values.size(),
                             axes.strategy.values.size(), axes.width[ranks_axis].values.size()})
    enumerations *= static_cast<double>(count);
  if (enumerations > most_enumerations)
    where.fail(fmt::format("over {} combinations of model, precision, strategy and ranks",
                           most_enumerations));
  prepare();
  size_t layouts = 0;
  for (size_t i = 0; i < axes.model.values.size(); ++i) {
    const size_t before = families_.size();
    add_family(axes.model.values[i], i);
    for (size_t f = before; f < families_.size(); ++f) layouts += families_[f].layouts.size();
    if (layouts > most_layouts) where.fail(fmt::format("over {} layouts", most_layouts));
  }
}

void LayoutList::prepare() {
  for (size_t i = 0; i <= width_count; ++i) {
    const Axis<int64_t>& axis = axes_.width[i];
    for (size_t v = 0; v < axis.values.size(); ++v)
      sorted_[i].emplace_back(axis.values[v], axis.place[v]);
    std::ranges::sort(sorted_[i]);
    width_[i] = Usage(axis);
  }
  for (size_t i = 0; i < choice_count; ++i) choice_[i] = Usage(axes_.choice[i]);
}

void LayoutList::add_family(const std::shared_ptr<const Model>& model, size_t model_at) {
  std::vector<Precision> seen;
  for (size_t p = 0; p < axes_.precision.values.size(); ++p) {
    const Precision precision = canonical(*model, axes_.precision.values[p]);
    const int place = axes_.precision.place[p];
    if (std::ranges::find(seen, precision) != seen.end()) {
      precision_.use(place);
      continue;
    }
    seen.push_back(precision);
    Family& family = families_.emplace_back(Family{model, precision, {}});
    for (const int64_t ranks : axes_.width[ranks_axis].values)
      for (size_t s = 0; s < axes_.strategy.values.size(); ++s) {
        if (!enumerate(family, ranks, *axes_.strategy.values[s])) continue;
        strategy_.use(axes_.strategy.place[s]);
        precision_.use(place);
        model_.use(axes_.model.place[model_at]);
      }
  }
}

bool LayoutList::enumerate(Family& family, int64_t ranks, const Strategy& strategy) {
  const auto refused = [&](const Layout& l, const Rule& rule) { note_illegal(l, strategy, rule); };
  bool any = false;
  for (const Layout& l :
       layouts(*family.model, family.precision, strategy, ranks, query_, refused)) {
    if (axes_.depths && l.pp > 1) {
      note_illegal(l, strategy, whole_pipeline);
      continue;
    }
    note_legal(l, strategy);
    family.layouts.push_back(l);
    any = true;
  }
  count_unfilled(strategy, ranks);
  return any;
}

int LayoutList::place_of(size_t width, int64_t value) const {
  const auto& sorted = sorted_[width];
  const auto at = std::ranges::lower_bound(sorted, value, {}, &std::pair<int64_t, int>::first);
  return at != sorted.end() && at->first == value ? at->second : -1;
}

// Of the values that are listed, of those the strategy takes.
uint64_t LayoutList::combination(const Layout& l, const Strategy& strategy) const {
  uint64_t key =
      combine(combine(0, families_.size()), static_cast<uint64_t>(&strategy - strategies().data()));
  for (size_t i = 0; i <= width_count; ++i)
    if (!axes_.width[i].values.empty() && takes_width(strategy, i))
      key = combine(key, static_cast<uint64_t>(width_of(l, i)) * 8 + i);
  for (size_t i = 0; i < choice_count; ++i)
    if (axes_.choice[i].given()) key = combine(key, static_cast<uint64_t>(choice_of(l, i)) * 8 + i);
  return key;
}

void LayoutList::note_legal(const Layout& l, const Strategy& strategy) {
  legal_.insert(combination(l, strategy));
  for (size_t i = 0; i <= width_count; ++i) width_[i].use(place_of(i, width_of(l, i)));
  for (size_t i = 0; i < choice_count; ++i) {
    const Axis<int>& axis = axes_.choice[i];
    const int value = choice_of(l, i);
    chosen_[i] = chosen_[i] || value != 0 || choice_names[i] == "ffn";
    for (size_t v = 0; v < axis.values.size(); ++v) {
      const bool own = axis.values[v] < (choice_names[i] == "ffn" ? 0 : 1);
      if (own || axis.values[v] == value) choice_[i].use(axis.place[v]);
    }
  }
}

void LayoutList::Usage::explain(int place, const Illegal& illegal, std::string_view knob) {
  if (place < 0) return;
  std::optional<Illegal>& best = example[static_cast<size_t>(place)];
  const bool its_own = illegal.rule->knob == knob;
  if (best && (best->rule->knob == knob) > its_own) return;
  if (best && (best->rule->knob == knob) == its_own && !later(illegal.rule, best->rule)) return;
  best = illegal;
}

void LayoutList::note_illegal(const Layout& l, const Strategy& strategy, const Rule& rule) {
  const Family& family = families_.back();
  const Illegal illegal{family.model.get(), family.precision, l, &rule, l.ranks()};
  if (!nearly_ || later(&rule, nearly_->rule)) nearly_ = illegal;
  for (size_t i = 0; i <= width_count; ++i)
    width_[i].explain(place_of(i, width_of(l, i)), illegal, width_names[i]);
  for (size_t i = 0; i < choice_count; ++i)
    for (size_t v = 0; v < axes_.choice[i].values.size(); ++v)
      if (axes_.choice[i].values[v] == choice_of(l, i) && rule.knob == choice_names[i])
        choice_[i].explain(axes_.choice[i].place[v], illegal, choice_names[i]);
  for (size_t s = 0; s < axes_.strategy.values.size(); ++s)
    if (axes_.strategy.values[s] == &strategy)
      strategy_.explain(axes_.strategy.place[s], illegal, "strategy");
  if (axes_.strategy.all && rule.knob == "strategy") return;
  Reason& reason = not_legal_[combination(l, strategy)];
  if (reason.rule != nullptr && !later(&rule, reason.rule)) return;
  reason = {&rule, fmt::format("{}: {}", rule.knob, rule_text(illegal))};
}

// Listed widths that do not multiply to the ranks; one that is not listed fills up.
void LayoutList::count_unfilled(const Strategy& strategy, int64_t ranks) {
  std::vector<int64_t> products = {1};
  bool fills_up = strategy.shares != Shares::sequence;
  for (size_t i = 0; i < 4; ++i) {
    const std::vector<int64_t>& values = axes_.width[i].values;
    fills_up = fills_up || values.empty();
    if (values.empty() || !takes_width(strategy, i)) continue;
    if (products.size() * values.size() > 100'000) return;
    std::vector<int64_t> next;
    for (const int64_t product : products)
      for (const int64_t value : values) next.push_back(std::min(product * value, ranks + 1));
    products = std::move(next);
  }
  unfilled_ += std::ranges::count_if(products, [&](int64_t product) {
    return fills_up ? product > ranks || ranks % product != 0 : product != ranks;
  });
}

std::map<std::string, int64_t> LayoutList::left_out() const {
  std::map<std::string, int64_t> counts;
  for (const auto& [combination, reason] : not_legal_)
    if (!legal_.contains(combination)) ++counts[reason.text];
  if (unfilled_ > 0) counts["ranks: pp x dp x kvp x tpa does not give them"] += unfilled_;
  return counts;
}

// Whether some listed strategy takes this width from its list.
bool LayoutList::takes(size_t width) const {
  return std::ranges::any_of(axes_.strategy.values,
                             [&](const Strategy* s) { return takes_width(*s, width); });
}

void LayoutList::check_used() const {
  for (const size_t i : {2, 3, 4, 5, 1, 0}) check_width(i);
  for (size_t i = 0; i < choice_count; ++i) check_choice(i);
  check_width(ranks_axis);
  const auto check = [&](const std::vector<Node>& places, const Usage& usage,
                         std::string_view what) {
    for (size_t p = 0; p < places.size(); ++p)
      if (!usage.used[p])
        fail_unused(
            places[p], what,
            usage.example[p] ? *usage.example[p] : nearly_.value_or(stand_in(ranks_axis, 0)), "");
  };
  check(axes_.strategy.places, strategy_, "strategy");
  check(axes_.precision.places, precision_, "precision");
  check(axes_.model.places, model_, "model");
}

void LayoutList::check_width(size_t width) const {
  const Axis<int64_t>& axis = axes_.width[width];
  const Usage& usage = width_[width];
  if (!axis.given()) return;
  if (!takes(width)) {
    // What no strategy takes may say what they have anyway; dp_ep has its own, whatever is listed.
    const bool whatever = std::ranges::any_of(
        axes_.strategy.values, [](const Strategy* s) { return s->shares == Shares::nothing; });
    if (whatever || std::ranges::any_of(usage.used, [](char used) { return used != 0; })) return;
  }
  for (size_t p = 0; p < axis.places.size(); ++p) {
    if (usage.used[p]) continue;
    const int64_t value = axis.values[static_cast<size_t>(
        std::ranges::find(axis.place, static_cast<int>(p)) - axis.place.begin())];
    fail_unused(axis.places[p], width_names[width],
                usage.example[p] ? *usage.example[p] : stand_in(width, value), legal_values(width));
  }
}

void LayoutList::check_choice(size_t choice) const {
  const Axis<int>& axis = axes_.choice[choice];
  for (size_t p = 0; p < axis.places.size(); ++p) {
    const std::optional<Illegal>& example = choice_[choice].example[p];
    if (choice_[choice].used[p] || (!chosen_[choice] && !example)) continue;
    fail_unused(axis.places[p], choice_names[choice], example.value_or(stand_in(ranks_axis, 0)),
                "");
  }
}

void LayoutList::fail_unused(const Node& node, std::string_view what, const Illegal& why,
                             const std::string& legal) const {
  std::string text =
      fmt::format("{} {} is legal in no combination", what, one_line(node.json().dump(), 100));
  if (why.rule != nullptr) text += fmt::format(" ({}: {})", why.rule->knob, rule_text(why));
  node.fail(fmt::format("{}{}; {}", text, legal, nearest_text(why)));
}

// "; legal are 1, 2, 4" of a width, the other lists as they are.
std::string LayoutList::legal_values(size_t width) const {
  if (width == ranks_axis) return "";
  LayoutQuery query = query_;
  std::vector<int64_t>* lists[] = {&query.pp,  &query.dp,  &query.kvp,
                                   &query.tpa, &query.tpf, &query.ep};
  std::set<int64_t> values;
  for (const Family& family : families_)
    for (const int64_t ranks : axes_.width[ranks_axis].values)
      for (const Strategy* strategy : axes_.strategy.values) {
        *lists[width] = divisors(ranks);
        for (const Layout& l : layouts(*family.model, family.precision, *strategy, ranks, query))
          if (!axes_.depths || l.pp == 1) values.insert(width_of(l, width));
      }
  if (values.empty()) return "";
  std::string text = "; legal are ";
  int shown = 0;
  for (const int64_t value : values) {
    if (++shown > 20) return text + ", ...";
    text += (shown > 1 ? ", " : "") + std::to_string(value);
  }
  return text;
}

// For a value that does not even fill the ranks: a layout that would have it.
Illegal LayoutList::stand_in(size_t width, int64_t value) const {
  const auto& all = axes_.strategy.values;
  const auto taker =
      std::ranges::find_if(all, [&](const Strategy* s) { return takes_width(*s, width); });
  const Strategy& strategy = taker != all.end() ? **taker : *all.front();
  const int64_t first = axes_.width[ranks_axis].values.front();
  const int64_t ranks = width == ranks_axis && value > 0 ? value : first;
  const auto filling = [&](int64_t other) {
    return static_cast<int>(std::max<int64_t>(1, ranks / other));
  };
  Layout l;
  l.strategy = strategy.name;
  l.tpf = filling(1);
  if (strategy.shares == Shares::nothing) l.dp = filling(1);
  if (strategy.shares == Shares::heads) l.tpa = filling(1);
  if (strategy.shares == Shares::sequence) l.kvp = filling(width == tpa_axis ? value : 1);
  if (strategy.shares == Shares::sequence && width == kvp_axis) l.tpa = filling(value);
  int* const widths[] = {&l.pp, &l.dp, &l.kvp, &l.tpa, &l.tpf, &l.ep};
  if (width < width_count) *widths[width] = static_cast<int>(value);
  return {families_.front().model.get(), families_.front().precision, l, nullptr, ranks};
}

}  // namespace helix
