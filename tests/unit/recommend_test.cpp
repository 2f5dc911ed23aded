// Ten questions, each answered again by trying every layout and every batch.
#include "bench/recommend.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "layout/strategy.h"
#include "tests/unit/layout_cases.h"

namespace helix {
namespace {

struct Asked {
  const char* model;
  const char* machine;
  int64_t gpus, context;
  double ttl_ms;  // 0: for so many users
  int64_t users;
  const char* winner;  // "": nothing answers
};
constexpr Asked questions[] = {
    {"llama-3.1-8b", "h100-sxm", 4, 4096, 0, 1, "tp"},              // small, short, one user
    {"llama-3.1-8b", "h200-sxm", 4, 524288, 0, 8, "tp"},            // small, long
    {"llama-3.1-70b", "h200-sxm", 8, 131072, 30, 0, "tp"},          // middling
    {"llama-3.1-405b", "gb200-nvl72", 16, 1000000, 0, 1, "helix"},  // large, long, one user
    {"llama-3.1-405b", "gb200-nvl72", 16, 1000000, 25, 0, "helix"},
    {"llama-3.1-405b", "gb200-nvl72", 8, 8192, 0, 1, "tp"},      // large, short, one user
    {"deepseek-r1", "gb200-nvl72", 16, 1000000, 0, 2, "helix"},  // experts, long, few users
    {"deepseek-r1", "gb200-nvl72", 8, 131072, 30, 0, "dp_ep"},   // experts, many users
    {"deepseek-v2-lite", "h100-sxm", 4, 262144, 8, 0, "helix"},  // few experts, long
    {"llama-3.1-405b", "gb200-nvl72", 4, 1000000, 1, 0, ""},     // no answer
};

Question question_of(const Asked& asked) {
  Question question;
  question.model = std::make_shared<const Model>(preset(asked.model));
  question.precision = {.weights = Format::fp8,
                        .kv = Format::fp8,
                        .attention = Format::fp8,
                        .experts = Format::fp8,
                        .lm_head = Format::fp8};
  question.gpus = asked.gpus;
  question.context = asked.context;
  if (asked.ttl_ms > 0) question.ttl_us = asked.ttl_ms * 1e3;
  else question.users = asked.users;
  return question;
}

// The best that any batch of any candidate gives: tokens/s/GPU, or the least TTL, negative.
double exhaustive(const Question& q, Pricer& pricer) {
  double best = -1e300;
  for (const Point& candidate : candidates(q)) {
    const int64_t copies = q.gpus / candidate.layout.ranks();
    pricer.forget_layouts();
    for (int64_t batch = 1; batch < 100'000; ++batch) {
      Point point = candidate;
      point.batch = batch;
      point.chunks = std::min(point.chunks, most_requests(point));
      point.hop_b = point.chunks > 1;
      if (q.users && (copies > *q.users || batch < (*q.users + copies - 1) / copies)) {
        if (copies > *q.users) break;
        continue;
      }
      const Priced& price = pricer.price(point);
      if (!price.fits()) break;
      if (q.users) best = std::max(best, -price.ttl_us);
      else if (price.ttl_us <= *q.ttl_us)
        best = std::max(best, 1e6 * double(batch) / price.ttl_us / point.layout.ranks());
      if (q.users || price.ttl_us > 2 * *q.ttl_us) break;
    }
  }
  return best;
}

class Questions : public testing::TestWithParam<Asked> {};

TEST_P(Questions, AnsweredAsByTryingAll) {
  const Question question = question_of(GetParam());
  Pricer pricer(read_machine(GetParam().machine));
  const std::vector<Answer> found = answers(question, pricer);
  if (std::string_view(GetParam().winner).empty()) {
    EXPECT_TRUE(found.empty());
    EXPECT_LT(exhaustive(question, pricer), -1e299);
    return;
  }
  ASSERT_FALSE(found.empty());
  const Answer& best = found.front();
  EXPECT_EQ(best.point.layout.strategy, GetParam().winner) << describe(best.point.layout);
  const double worth = question.users ? -best.ttl_us : best.per_gpu();
  EXPECT_NEAR(worth / exhaustive(question, pricer), 1, 1e-9) << describe(best.point.layout);
  if (question.ttl_us) EXPECT_LE(best.ttl_us, *question.ttl_us);
  else EXPECT_GE(best.users(), *question.users);
  EXPECT_LE(best.memory.total(), pricer.machine().usable_bytes());
  EXPECT_TRUE(std::ranges::is_sorted(
      found, [&](const Answer& a, const Answer& b) { return better(question, a, b); }));
}

INSTANTIATE_TEST_SUITE_P(Recommend, Questions, testing::ValuesIn(questions));

// Every legal layout is looked at, found here by trying all widths and choices.
TEST(Recommend, LooksAtEveryLegalLayout) {
  for (const char* name : {"deepseek-v2-lite", "llama-3.1-8b"}) {
    Question question = question_of({name, "", 8, 1000, 0, 1, ""});
    const Model& model = *question.model;
    const std::vector<Point> points = candidates(question);
    const std::vector<int64_t> widths = divisors(8);
    for (const Strategy& strategy : strategies())
      for (int64_t code = 0; code < 6 * 6 * 6 * 6 * 6 * 6; ++code) {
        auto width = [&, rest = code]() mutable {
          const int64_t at = rest % 6;
          rest /= 6;
          return at < 4 ? static_cast<int>(widths[static_cast<size_t>(at)]) : 0;
        };
        Layout l{.strategy = strategy.name};
        for (int* w : {&l.pp, &l.dp, &l.kvp, &l.tpa, &l.tpf, &l.ep}) *w = width();
        if (std::min({l.pp, l.dp, l.kvp, l.tpa, l.tpf, l.ep}) == 0 || 8 % l.ranks() != 0) continue;
        const int64_t most = std::max<int64_t>(model.attention.kv_heads, model.attention.mla() * 2);
        if (strategy.shares == Shares::sequence && l.tpa > most) continue;
        for (const Query query : {Query::null, Query::replicate, Query::gather})
          for (const Merge merge : {Merge::null, Merge::a2a, Merge::ag_rs, Merge::all_reduce})
            for (const Mla mla : {Mla::null, Mla::latent, Mla::value})
              for (const Moe moe : {Moe::null, Moe::gather, Moe::dispatch}) {
                Layout whole = l;
                whole.query = query;
                whole.merge = merge;
                whole.mla = mla;
                whole.moe = moe;
                whole.ffn = strategy.ffn;
                if (refuse(model, question.precision, whole)) continue;
                const Layout plain = canonical(model, whole);
                EXPECT_TRUE(
                    std::ranges::any_of(points, [&](const Point& p) { return p.layout == plain; }))
                    << name << ": " << describe(plain);
              }
      }
  }
}

std::string said(const RecommendOptions& options) {
  try {
    recommend(options);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST(Recommend, SaysWhatIsNearest) {
  RecommendOptions options;
  options.model = "llama-3.1-405b";
  options.machine = "gb200-nvl72";
  options.gpus = 2;
  options.context = 1000;
  options.users = 1;
  options.weights = "fp8";
  EXPECT_EQ(said(options),
            "llama-3.1-405b with one request of 1000 tokens needs 408 GB, gb200-nvl72 has 177 GB a "
            "GPU: 3 ranks at least, 2 were given");
  options.gpus = 8;
  options.users.reset();
  options.ttl_ms = 0.001;
  EXPECT_NE(said(options).find("the nearest is "), std::string::npos) << said(options);
  options.ttl_ms.reset();
  options.users = 60'000;
  options.context = 1'000'000;
  EXPECT_NE(said(options).find("the most are "), std::string::npos) << said(options);
  options.machine = "gb200-nvl27";
  EXPECT_NE(said(options).find("did you mean \"gb200-nvl72\""), std::string::npos) << said(options);
}

}  // namespace
}  // namespace helix
