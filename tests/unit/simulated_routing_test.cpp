// How many experts are chosen: the Monte Carlo against the expectation, where both apply.
#include <gtest/gtest.h>

#include "execute/simulate/routing.h"

namespace helix::simulated {
namespace {

TEST(Router, AgreesWithTheExpectationOfIndependentChoices) {
  Model r1_without_groups = read_model(preset_path("deepseek-r1"));
  r1_without_groups.experts.groups = r1_without_groups.experts.chosen_groups = 1;
  for (const Model& model : {read_model(preset_path("qwen3-235b-a22b")),
                             read_model(preset_path("kimi-k2")), r1_without_groups}) {
    Router router(model, 0, 1);
    for (const int64_t tokens : {1, 2, 8, 30, 100, 1000})
      for (const int ep : {1, 4, 16}) {
        const double expected = expected_touched(model.experts, ep, static_cast<double>(tokens));
        const Choices& drawn = router.choices(tokens, ep);
        EXPECT_NEAR(drawn.touched.mean, expected, 0.01 * expected)
            << model.name << " " << tokens << " " << ep;
        EXPECT_NEAR(drawn.routed.mean, static_cast<double>(tokens * model.experts.chosen) / ep,
                    1e-6 * static_cast<double>(tokens));
        EXPECT_GE(drawn.touched.busiest, drawn.touched.mean - 1e-9);
        EXPECT_LE(drawn.touched.busiest, static_cast<double>(model.experts.count) / ep);
        if (ep == 1) {
          EXPECT_NEAR(drawn.touched.busiest, drawn.touched.mean, 1e-9);
        }
      }
  }
}

// Without groups a token of 8 in 64 ranks of 4 experts misses a rank with chance C(252, 8)/C(256,
// 8).
TEST(Router, TokensReachAsManyRanksAsTheyShould) {
  Model model = read_model(preset_path("deepseek-r1"));
  model.experts.groups = model.experts.chosen_groups = 1;
  double missed = 1;
  for (int i = 0; i < 8; ++i) missed *= (252.0 - i) / (256.0 - i);
  EXPECT_NEAR(Router(model, 0, 1).choices(100, 64).tokens.mean, 100 * (1 - missed), 0.2);
}

TEST(Router, GroupsCrowdTokensOntoFewerRanks) {
  Model model = read_model(preset_path("deepseek-r1"));
  const Choices grouped = Router(model, 0, 1).choices(1, 8);
  // One token's 8 experts stand in 4 of 8 groups; the fullest holds 3 on average and mostly.
  EXPECT_NEAR(grouped.touched.busiest, 3, 0.2);
  EXPECT_LE(grouped.tokens.mean, 4.0 / 8);
  model.experts.groups = model.experts.chosen_groups = 1;
  const Choices free = Router(model, 0, 1).choices(1, 8);
  EXPECT_GT(grouped.touched.busiest, free.touched.busiest + 0.2);
  EXPECT_LT(grouped.tokens.mean, free.tokens.mean);
}

TEST(Router, SkewCrowdsAndASeedDecides) {
  const Model model = read_model(preset_path("qwen3-235b-a22b"));
  const Choices even = Router(model, 0, 1).choices(64, 16);
  const Choices skewed = Router(model, 1, 1).choices(64, 16);
  EXPECT_GT(skewed.routed.busiest, 1.3 * even.routed.busiest);
  EXPECT_LT(skewed.touched.mean, even.touched.mean);
  EXPECT_EQ(Router(model, 1, 1).choices(64, 16).touched.busiest, skewed.touched.busiest);
  EXPECT_NE(Router(model, 1, 2).choices(64, 16).touched.busiest, skewed.touched.busiest);
}

}  // namespace
}  // namespace helix::simulated
