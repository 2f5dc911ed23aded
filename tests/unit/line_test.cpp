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

TEST(Line, SaysWhatTheCardsDidWhereThereAreAny) {
  EXPECT_TRUE(ok_line(point(), {}, measured())["card"].is_null());
  Measured m = measured();
  m.card = {.known = true, .throttled = {"power cap"}, .sm_clock_mhz = 1755};
  m.device_bytes = {.tensors = 100, .workspaces = 20, .libraries = 3};
  m.peer_memory = "CUDA IPC";
  Json line = ok_line(point(), {.executor = "cuda"}, m);
  EXPECT_EQ(line["card"]["throttled"], Json::array({"power cap"}));
  EXPECT_EQ(line["card"]["sm_clock_mhz"], 1755);
  EXPECT_TRUE(line["card"]["energy_j_per_token"].is_null());
  EXPECT_EQ(line["device_bytes"]["tensors"], 100);
  EXPECT_EQ(line["peer_memory"], "CUDA IPC");
  EXPECT_TRUE(line["device_bytes"]["context"].is_null());
  m.card = CardNotes{.energy_j_per_token = 0.5};
  line = ok_line(point(), {.executor = "cuda"}, m);
  EXPECT_TRUE(line["card"]["throttled"].is_null());
  EXPECT_EQ(line["card"]["energy_j_per_token"], 0.5);
}

TEST(Line, SaysHowTimedTasksMetSharedCores) {
  EXPECT_TRUE(ok_line(point(), {}, measured())["shared_cores"].is_null());
  Measured m = measured();
  m.shared_cores = {.waited_us = 12.5, .runs = 100, .shared = 3};
  EXPECT_EQ(ok_line(point(), {}, m)["shared_cores"],
            Json({{"waited_us", 12.5}, {"runs", 100}, {"shared", 3}}));
}

TEST(Line, NoiseIsTheTargetAndWhatWasReached) {
  EXPECT_TRUE(ok_line(point(), {}, measured())["noise"].is_null());
  Point p = point();
  p.noise = {.percent = 2, .max_steps = 50};
  Measured m = measured();
  EXPECT_TRUE(ok_line(p, {}, m)["noise"]["reached_percent"].is_null());  // 4 samples
  m.samples_us = {100, 100, 100, 100, 100, 100, 110};
  const Json noise = ok_line(p, {}, m)["noise"];
  EXPECT_EQ(noise["target_percent"], 2);
  EXPECT_EQ(noise["reached_percent"], 5);
  EXPECT_TRUE(noise["min_steps"].is_null());
  EXPECT_EQ(noise["max_steps"], 50);
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
