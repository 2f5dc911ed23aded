// Which experts a shard's tokens go to: the simulator's routing, the busiest rank's part of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "bench/shard.h"
#include "execute/executor.h"
#include "execute/routing.h"
#include "execute/simulate/routing.h"

namespace helix {
namespace {

using Load = std::pair<int64_t, int64_t>;  // experts touched, tokens on them
Load load_of(const std::vector<int32_t>& choices, const Slice& held) {
  std::vector<int32_t> mine;
  std::ranges::copy_if(choices, std::back_inserter(mine),
                       [&](int32_t e) { return e >= held.first && e < held.first + held.count; });
  return {std::ssize(std::set(mine.begin(), mine.end())), std::ssize(mine)};
}

struct BusiestChoices : testing::Test {
  Model r1 = read_model(preset_path("deepseek-r1"));
  static Assignment alone(const Model& model, const Layout& layout, int64_t batch, int rank) {
    Assignment work;
    work.model = &model;
    work.layout = layout;
    work.lengths.assign(static_cast<size_t>(batch), 100);
    work.shard = rank;
    work.choices = busiest_choices(work);
    return work;
  }
  // Of the tokens that meet in a layer's experts.
  std::vector<int32_t> of_layer(const Assignment& work, int layer, const Slice& requests) const {
    std::vector<int32_t> all;
    for (int64_t r = requests.first; r < requests.first + requests.count; ++r) {
      const auto given = given_choice(work, layer, r);
      EXPECT_EQ(std::ssize(given), r1.experts.chosen);
      EXPECT_TRUE(std::ranges::is_sorted(given, std::less_equal())) << layer << " " << r;
      all.insert(all.end(), given.begin(), given.end());
    }
    return all;
  }
};

TEST_F(BusiestChoices, NoRankOfTheGroupHasMore) {
  for (const auto& [layout, batch] : {std::pair(Layout{.kvp = 64, .tpf = 8, .ep = 8}, 1),
                                      {{.kvp = 64, .tpf = 8, .ep = 8}, 8},
                                      {{.kvp = 8, .tpf = 1, .ep = 8}, 33},
                                      {{.pp = 2, .kvp = 16, .tpf = 1, .ep = 16}, 5},
                                      {{.dp = 4, .kvp = 4, .tpf = 4, .ep = 4}, 16}})
    for (const int rank : {0, layout.ranks() / 2, layout.ranks() - 1}) {
      const Assignment work = alone(r1, layout, batch, rank);
      ASSERT_EQ(std::ssize(work.choices),
                (r1.layers - r1.dense_layers) * batch * r1.experts.chosen);
      const int64_t held = r1.experts.count / layout.ep;
      const int64_t mine = Place(layout, rank).expert_rank() / layout.tpf;
      for (const int layer : {3, 30, 60})
        for (const Slice& requests : cut(work.lengths, layout.pp)) {
          const std::vector<int32_t> all = of_layer(work, layer, requests);
          for (int64_t other = 0; other < layout.ep; ++other)
            EXPECT_GE(load_of(all, {mine * held, held}), load_of(all, {other * held, held}))
                << "rank " << rank << ", layer " << layer;
        }
    }
}

// So a measured shard and a simulated step have the same experts to read.
TEST_F(BusiestChoices, AreWhatTheSimulatorPrices) {
  const Layout layout{.kvp = 64, .tpf = 8, .ep = 8};
  for (const int64_t batch : {1, 8, 64}) {
    const Assignment work = alone(r1, layout, batch, 0);
    double touched = 0;
    for (int layer = 3; layer < 61; ++layer)
      touched += static_cast<double>(
          load_of(of_layer(work, layer, {0, batch}), {0, r1.experts.count / 8}).first);
    simulated::Router router(r1, 0, work.seed);
    const double priced = router.choices(batch, 8).touched.busiest;
    EXPECT_NEAR(touched / 58, priced, 0.07 * priced) << batch;
  }
}

TEST_F(BusiestChoices, AreNoneOfADenseModel) {
  const Model llama = read_model(preset_path("tiny-llama"));
  EXPECT_TRUE(alone(llama, {}, 1, 0).choices.empty());
}

}  // namespace
}  // namespace helix
