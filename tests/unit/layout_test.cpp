// Requests, tokens and shards against brute force.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <tuple>

#include "layout/requests.h"
#include "layout/strategy.h"
#include "tests/unit/layout_cases.h"

namespace helix {
namespace {

TEST(RoundRobin, MatchesDealingOutTokenByToken) {
  for (const int kvp : {1, 2, 3, 5, 8})
    for (const int64_t interval : {1, 3, 16})
      for (int64_t length = 0; length <= 2 * kvp * interval + 2; ++length) {
        std::vector<int64_t> held(static_cast<size_t>(kvp), 0);
        for (int64_t p = 0; p < length; ++p) {
          const int r = owner(p, interval, kvp);
          const int64_t local = held[static_cast<size_t>(r)]++;
          ASSERT_EQ(global_position(local, interval, kvp, r), p);
        }
        for (int r = 0; r < kvp; ++r)
          ASSERT_EQ(local_length(length, interval, kvp, r), held[static_cast<size_t>(r)])
              << "length " << length << " interval " << interval << " rank " << r << "/" << kvp;
      }
}

TEST(Cut, PartsAreConsecutiveAndNoneIsEmptyWhileRequestsRemain) {
  Dice dice;
  for (int trial = 0; trial < 20000; ++trial) {
    const int64_t count = dice.roll(20);
    const int64_t parts = 1 + dice.roll(9);
    const int64_t longest = dice.roll(2) == 0 ? 1 : 1000;
    std::vector<int64_t> lengths;
    for (int64_t i = 0; i < count; ++i) lengths.push_back(dice.roll(longest));
    const std::vector<Slice> cuts = cut(lengths, parts);
    ASSERT_EQ(static_cast<int64_t>(cuts.size()), parts);
    int64_t next = 0;
    for (const Slice& part : cuts) {
      ASSERT_EQ(part.first, next);
      ASSERT_EQ(part.count == 0, next == count);
      next += part.count;
      ASSERT_TRUE(count < parts || part.count > 0);
    }
    ASSERT_EQ(next, count);
  }
}

TEST(Cut, EqualRequestsGiveEqualPartsTheRestInTheLowest) {
  for (int64_t count = 0; count < 30; ++count)
    for (int64_t parts = 1; parts < 10; ++parts) {
      const std::vector<int64_t> lengths(static_cast<size_t>(count), 77);
      const std::vector<Slice> cuts = cut(lengths, parts);
      for (int64_t i = 0; i < parts; ++i)
        ASSERT_EQ(cuts[static_cast<size_t>(i)], share(count, parts, i)) << count << "/" << parts;
    }
}

// No part holds more than its share of what was left and one request.
TEST(Cut, BalancesTokens) {
  Dice dice;
  for (int trial = 0; trial < 5000; ++trial) {
    std::vector<int64_t> lengths;
    for (int64_t i = 0; i < 8 + dice.roll(24); ++i) lengths.push_back(dice.roll(100));
    const int64_t parts = 1 + dice.roll(4);
    double left = 0;
    for (const int64_t length : lengths) left += double(length) + 1;
    int64_t parts_left = parts;
    for (const Slice& part : cut(lengths, parts)) {
      double held = 0;
      for (int64_t i = 0; i < part.count; ++i)
        held += double(lengths[static_cast<size_t>(part.first + i)]) + 1;
      ASSERT_LE(held, left / double(parts_left) + 101);
      left -= held;
      --parts_left;
    }
  }
}

// Every index of [0, n) lies in exactly `times` of the slices.
testing::AssertionResult covered(const std::vector<Slice>& slices, int64_t n, int64_t times) {
  std::map<int64_t, int64_t> steps = {{0, 0}, {n, 0}};
  for (const Slice& s : slices) {
    if (s.count < 0) return testing::AssertionFailure() << "a slice of " << s.count;
    steps[s.first] += 1;
    steps[s.first + s.count] -= 1;
  }
  int64_t depth = 0;
  for (const auto& [at, step] : steps) {
    depth += step;
    if (at < 0 || at > n || depth != (at < n ? times : 0))
      return testing::AssertionFailure() << depth << " times at " << at << " of " << n;
  }
  return testing::AssertionSuccess();
}

std::vector<Slice> of_stage(const Layout& l, const std::function<Slice(const Place&)>& mine) {
  std::vector<Slice> slices;
  for (int r = 0; r < l.stage_ranks(); ++r) slices.push_back(mine(Place(l, r)));
  return slices;
}

void check_attention(const Model& m, const Layout& l) {
  const int64_t q = m.attention.query_heads;
  const int64_t k = m.attention.kv_heads;
  const bool whole = l.kvp > 1 && l.merge == Merge::all_reduce;
  EXPECT_TRUE(covered(of_stage(l, [&](const Place& p) { return p.heads(q); }), q, l.dp * l.kvp));
  EXPECT_TRUE(covered(of_stage(l, [&](const Place& p) { return p.merged_heads(q); }), q,
                      whole ? l.dp * l.kvp : l.dp));
  EXPECT_TRUE(covered(of_stage(l, [&](const Place& p) { return p.kv_heads(k); }), k,
                      int64_t{l.dp} * l.kvp * std::max<int64_t>(1, l.tpa / k)));
  for (int r = 0; r < l.stage_ranks(); ++r) {
    const Place p(l, r);
    const Slice heads = p.heads(q);
    const Slice keys = p.kv_heads(k);
    for (int64_t h = heads.first; h < heads.first + heads.count; ++h) {
      const int64_t key = h / (q / k);
      EXPECT_TRUE(keys.first <= key && key < keys.first + keys.count) << "head " << h;
    }
    // The exchange gives each KVP rank a part of the heads that its TPA slice attended to.
    const Slice merged = p.merged_heads(q);
    EXPECT_GE(merged.first, heads.first);
    EXPECT_LE(merged.first + merged.count, heads.first + heads.count);
  }
}

void check_ffn(const Model& m, const Precision& f, const Layout& l) {
  const auto dense = [&](int64_t width) {
    const int64_t block = f.weights == Format::nvfp4 ? 16 : 1;
    const auto slices = of_stage(
        l, [&](const Place& p) { return share(width, l.dense_width(), p.dense_index(), block); });
    EXPECT_TRUE(covered(slices, width, l.stage_ranks() / l.dense_width()));
    for (const Slice& s : slices) EXPECT_GT(s.count, 0);
  };
  if (m.dense_layers > 0) dense(m.ffn);
  if (m.experts.count == 0) return;
  if (m.experts.shared > 0) dense(m.experts.shared * m.experts.width);
  // An expert's width lies next to that of the expert before: one axis of E x M.
  const int64_t block = f.experts == Format::nvfp4 ? 16 : 1;
  std::vector<Slice> parts;
  for (int r = 0; r < l.stage_ranks(); ++r) {
    const int at = Place(l, r).expert_rank();
    const Slice experts = share(m.experts.count, l.ep, at / l.tpf);
    const Slice width = share(m.experts.width, l.tpf, at % l.tpf, block);
    EXPECT_GT(width.count, 0);
    for (int64_t e = experts.first; e < experts.first + experts.count; ++e)
      parts.push_back({e * m.experts.width + width.first, width.count});
  }
  EXPECT_TRUE(covered(parts, m.experts.count * m.experts.width, l.stage_ranks() / (l.tpf * l.ep)));
}

void check_groups(const Layout& l) {
  using Make = Group (Place::*)() const;
  for (const Make make : {&Place::kvp_group, &Place::tpa_group, &Place::replica, &Place::dp_group,
                          &Place::stage, &Place::output_group, &Place::dense_group})
    for (int r = 0; r < l.ranks(); ++r) {
      const Place p(l, r);
      EXPECT_EQ(p.rank(), r);
      const Group mine = (p.*make)();
      EXPECT_EQ(mine.first + mine.index * mine.stride, r);
      for (int i = 0; i < mine.size; ++i) {  // all members agree
        const Group other = (Place(l, mine.first + i * mine.stride).*make)();
        EXPECT_EQ(std::tuple(other.size, other.first, other.stride, other.index),
                  std::tuple(mine.size, mine.first, mine.stride, i));
      }
    }
}

TEST(Shards, CoverEverythingTheRightNumberOfTimes) {
  LayoutQuery query;
  query.pp = {1, 2, 3};
  query.dp = {};
  int64_t seen = 0;
  for (const Model& m : all_models())
    for (const Precision& f : precisions())
      for (const int64_t ranks : {1, 2, 3, 4, 6, 8, 12, 16, 24, 64})
        for (const Strategy& strategy : strategies()) {
          query.tpa = ranks <= 16 ? divisors(ranks) : std::vector<int64_t>{};
          for (const Layout& l : layouts(m, f, strategy, ranks, query)) {
            SCOPED_TRACE(m.name + ": " + describe(l));
            ++seen;
            check_attention(m, l);
            check_ffn(m, f, l);
            if (f == Precision{} && ranks <= 16) check_groups(l);
            EXPECT_TRUE(covered(of_stage(l,
                                         [&](const Place& p) {
                                           return rows_of(m.vocabulary, l.stage_ranks(),
                                                          p.in_stage());
                                         }),
                                m.vocabulary, 1));
            std::vector<Slice> layers;
            for (int s = 0; s < l.pp; ++s) layers.push_back(share(m.layers, l.pp, s));
            EXPECT_TRUE(covered(layers, m.layers, 1));
            if (HasFailure()) return;
          }
        }
  EXPECT_GT(seen, 3000);
}

// helix.md: TensorRT-LLM shipped the other order, wrong only when KVP > 1 and TPA > 1.
TEST(Shards, KvpRanksAreConsecutiveInTheHeadOrder) {
  const Layout l{.strategy = "helix",
                 .kvp = 2,
                 .tpa = 4,
                 .tpf = 8,
                 .query = Query::replicate,
                 .merge = Merge::a2a};
  for (int r = 0; r < 8; ++r) {
    const Place p(l, r);
    EXPECT_EQ(p.merged_heads(16), (Slice{2 * r, 2}));
    EXPECT_EQ(p.heads(16), (Slice{r / 2 * 4, 4}));
  }
}

TEST(Describe, SaysWhatDiffersFromThePlainCase) {
  Layout l{.strategy = "helix",
           .kvp = 4,
           .tpa = 2,
           .tpf = 8,
           .query = Query::replicate,
           .merge = Merge::a2a};
  EXPECT_EQ(describe(l), "helix KVP 4 x TPA 2 -> TPF 8");
  l.pp = 2;
  l.dp = 2;
  l.tpf = 4;
  l.ep = 4;
  l.moe = Moe::dispatch;
  l.mla = Mla::value;
  EXPECT_EQ(describe(l), "helix PP 2 x DP 2 x KVP 4 x TPA 2 -> TPF 4 x EP 4, value, dispatch");
  EXPECT_EQ(
      describe(
          {.strategy = "dcp", .kvp = 2, .tpf = 2, .query = Query::gather, .merge = Merge::a2a}),
      "dcp KVP 2 -> TPF 2, a2a");
  EXPECT_EQ(describe({}), "tp TPA 1 -> TPF 1");
  EXPECT_EQ(describe({.strategy = "dp_ep", .dp = 8, .tpf = 8}), "dp_ep DP 8 -> TPF 8");
}

}  // namespace
}  // namespace helix
