// Fusion tables: every task in exactly one cover, and no byte counted that stays inside one.
#include "schedule/covers.h"

#include <gtest/gtest.h>

#include "execute/simulate/terms.h"
#include "tests/unit/layouts.h"

namespace helix {
namespace {

const std::vector<int64_t> ragged = {0, 1, 31, 32, 64, 65, 1000, 4097};

TEST(Covers, HaveEachTaskOnceInOneSegmentLaneAndChunk) {
  for_all_layouts([](const Model& model, const Layout& l) {
    for (const int chunks : {1, 3}) {
      const Schedule s = build(model, l, chunks);
      for (const auto fusions : {cpu_fusions(), gpu_fusions()}) {
        int next = 0;
        size_t segment = 0;
        for (const Cover& cover : covers_of(s, fusions)) {
          EXPECT_EQ(cover.begin, next);
          ASSERT_GT(cover.end, cover.begin);
          next = cover.end;
          if (cover.begin >= s.segments[segment].end) ++segment;
          EXPECT_LE(cover.end, s.segments[segment].end);
          for (int i = cover.begin; i < cover.end; ++i) {
            const auto at = static_cast<size_t>(i), first = static_cast<size_t>(cover.begin);
            EXPECT_EQ(s.tasks[at].lane, s.tasks[first].lane);
            EXPECT_EQ(s.tasks[at].chunk, s.tasks[first].chunk);
          }
        }
        EXPECT_EQ(next, std::ssize(s.tasks));
      }
    }
  });
}

TEST(Covers, CpuTasksStandAlone) {
  const Schedule s = build(models().front(), canonical(models().front(), Layout{}));
  EXPECT_EQ(covers_of(s, cpu_fusions()).size(), s.tasks.size());
  EXPECT_LT(covers_of(s, gpu_fusions()).size(), s.tasks.size());
}

TEST(Covers, SaveWhatStaysInsideAndNothingElse) {
  for_all_layouts([](const Model& model, const Layout& l) {
    const Schedule s = build(model, l, 2);
    const StepState state = state_of(s, model, {ragged, 32, 5});
    for (const Cover& cover : covers_of(s, gpu_fusions())) {
      Cost tasks;
      double inner = 0;  // written and read inside: at most this falls away
      for (int i = cover.begin; i < cover.end; ++i) {
        const Task& task = s.tasks[static_cast<size_t>(i)];
        tasks += cost(s, task, state);
        for (const Id id : task.writes) inner += 2 * bytes_of(s[id], state, task.chunk);
      }
      const Cost c = cost(s, cover, state);
      EXPECT_EQ(c.early, tasks.early);
      EXPECT_EQ(c.flops, tasks.flops);
      EXPECT_EQ(c.sent, tasks.sent);
      EXPECT_EQ(c.messages, tasks.messages);
      EXPECT_GE(c.late, tasks.late - inner);
      if (cover.end - cover.begin == 1) {
        EXPECT_EQ(c.late, tasks.late);
      } else {
        EXPECT_LT(c.late, tasks.late) << name_of(s, cover);
      }
    }
  });
}

TEST(Covers, MergeReadsNoPartsFromMemory) {
  const Model model = read_model(preset_path("llama-3.1-8b"));
  const Layout l = canonical(model, {.strategy = "helix",
                                     .kvp = 4,
                                     .tpa = 2,
                                     .tpf = 8,
                                     .query = Query::replicate,
                                     .merge = Merge::a2a});
  const Schedule s = build(model, l);
  const std::vector<int64_t> lengths(8, 1000);
  const StepState state = state_of(s, model, {lengths});
  int found = 0;
  for (const Cover& cover : covers_of(s, gpu_fusions())) {
    if (name_of(s, cover) != "exchange+merge") continue;
    ++found;
    // Partial outputs and log-sum-exps of 16 heads in, 4 merged heads out.
    EXPECT_EQ(cost(s, cover, state).late, 8 * (16 * (128 * 2 + 4) + 4 * 128 * 2));
  }
  EXPECT_EQ(found, 1);
}

// What the simulator compiles says the same as the one function that counts.
TEST(Terms, GiveTheCostOfEveryLoad) {
  for_all_layouts([](const Model& model, const Layout& l) {
    const Schedule s = build(model, l, 2);
    const std::vector<int64_t> lengths(static_cast<size_t>(8 * l.stage_ranks()), 1000);
    const StepState state = state_of(s, model, {lengths, 32, 5});
    for (const Cover& cover : covers_of(s, gpu_fusions())) {
      const simulated::Terms terms = simulated::terms_of(s, cover);
      const int chunk = s.tasks[static_cast<size_t>(cover.begin)].chunk;
      const simulated::Symbols symbols = simulated::symbols_of(state, chunk);
      const Cost c = cost(s, cover, state);
      const auto near = [&](double a, double b) { EXPECT_NEAR(a, b, 1e-9 * b + 1e-9); };
      near(simulated::dot(terms.early, symbols), c.early);
      near(simulated::dot(terms.late, symbols), c.late);
      near(simulated::dot(terms.flops, symbols), c.flops);
      near(simulated::dot(terms.sent, symbols), c.sent);
    }
  });
}

}  // namespace
}  // namespace helix
