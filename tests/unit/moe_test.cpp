// Routing and expert products against their twins, and against choices made by hand.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/cpu/reference_moe.h"
#include "tests/unit/kernels.h"

namespace helix::cpu {
namespace {

Routing deepseek() {
  return {.experts = 16,
          .chosen = 4,
          .groups = 4,
          .chosen_groups = 2,
          .sigmoid = true,
          .renormalise = true,
          .scale = 2.5F};
}
std::vector<Routing> routings() {
  Routing kimi = deepseek();
  kimi.groups = kimi.chosen_groups = 1;
  kimi.scale = 2.827F;
  const Routing v2_lite = {.experts = 8, .chosen = 3};
  const Routing qwen3 = {.experts = 128, .chosen = 8, .renormalise = true};
  return {deepseek(), kimi, v2_lite, qwen3};
}

std::vector<int32_t> experts_of(const std::vector<Choice>& choice) {
  std::vector<int32_t> experts;
  experts.reserve(choice.size());
  for (const Choice& c : choice) experts.push_back(c.expert);
  return experts;
}
std::vector<float> gates_of(const std::vector<Choice>& choice) {
  std::vector<float> gates;
  gates.reserve(choice.size());
  for (const Choice& c : choice) gates.push_back(c.gate);
  return gates;
}

std::vector<Choice> choice_of(const Routing& routing, const std::vector<float>& scores,
                              const std::vector<float>& bias = {}) {
  std::vector<Choice> choice(static_cast<size_t>(routing.chosen));
  choose(routing, scores, bias, choice);
  return choice;
}

template <class Weight, class Activation>
void check_logits() {
  Random random(1);
  for (const Routing& routing : routings()) {
    const int64_t rows = random.integer(0, 9);
    const int64_t width = random.integer(1, 200);
    const auto x = random.normals<Activation>(rows * width);
    const auto w = random.normals<Weight>(routing.experts * width, 0.2F);
    std::vector<float> actual(static_cast<size_t>(rows * routing.experts));
    std::vector<float> expected = actual;
    router_logits(routing, rows, width, x.data(), w.data(), actual.data());
    reference::router_logits(routing, rows, width, x.data(), w.data(), expected.data());
    expect_close(actual, expected, 2e-6);
    for (int64_t row = 0; row < rows; ++row)
      for (std::vector<float>* all : {&actual, &expected}) {
        const std::span mine(all->data() + row * routing.experts,
                             static_cast<size_t>(routing.experts));
        all == &actual ? score(routing, mine) : reference::score(routing, mine);
      }
    expect_close(actual, expected, 2e-6);
  }
}

TEST(Routing, LogitsAndScoresAreThoseOfTheTwin) {
  check_logits<float, float>();
  check_logits<float, bf16>();
  check_logits<bf16, float>();
  check_logits<bf16, bf16>();
}

// Replicas that gathered different numbers of rows must decide alike.
TEST(Routing, LogitsOfARowDoNotDependOnTheRowsBeside) {
  Random random(2);
  const Routing routing = routings().back();
  const auto x = random.normals<float>(300 * 64);
  const auto w = random.normals<float>(routing.experts * 64);
  std::vector<float> together(static_cast<size_t>(300 * routing.experts));
  router_logits(routing, 300, 64, x.data(), w.data(), together.data());
  for (const int64_t row : {0, 1, 299}) {
    std::vector<float> alone(static_cast<size_t>(routing.experts));
    router_logits(routing, 1, 64, x.data() + row * 64, w.data(), alone.data());
    const auto begin = together.begin() + row * routing.experts;
    EXPECT_TRUE(same_bits(alone, {begin, begin + routing.experts}));
  }
}

TEST(Routing, ChoicesAreThoseOfTheTwin) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    for (const Routing& routing : routings()) {
      // Few different values, so that many are equal.
      std::vector<float> scores, bias;
      for (int64_t i = 0; i < routing.experts; ++i) {
        scores.push_back(static_cast<float>(random.integer(1, 9)) / 16);
        if (routing.sigmoid) bias.push_back(static_cast<float>(random.integer(-4, 4)) / 16);
      }
      const std::vector<Choice> actual = choice_of(routing, scores, bias);
      std::vector<Choice> expected = actual;
      reference::choose(routing, scores, bias, expected);
      EXPECT_EQ(experts_of(actual), experts_of(expected));
      expect_close(gates_of(actual), gates_of(expected), 1e-6);
    }
  }
}

TEST(Routing, ByHand) {
  Routing r = {
      .experts = 8, .chosen = 2, .groups = 4, .chosen_groups = 2, .renormalise = true, .scale = 2};
  // Group sums 0.9, 1.0, 0.8, 0.8: groups 0 and 1; the 0.8 of group 2 is the best expert of all.
  const std::vector<float> scores = {0.4F, 0.5F, 0.3F, 0.7F, 0.8F, 0, 0.4F, 0.4F};
  EXPECT_EQ(experts_of(choice_of(r, scores)), (std::vector<int32_t>{1, 3}));
  EXPECT_FLOAT_EQ(choice_of(r, scores)[0].gate, 2 * 0.5F / 1.2F);
  // The bias chooses, but is no weight.
  const std::vector<float> bias = {0.6F, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(experts_of(choice_of(r, scores, bias)), (std::vector<int32_t>{0, 3}));
  EXPECT_FLOAT_EQ(choice_of(r, scores, bias)[0].gate, 2 * 0.4F / 1.1F);
  // Where all scores of the chosen groups are negative, groups masked with 0 would win.
  std::vector<float> negative = scores;
  for (float& value : negative) value -= 2;
  EXPECT_EQ(experts_of(choice_of(r, negative)), (std::vector<int32_t>{1, 3}));
  r.groups = r.chosen_groups = 1;
  r.renormalise = false;
  EXPECT_EQ(experts_of(choice_of(r, scores)), (std::vector<int32_t>{3, 4}));
  EXPECT_FLOAT_EQ(choice_of(r, scores)[1].gate, 1.6F);
}

TEST(Routing, EqualsGoToTheLowestIndexAndNanIsSeen) {
  const std::vector<float> equal(16, 0.5F);
  EXPECT_EQ(experts_of(choice_of(deepseek(), equal)), (std::vector<int32_t>{0, 1, 2, 3}));
  const std::vector<float> nan(16, std::numeric_limits<float>::quiet_NaN());
  for (const Choice& c : choice_of(deepseek(), nan)) {
    EXPECT_TRUE(std::isnan(c.gate));
    EXPECT_TRUE(c.expert >= 0 && c.expert < 16);
  }
}

struct Pairs {
  std::vector<ExpertRows> experts;
  std::vector<int32_t> row_of;
};

// Some experts without a row, some with several.
Pairs random_pairs(Random& random, int64_t experts, int64_t rows) {
  Pairs pairs;
  for (int64_t e = 0; e < experts; ++e) {
    const auto first = std::ssize(pairs.row_of);
    for (int32_t row = 0; row < rows; ++row)
      if (random.integer(0, 3) == 0) pairs.row_of.push_back(row);
    if (std::ssize(pairs.row_of) > first)
      pairs.experts.push_back({e, first, std::ssize(pairs.row_of) - first});
  }
  return pairs;
}

template <class Weight, class Activation>
void check_products() {
  Random random(4);
  for (int round = 0; round < 20; ++round) {
    const int64_t rows = random.integer(0, 12), outputs = random.integer(1, 70),
                  inputs = up_to(granule<Weight>, random.integer(1, 90));
    const Pairs pairs = random_pairs(random, 6, rows);
    const auto x = random.normals<Activation>(rows * inputs);
    const auto w = random.stored<Weight>(6 * outputs * inputs);
    std::vector<Activation> actual(pairs.row_of.size() * static_cast<size_t>(outputs));
    std::vector<Activation> expected = actual;
    experts_product(pairs.experts, pairs.row_of, outputs, inputs, x.data(), w.view(),
                    actual.data());
    reference::experts_product(pairs.experts, pairs.row_of, outputs, inputs, x.data(), w.view(),
                               expected.data());
    expect_close(actual, expected, 2e-6 + rounding_of<Activation>);
    std::vector<float> sums(actual.size());
    std::vector<float> expected_sums = sums;
    const auto gathered = random.normals<Activation>(std::ssize(pairs.row_of) * inputs);
    experts_product(pairs.experts, {}, outputs, inputs, gathered.data(), w.view(), sums.data());
    reference::experts_product(pairs.experts, {}, outputs, inputs, gathered.data(), w.view(),
                               expected_sums.data());
    expect_close(sums, expected_sums, 2e-6);
  }
}

TEST(Experts, ProductsAreThoseOfTheTwin) {
  check_products<float, float>();
  check_products<float, bf16>();
  check_products<bf16, float>();
  check_products<bf16, bf16>();
  check_products<fp8, float>();
  check_products<nvfp4, bf16>();
}

template <class Activation>
void check_sums() {
  Random random(5);
  for (int round = 0; round < 20; ++round) {
    const int64_t rows = random.integer(0, 12), width = random.integer(1, 70);
    const Pairs pairs = random_pairs(random, 6, rows);
    const auto gates = random.normals<float>(std::ssize(pairs.row_of));
    const auto y = random.normals<float>(std::ssize(pairs.row_of) * width);
    std::vector<Activation> actual(static_cast<size_t>(rows * width), from_float<Activation>(7));
    std::vector<Activation> expected = actual;
    sum_pairs(pairs.row_of, gates, rows, width, y.data(), actual.data());
    reference::sum_pairs(pairs.row_of, gates, rows, width, y.data(), expected.data());
    expect_close(actual, expected, 1e-6 + rounding_of<Activation>);
  }
}

TEST(Experts, PairsAreSummedByRowAndRowsWithoutOneAreZero) {
  check_sums<float>();
  check_sums<bf16>();
}

}  // namespace
}  // namespace helix::cpu
