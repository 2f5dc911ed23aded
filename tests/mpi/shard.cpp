// ranks: 4 timeout: 200
// Each process carries out the rank of its own number alone (`--shard`): exactly the tasks and
// bytes of that rank among all, and right by its own inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "bench/shard.h"
#include "bench/tasks/compare.h"
#include "bench/verify_cases.h"
#include "bench/world.h"
#include "execute/cpu/executor.h"
#include "execute/cpu/generate.h"
#include "layout/strategy.h"
#include "tests/mpi/task_layouts.h"

namespace helix {
namespace {

Assignment alone(Assignment work, int rank) {
  work.shard = rank;
  work.choices = busiest_choices(work);
  return work;
}

Assignment holding_weights(Assignment work) {
  work.weights = std::make_shared<HeldWeights>();
  return work;
}

std::vector<double> bytes_of(const Memory& m) { return {m.weights, m.kv, m.buffers}; }

std::string text_of(const Assignment& work) {
  return work.model->name + " " + describe(work.layout) + ", " +
         std::string(name_of(work.precision.weights)) + "/" +
         std::string(name_of(work.precision.kv)) + "/" +
         std::string(name_of(work.precision.activations)) + ", chunks " +
         std::to_string(work.chunks) + ", rank " + std::to_string(work.shard.value_or(-1));
}

// How often a step carries out each task, of each layer.
std::map<std::pair<int, int>, int> carried_out(Executor& executor) {
  std::map<std::pair<int, int>, int> times;
  executor.rewind();
  executor.fill();
  executor.hooks().after = [&](const Task& task, int layer) {
    ++times[{static_cast<int>(&task - executor.schedule().tasks.data()), layer}];
  };
  executor.step();
  executor.hooks().after = {};
  return times;
}

void expect_every_task(Executor& executor, const std::string& text) {
  const Schedule& schedule = executor.schedule();
  std::map<std::pair<int, int>, int> all;
  for (const Segment& segment : schedule.segments)
    for (int layer = segment.first_layer; layer < segment.first_layer + segment.layers; ++layer)
      for (int task = segment.begin; task < segment.end; ++task)
        all[{task, layer}] = schedule.place.l.pp;  // of each micro-batch
  EXPECT_EQ(carried_out(executor), all) << text;
}

void expect_finite(Executor& executor, const std::string& text) {
  executor.step();
  for (const float logit : executor.logits()) ASSERT_TRUE(std::isfinite(logit)) << text;
}

struct Shards : testing::Test {
  Shards() { set_threads(world, 1); }

  void check(const Assignment& whole) const {
    const Assignment work = alone(whole, world.rank());
    const std::string text = text_of(work);
    cpu::CpuExecutor shard(MPI_COMM_SELF, work);
    const Schedule& schedule = shard.schedule();
    ASSERT_EQ(schedule.place.rank(), world.rank()) << text;
    const auto capacities = capacities_of(
        schedule, *work.model,
        {.lengths = work.lengths, .interval = work.interval, .kv_layout = work.kv_layout},
        work.steps);
    EXPECT_EQ(bytes_of(shard.allocated()), bytes_of(memory(schedule, capacities))) << text;
    const Comparison c = compare_tasks(MPI_COMM_SELF, shard, work);
    EXPECT_TRUE(c.passed(tasks_tolerance(work.precision))) << text << ": " << c.max_rel_err;
    expect_every_task(shard, text);
    expect_finite(shard, text);
    // Among all ranks it is the same.
    const cpu::CpuExecutor among_all(world.comm(), whole);
    EXPECT_EQ(bytes_of(shard.allocated()), bytes_of(among_all.allocated())) << text;
    EXPECT_EQ(schedule.tasks.size(), among_all.schedule().tasks.size()) << text;
  }

  // Each layout is dealt two of the formats.
  void check_all(const Model& model, const std::vector<Layout>& layouts) const {
    const auto precisions = verified_precisions();
    for (size_t i = 0; i < layouts.size(); ++i)
      for (size_t deal = 0; deal < 2; ++deal) {
        Assignment work{.model = &model,
                        .layout = layouts[i],
                        .precision = precisions[(i + 4 * deal) % precisions.size()].precision,
                        .interval = 16,
                        .lengths = {300, 0, 16, 33, 700},
                        .steps = 3};
        if (deal == 1) work.kv_layout = KvLayout::paged;
        if (layouts[i].kvp > 1) work.chunks = static_cast<int>(1 + deal);
        if (!refuse(model, work.precision, layouts[i])) check(work);
      }
  }

  World world;
  Model llama = read_model(preset_path("tiny-llama"));
  Model deepseek = read_model(preset_path("tiny-deepseek"));
};

TEST_F(Shards, AreTheRanksOfDenseLayouts) { check_all(llama, dense_layouts()); }
TEST_F(Shards, AreTheRanksOfLayoutsWithExperts) { check_all(deepseek, moe_layouts()); }

// Where the layers of a weight stand in the store.
std::vector<std::span<std::byte>> layers_of(const Store& store, const Schedule& schedule, Id id) {
  std::vector<std::span<std::byte>> layers;
  const auto bytes = static_cast<size_t>(helix::bytes_of(schedule[id], store.capacity()));
  for (const Segment& segment : schedule.segments)
    for (int task = segment.begin; task < segment.end && layers.empty(); ++task)
      for (const Id read : schedule.tasks[static_cast<size_t>(task)].reads)
        for (int i = 0; read == id && i < segment.layers; ++i)
          layers.emplace_back(store.weight(id, segment.first_layer + i), bytes);
  return layers;
}

std::array<int64_t, 4> beginning_of(const Tensor& t) {
  return {t.dims[0].mine.first, t.dims[1].mine.first, t.dims[2].mine.first, t.dims[3].mine.first};
}

// One weight after the other is what the next rank holds.
TEST_F(Shards, HoldNoOtherRanksWeights) {
  int replaced = 0;
  for (const auto& [model, layout] :
       {std::pair(&llama, dense_layouts()[0]), std::pair(&deepseek, moe_layouts()[0])}) {
    Assignment work{.model = model,
                    .layout = layout,
                    .precision = verified_precisions()[0].precision,
                    .lengths = std::vector<int64_t>(24, 40)};
    const Assignment other = alone(holding_weights(work), (world.rank() + 1) % 4);
    work = alone(holding_weights(work), world.rank());
    cpu::CpuExecutor mine(MPI_COMM_SELF, work);
    const cpu::CpuExecutor theirs(MPI_COMM_SELF, other);
    const Store to(mine.schedule(), work, cpu::allocate);  // the executors' own weights
    const Store from(theirs.schedule(), other, cpu::allocate);
    const auto count = static_cast<Id>(mine.schedule().tensors.size());
    for (Id id = 0; id < count; ++id) {
      const Tensor& weight = mine.schedule()[id];
      if (weight.kind != Kind::weight ||
          beginning_of(weight) == beginning_of(theirs.schedule()[id]))
        continue;
      const auto held = layers_of(to, mine.schedule(), id);
      const auto wrong = layers_of(from, theirs.schedule(), id);
      std::vector<std::vector<std::byte>> right;
      for (size_t i = 0; i < held.size(); ++i) {
        right.emplace_back(held[i].begin(), held[i].end());
        std::ranges::copy(wrong[i].first(std::min(wrong[i].size(), held[i].size())),
                          held[i].begin());
      }
      EXPECT_GE(compare_tasks(MPI_COMM_SELF, mine, work).max_rel_err,
                10 * tasks_tolerance(work.precision))
          << weight.name << ", " << text_of(work);
      for (size_t i = 0; i < held.size(); ++i) std::ranges::copy(right[i], held[i].begin());
      ++replaced;
    }
    EXPECT_TRUE(compare_tasks(MPI_COMM_SELF, mine, work).passed(tasks_tolerance(work.precision)))
        << text_of(work) << ", its own weights again";
  }
  EXPECT_GE(replaced, 12);
}

// Tokens that went to other experts than they were given are wrong, whatever their gates.
TEST_F(Shards, SendTokensToTheExpertsTheyWereGiven) {
  Assignment work{.model = &deepseek,
                  .layout = moe_layouts()[0],
                  .precision = verified_precisions()[0].precision,
                  .lengths = {300, 16}};
  work = alone(work, world.rank());
  cpu::CpuExecutor shard(MPI_COMM_SELF, work);
  EXPECT_TRUE(compare_tasks(MPI_COMM_SELF, shard, work).passed(tasks_tolerance(work.precision)));
  const int64_t chosen = deepseek.experts.chosen;
  for (size_t i = 0; i < work.choices.size(); i += static_cast<size_t>(chosen))
    for (int64_t e = 0; e < chosen; ++e)
      work.choices[i + static_cast<size_t>(e)] = static_cast<int32_t>(e);
  EXPECT_TRUE(std::isinf(compare_tasks(MPI_COMM_SELF, shard, work).max_rel_err));
}

}  // namespace
}  // namespace helix
