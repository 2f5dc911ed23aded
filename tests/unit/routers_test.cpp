// What stands between a run and the judge's choice of experts: router logits that are off are seen,
// and so is a choice that its own logits do not make, however near the judge's they are.
#include "bench/routers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "bench/verification.h"
#include "execute/routing.h"
#include "judge/ffn.h"
#include "kernels/cpu/moe.h"
#include "tests/unit/kernels.h"

namespace helix {
namespace {

constexpr int64_t steps = 20;

class Routers : public testing::TestWithParam<const char*> {
 protected:
  Routers() {
    std::vector<double> gates;
    Generator generator(model_, work_.precision, work_.seed);
    for (int64_t step = 0; step < steps; ++step) {
      verdict_.tokens.push_back(0);
      for (int layer = 0; layer < model_.layers; ++layer) {
        std::vector<float> logits = random_.normals<float>(model_.experts.count);
        const JudgeRouting right =
            choose_experts(model_.experts, {logits.begin(), logits.end()}, bias(layer), gates);
        verdict_.experts.insert(verdict_.experts.end(), right.experts.begin(), right.experts.end());
        verdict_.router_logits.insert(verdict_.router_logits.end(), logits.begin(), logits.end());
      }
    }
  }
  std::vector<double> bias(int layer) const {
    if (!model_.experts.bias) return {};
    std::vector<float> values(static_cast<size_t>(model_.experts.count));
    Generator(model_, work_.precision, work_.seed)
        .weights(W::router_bias, layer, {whole(model_.experts.count), whole(1), whole(1), whole(1)},
                 values.data());
    return {values.begin(), values.end()};
  }
  std::vector<float> logits(int64_t step, int layer) const {
    const auto count = model_.experts.count;
    const auto at = verdict_.router_logits.begin() + (step * model_.layers + layer) * count;
    return {at, at + count};
  }
  // As the CPU's kernels choose.
  std::vector<int32_t> chosen_by(std::vector<float> row, int layer, bool with_bias = true) const {
    const cpu::Routing routing = routing_of(model_.experts);
    std::vector<float> b;
    for (const double value : bias(layer)) b.push_back(static_cast<float>(value));
    std::vector<cpu::Choice> choice(static_cast<size_t>(routing.chosen));
    cpu::score(routing, row);
    cpu::choose(routing, row, with_bias ? b : std::vector<float>(), choice);
    std::vector<int32_t> experts;
    for (const cpu::Choice& c : choice) experts.push_back(c.expert);
    return experts;
  }
  // What is met when each token's router has `change` of its logits, and `choose` of those.
  template <class Change, class Choose>
  RoutersMet met(Change change, Choose choose) {
    RouterCheck check(work_, verdicts_);
    for (int64_t step = 0; step < steps; ++step)
      for (int layer = 0; layer < model_.layers; ++layer) {
        std::vector<float> own = logits(step, layer);
        change(own);
        check.note(step, layer, 0, own, choose(own, layer));
      }
    return check.met();
  }
  auto rightly() {
    return [this](const std::vector<float>& own, int layer) { return chosen_by(own, layer); };
  }

  Model model_ = [] {
    Model m = read_model(preset_path(GetParam()));
    m.dense_layers = 0;
    return m;
  }();
  Assignment work_ = [this] {
    Assignment work;
    work.model = &model_;
    work.lengths = {1};
    return work;
  }();
  cpu::Random random_{7};
  Verdict verdict_;
  std::vector<const Verdict*> verdicts_ = {&verdict_};
};

void as_they_are(std::vector<float>&) {}

TEST_P(Routers, TheJudgesOwnAreRight) {
  const RoutersMet m = met(as_they_are, rightly());
  EXPECT_EQ(m.choices, steps * model_.layers * model_.experts.chosen);
  EXPECT_EQ(m.differing, 0);
  EXPECT_EQ(m.error, 0);
  EXPECT_EQ(m.wrong, 0);
}

// Logits that are off by rounding choose otherwise near ties, which is right and counted.
TEST_P(Routers, OtherChoicesOfOtherLogitsAreNotWrong) {
  const RoutersMet m = met(
      [&](std::vector<float>& own) {
        for (float& value : own) value += 0.2F * random_.normal();
      },
      rightly());
  EXPECT_GT(m.differing, 0);
  EXPECT_EQ(m.wrong, 0);
  EXPECT_GT(m.error, 0.05);
}

// The weakest of the chosen experts gives way to the best of the others: near the threshold, and
// yet seen in every token whose logits are not equals.
TEST_P(Routers, AChoiceThatItsLogitsDoNotMakeIsWrong) {
  const RoutersMet m = met(as_they_are, [this](const std::vector<float>& own, int layer) {
    std::vector<int32_t> experts = chosen_by(own, layer);
    const auto by_logit = [&](int32_t a, int32_t b) { return own[a] < own[b]; };
    const auto weakest = std::ranges::min_element(experts, by_logit);
    std::vector<int32_t> others;
    for (int32_t e = 0; e < model_.experts.count; ++e)
      if (!std::ranges::binary_search(experts, e)) others.push_back(e);
    *weakest = *std::ranges::max_element(others, by_logit);
    std::ranges::sort(experts);
    return experts;
  });
  EXPECT_EQ(m.differing, steps * model_.layers);
  EXPECT_EQ(m.wrong, steps * model_.layers);
  EXPECT_EQ(m.error, 0);
}

using BiasedRouters = Routers;
TEST_P(BiasedRouters, AForgottenBiasIsWrong) {
  const RoutersMet m = met(as_they_are, [this](const std::vector<float>& own, int layer) {
    return chosen_by(own, layer, false);
  });
  EXPECT_GT(m.differing, 0);
  EXPECT_GT(m.wrong, 0);
}

// One expert's logit, of one token in one layer.
TEST_P(Routers, ALogitThatIsOffIsSeen) {
  for (const float off :
       {0.2F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    bool done = false;
    const RoutersMet m = met(
        [&](std::vector<float>& own) {
          if (!std::exchange(done, true)) own.back() += off;
        },
        [&](const std::vector<float>&, int) {
          return std::vector<int32_t>{0, 1, 2, 3};
        });
    EXPECT_GT(m.error, 0.02) << off;
  }
}

// A logit that is off counts the same in every token of a layer, however small the token's own
// logits are, and whatever other layers have.
TEST_P(Routers, WhatALogitIsOffByIsHeldAgainstItsLayer) {
  const auto count = model_.experts.count;
  std::vector<double> largest(static_cast<size_t>(model_.layers));
  for (int64_t token = 0; token < steps * model_.layers; ++token) {
    const int64_t layer = token % model_.layers;
    for (int64_t i = token * count; i < (token + 1) * count; ++i) {
      float& logit = verdict_.router_logits[static_cast<size_t>(i)];
      logit *= token < model_.layers ? 0.1F : layer == 0 ? 10.0F : 1.0F;
      double& most = largest[static_cast<size_t>(layer)];
      most = std::max(most, std::abs(double{logit}));
    }
  }
  for (int64_t step = 0; step < steps; ++step)
    for (int layer = 0; layer < model_.layers; ++layer) {
      RouterCheck check(work_, verdicts_);
      std::vector<float> own = logits(step, layer);
      own.front() += 0.25F;
      check.note(step, layer, 0, own, chosen_by(own, layer));
      EXPECT_NEAR(check.met().error, 0.25 / largest[static_cast<size_t>(layer)], 1e-6)
          << "step " << step << ", layer " << layer;
    }
}

INSTANTIATE_TEST_SUITE_P(All, BiasedRouters, testing::Values("tiny-deepseek"));
INSTANTIATE_TEST_SUITE_P(All, Routers,
                         testing::Values("tiny-deepseek", "tiny-v2-lite", "tiny-qwen3-moe"));

}  // namespace
}  // namespace helix
