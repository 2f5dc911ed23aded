// What must hold of every schedule, on all legal small layouts of all presets: who holds which
// weights, and order.
#include "schedule/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "schedule/cost.h"
#include "tests/unit/layouts.h"

namespace helix {
namespace {

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
    const int64_t biases =
        model.experts.bias ? (model.layers - model.dense_layers) * model.experts.count : 0;
    EXPECT_EQ(memory(s, capacity_of(s, model, {one}, 1)).weights,
              2.0 * static_cast<double>(parameters(model) + biases))  // they are fp32
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
      if (task.chunk != all_chunks && chunks > 1) {  // exchanges overlap attention
        EXPECT_TRUE(task.op != Op::attend || task.lane == Lane::compute);
        EXPECT_TRUE(!communicates(task.op) || task.lane == Lane::exchange) << task.name;
      }
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

// KVP ranks are consecutive and TPA ranks strided by KVP; a rank's slice of W_O is index tpa * KVP
// + kvp.
TEST(Schedule, HeadOrder) {
  for_all_layouts([](const Model& model, const Layout& l) {
    if (l.kvp == 1) return;
    const int64_t q = model.attention.query_heads;
    for (int rank = 0; rank < l.stage_ranks(); ++rank) {
      const int kvp = rank % l.kvp, tpa = rank / l.kvp % l.tpa;
      const bool whole = l.merge == Merge::all_reduce;
      const int64_t mine = whole ? q / l.tpa : q / l.replica_ranks();
      for (const Tensor& t : build(model, l, 1, rank).tensors) {
        if (t.kind != Kind::weight) continue;
        const int64_t merged = tpa * l.kvp + kvp;
        if (t.weight == W::o) {
          EXPECT_EQ(t.dims[1].mine, (Slice{(whole ? tpa : merged) * mine, mine}));
        } else if (t.weight == W::q && l.query == Query::gather) {
          EXPECT_EQ(t.dims[0].mine.first, merged * q / l.replica_ranks());
        } else if (t.weight == W::q) {
          EXPECT_EQ(t.dims[0].mine.first, tpa * q / l.tpa);
        }
      }
    }
  });
}

}  // namespace
}  // namespace helix
