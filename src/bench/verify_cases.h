// What `verify` crosses layouts with, and which of it each layout is dealt.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bench/covering.h"
#include "execute/executor.h"

namespace helix {

// The axes: format, chunks (1 is HOP-B off), interval, batch, KV layout.
struct NamedPrecision {
  std::string_view name;
  Precision precision;
};
std::span<const NamedPrecision> verified_precisions();
constexpr int64_t verified_steps = 8;

struct CaseAxis {
  std::string_view name;
  std::vector<std::string> levels;
};
const std::vector<CaseAxis>& case_axes();
Assignment assignment_of(const Model& model, const Layout& layout, const Trial& c);
// The negative controls' case: fp32, one chunk, batch 3, pages, and room for every rank to append
// tokens.
Assignment control_assignment(const Model& model, const Layout& layout);

// Deals the cases of one model. Layouts of which each meets all pairs of values: helix and tp
// without experts, DP and PP; the others share a deck of them, a card each. Quantised formats have
// decks of their own, of which every third layout gets a card; only nvfp4 cuts some as it does.
// Pairs that no layout met, as few of them drew from a deck, are dealt at the end.
class CaseDealer {
 public:
  CaseDealer(const Model& model, uint64_t seed, bool full)
      : model_(&model), seed_(seed), full_(full) {}
  std::vector<Trial> deal(const Layout& layout);
  // After all layouts: what none has met, each with the first layout that allows it.
  std::vector<std::pair<Layout, Trial>> deal_rest();
  const std::vector<Trial>& possible() const { return possible_; }

 private:
  const Model* model_;
  uint64_t seed_;
  bool full_;  // the whole product, in which cases are dense and paged by turns
  struct Deck {
    std::vector<Trial> cards;
    size_t next = 0;
  };
  std::vector<Trial> choose(const Layout& layout, std::vector<Trial> all);
  std::vector<Trial> take(const Layout& layout, const std::function<bool(const Trial&)>& fits,
                          bool quantised, bool whole_deck);
  std::vector<Layout> layouts_;  // that were dealt cases
  std::vector<Trial> dealt_;
  std::map<std::tuple<bool, bool, int, bool, bool>, Deck> decks_;  // by the cases that it holds
  std::vector<Trial> possible_;
};

}  // namespace helix
