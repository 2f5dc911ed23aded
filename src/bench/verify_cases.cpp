#include "bench/verify_cases.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "bench/controls.h"
#include "layout/strategy.h"

namespace helix {

namespace {

constexpr Precision all_of(Format f) { return {f, f, f, f, f, f}; }
constexpr Precision mixed = {Format::bf16, Format::bf16, Format::fp32,
                             Format::bf16, Format::bf16, Format::bf16};
constexpr Precision stored(Format weights, Format kv, Format activations) {
  return {weights, kv, activations, weights, weights, weights};
}
// Weights/KV/activations; of the quantised ones each pair that meets in a kernel or a rounding.
constexpr NamedPrecision precisions[] = {
    {"fp32", all_of(Format::fp32)},
    {"bf16", all_of(Format::bf16)},
    {"bf16, activations fp32", mixed},
    {"bf16/fp8/bf16", stored(Format::bf16, Format::fp8, Format::bf16)},
    {"fp8/nvfp4/fp32", stored(Format::fp8, Format::nvfp4, Format::fp32)},
    {"nvfp4/fp8/fp32", stored(Format::nvfp4, Format::fp8, Format::fp32)},
    {"nvfp4/nvfp4/bf16", stored(Format::nvfp4, Format::nvfp4, Format::bf16)}};
constexpr int first_quantised = 3;
constexpr int chunk_counts[] = {1, 2, 3, 8};
constexpr int64_t intervals[] = {1, 16, 32};
constexpr int64_t batches[] = {1, 3, 8};
constexpr KvLayout kv_layouts[] = {KvLayout::dense, KvLayout::paged};

const std::vector<int>& level_counts() {
  static const std::vector<int> counts = [] {
    std::vector<int> all;
    for (const CaseAxis& axis : case_axes()) all.push_back(static_cast<int>(axis.levels.size()));
    return all;
  }();
  return counts;
}

// All lengths at which something was got wrong before: nothing, one token, around an interval and a
// round, and a history so short that ranks stay empty.
std::vector<int64_t> ragged_lengths(int64_t batch, int64_t interval, int kvp) {
  const int64_t round = interval * kvp;
  const std::vector<int64_t> all = {round + 1,    0,        700,   1,
                                    interval - 1, interval, round, interval * (kvp - 1) + 1};
  if (batch == 1) return {700};
  return {all.begin(), all.begin() + batch};
}

// A replica must have a request for each chunk; without an exchange there is nothing to overlap.
bool allowed(const Model& model, const Layout& layout, const Trial& c) {
  const int chunks = chunk_counts[static_cast<size_t>(c[1])];
  const int64_t requests = batches[static_cast<size_t>(c[3])] / (layout.dp * layout.pp);
  return (chunks == 1 || (layout.kvp > 1 && chunks <= requests)) &&
         !refuse(model, precisions[static_cast<size_t>(c[0])].precision, layout);
}

}  // namespace

std::span<const NamedPrecision> verified_precisions() { return precisions; }

const std::vector<CaseAxis>& case_axes() {
  static const std::vector<CaseAxis> axes = [] {
    std::vector<CaseAxis> all = {
        {"precision", {}}, {"chunks", {}}, {"interval", {}}, {"batch", {}}, {"KV layout", {}}};
    for (const NamedPrecision& p : precisions) all[0].levels.emplace_back(p.name);
    for (const int count : chunk_counts) all[1].levels.push_back(std::to_string(count));
    for (const int64_t interval : intervals) all[2].levels.push_back(std::to_string(interval));
    for (const int64_t batch : batches) all[3].levels.push_back(std::to_string(batch));
    for (const KvLayout kv_layout : kv_layouts) all[4].levels.emplace_back(name_of(kv_layout));
    return all;
  }();
  return axes;
}

Assignment assignment_of(const Model& model, const Layout& layout, const Trial& c) {
  Assignment work;
  work.model = &model;
  work.layout = layout;
  work.precision = precisions[static_cast<size_t>(c[0])].precision;
  work.chunks = chunk_counts[static_cast<size_t>(c[1])];
  work.interval = intervals[static_cast<size_t>(c[2])];
  work.lengths = ragged_lengths(batches[static_cast<size_t>(c[3])], work.interval, layout.kvp);
  work.kv_layout = kv_layouts[static_cast<size_t>(c[4])];
  work.steps = verified_steps;
  return work;
}

Assignment control_assignment(const Model& model, const Layout& layout) {
  Assignment work = assignment_of(model, layout, {0, 0, 1, 1, 1});
  work.lengths = {700, 300, 33};
  work.steps = 2 + extra_steps(layout, work.interval);
  return work;
}

std::vector<Trial> CaseDealer::deal(const Layout& layout) {
  std::vector<Trial> all =
      full_product(level_counts(), [&](const Trial& c) { return allowed(*model_, layout, c); });
  possible_.insert(possible_.end(), all.begin(), all.end());
  std::vector<Trial> cases = choose(layout, std::move(all));
  layouts_.push_back(layout);
  dealt_.insert(dealt_.end(), cases.begin(), cases.end());
  return cases;
}

std::vector<std::pair<Layout, Trial>> CaseDealer::deal_rest() {
  const auto taker = [&](const Trial& c) {
    return std::ranges::find_if(layouts_, [&](const Layout& l) { return allowed(*model_, l, c); });
  };
  std::vector<std::pair<Layout, Trial>> rest;
  for (const Trial& c : covering_array(
           level_counts(), [&](const Trial& t) { return taker(t) != layouts_.end(); }, seed_,
           dealt_))
    rest.emplace_back(*taker(c), c);
  return rest;
}

std::vector<Trial> CaseDealer::choose(const Layout& layout, std::vector<Trial> all) {
  const size_t turn = layouts_.size();
  if (full_) {
    // Pages are the same kernels through a table: they need not double the product.
    std::erase_if(all, [turn](const Trial& c) {
      return (static_cast<size_t>(std::reduce(c.begin(), c.end())) + turn) % 2 != 0;
    });
    return all;
  }
  const auto fits = [&](const Trial& c) { return allowed(*model_, layout, c); };
  const bool spine = model_->experts.count == 0 && layout.dp == 1 && layout.pp == 1 &&
                     (layout.strategy == "helix" || layout.strategy == "tp");
  std::vector<Trial> cases = take(layout, fits, false, spine);
  if (turn % 3 != 0) return cases;
  const std::vector<Trial> more = take(layout, fits, true, false);
  cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}

std::vector<Trial> CaseDealer::take(const Layout& layout,
                                    const std::function<bool(const Trial&)>& fits, bool quantised,
                                    bool whole_deck) {
  const auto mine = [&](const Trial& c) {
    return (c[0] >= first_quantised) == quantised && fits(c);
  };
  // What a layout allows depends on its exchange, on how requests are divided, and on which formats
  // can be cut as it cuts.
  const auto legal = [&](int i) {
    return !refuse(*model_, precisions[static_cast<size_t>(i)].precision, layout);
  };
  auto [at, made] = decks_.try_emplace({quantised, layout.kvp > 1, layout.dp * layout.pp, legal(0),
                                        legal(static_cast<int>(std::size(precisions)) - 1)});
  Deck& deck = at->second;
  if (made) deck.cards = covering_array(level_counts(), mine, seed_);
  if (whole_deck || deck.cards.empty()) return deck.cards;
  return {deck.cards[deck.next++ % deck.cards.size()]};
}

}  // namespace helix
