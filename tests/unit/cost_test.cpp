// What must hold of costs and memory, on all legal small layouts of all presets.
#include "schedule/cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "layout/requests.h"
#include "tests/unit/layouts.h"

namespace helix {
namespace {

const std::vector<int64_t> ragged = {0, 1, 31, 32, 64, 65, 1000, 4097};

TEST(Cost, ChunksSumToTheWhole) {
  for_all_layouts([](const Model& model, const Layout& l) {
    const Schedule whole = build(model, l);
    const Requests requests{ragged, 32, 5};
    const StepState one = state_of(whole, model, requests);
    for (const int chunks : {2, 3}) {
      const Schedule s = build(model, l, chunks);
      const StepState state = state_of(s, model, requests);
      Load sum;
      for (const Load& c : state.chunks)
        sum.rows += c.rows, sum.history += c.history, sum.newest += c.newest;
      EXPECT_EQ(sum.rows, one.all.rows);
      EXPECT_EQ(sum.history, one.all.history);
      EXPECT_EQ(sum.newest, one.all.newest);
      const Cost a = step_cost(whole, one), b = step_cost(s, state);
      EXPECT_NEAR(b.flops, a.flops, 1e-9 * a.flops);
      // An all-reduce that its group does not divide is a few values off.
      EXPECT_NEAR(b.sent, a.sent, 8.0 * l.stage_ranks() * static_cast<double>(model.layers));
      EXPECT_GE(b.messages, a.messages);
    }
  });
}

TEST(Cost, EqualRequestsAreCountedLikeOthers) {
  const Model& model = models().front();
  LayoutQuery query;
  query.dp = {1, 2, 4};
  for (const Layout& layout : layouts(model, bf16_everywhere, *find_strategy("helix"), 8, query)) {
    for (const int64_t batch : {1, 3, 7, 8})
      for (int chunks = 1; chunks <= 2; ++chunks) {
        const Schedule s = build(model, layout, chunks);
        const std::vector<int64_t> equal(static_cast<size_t>(batch), 1000);
        const StepState state = state_of(s, model, {equal, 32});
        const Slice mine = cut(equal, layout.dp).front();
        EXPECT_EQ(state.all.rows, static_cast<double>(mine.count));
        const std::vector<Slice> cuts =
            cut(std::span(equal).first(static_cast<size_t>(mine.count)), chunks);
        for (size_t c = 0; c < cuts.size(); ++c) {
          EXPECT_EQ(state.chunks[c].rows, static_cast<double>(cuts[c].count));
          EXPECT_EQ(state.chunks[c].history,
                    static_cast<double>(cuts[c].count * local_length(1000, 32, layout.kvp, 0)));
        }
      }
  }
}

TEST(Memory, RankZeroIsTheWidestOfItsStage) {
  const std::vector<int64_t> equal(7, 1000);
  for_all_layouts([&](const Model& model, const Layout& l) {
    const Schedule first = build(model, l);
    const Memory widest = memory(first, capacity_of(first, model, {equal, 16}, 8));
    for (int rank = 1; rank < l.stage_ranks(); ++rank) {
      const Schedule s = build(model, l, 1, rank);
      const Memory m = memory(s, capacity_of(s, model, {equal, 16}, 8));
      EXPECT_LE(m.weights, widest.weights) << rank;
      EXPECT_LE(m.kv, widest.kv) << rank;
      EXPECT_LE(m.buffers, widest.buffers) << rank;
    }
  });
}

TEST(Memory, MicroBatchesShareWeightsAndBuffers) {
  const Model& model = models().front();
  const Schedule s = build(model, canonical(model, Layout{}));
  const std::vector<int64_t> many(3, 100), few(2, 100);
  const std::vector<StepState> states = {capacity_of(s, model, {many}, 1),
                                         capacity_of(s, model, {few}, 1)};
  const Memory both = memory(s, states);
  const Memory first = memory(s, states[0]), second = memory(s, states[1]);
  EXPECT_EQ(both.weights, first.weights);
  EXPECT_EQ(both.kv, first.kv + second.kv);
  EXPECT_EQ(both.buffers, first.buffers + 2 * (4 + 8));  // tokens and positions outlive a passage
}

TEST(Memory, MoreKvpNeverAddsKv) {
  const std::vector<int64_t> lengths = {0, 1, 100, 5000, 100'000};
  std::map<std::string, std::map<int, double>> kv;  // by what else there is, then by KVP
  for_all_layouts([&](const Model& model, const Layout& l) {
    const Schedule s = build(model, l);
    Layout rest = l;
    rest.kvp = rest.tpf = rest.ep = 1;
    for (const int64_t length : lengths) {
      const std::vector<int64_t> equal(8, length);
      const std::string key = model.name + text_of(rest) + " " + std::to_string(length);
      kv[key][l.kvp] = memory(s, capacity_of(s, model, {equal, 32}, 8)).kv;
    }
  });
  for (const auto& [key, by_kvp] : kv)
    for (auto next = by_kvp.begin(), before = next++; next != by_kvp.end(); before = next++)
      EXPECT_LE(next->second, before->second) << key << " KVP " << next->first;
}

TEST(Cost, DispatchCountsRowsThatLeave) {
  const Model model = read_model(preset_path("deepseek-r1"));
  LayoutQuery query;
  query.moe = {Moe::dispatch};
  for (const Layout& l : layouts(model, bf16_everywhere, *find_strategy("dp_ep"), 8, query)) {
    const std::vector<int64_t> lengths(64, 1000);
    const Schedule s = build(model, l);
    const StepState state = state_of(s, model, {lengths});
    EXPECT_GT(state.leaving, 0);
    EXPECT_LE(state.leaving, state.all.rows * std::min<double>(l.dp - 1, 8.0 * l.tpf));
    EXPECT_NEAR(state.returning, state.leaving, 1e-9);  // equal replicas
    const double slices = state.all.rows * 8.0 * l.tpf * (l.dp - 1) / l.dp;
    EXPECT_LE(state.leaving, slices + 1e-9)
        << "a row goes once to a rank, however many of its experts live there";
  }
}

// Figure 1 (helix.md, Roofline): B 8, Q 128, K 8, D 128, H 16384, F 65536, half a byte, 8000 GB/s,
// 1M tokens.
TEST(Cost, RooflineOfFigure1) {
  Model model = read_model(preset_path("llama-3.1-405b"));
  model.ffn = 65536;
  Precision fp4;
  fp4.weights = fp4.kv = fp4.attention = fp4.experts = fp4.lm_head = Format::fp4;
  const std::vector<int64_t> lengths(8, 1'000'000);
  const auto microseconds = [&](int kvp, int tpa) {
    Layout l{kvp > 1 ? "helix" : "tp", 1, 1, kvp, tpa, kvp * tpa, 1};
    if (kvp > 1) l.query = Query::replicate, l.merge = Merge::a2a;
    const Schedule s = build_schedule({&model, l, fp4}, 0);
    const StepState state = state_of(s, model, {lengths, 1});
    double kv = 0, weights = 0;
    for (int i = s.segments[1].begin; i < s.segments[1].end; ++i)
      for (const Id id : s.tasks[static_cast<size_t>(i)].reads) {
        if (s[id].kind == Kind::history) kv += bytes_of(s[id], state);
        if (s[id].kind == Kind::weight && s[id].bytes == 0.5) weights += bytes_of(s[id], state);
      }
    return std::pair{kv / 8e6, weights / 8e6};
  };
  const auto expect = [](std::pair<double, double> got, double kv, double weights) {
    EXPECT_NEAR(got.first, kv, 0.05);
    EXPECT_NEAR(got.second, weights, 0.05);
  };
  expect(microseconds(1, 8), 128, 29.6);
  expect(microseconds(1, 64), 128, 3.9);
  expect(microseconds(8, 8), 16, 5.8);  // W_O at width N, as the paper's text has it
}

}  // namespace
}  // namespace helix
