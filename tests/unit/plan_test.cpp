// What `plan` prints of small sweeps.
#include "bench/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "bench/sweep.h"
#include "layout/strategy.h"

namespace helix {
namespace {

// A sweep file in a folder of its own, and what `plan` prints of it.
class PlanTest : public testing::Test {
 protected:
  PlanTest() {
    std::string name = std::filesystem::temp_directory_path() / "helix-plan-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~PlanTest() override { std::filesystem::remove_all(folder_); }

  std::string sweep(const std::string& members) {
    std::ofstream(folder_ / "sweep.json")
        << R"({"schema": "helix-bench/sweep/1", "name": "small", "steps": 4, "seed": 1, )"
        << members << "}";
    return folder_ / "sweep.json";
  }
  static PlanOptions json_of(const std::string& path) {
    PlanOptions options;
    options.sweep = path;
    options.format = PlanFormat::json;
    return options;
  }
  static PlanOptions table_of(const std::string& path) {
    PlanOptions options;
    options.sweep = path;
    return options;
  }
  static std::string printed(PlanOptions options) {
    options.out = std::tmpfile();
    EXPECT_EQ(plan(options), 0);
    std::string text(static_cast<size_t>(std::ftell(options.out)), '\0');
    std::rewind(options.out);
    EXPECT_EQ(std::fread(text.data(), 1, text.size(), options.out), text.size());
    std::fclose(options.out);
    return text;
  }

  std::filesystem::path folder_;
};

constexpr auto two_strategies =
    R"("model": "tiny-llama", "strategy": ["helix", "tp"], "ranks": [2, 4], "batch": [1, 3, 8], )"
    R"("context": [100, {"uniform": [10, 200]}], "hop_b": [false, true])";

TEST_F(PlanTest, AMachinePricesPoints) {
  PlanOptions options = table_of(sweep(two_strategies));
  EXPECT_EQ(printed(options).find("TTL [ms]"), std::string::npos);
  options.machine = "h200-sxm";
  EXPECT_NE(printed(options).find("TTL [ms]"), std::string::npos);
  EXPECT_NE(printed(options).find(" s in all on h200-sxm"), std::string::npos);
  options.format = PlanFormat::json;
  const Json priced = Json::parse(printed(options));
  double seconds = 0;
  for (const Json& point : priced["points"]) {
    EXPECT_GT(point["ttl_us"].get<double>(), 0);
    seconds += point["seconds"].get<double>();
  }
  EXPECT_NEAR(priced["totals"]["seconds"].get<double>(), seconds, 0.01);
  options.machine = "h200-smx";
  EXPECT_THROW(plan(options), InputError);
}

TEST_F(PlanTest, JsonHasEveryPoint) {
  const std::string path = sweep(two_strategies);
  const Sweep expected = read_sweep(path);
  const Json json = Json::parse(printed(json_of(path)));
  EXPECT_EQ(json["name"], "small");
  ASSERT_EQ(json["points"].size(), expected.points.size());
  Planner planner;
  for (size_t i = 0; i < expected.points.size(); ++i) {
    const Json& line = json["points"][i];
    EXPECT_EQ(line["point"], to_json(expected.points[i]));
    EXPECT_EQ(line["ranks"], expected.points[i].layout.ranks());
    EXPECT_TRUE(line["skipped"].is_null());
    const Memory m = planner.widest_rank(expected.points[i]);
    EXPECT_EQ(line["bytes_per_rank"]["weights"], m.weights);
    EXPECT_EQ(line["bytes_per_rank"]["kv"], m.kv);
    EXPECT_EQ(line["bytes_per_rank"]["buffers"], m.buffers);
  }
  EXPECT_EQ(json["totals"]["points"], expected.points.size());
  EXPECT_EQ(json["totals"]["can_run"], expected.points.size());
}

TEST_F(PlanTest, PointsThatNeedMoreRanksAreCounted) {
  const std::string path = sweep(two_strategies);
  PlanOptions options = json_of(path);
  options.ranks = 2;
  const Json json = Json::parse(printed(options));
  int64_t skipped = 0;
  for (const Json& line : json["points"]) {
    EXPECT_EQ(line["skipped"].is_null(), line["ranks"] <= 2);
    skipped += line["skipped"].is_null() ? 0 : 1;
  }
  EXPECT_GT(skipped, 0);
  EXPECT_EQ(json["skipped"]["needs 4 ranks, 2 are there"], skipped);
  EXPECT_EQ(json["totals"]["can_run"], static_cast<int64_t>(json["points"].size()) - skipped);
}

TEST_F(PlanTest, TableHasALineForEachPoint) {
  const std::string path = sweep(two_strategies);
  PlanOptions options = table_of(path);
  options.ranks = 2;
  const std::string text = printed(options);
  const auto lines = static_cast<size_t>(std::ranges::count(text, '\n'));
  EXPECT_GE(lines, 3 + read_sweep(path).points.size());  // a heading, an empty line, totals
  EXPECT_NE(text.find("weights [MB]"), std::string::npos);
  EXPECT_NE(text.find("skipped: needs 4 ranks, 2 are there"), std::string::npos);
  EXPECT_NE(text.find("10-200"), std::string::npos);
}

TEST_F(PlanTest, ScheduleIsPrintedOnceForEachLayout) {
  const std::string path = sweep(
      R"("model": "tiny-llama", "strategy": "helix", "ranks": 4, "kvp": 2, "batch": [4, 8], "context": [64, 128])");
  PlanOptions options = table_of(path);
  options.schedule = true;
  const std::string text = printed(options);
  const auto count = [&](std::string_view word) {
    size_t found = 0;
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1))
      ++found;
    return found;
  };
  EXPECT_EQ(count("\nprologue\n"), 1);
  EXPECT_EQ(count("\ndense: 4 layers from layer 0"), 1);
  EXPECT_EQ(count("\nepilogue\n"), 1);
  EXPECT_EQ(count("partial[rows, 8, 16], lse[rows, 8] -> parts[rows, 2, 4, 16]"), 1);
  options.format = PlanFormat::json;
  EXPECT_THROW(plan(options), InputError);
}

Point point_of(const std::string& model, const Layout& layout) {
  Point p;
  p.model = std::make_shared<Model>(read_model(preset_path(model)));
  p.layout = layout;
  p.batch = 6;
  p.context = {1000, 1000};
  return p;
}

Layout with_stages(int pp) {
  Layout l;
  l.pp = pp;
  return l;
}

TEST(Planner, StagesHoldTheirMicroBatches) {
  const Memory one = Planner().widest_rank(point_of("llama-3.1-405b", with_stages(1)));
  const Memory two = Planner().widest_rank(point_of("llama-3.1-405b", with_stages(2)));
  EXPECT_EQ(two.kv, one.kv / 2);              // half the layers, all requests
  EXPECT_LT(two.buffers, one.buffers * 0.6);  // of 3 requests instead of 6
  const double embedding = 2.0 * 128256 * 16384;
  EXPECT_NEAR(two.weights, (one.weights - 2 * embedding) / 2 + embedding, 4 * 16384);
}

TEST(
    Planner,
    WidestStageMayBeAnyOne) {  // 61 layers of R1: 3 dense, then MoE; most of the weights stand late
  const Memory m = Planner().widest_rank(point_of("deepseek-r1", with_stages(4)));
  const Point p = point_of("deepseek-r1", with_stages(4));
  double most = 0;
  const std::vector<int64_t> lengths(2, 1000);
  for (int stage = 0; stage < 4; ++stage) {
    const Schedule s = build_schedule({p.model.get(), p.layout, p.precision}, stage);
    most =
        std::max(most, memory(s, capacity_of(s, *p.model, {lengths, p.interval}, p.steps)).weights);
  }
  EXPECT_EQ(m.weights, most);
}

TEST(Planner, RaggedReplicasAreAllLookedAt) {
  Layout l;
  l.strategy = "dp_ep";
  l.dp = l.tpf = 4;
  Point p = point_of("tiny-llama", canonical(*point_of("tiny-llama", l).model, l));
  p.context = {10, 100'000};
  p.batch = 7;
  const std::vector<int64_t> lengths = lengths_of(p);
  double most = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const Schedule s = build_schedule({p.model.get(), p.layout, p.precision}, rank);
    most = std::max(most, memory(s, capacity_of(s, *p.model, {lengths, p.interval}, p.steps)).kv);
  }
  EXPECT_EQ(Planner().widest_rank(p).kv, most);
}

TEST(Planner, DepthsHoldTheDeeper) {
  Point p = point_of("llama-3.1-405b", Layout{});
  p.depths = {2, 6};
  Planner planner;
  EXPECT_EQ(planner.schedule(p).segments[1].layers, 6);
  EXPECT_LT(planner.widest_rank(p).weights,
            Planner().widest_rank(point_of("llama-3.1-405b", Layout{})).weights / 10);
}

}  // namespace
}  // namespace helix
