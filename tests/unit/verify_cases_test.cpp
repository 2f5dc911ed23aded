// What `verify` deals: every pair of values where it promises them, and half of the whole product.
#include "bench/verify_cases.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "layout/strategy.h"
#include "model/model.h"

namespace helix {
namespace {

std::vector<Layout> some_layouts(const Model& model) {
  std::vector<Layout> all;
  for (const char* name : {"helix", "tp"})
    for (const int64_t ranks : {1, 2, 4, 8})
      for (const Layout& l : layouts(model, {}, *find_strategy(name), ranks, {})) all.push_back(l);
  EXPECT_GT(all.size(), 8U);
  return all;
}

TEST(Cases, OfALayoutWithADeckOfItsOwnMeetInAllPairs) {
  const Model model = read_model(preset_path("tiny-llama"));
  for (const Layout& layout : some_layouts(model)) {
    CaseDealer dealer(model, 1, false);
    const std::vector<Trial> cases = dealer.deal(layout);
    std::vector<Trial> plain;
    for (const Trial& c : dealer.possible())
      if (c[0] < 3)
        plain.push_back(c);  // quantised ones are dealt to every third layout, a card each
    const PairCoverage pairs = pair_coverage(cases, plain);
    EXPECT_EQ(pairs.covered, pairs.possible) << describe(layout);
    EXPECT_LT(cases.size(), plain.size()) << describe(layout);
  }
}

// However few layouts draw from a deck.
TEST(Cases, OfAModelMeetAllPairs) {
  for (const char* name : {"tiny-llama", "tiny-deepseek", "tiny-v2-lite", "tiny-qwen3-moe"}) {
    const Model model = read_model(preset_path(name));
    for (const int ranks : {2, 6}) {
      CaseDealer dealer(model, 1, false);
      std::vector<Trial> run;
      for (const Strategy& strategy : strategies())
        for (const Layout& layout :
             layouts(model, verified_precisions().front().precision, strategy, ranks, {})) {
          const std::vector<Trial> dealt = dealer.deal(layout);
          run.insert(run.end(), dealt.begin(), dealt.end());
        }
      const PairCoverage before = pair_coverage(run, dealer.possible());
      EXPECT_LT(before.covered, before.possible) << name;  // so that there is a rest
      for (const auto& [layout, c] : dealer.deal_rest()) {
        run.push_back(c);
        EXPECT_FALSE(refuse(model, assignment_of(model, layout, c).precision, layout));
      }
      const PairCoverage after = pair_coverage(run, dealer.possible());
      EXPECT_EQ(after.covered, after.possible) << name;
    }
  }
}

TEST(Cases, OfTheWholeProductAreDenseAndPagedByTurns) {
  const Model model = read_model(preset_path("tiny-llama"));
  CaseDealer dealer(model, 1, true);
  for (const Layout& layout : some_layouts(model)) {
    const size_t before = dealer.possible().size();
    const std::vector<Trial> cases = dealer.deal(layout);
    const std::vector<Trial> possible(dealer.possible().begin() + static_cast<int64_t>(before),
                                      dealer.possible().end());
    EXPECT_EQ(2 * cases.size(), possible.size()) << describe(layout);
    const PairCoverage pairs = pair_coverage(cases, possible);
    EXPECT_EQ(pairs.covered, pairs.possible) << describe(layout);
    for (const Trial& c : cases)  // each of the other axes' cases once
      EXPECT_EQ(
          std::ranges::count_if(
              cases, [&](const Trial& o) { return std::equal(c.begin(), c.end() - 1, o.begin()); }),
          1);
  }
}

}  // namespace
}  // namespace helix
