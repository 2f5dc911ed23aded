#include "bench/covering.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace helix {
namespace {

// Every pair that some allowed case has is in a chosen one, with far fewer cases than the product.
TEST(Covering, MeetsEveryPossiblePair) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    std::vector<int> levels;
    for (uint64_t axis = 0; axis < 2 + seed % 4; ++axis)
      levels.push_back(1 + static_cast<int>(combine(seed, axis) % 5));
    const auto allowed = [&](const Trial& t) { return t[0] != 1 || t[1] == 0; };
    const auto all = full_product(levels, allowed);
    const auto chosen = covering_array(levels, allowed, seed);
    for (const Trial& t : chosen) EXPECT_TRUE(allowed(t));
    const PairCoverage coverage = pair_coverage(chosen, all);
    EXPECT_EQ(coverage.covered, coverage.possible);
    EXPECT_LE(chosen.size(), all.size());
  }
}

// What stands already is not asked for again.
TEST(Covering, AddsWhatIsMissing) {
  const std::vector<int> levels = {3, 4, 3};
  const auto any = [](const Trial&) { return true; };
  auto chosen = covering_array(levels, any, 1);
  EXPECT_TRUE(covering_array(levels, any, 2, chosen).empty());
  const size_t whole = chosen.size();
  std::erase_if(chosen, [](const Trial& t) { return t[0] == 2; });
  const auto more = covering_array(levels, any, 2, chosen);
  EXPECT_LT(more.size(), whole);
  chosen.insert(chosen.end(), more.begin(), more.end());
  const PairCoverage coverage = pair_coverage(chosen, full_product(levels, any));
  EXPECT_EQ(coverage.covered, coverage.possible);
}

TEST(Covering, LosesAPairWithoutItsCases) {
  const std::vector<int> levels = {3, 4, 3};
  const auto any = [](const Trial&) { return true; };
  auto chosen = covering_array(levels, any, 1);
  std::erase_if(chosen, [](const Trial& t) { return t[0] == 2 && t[1] == 3; });
  const PairCoverage coverage = pair_coverage(chosen, full_product(levels, any));
  EXPECT_LT(coverage.covered, coverage.possible);
}

TEST(Covering, IsMuchSmallerThanTheProduct) {
  const std::vector<int> levels = {3, 4, 3, 3};
  const auto any = [](const Trial&) { return true; };
  EXPECT_EQ(full_product(levels, any).size(), 108U);
  EXPECT_LE(covering_array(levels, any, 1).size(), 18U);
}

}  // namespace
}  // namespace helix
