// ranks: 4 timeout: 200
// Verification of scope `tasks`: it passes what is right, in every strategy and format, and each
// negative control errs by ten tolerances.
#include <gtest/gtest.h>

#include "bench/controls.h"
#include "bench/tasks/compare.h"
#include "bench/verify_cases.h"
#include "execute/cpu/executor.h"
#include "layout/strategy.h"
#include "tests/mpi/task_layouts.h"

namespace helix {
namespace {

Comparison compared(World& world, const Assignment& work, const Control* control = nullptr) {
  Comparison result;
  if (const Communicator& ranks = world.first(work.layout.ranks()); ranks) {
    cpu::CpuExecutor executor(ranks.get(), work);
    if (control != nullptr) control->inject(executor, work);
    result = compare_tasks(ranks.get(), executor, work);
  }
  world.meet();
  return result;
}

void check(World& world, const Assignment& work) {
  const Comparison c = compared(world, work);
  EXPECT_TRUE(c.passed(tasks_tolerance(work.precision)))
      << work.model->name << " " << describe(work.layout) << ", " << name_of(work.precision.weights)
      << "/" << name_of(work.precision.kv) << "/" << name_of(work.precision.activations)
      << ", chunks " << work.chunks << ": error " << c.max_rel_err << ", layers unequal "
      << c.hashes_differing;
}

// Each layout is dealt three of the formats.
void check_all(World& world, const Model& model, const std::vector<Layout>& layouts) {
  const auto precisions = verified_precisions();
  for (size_t i = 0; i < layouts.size(); ++i)
    for (size_t deal = 0; deal < 3; ++deal) {
      const Layout& layout = layouts[i];
      const Precision& precision = precisions[(i + 3 * deal) % precisions.size()].precision;
      Assignment work{.model = &model,
                      .layout = layout,
                      .precision = precision,
                      .interval = 16,
                      .lengths = {300, 0, 16, 33, 700},
                      .steps = 2};
      if (layout.kvp > 1 && precision.activations == Format::bf16) work.chunks = 2;
      if (!refuse(model, precision, layout)) check(world, work);
    }
}

void expect_caught(World& world, const Model& model, const std::vector<Layout>& layouts) {
  for (const Control& control : controls())
    for (const Layout& layout : layouts) {
      if (!control.applies(model, layout) || layout.pp > 1) continue;
      const Assignment work = control_assignment(model, control.changed(layout));
      EXPECT_GE(compared(world, work, &control).max_rel_err, 10 * tasks_tolerance(work.precision))
          << control.name << ", " << model.name << " " << describe(layout);
    }
}

struct Tasks : testing::Test {
  Tasks() { set_threads(world, 1); }
  World world;
  Model llama = read_model(preset_path("tiny-llama"));
  Model deepseek = read_model(preset_path("tiny-deepseek"));
  Model qwen = read_model(preset_path("tiny-qwen3-moe"));
};

TEST_F(Tasks, PassWhatIsRight) {
  check_all(world, llama, dense_layouts());
  check_all(world, deepseek, moe_layouts());
  check_all(world, qwen, {helix_4, {.strategy = "tp", .tpa = 4, .tpf = 2, .ep = 2}});
}

TEST_F(Tasks, CatchEveryNegativeControl) {
  const std::vector<Layout> dense = dense_layouts(), moe = moe_layouts();
  expect_caught(world, llama, {dense[0], dense[1], dense[2]});
  expect_caught(world, deepseek, {moe[0], moe[2]});
}

// A model of random data, as the large ones are: no token has weight but those that are probed.
TEST_F(Tasks, ProbesShowASingleTokenOfThousands) {
  for (Model* model : {&llama, &deepseek}) {
    model->marked = false;
    for (const Layout& layout : model == &llama ? std::vector{helix_4} : moe_layouts()) {
      if (layout.kvp == 1) continue;
      Assignment work = control_assignment(*model, layout);
      work.precision = verified_precisions()[1].precision;  // bf16
      work.lengths = {4096, 5000};
      check(world, work);
      for (const Control& control : controls()) {
        if (!control.name.starts_with("newest")) continue;
        const Comparison c = compared(world, work, &control);
        EXPECT_GE(c.max_rel_err, 10 * tasks_tolerance(work.precision))
            << control.name << ", " << describe(layout);
      }
    }
  }
}

// One number of one task's result is off.
TEST_F(Tasks, SeeASingleWrongNumber) {
  const Assignment work = control_assignment(llama, helix_4);
  for (const Op op : {Op::angles, Op::embed, Op::norm, Op::add_norm, Op::product, Op::rope,
                      Op::attend, Op::merge, Op::swiglu, Op::all_to_all, Op::all_reduce}) {
    const bool prologue = op == Op::angles || op == Op::embed || op == Op::norm;
    if (const Communicator& ranks = world.first(4); ranks) {
      cpu::CpuExecutor executor(ranks.get(), work);
      executor.hooks().after = [&](const Task& task, int layer) {
        if (task.op != op || layer != (prologue ? 0 : llama.layers - 1)) return;
        const TensorView view = executor.view(task.writes[0], task.chunk);
        if (executor.schedule().place.rank() == 3)
          reinterpret_cast<float*>(view.data)[view.values - 1] += 0.25F;
      };
      const Comparison c = compare_tasks(ranks.get(), executor, work);
      EXPECT_GE(c.max_rel_err, 10 * tasks_tolerance(work.precision)) << row_of(op).name;
    }
    world.meet();
  }
}

}  // namespace
}  // namespace helix
