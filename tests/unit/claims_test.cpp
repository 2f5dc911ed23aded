// The paper's claims from priced points: the measures against brute force, Figure 1's values, and
// what must hold of any machine.
#include "bench/claims.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "bench/paper.h"
#include "tests/unit/layout_cases.h"
#include "tests/unit/sweeps.h"

namespace helix {
namespace {

std::vector<Offer> random_offers(Dice& dice, int64_t count) {
  std::vector<Offer> offers;
  for (int64_t i = 0; i < count; ++i)
    offers.push_back({static_cast<uint32_t>(i), static_cast<int32_t>(1 + dice.roll(4)),
                      1 + dice.roll(6), static_cast<double>(10 + dice.roll(12))});
  return offers;
}
double user(const Offer& o) { return o.per_user(); }
double gpu(const Offer& o) { return o.per_gpu(); }
double batch(const Offer& o) { return static_cast<double>(o.batch); }

// At each level of either, the best of all that reach it.
double brute_ratio(const std::vector<Offer>& first, const std::vector<Offer>& second, Measure level,
                   Measure worth) {
  const auto best = [&](const std::vector<Offer>& offers, double at) {
    double most = 0;
    for (const Offer& o : offers)
      if (level(o) >= at) most = std::max(most, worth(o));
    return most;
  };
  double ratio = 0;
  for (const auto* offers : {&first, &second})
    for (const Offer& o : *offers)
      if (const double there = best(second, level(o)); there > 0)
        ratio = std::max(ratio, best(first, level(o)) / there);
  return ratio;
}

TEST(Offers, TheLargestRatioIsThatOfBruteForce) {
  Dice dice;
  for (int trial = 0; trial < 300; ++trial) {
    const auto first = random_offers(dice, dice.roll(8));
    const auto second = random_offers(dice, dice.roll(8));
    using Pair = std::pair<Measure, Measure>;
    for (const auto& [level, worth] : {Pair{user, batch}, Pair{user, gpu}, Pair{batch, user}}) {
      const Ratio ratio = largest_ratio(first, second, level, worth);
      EXPECT_DOUBLE_EQ(ratio.value, brute_ratio(first, second, level, worth));
      if (ratio.value == 0) continue;
      EXPECT_DOUBLE_EQ(worth(ratio.first) / worth(ratio.second), ratio.value);
    }
  }
}

TEST(Offers, AFrontierHasAllThatNothingBeats) {
  Dice dice;
  for (int trial = 0; trial < 300; ++trial) {
    const auto offers = random_offers(dice, 1 + dice.roll(12));
    std::vector<uint32_t> expected, found;
    for (const Offer& a : offers)
      if (std::ranges::none_of(offers, [&](const Offer& b) {
            return user(b) >= user(a) && gpu(b) >= gpu(a) && (user(b) > user(a) || gpu(b) > gpu(a));
          }))
        expected.push_back(a.point);
    for (const Offer& offer : frontier_of(offers)) found.push_back(offer.point);
    std::ranges::sort(found);
    EXPECT_EQ(found, expected);
  }
}

TEST(Offers, AGapIsReadBetweenNeighbours) {
  const Offer low{0, 1, 1, 100}, high{1, 1, 16, 400};  // per user 1e4, 2500; per GPU 1e4, 4e4
  const Offer mid{2, 1, 8, 200};                       // 5000, 4e4
  const std::vector<Offer> curve = {high, low}, point = {mid}, outside = {{3, 1, 1, 50}};
  const Ratio gap = largest_gap(point, curve, user, gpu);
  EXPECT_DOUBLE_EQ(gap.value, 4e4 / 2e4);  // halfway in both: the square root of 1e4 and 4e4
  EXPECT_EQ(largest_gap(outside, curve, user, gpu).value, 0);
}

const Machine& gb200() {
  static const Machine machine = read_machine("gb200-nvl72");
  return machine;
}
std::string paper_sweep(const std::string& name) {
  return configs_folder() + "/sweeps/paper/" + name + ".json";
}

// helix.md: 128 and 29.6 us; 128 and 3.9; 16 and 7.6, 5.8 with W_O at its own width.
TEST(Paper, FigureOne) {
  const Sweep sweep = read_sweep(paper_sweep("figure1"));
  const auto reads = [&](int kvp, int tpa) {
    const auto point = std::ranges::find_if(sweep.points, [&](const Point& p) {
      return p.layout.kvp == kvp && p.layout.tpa == tpa && p.context.low == 1'000'000;
    });
    EXPECT_NE(point, sweep.points.end());
    return layer_reads(*point, gb200());
  };
  EXPECT_NEAR(reads(1, 8).kv_us, 128, 0.05);
  EXPECT_NEAR(reads(1, 8).weights_us, 29.6, 0.05);
  EXPECT_NEAR(reads(1, 64).kv_us, 128, 0.05);
  EXPECT_NEAR(reads(1, 64).weights_us, 3.9, 0.05);
  EXPECT_NEAR(reads(8, 8).kv_us, 16, 0.05);
  EXPECT_NEAR(reads(8, 8).weights_formula_us, 7.6, 0.05);
  EXPECT_NEAR(reads(8, 8).weights_us, 5.8, 0.05);
}

TEST(Paper, OneSetOfThreeFactors) {
  EXPECT_LE(factors_of(gb200()).size(), 3U);
  for (const Factor* factor : factors_of(gb200())) {
    for (const double by : {0.5, 2.0}) {
      const Machine other = scaled(gb200(), *factor, by);
      EXPECT_TRUE(std::ranges::any_of(factor->parts,
                                      [&](auto part) { return other.*part != gb200().*part; }));
    }
  }
}

Json small_sweep(const char* model, const char* more) {
  Json sweep = with(more);
  sweep["model"] = model;
  sweep["context"] = 1'000'000;
  sweep["precision"] = {{"weights", "fp4"}, {"kv", "fp4"}, {"activations", "bf16"}};
  return sweep;
}

Market small_market(const char* model, int threads) {
  Market market;
  market.sweep = read(small_sweep(
      model, R"({"strategy": ["helix", "tp", "dp_ep"], "ranks": [32, 64], "batch": [1, 4, 8, 32],
                 "hop_b": [false, true], "chunks": [2, 4]})"));
  reprice(market, gb200(), threads);
  return market;
}

TEST(Paper, ClaimsDoNotDependOnThreads) {
  for (const char* model : {"deepseek-r1", "llama-3.1-405b"}) {
    const Market one = small_market(model, 1);
    const Market three = small_market(model, 3);
    const auto first = claims_of(one), second = claims_of(three);
    ASSERT_EQ(first.size(), 6U);
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(first[i].ours, second[i].ours) << first[i].key;
      EXPECT_TRUE(std::isfinite(first[i].ours)) << first[i].key;
    }
    EXPECT_EQ(figure_of(one, gb200()).dump(), figure_of(three, gb200()).dump());
  }
}

TEST(Paper, HopBInItsOwnAccountingNeverLoses) {
  const Market market = small_market("deepseek-r1", 1);
  std::map<std::pair<std::string, int64_t>, double> off_us;
  for (const Offer& o : market.paper_offers) {
    const Point& p = market.sweep.points[o.point];
    const std::pair key{describe(p.layout), p.batch};
    if (!p.hop_b) off_us[key] = o.ttl_us;
    EXPECT_LE(o.ttl_us, off_us.at(key) * (1 + 1e-12)) << key.first;
  }
}

// Where Helix loses: few requests of a short context, and many requests a GPU.
TEST(Paper, TheCrossoverShowsWhereHelixLoses) {
  Market market;
  Json two = small_sweep("deepseek-r1", R"({"strategy": ["helix", "tp", "dp_ep"], "ranks": 64,
                         "dp": "all", "moe": "all", "batch": [1, 1024]})");
  two["context"] = {16384, 1048576};
  market.sweep = read(two);
  reprice(market, gb200(), 1);
  EXPECT_TRUE(claims_of(market).empty());
  std::map<std::pair<int64_t, int64_t>, Json> winner;
  const Json figure = figure_of(market, gb200());
  for (const Json& cell : figure["cells"])
    winner[{cell["context"].get<int64_t>(), cell["batch"].get<int64_t>()}] = cell["winner"];
  EXPECT_EQ((winner[{16384, 1}]), "tp");
  EXPECT_EQ((winner[{16384, 1024}]), "dp_ep");
  EXPECT_EQ((winner[{1048576, 1}]), "helix");
  EXPECT_TRUE((winner[{1048576, 1024}]).is_null());  // fits nowhere
}

}  // namespace
}  // namespace helix
