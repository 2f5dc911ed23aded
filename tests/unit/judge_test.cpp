// The judge against a decoder that is plainer still, and what the tiny models' marks make of
// attention.
#include "judge/judge.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "judge/ffn.h"
#include "model/marks.h"
#include "tests/unit/judge_brute.h"

namespace helix {
namespace {

Precision all_in(Format format) {
  return {.weights = format,
          .kv = format,
          .activations = Format::fp32,
          .attention = format,
          .experts = format,
          .lm_head = format};
}

Model small_model() {
  Model m;
  m.layers = m.dense_layers = 2;
  m.hidden = 12;
  m.ffn = 10;
  m.vocabulary = 19;
  m.attention = {.query_heads = 4, .kv_heads = 2, .head_size = 6, .value_size = 6, .qk_norm = true};
  return m;
}

Model llama() {
  Model m = small_model();
  m.tied = true;
  m.attention.qk_norm = false;
  m.rope = {.theta = 100, .scaling = RopeScaling::llama3, .factor = 8, .original_positions = 16};
  return m;
}

Model qwen_moe() {
  Model m = small_model();
  m.dense_layers = 0;
  m.rope.interleaved = true;
  m.experts = {.count = 5, .chosen = 2, .width = 3, .renormalise = true};
  return m;
}

Model deepseek(int64_t q_lora) {
  Model m = small_model();
  m.dense_layers = 1;
  m.attention = {.query_heads = 4,
                 .kv_heads = 1,
                 .head_size = 9,
                 .value_size = 5,
                 .q_lora = q_lora,
                 .kv_lora = 5,
                 .nope = 3,
                 .rope = 4,
                 .v = 2};
  m.rope = {.theta = 100,
            .interleaved = true,
            .scaling = RopeScaling::yarn,
            .factor = 4,
            .original_positions = 64,
            .mscale_all_dim = 1};
  m.experts = {.count = 8,
               .chosen = 3,
               .width = 3,
               .shared = 2,
               .groups = 4,
               .chosen_groups = 2,
               .scoring = Scoring::sigmoid,
               .bias = true,
               .renormalise = true,
               .scale = 2.5};
  return m;
}

double relative(const std::vector<double>& is, const std::vector<double>& wanted) {
  double error = 0, top = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    top = std::max(top, std::abs(wanted[i]));
    if (!(std::abs(is[i] - wanted[i]) <= error)) error = std::abs(is[i] - wanted[i]);
  }
  return error / top;
}

void expect_brute(const Model& model, Format format, MlaForm form = MlaForm::automatic) {
  const Generator generator(model, all_in(format), 7);
  const Judge judge(generator, {.mla = form});
  for (const int64_t history : {0, 1, 5}) {
    const brute::Decoder plain = {generator, 3, history};
    const std::vector<JudgeStep> steps = judge.decode(3, history, 4);
    std::vector<int32_t> fed;
    for (const JudgeStep& step : steps) {
      EXPECT_EQ(step.input, fed.empty() ? generator.first_token(3) : steps[fed.size() - 1].token);
      fed.push_back(step.input);
      const std::vector<double> wanted = plain.logits(fed);
      ASSERT_EQ(step.logits.size(), wanted.size());
      EXPECT_TRUE(relative(step.logits, wanted) < 1e-12) << relative(step.logits, wanted);
      EXPECT_EQ(step.token, std::max_element(wanted.begin(), wanted.end()) - wanted.begin());
    }
  }
}

TEST(JudgeBrute, Llama) { expect_brute(llama(), Format::fp32); }
TEST(JudgeBrute, LlamaBf16) { expect_brute(llama(), Format::bf16); }
TEST(JudgeBrute, QwenMoe) { expect_brute(qwen_moe(), Format::fp32); }
TEST(JudgeBrute, DeepSeekExpanded) { expect_brute(deepseek(6), Format::fp32, MlaForm::expanded); }
TEST(JudgeBrute, DeepSeekAbsorbed) { expect_brute(deepseek(6), Format::fp32, MlaForm::absorbed); }
TEST(JudgeBrute, DeepSeekBf16) { expect_brute(deepseek(6), Format::bf16); }
TEST(JudgeBrute, WithoutQueryLatent) { expect_brute(deepseek(0), Format::fp32); }

// Marks.

constexpr const char* tiny[] = {"tiny-llama", "tiny-qwen3-moe", "tiny-v2-lite", "tiny-deepseek"};

int64_t group_of(const Model& m, int64_t head) {
  return m.attention.mla() ? head % mark_groups(m)
                           : head * m.attention.kv_heads / m.attention.query_heads;
}

class Marks : public testing::TestWithParam<const char*> {
 protected:
  const Model model = read_model(preset_path(GetParam()));
};

// Marked and appended tokens weigh 0.05 or more, and at most 0.5, or half as much again as an even
// share of so few.
void expect_weights(const Model& model, int64_t length, Format format, uint64_t seed) {
  const Judge judge(Generator(model, all_in(format), seed));
  const auto see = [&](int64_t step, int64_t layer, int64_t head, std::span<double> weights) {
    std::vector<int64_t> loud = marks_of(model, layer, group_of(model, head), length);
    ASSERT_LE(loud.size(), 8U);
    for (int64_t i = 0; i <= step; ++i) loud.push_back(length + i);
    ASSERT_EQ(weights.size(), length + step + 1);
    const double most = std::max(0.5, std::min(1.0, 1.5 / double(loud.size())));
    for (const int64_t position : loud)
      ASSERT_TRUE(weights[position] >= 0.05 && weights[position] <= most)
          << weights[position] << " at " << position << " of " << length << ", step " << step
          << " layer " << layer << " head " << head;
    double sum = 0;
    for (const double weight : weights) sum += weight;
    ASSERT_NEAR(sum, 1, 1e-12);
  };
  judge.decode(0, length, 8, {.attention = see});
}

TEST_P(Marks, WeighEnough) {
  for (const int64_t length : {0, 1, 9, 33, 257, 1000, 4000})
    for (const uint64_t seed : {1, 2}) expect_weights(model, length, Format::fp32, seed);
  for (const int64_t length : {9, 1000}) expect_weights(model, length, Format::bf16, 1);
}

TEST_P(Marks, LosingOneChangesTheLogits) {
  const Judge judge(Generator(model, all_in(Format::fp32), 1), {.mla = MlaForm::absorbed});
  double least = 1;
  for (const int64_t length : {9, 33, 1000}) {
    const std::vector<double> whole = judge.decode(0, length, 1)[0].logits;
    for (int64_t slot = 0; slot < model.layers * mark_groups(model); ++slot) {
      const int64_t layer = slot / mark_groups(model), group = slot % mark_groups(model);
      std::vector<int64_t> loud = marks_of(model, layer, group, length);
      loud.push_back(length);
      for (const int64_t lost : loud) {
        const auto lose = [&](int64_t, int64_t at, int64_t head, std::span<double> weights) {
          if (at != layer || group_of(model, head) != group) return;
          const double kept = 1 - weights[lost];
          weights[lost] = 0;
          for (double& weight : weights) weight /= kept;
        };
        least = std::min(
            least, relative(judge.decode(0, length, 1, {.attention = lose})[0].logits, whole));
      }
    }
  }
  EXPECT_GT(least, 1e-4);
  RecordProperty("least_relative_change", std::to_string(least));
}

INSTANTIATE_TEST_SUITE_P(Judge, Marks, testing::ValuesIn(tiny), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// The judge itself.

TEST(Judge, SameBitsWithAnyThreadsCachedOrNot) {
  const auto logits = [](const Model& model, int64_t length, int threads,
                         const JudgeOptions& options) {
    omp_set_num_threads(threads);
    return Judge(Generator(model, all_in(Format::bf16), 1), options).decode(1, length, 2)[1].logits;
  };
  Model wide = llama();  // enough work for threads in every product
  wide.hidden = 256;
  wide.vocabulary = 50000;
  wide.attention = {.query_heads = 64, .kv_heads = 1, .head_size = 64, .value_size = 64};
  std::vector<Model> models = {wide};
  for (const char* name : tiny) models.push_back(read_model(preset_path(name)));
  for (const Model& model : models) {
    const std::string& name = model.name;
    for (const MlaForm form : {MlaForm::absorbed, MlaForm::expanded}) {
      const int64_t length = form == MlaForm::absorbed ? 4000 : 300;
      const std::vector<double> one = logits(model, length, 1, {.mla = form});
      EXPECT_EQ(one, logits(model, length, 2, {.mla = form})) << name;
      EXPECT_EQ(one, logits(model, length, 2, {.cached_values = 0, .mla = form})) << name;
    }
  }
}

TEST(Judge, EmptyHistoryAttendsToItself) {
  const Model model = llama();
  int calls = 0;
  const auto see = [&](int64_t step, int64_t, int64_t, std::span<double> weights) {
    EXPECT_EQ(weights.size(), step + 1);
    EXPECT_TRUE(step > 0 || weights[0] == 1);
    ++calls;
  };
  Judge(Generator(model, all_in(Format::fp32), 1)).decode(0, 0, 3, {.attention = see});
  EXPECT_EQ(calls, 3 * model.layers * model.attention.query_heads);
}

TEST(Judge, RecordsEachLayerAndBeats) {
  const Model model = deepseek(6);
  int beats = 0, layers = 0;
  const Judge judge(Generator(model, all_in(Format::bf16), 1), {.progress = [&] { ++beats; }});
  const auto see = [&](int64_t, int64_t layer, std::span<const double> hidden) {
    EXPECT_EQ(layer, layers++);
    EXPECT_EQ(hidden.size(), model.hidden);
  };
  const JudgeStep step = judge.decode(0, 4, 1, {.hidden = see})[0];
  EXPECT_EQ(layers, 2);
  EXPECT_GT(beats, 10);
  EXPECT_TRUE(step.routing[0].experts.empty());
  EXPECT_EQ(step.routing[1].experts.size(), 3);
  EXPECT_EQ(step.routing[1].gates.size(), 3);
  EXPECT_TRUE(step.routing[1].margin > 0 && step.routing[1].margin < 1);
  EXPECT_TRUE(step.margin > 0);
  for (const std::vector<float>& appended : step.appended) {
    EXPECT_EQ(appended.size(), model.attention.head_size);
    for (const float value : appended) EXPECT_EQ(value, to_float(to_bf16(value)));
  }
  EXPECT_EQ(
      Judge(Generator(llama(), all_in(Format::fp32), 1)).decode(0, 0, 1)[0].appended[0].size(), 24);
}

TEST(Judge, GreedyTakesTheLowestOfEquals) {
  double margin = -1;
  EXPECT_EQ(greedy(std::vector<double>{1, 3, 2, 3}, margin), 1);
  EXPECT_EQ(margin, 0);
  EXPECT_EQ(greedy(std::vector<double>{-5, -1, -3}, margin), 1);
  EXPECT_EQ(margin, 2);
  EXPECT_THROW(greedy(std::vector<double>{1, std::nan("")}, margin), RunError);
}

TEST(Judge, RefusesFormatsItCannotDecode) {
  const Model model = llama();
  EXPECT_THROW(Judge(Generator(model, all_in(Format::fp4), 1)), RunError);
}

TEST(Routing, TiesGroupsAndMargin) {
  std::vector<double> gates;
  const Experts plain = {.count = 4, .chosen = 2};
  EXPECT_EQ(choose_experts(plain, {0, 0, 0, 0}, {}, gates).experts, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(gates, (std::vector<double>{0.25, 0.25}));
  // 0.4, 0.1, 0.3, 0.2: the weakest chosen is 0.3, the strongest rejected 0.2.
  const JudgeRouting some =
      choose_experts(plain, {std::log(4), std::log(1), std::log(3), std::log(2)}, {}, gates);
  EXPECT_EQ(some.experts, (std::vector<int32_t>{0, 2}));
  EXPECT_NEAR(some.margin, 1.0 / 3, 1e-12);
  // Every sigmoid is 0.5; with the bias, group 1 sums to 1.4, group 0 to 1.3 though it holds the
  // best expert.
  const Experts grouped = {.count = 4,
                           .chosen = 2,
                           .groups = 2,
                           .chosen_groups = 1,
                           .scoring = Scoring::sigmoid,
                           .bias = true,
                           .renormalise = true,
                           .scale = 3};
  const JudgeRouting second = choose_experts(grouped, {0, 0, 0, 0}, {0.35, -0.05, 0.2, 0.2}, gates);
  EXPECT_EQ(second.experts, (std::vector<int32_t>{2, 3}));
  EXPECT_NEAR(second.gates[0], 1.5, 1e-6);  // without the bias
  EXPECT_NEAR(second.margin, 0.1 / 1.4, 1e-12);
}

}  // namespace
}  // namespace helix
