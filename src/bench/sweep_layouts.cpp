#include "bench/sweep_layouts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace helix {

namespace {

constexpr int64_t most_layouts = 1'000'000;
constexpr int64_t most_enumerations = 50'000;
constexpr size_t kvp_axis = 2, tpa_axis = 3, dp_axis = 1;

constexpr Rule whole_pipeline = {
    "pp", nullptr, [](const Case&) -> std::string { return "depths are measured at PP 1"; }};

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
  const auto refused = [&](const Layout& l, const Rule& rule) { note_illegal(family, l, rule); };
  bool any = false;
  for (const Layout& l :
       layouts(*family.model, family.precision, strategy, ranks, query_, refused)) {
    if (!fits_depths(family, l)) continue;
    note_legal(l);
    family.layouts.push_back(l);
    any = true;
  }
  count_unfilled(strategy, ranks);
  return any;
}

bool LayoutList::fits_depths(const Family& family, const Layout& l) {
  if (!axes_.depths || l.pp == 1) return true;
  note_illegal(family, l, whole_pipeline);
  return false;
}

int LayoutList::place_of(size_t width, int64_t value) const {
  const auto& sorted = sorted_[width];
  const auto at = std::ranges::lower_bound(sorted, value, {}, &std::pair<int64_t, int>::first);
  return at != sorted.end() && at->first == value ? at->second : -1;
}

void LayoutList::note_legal(const Layout& l) {
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

bool LayoutList::add_example(Usage& usage, int place, int example) const {
  if (place < 0 || usage.example[static_cast<size_t>(place)] >= 0) return false;
  usage.example[static_cast<size_t>(place)] = example;
  return true;
}

// Layouts that break a rule at a knob that is listed are counted; the first of each listed value is
// kept, to explain why it is legal nowhere.
void LayoutList::note_illegal(const Family& family, const Layout& l, const Rule& rule) {
  const auto example = static_cast<int>(examples_.size());
  bool needed = examples_.empty();
  for (size_t i = 0; i <= width_count; ++i)
    needed |= add_example(width_[i], place_of(i, width_of(l, i)), example);
  for (size_t i = 0; i < choice_count; ++i)
    for (size_t v = 0; v < axes_.choice[i].values.size(); ++v)
      if (axes_.choice[i].values[v] == choice_of(l, i) && rule.knob == choice_names[i])
        needed |= add_example(choice_[i], axes_.choice[i].place[v], example);
  const Strategy* strategy = find_strategy(l.strategy);
  for (size_t s = 0; s < axes_.strategy.values.size(); ++s)
    if (axes_.strategy.values[s] == strategy)
      needed |= add_example(strategy_, axes_.strategy.place[s], example);
  if (needed) examples_.push_back({family.model.get(), family.precision, l, &rule, l.ranks()});
  if (!listed(rule.knob)) return;
  Reason& reason = reasons_[{&rule, family.model.get(), strategy, l.moe}];
  if (reason.count++ > 0) return;
  const Case c{*family.model, family.precision, l, *strategy};
  reason.text = fmt::format("{}: {}", rule.knob, rule.text(c));
}

// Widths that are listed but do not multiply to the ranks; a width that is not listed fills up.
void LayoutList::count_unfilled(const Strategy& strategy, int64_t ranks) {
  const bool takes_width[] = {true, strategy.shares != Shares::nothing,
                              strategy.shares == Shares::sequence,
                              strategy.shares == Shares::sequence};
  std::vector<int64_t> products = {1};
  bool open = false;
  for (size_t i = 0; i < 4; ++i) {
    const std::vector<int64_t>& values = axes_.width[i].values;
    if (!takes_width[i] || values.empty()) {
      open = open || i > 0;
      if (i == 0 && values.empty()) open = true;
      continue;
    }
    if (products.size() * values.size() > 100'000) return;
    std::vector<int64_t> next;
    for (const int64_t product : products)
      for (const int64_t value : values) next.push_back(std::min(product * value, ranks + 1));
    products = std::move(next);
  }
  unfilled_ += std::ranges::count_if(
      products, [&](int64_t p) { return open ? p > ranks || ranks % p != 0 : p != ranks; });
}

bool LayoutList::listed(std::string_view knob) const {
  if (knob == "ranks") return true;
  if (knob == "strategy") return axes_.strategy.given();
  for (size_t i = 0; i < width_count; ++i)
    if (knob == width_names[i]) return axes_.width[i].given();
  for (size_t i = 0; i < choice_count; ++i)
    if (knob == choice_names[i]) return axes_.choice[i].given();
  return false;
}

std::map<std::string, int64_t> LayoutList::left_out() const {
  std::map<std::string, int64_t> counts;
  for (const auto& [cause, reason] : reasons_) counts[reason.text] += reason.count;
  if (unfilled_ > 0) counts["ranks: pp x dp x kvp x tpa does not give them"] += unfilled_;
  return counts;
}

// Whether some listed strategy takes this width from its list.
bool LayoutList::takes(size_t width) const {
  return std::ranges::any_of(axes_.strategy.values, [&](const Strategy* s) {
    if (width == kvp_axis || width == tpa_axis) return s->shares == Shares::sequence;
    return width != dp_axis || s->shares != Shares::nothing;
  });
}

void LayoutList::check_used() const {
  for (const size_t i : {2, 3, 4, 5, 1, 0}) check_width(i);
  for (size_t i = 0; i < choice_count; ++i) check_choice(i);
  check_width(ranks_axis);
  const auto check = [&](const std::vector<Node>& places, const Usage& usage,
                         std::string_view what) {
    for (size_t p = 0; p < places.size(); ++p)
      if (!usage.used[p])
        fail_unused(places[p], what,
                    usage.example[p] >= 0 ? examples_[static_cast<size_t>(usage.example[p])]
                    : examples_.empty()   ? stand_in(ranks_axis, 0)
                                          : examples_.front(),
                    "");
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
                usage.example[p] >= 0 ? examples_[static_cast<size_t>(usage.example[p])]
                                      : stand_in(width, value),
                legal_values(width));
  }
}

void LayoutList::check_choice(size_t choice) const {
  const Axis<int>& axis = axes_.choice[choice];
  for (size_t p = 0; p < axis.places.size(); ++p) {
    const int example = choice_[choice].example[p];
    if (choice_[choice].used[p] || (!chosen_[choice] && example < 0)) continue;
    fail_unused(axis.places[p], choice_names[choice],
                example >= 0 ? examples_[static_cast<size_t>(example)] : stand_in(ranks_axis, 0),
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
  std::vector<int64_t> shown(values.begin(), values.end());
  if (shown.size() <= 20) return fmt::format("; legal are {}", fmt::join(shown, ", "));
  shown.resize(20);
  return fmt::format("; legal are {}, ...", fmt::join(shown, ", "));
}

// For a value that does not even fill the ranks: a layout that would have it.
Illegal LayoutList::stand_in(size_t width, int64_t value) const {
  Illegal illegal{families_.front().model.get(), families_.front().precision, {}, nullptr, 0};
  Layout& l = illegal.layout;
  const auto& all = axes_.strategy.values;
  const auto taker =
      std::ranges::find_if(all, [](const Strategy* s) { return s->shares == Shares::sequence; });
  l.strategy = (width == kvp_axis || width == tpa_axis) && taker != all.end() ? (*taker)->name
                                                                              : all.front()->name;
  int* const widths[] = {&l.pp, &l.dp, &l.kvp, &l.tpa, &l.tpf, &l.ep};
  if (width < width_count) *widths[width] = static_cast<int>(value);
  illegal.ranks = width == ranks_axis && value > 0 ? value : axes_.width[ranks_axis].values.front();
  return illegal;
}

}  // namespace helix
