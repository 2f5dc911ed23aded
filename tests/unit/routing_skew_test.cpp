// Zipf's law in routing: what is added to a router's logits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "judge/ffn.h"

namespace helix {
namespace {

const Model& r1() {
  static const Model model = read_model(preset_path("deepseek-r1"));
  return model;
}
std::vector<float> skew_of(const Model& model, int64_t layer, double zipf, uint64_t seed = 1) {
  return Generator(model, Precision{}, seed, zipf).routing_skew(layer);
}
std::vector<float> descending(std::vector<float> values) {
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

TEST(RoutingSkew, FallsWithTheLogarithmOfTheRank) {
  const std::vector<float> skew = descending(skew_of(r1(), 10, 1.2));
  ASSERT_EQ(skew.size(), 256U);
  EXPECT_EQ(skew[0], 0);
  // A normal number is above 1.863 with a chance of 8/256, whose logarithm falls by 2.2522 for 1
  // more.
  for (size_t rank = 0; rank < skew.size(); ++rank)
    EXPECT_NEAR(skew[rank], -1.2 / 2.2522 * std::log(static_cast<double>(rank + 1)), 2e-4);
}

TEST(RoutingSkew, RanksArePermutedByLayerAndSeed) {
  const std::vector<float> one = skew_of(r1(), 10, 1.2);
  EXPECT_EQ(one, skew_of(r1(), 10, 1.2));
  for (const std::vector<float>& other : {skew_of(r1(), 11, 1.2), skew_of(r1(), 10, 1.2, 2)}) {
    EXPECT_NE(one, other);
    EXPECT_EQ(descending(one), descending(other));
  }
}

TEST(RoutingSkew, IsEmptyWhereNothingIsSkewed) {
  EXPECT_TRUE(skew_of(r1(), 10, 0).empty());
  EXPECT_TRUE(skew_of(r1(), 2, 1.2).empty());  // a dense layer
  EXPECT_TRUE(skew_of(read_model(preset_path("llama-3.1-8b")), 0, 1.2).empty());
}

// How often experts are chosen, by rank, follows the law within what a softmax of normal logits
// can: Qwen3's routing, 8 of 128.
TEST(RoutingSkew, ChoicesFollowTheLaw) {
  const Model model = read_model(preset_path("qwen3-235b-a22b"));
  for (const double zipf : {0.5, 1.0}) {
    const std::vector<float> skew = skew_of(model, 0, zipf);
    std::vector<double> chosen(128, 0);
    uint64_t index = 0;
    for (int token = 0; token < 4000; ++token) {
      Vector logits(128);
      for (size_t e = 0; e < logits.size(); ++e) {
        logits[e] = skew[e];
        for (int i = 0; i < 3; ++i) logits[e] += uniform_at(5, index++);  // variance 1
      }
      Vector gates;
      for (const int32_t e : choose_experts(model.experts, logits, {}, gates).experts)
        chosen[static_cast<size_t>(e)] += 1;
    }
    std::vector<size_t> by_rank(128);
    for (size_t e = 0; e < 128; ++e)
      by_rank[static_cast<size_t>(
          std::count_if(skew.begin(), skew.end(), [&](float s) { return s > skew[e]; }))] = e;
    const auto mean = [&](size_t first, size_t last) {
      double sum = 0;
      for (size_t rank = first; rank < last; ++rank) sum += chosen[by_rank[rank]];
      return sum / static_cast<double>(last - first);
    };
    // Past the ranks that nearly every token chooses: ranks 16 to 31 against 64 to 127.
    const double exponent = std::log(mean(16, 32) / mean(64, 128)) / std::log(96.0 / 24);
    EXPECT_GT(exponent, 0.7 * zipf);
    EXPECT_LT(exponent, 1.4 * zipf);
    EXPECT_GT(mean(0, 4), mean(4, 16));
    EXPECT_GT(mean(4, 16), mean(16, 64));
  }
}

}  // namespace
}  // namespace helix
