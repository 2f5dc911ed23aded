// What a point is held against where nobody says: a step where that tells right from wrong.
#include "bench/scope.h"

#include <gtest/gtest.h>

#include "bench/verification.h"
#include "model/model.h"

namespace helix {
namespace {

Scope chosen(const char* name, Format activations, int requests = 1) {
  const Model model = read_model(preset_path(name));
  Assignment work;
  work.model = &model;
  work.precision.activations = activations;
  work.lengths.assign(static_cast<size_t>(requests), 1000);
  return scope_of(Scope::automatic, work);
}

TEST(AutomaticScope, IsAStepWhereTheJudgeIsQuickAndRoundingStaysSmall) {
  for (const char* name : {"tiny-llama", "tiny-deepseek", "llama-3.2-1b"})
    EXPECT_EQ(chosen(name, Format::bf16), Scope::step) << name;
}

TEST(AutomaticScope, IsTasksWhereManyLayersRoundOff) {
  EXPECT_EQ(chosen("deepseek-v2-lite", Format::bf16), Scope::tasks);
  EXPECT_EQ(chosen("deepseek-v2-lite", Format::fp32), Scope::step);
}

TEST(AutomaticScope, IsTasksWhereAStepWouldTakeTheJudgeMinutes) {
  EXPECT_EQ(chosen("llama-3.2-1b", Format::bf16, 64), Scope::tasks);
  EXPECT_EQ(chosen("llama-3.1-405b", Format::fp32), Scope::tasks);
}

TEST(AutomaticScope, GivesWayToWhatIsWanted) {
  const Model model = read_model(preset_path("deepseek-v2-lite"));
  Assignment work;
  work.model = &model;
  for (const Scope wanted : {Scope::none, Scope::step, Scope::tasks})
    EXPECT_EQ(scope_of(wanted, work), wanted);
}

}  // namespace
}  // namespace helix
