// Points: their keys, their JSON and back, the lengths of their requests; and the files that name
// them.
#include "bench/point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "bench/line.h"
#include "bench/list.h"
#include "layout/requests.h"
#include "tests/unit/sweeps.h"

namespace helix {
namespace {

Point a_point() { return read(with(R"({"strategy": "tp"})")).points.at(0); }

TEST(Key, IsOfWhatCanBeMeasured) {
  const Sweep sweep = read(with(R"({"model": ["tiny-llama", "tiny-deepseek"], "strategy": "all",
    "ranks": [1, 4, 8], "dp": "all", "pp": [1, 2], "batch": [1, 4], "hop_b": [false, true],
    "context": [10, {"uniform": [1, 9]}], "routing": [null, {"zipf": 1.25}], "moe": "all",
    "precision": [{"weights": "fp32", "kv": "fp32", "activations": "fp32"},
    {"weights": "nvfp4", "kv": "fp8", "activations": "bf16", "attention": "fp8",
     "experts": "nvfp4", "lm_head": "bf16"}]})"));
  std::set<std::string> keys;
  for (const Point& p : sweep.points) {
    EXPECT_EQ(canonical_text(p), to_json(p).dump());
    keys.insert(key_of(p));
  }
  EXPECT_EQ(keys.size(), sweep.points.size());
  EXPECT_GT(keys.size(), 1000U);
  Point p = a_point();
  const std::string key = key_of(p);
  EXPECT_EQ(key.size(), 16U);
  p.steps = 77;
  p.warmup = 0;
  EXPECT_EQ(key_of(p), key);
  p.seed = 2;
  EXPECT_NE(key_of(p), key);
  const std::string unprompted = key_of(p);
  p.prompt = std::make_shared<const std::vector<int32_t>>(std::vector<int32_t>{3, 1, 4});
  EXPECT_NE(key_of(p), unprompted);
  EXPECT_EQ(canonical_text(p), to_json(p).dump());
}

TEST(Key, DoesNotChangeWithTheProgram) { EXPECT_EQ(key_of(a_point()), "9a2a83165de18b72"); }

TEST(SweepOf, IsTheInverse) {
  const Sweep sweep = read(with(R"({"model": ["tiny-llama", "tiny-deepseek"], "strategy": "all",
    "ranks": [4, 8], "dp": "all", "pp": [1, 2], "batch": [1, 8], "hop_b": [false, true],
    "routing": [null, {"zipf": 1.5}], "context": {"uniform": [1, 9]}})"));
  for (const Point& p : sweep.points) {
    const Node point = parse_json("line", to_json(p).dump());
    const Sweep one = read(sweep_of(point, "one", p.steps, p.warmup));
    ASSERT_EQ(one.points.size(), 1U) << canonical_text(p);
    EXPECT_EQ(canonical_text(one.points[0]), canonical_text(p));
  }
}

TEST(Lengths, AreDrawnFromTheWholeRange) {
  Point p = a_point();
  p.batch = 4000;
  p.context = {3, 6};
  const std::vector<int64_t> lengths = lengths_of(p);
  for (const int64_t length : {3, 4, 5, 6})
    EXPECT_NEAR(std::ranges::count(lengths, length), 1000, 150);
  for (const int64_t length : lengths) EXPECT_TRUE(3 <= length && length <= 6);
  p.batch = 10;  // a request's length does not depend on the others
  EXPECT_EQ(lengths_of(p), std::vector<int64_t>(lengths.begin(), lengths.begin() + 10));
  p.seed = 2;
  EXPECT_NE(lengths_of(p), std::vector<int64_t>(lengths.begin(), lengths.begin() + 10));
  p.context = {7, 7};
  EXPECT_EQ(lengths_of(p), std::vector<int64_t>(10, 7));
}

TEST(MostRequests, IsThatOfTheCutRequests) {
  Point p = a_point();
  for (const Context context : {Context{9, 9}, Context{0, 500}})
    for (p.batch = 1; p.batch < 40; ++p.batch)
      for (p.layout.pp = 1; p.layout.pp < 4; ++p.layout.pp)
        for (p.layout.dp = 1; p.layout.dp < 5; ++p.layout.dp) {
          p.context = context;
          const std::vector<int64_t> lengths = lengths_of(p);
          int64_t most = 0;
          for (const Slice& part : cut(lengths, p.layout.pp))
            for (const Slice& replica :
                 cut(std::span(lengths).subspan(static_cast<size_t>(part.first),
                                                static_cast<size_t>(part.count)),
                     p.layout.dp))
              most = std::max(most, replica.count);
          EXPECT_EQ(most_requests(p), most);
        }
}

Json config(const std::string& path) { return read_json(configs_folder() + "/" + path).json(); }

TEST(Schemas, KnowTheKeysThatAreRead) {
  const Json schema = config("sweep.schema.json");
  std::set<std::string> keys;
  for (const auto& [key, value] : schema["properties"].items()) keys.insert(key);
  EXPECT_EQ(keys, std::set<std::string>(sweep_keys().begin(), sweep_keys().end()));
  const Json line = config("result.schema.json");
  const Json skipped = skipped_line(a_point(), {}, "why");
  for (const auto& [key, value] : skipped.items())
    EXPECT_TRUE(line["properties"].contains(key)) << key;
  for (const Json& key : line["required"])
    EXPECT_TRUE(skipped.contains(key.get<std::string>())) << key;
  const Json model = config("model.schema.json");
  for (const std::string& name : preset_names()) {
    const Json preset = config("models/" + name + ".json");
    for (const auto& [key, value] : preset.items())
      EXPECT_TRUE(model["properties"].contains(key)) << key;
    for (const Json& key : model["required"])
      EXPECT_TRUE(preset.contains(key.get<std::string>())) << key;
  }
}

TEST(Quickstart, IsSmallEnough) {
  const Sweep sweep = read_sweep(configs_folder() + "/sweeps/quickstart.json");
  EXPECT_LE(sweep.points.size(), 60U);
  for (const Point& p : sweep.points) EXPECT_LE(p.layout.ranks(), 8);
}

TEST(Lists, NameWhatASweepCanName) {
  for (const std::string& name : preset_names())
    EXPECT_THAT(list_models(), testing::HasSubstr(name));
  for (const char* strategy : {"helix", "dcp", "medha", "tp", "dp_ep"})
    EXPECT_THAT(list_layouts(), testing::HasSubstr(std::string("\n") + strategy + " "));
  const Model model = read_model(preset_path("tiny-llama"));
  EXPECT_EQ(list_layouts(model, {}, 2),
            "helix KVP 2 -> TPF 2\ndcp KVP 2 -> TPF 2\nmedha KVP 2 -> TPF 1\n"
            "tp TPA 2 -> TPF 2\ndp_ep DP 2 -> TPF 2\n");
  EXPECT_THROW(list("layuots"), InputError);
}

}  // namespace
}  // namespace helix
