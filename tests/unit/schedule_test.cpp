// What must hold of every schedule: all legal small layouts of all presets.
#include "schedule/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "layout/requests.h"
#include "layout/strategy.h"
#include "schedule/cost.h"

namespace helix {
namespace {

const std::vector<Model>& models() {
  static const std::vector<Model> all = [] {
    std::vector<Model> list;
    for (const std::string& name : preset_names()) list.push_back(read_model(preset_path(name)));
    return list;
  }();
  return all;
}

std::string text_of(const Layout& l) {
  std::string text(l.strategy);
  for (const int width : {l.pp, l.dp, l.kvp, l.tpa, l.tpf, l.ep})
    text += " " + std::to_string(width);
  for (const auto name :
       {name_of(l.query), name_of(l.merge), name_of(l.mla), name_of(l.ffn), name_of(l.moe)})
    text += " " + std::string(name);
  return text;
}

// All layouts of up to 8 ranks, with every option.
template <class Visit>
void for_all_layouts(Visit visit) {
  const Precision precision;
  for (const Model& model : models())
    for (const Strategy& strategy : strategies())
      for (const int64_t ranks : {1, 2, 4, 6, 8}) {
        LayoutQuery query;
        query.pp = {1, 2};
        query.dp = {1, 2, 4};
        query.tpa = divisors(ranks);
        query.merge = strategy.merge;
        query.query = strategy.query;
        if (model.attention.mla()) query.mla = {Mla::latent, Mla::value};
        if (strategy.shares == Shares::nothing) query.dp.clear();
        if (model.experts.count > 0) query.moe = strategy.moe;
        for (const Layout& layout : layouts(model, precision, strategy, ranks, query)) {
          SCOPED_TRACE(model.name + " " + text_of(layout));
          visit(model, layout);
          if (testing::Test::HasFailure()) return;  // of one layout
        }
      }
}

const Precision bf16_everywhere;

Schedule build(const Model& model, const Layout& layout, int chunks = 1, int rank = 0) {
  return build_schedule({&model, layout, bf16_everywhere, chunks}, rank);
}

TEST(Schedule, LayoutsAreThere) {
  std::map<std::string, int> seen;
  for_all_layouts([&](const Model&, const Layout& l) { ++seen[std::string(l.strategy)]; });
  EXPECT_EQ(seen.size(), strategies().size());
  for (const auto& [name, count] : seen) EXPECT_GE(count, 50) << name;
}

using Box = std::array<Slice, 4>;

bool disjoint(const Box& a, const Box& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].first + a[i].count <= b[i].first || b[i].first + b[i].count <= a[i].first) return true;
  return false;
}
int64_t values(const Box& box) {
  int64_t product = 1;
  for (const Slice& s : box) product *= s.count;
  return product;
}

// How many ranks of a stage hold each part of a weight (helix.md).
int copies(const Model& model, const Layout& l, W which) {
  const int replicas = l.dp;
  const int sequence = l.dp * l.kvp;  // equal on every KVP rank
  const int merged = l.merge == Merge::all_reduce ? sequence : replicas;
  const int duplicated = std::max<int>(1, l.tpa / static_cast<int>(model.attention.kv_heads));
  switch (which) {
    case W::q:
    case W::uk: return l.query == Query::gather ? replicas : sequence;
    case W::kv: return sequence * duplicated;
    case W::o: return merged;
    case W::uv: return l.mla == Mla::value ? sequence : merged;
    case W::up:
    case W::down:
    case W::shared_up:
    case W::shared_down:
      return l.ffn == Ffn::replica ? sequence : l.moe == Moe::dispatch ? replicas : 1;
    case W::experts_up:
    case W::experts_down: return l.ffn == Ffn::replica ? sequence : 1;
    case W::embed:
    case W::lm_head: return 1;
    default: return l.stage_ranks();  // norms, latents, router
  }
}

// The parts of each weight that the ranks of one stage hold, by (segment, tensor).
std::map<std::pair<int, W>, std::map<std::vector<int64_t>, int>> parts_of_stage(const Model& model,
                                                                                const Layout& l,
                                                                                int stage) {
  std::map<std::pair<int, W>, std::map<std::vector<int64_t>, int>> parts;
  for (int rank = stage * l.stage_ranks(); rank < (stage + 1) * l.stage_ranks(); ++rank) {
    const Schedule s = build(model, l, 1, rank);
    for (size_t g = 0; g < s.segments.size(); ++g) {
      std::set<Id> seen;
      for (int i = s.segments[g].begin; i < s.segments[g].end; ++i)
        for (const Id id : s.tasks[static_cast<size_t>(i)].reads)
          if (s[id].kind == Kind::weight && seen.insert(id).second) {
            std::vector<int64_t> box;
            for (const Dim& d : s[id].dims) {
              const Slice mine = d.fill == Fill::absent ? Slice{} : d.mine;
              box.push_back(mine.first), box.push_back(mine.count);
            }
            ++parts[{static_cast<int>(g), s[id].weight}][box];
          }
    }
  }
  return parts;
}

void expect_partition(const Model& model, const Layout& l, W which,
                      const std::map<std::vector<int64_t>, int>& held) {
  std::vector<Box> boxes;
  int64_t sum = 0;
  for (const auto& [b, count] : held) {
    const Box box = {Slice{b[0], b[1]}, {b[2], b[3]}, {b[4], b[5]}, {b[6], b[7]}};
    if (values(box) == 0) continue;
    EXPECT_EQ(count, copies(model, l, which)) << name_of(which);
    for (const Box& other : boxes) EXPECT_TRUE(disjoint(box, other)) << name_of(which);
    boxes.push_back(box);
    sum += values(box);
  }
  int64_t whole = 1;
  for (const int64_t n : extents_of(model, which)) whole *= n;
  EXPECT_EQ(sum, whole) << name_of(which);
}

TEST(Schedule, ShardsPartitionEveryWeight) {
  for_all_layouts([](const Model& model, const Layout& l) {
    std::map<W, int64_t> seen;  // in how many layers
    for (int stage = 0; stage < l.pp; ++stage) {
      const Schedule s = build(model, l, 1, stage * l.stage_ranks());
      for (const auto& [key, held] : parts_of_stage(model, l, stage)) {
        expect_partition(model, l, key.second, held);
        seen[key.second] += s.segments[static_cast<size_t>(key.first)].layers;
      }
    }
    for (int i = 0; i < weight_count; ++i) {
      const W which = static_cast<W>(i);
      int64_t layers = which == W::embed || which == W::lm_head ? 1 : 0;
      for (int64_t layer = 0; layer < model.layers; ++layer)
        layers += in_layer(model, which, layer) ? 1 : 0;
      if (which == W::attention_norm)
        layers += l.pp;  // the final one; a stage's first is also its neighbour's last
      if (which == W::lm_head && model.tied && l.pp == 1) layers = 0;
      if (which == W::embed && model.tied && l.pp == 1) layers = 2;  // one tensor, read twice
      EXPECT_EQ(seen[which], layers) << name_of(which);
    }
  });
}

TEST(Schedule, OneRankHoldsTheModelOnce) {
  for (const Model& model : models()) {
    const std::vector<int64_t> one = {0};
    const Schedule s = build(model, canonical(model, Layout{}));
    EXPECT_EQ(memory(s, capacity_of(s, model, {one}, 1)).weights,
              2.0 * static_cast<double>(parameters(model)))
        << model.name;
  }
}

// What a task may read: weights, history, state, and what earlier tasks wrote, of its chunk or of
// all chunks.
void expect_order(const Schedule& s, int chunks) {
  std::map<Id, std::set<int>> written;
  for (size_t i = 0; i < s.tasks.size(); ++i) {
    const Task& task = s.tasks[i];
    for (const Id id : task.reads) {
      const Kind kind = s[id].kind;
      if (kind == Kind::weight || kind == Kind::history || kind == Kind::state) continue;
      if (s.place.pp > 0 && s[id].name == "hidden") continue;  // from the stage before
      const std::set<int>& by = written[id];
      const bool whole = by.contains(all_chunks) || static_cast<int>(by.size()) == chunks;
      EXPECT_TRUE(whole || (task.chunk != all_chunks && by.contains(task.chunk)))
          << task.name << " " << i << " reads " << s[id].name;
    }
    for (const Id id : task.writes) {
      written[id].insert(task.chunk);
      EXPECT_TRUE(s[id].kind != Kind::weight && s[id].kind != Kind::history) << task.name;
    }
  }
}

void expect_lanes(const Schedule& s, int chunks) {
  for (const Segment& g : s.segments) {
    std::map<Id, int> writer;
    for (int i = g.begin; i < g.end; ++i) {
      const Task& task = s.tasks[static_cast<size_t>(i)];
      EXPECT_TRUE(chunks > 1 || (task.lane == Lane::compute && task.chunk <= 0));
      EXPECT_TRUE(task.lane == Lane::compute || task.chunk != all_chunks) << "only chunks overlap";
      EXPECT_GE(task.group.size, communicates(task.op) ? 2 : 1)
          << "a collective over one rank is nothing";
      for (const int after : task.after)
        EXPECT_TRUE(after == -1 || (after >= g.begin && after < i));
      for (const Id id : task.reads)
        if (const auto w = writer.find(id); w != writer.end()) {
          const Lane lane = s.tasks[static_cast<size_t>(w->second)].lane;
          EXPECT_GE(task.after[static_cast<size_t>(lane)], w->second)
              << task.name << " waits for its input";
        }
      for (const Id id : task.writes) writer[id] = i;
    }
  }
}

TEST(Schedule, TasksReadWhatIsWritten) {
  for_all_layouts([](const Model& model, const Layout& l) {
    for (const int chunks : {1, 3})
      for (int stage = 0; stage < l.pp; ++stage) {
        const Schedule s = build(model, l, chunks, (stage + 1) * l.stage_ranks() - 1);
        expect_order(s, chunks);
        expect_lanes(s, chunks);
        for (size_t i = 1; i < s.segments.size(); ++i)
          EXPECT_EQ(s.segments[i].begin, s.segments[i - 1].end);
        EXPECT_EQ(s.segments.back().end, static_cast<int>(s.tasks.size()));
      }
  });
}

TEST(Schedule, EveryStageAdvancesItsPositions) {
  for_all_layouts([](const Model& model, const Layout& l) {
    for (int stage = 0; stage < l.pp; ++stage) {
      const Schedule s = build(model, l, 1, stage * l.stage_ranks());
      EXPECT_EQ(std::ranges::count(s.tasks, Op::advance, &Task::op), 1);
    }
  });
}

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
