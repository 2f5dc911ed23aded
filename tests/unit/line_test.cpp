// A result line: what follows from the samples, and that its reader finds what its writer meant.
#include "bench/line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace helix {
namespace {

Point point() {
  Point p;
  auto model = std::make_shared<Model>();
  model->name = "tiny-llama";
  p.model = model;
  p.layout = {.strategy = "helix", .kvp = 2, .tpa = 2, .tpf = 4};
  p.batch = 8;
  p.context = {4096, 4096};
  return p;
}

Measured measured() {
  Measured m;
  m.samples_us = {400, 100, 300, 200.00049};
  m.tasks_us = {{"attention", 50.12345}, {"exchange+merge", 10}};
  m.roofline = {.bytes = 1e6, .flops = 2e6, .floor_us = 50, .tasks = {{"attention", 40, true}}};
  m.verified = {.max_rel_err = 1e-6, .tolerance = 1e-5};
  m.started = "2025-01-31T00:00:00Z";
  return m;
}

std::set<std::string> names(const Json& line) {
  std::set<std::string> found;
  for (const auto& [name, value] : line.items()) found.insert(name);
  return found;
}

TEST(Line, RatesFollowFromTheMedian) {
  const Json line = ok_line(point(), {}, measured());
  EXPECT_EQ(line["status"], "ok");
  EXPECT_EQ(line["ttl_us"]["median"], 200);
  EXPECT_EQ(line["ttl_us"]["max"], 400);
  EXPECT_TRUE(line["ttl_us"]["p99"].is_null());
  EXPECT_EQ(line["samples_us"], (Json{400, 100, 300, 200}));
  EXPECT_EQ(line["tokens_per_s_per_user"], 5000);
  EXPECT_EQ(line["tokens_per_s_per_user_p90"], 2500);
  EXPECT_TRUE(line["tokens_per_s_per_gpu"].is_null());
  EXPECT_EQ(line["tokens_per_s_per_rank"], 5000 * 8 / 4);
  EXPECT_EQ(line["roofline"]["share"], 0.25);
  EXPECT_EQ(line["tasks_us"]["attention"], 50.123);
  EXPECT_EQ(line["roofline"]["tasks_us"], (Json{{"attention", 40}}));
  EXPECT_EQ(line["roofline"]["computing"], Json::array({"attention"}));
}

TEST(Line, GpusAreThoseOfTheSettingAndNeverInferred) {
  const Json line =
      ok_line(point(), {.executor = "cuda", .gpus = 1, .ranks_per_gpu = 4}, measured());
  EXPECT_EQ(line["tokens_per_s_per_gpu"], 5000 * 8);
  EXPECT_EQ(line["tokens_per_s_per_rank"], 5000 * 8 / 4);
}

TEST(Line, EveryKindOfLineHasTheSameFields) {
  const std::set<std::string> fields = names(ok_line(point(), {}, measured()));
  EXPECT_EQ(names(skipped_line(point(), {}, "why")), fields);
  EXPECT_EQ(names(failed_line(point(), {}, "why", "now")), fields);
  EXPECT_EQ(skipped_line(point(), {}, "why")["reason"], "why");
}

TEST(Line, AnErrorThatIsNoNumberIsNull) {
  Measured m = measured();
  m.verified->max_rel_err = std::nan("");
  EXPECT_FALSE(m.verified->passed());
  const Json line = Json::parse(ok_line(point(), {}, m).dump());
  EXPECT_TRUE(line["verified"]["max_rel_err"].is_null());
  EXPECT_TRUE(line["verified"]["forced"].is_null());
  m.verified.reset();
  EXPECT_TRUE(ok_line(point(), {}, m)["verified"].is_null());
}

TEST(Line, TheIdentityIsReadAsItWasWritten) {
  for (const Setting& setting : {Setting{}, Setting{.executor = "simulate",
                                            .exchange = "",
                                            .machine = "gb200",
                                            .shard = "3/8",
                                            .repeat = 4}}) {
    const std::string text = ok_line(point(), setting, measured()).dump();
    EXPECT_EQ(identity_of(parse_json("line", text)), identity_of(point(), setting));
  }
  EXPECT_NE(identity_of(point(), {.repeat = 2}), identity_of(point(), {}));
}

}  // namespace
}  // namespace helix
