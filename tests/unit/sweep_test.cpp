// Sweeps: what becomes points, what is left out, and one clear line for what is wrong.
#include "bench/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "layout/strategy.h"
#include "tests/unit/sweeps.h"

namespace helix {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string refusal(const Json& document) {
  try {
    read(document);
    return "accepted";
  } catch (const InputError& error) {
    return error.what();
  }
}

std::vector<std::string> described(const Sweep& sweep) {
  std::vector<std::string> all;
  for (const Point& p : sweep.points)
    all.push_back(describe(p.layout) + " B" + std::to_string(p.batch) +
                  (p.hop_b ? " C" + std::to_string(p.chunks) : ""));
  return all;
}
std::vector<std::string> described(const char* changes) { return described(read(with(changes))); }

TEST(Product, IsAllLegalLayoutsUnderEachLoad) {
  EXPECT_THAT(
      described("{}"),
      testing::ElementsAre("helix KVP 2 x TPA 4 -> TPF 8 B8", "helix KVP 4 x TPA 2 -> TPF 8 B8",
                           "helix KVP 8 -> TPF 8 B8", "tp TPA 8 -> TPF 8 B8"));
  EXPECT_EQ(read(with(R"({"batch": [1, 4, 8], "context": [1, 2, {"uniform": [3, 9]}],
                          "interval": [1, 16]})"))
                .points.size(),
            4U * 3 * 3 * 2);
}

TEST(Product, DenseAndPagedAreTwoPoints) {
  const Sweep sweep = read(with(R"({"kv_layout": ["dense", "paged"],
                                    "exclude": [{"strategy": "tp", "kv_layout": "dense"}]})"));
  std::map<KvLayout, int> counts;
  std::set<std::string> keys;
  for (const Point& p : sweep.points) {
    ++counts[p.kv_layout];
    keys.insert(key_of(p));
    EXPECT_EQ(canonical_text(p), to_json(p).dump());
  }
  EXPECT_EQ(counts[KvLayout::dense], 3);
  EXPECT_EQ(counts[KvLayout::paged], 4);
  EXPECT_EQ(keys.size(), sweep.points.size());
}

TEST(Product, ExampleOfTheDesignIsRead) {
  const Sweep sweep = read(Json::parse(R"({"schema": "helix-bench/sweep/1", "name": "example",
     "model": ["tiny-llama", "tiny-deepseek"],
     "strategy": ["helix", "dcp", "medha", "tp", "dp_ep"],
     "ranks": [4, 8], "pp": 1, "dp": 1, "kvp": "all", "tpa": "all", "tpf": "all", "ep": "all",
     "batch": [1, 4, 8], "context": [4096, {"uniform": [100, 4096]}],
     "hop_b": [false, true], "chunks": "auto",
     "precision": [{"weights": "bf16", "kv": "bf16", "activations": "bf16"}], "interval": 32,
     "steps": 8, "warmup": 2, "seed": 1, "depths": null,
     "exclude": [{"strategy": "medha", "batch": 8}], "points": []})"));
  EXPECT_GT(sweep.points.size(), 400U);
  for (const Point& p : sweep.points) {
    EXPECT_FALSE(refuse(*p.model, p.precision, p.layout));
    EXPECT_FALSE(p.layout.strategy == "medha" && p.batch == 8);
    EXPECT_FALSE(p.layout.strategy == "medha" && p.model->attention.mla());
    EXPECT_EQ(p.hop_b, p.chunks > 1);
  }
  EXPECT_EQ(sweep.left_out.size(), 1U);
  EXPECT_EQ(sweep.left_out.begin()->second, 2);  // medha on MLA, 4 and 8 ranks
}

TEST(Product, RangesAreTheirValues) {
  const auto batches = [](const char* changes) {
    std::vector<int64_t> all;
    for (const Point& p : read(with(changes)).points)
      if (p.layout.strategy == "tp") all.push_back(p.batch);
    return all;
  };
  using testing::ElementsAre;
  EXPECT_THAT(batches(R"({"batch": {"from": 1, "to": 64, "times": 4}})"),
              ElementsAre(1, 4, 16, 64));
  EXPECT_THAT(batches(R"({"batch": {"from": 1, "to": 63, "times": 4}})"), ElementsAre(1, 4, 16));
  EXPECT_THAT(batches(R"({"batch": {"from": 3, "to": 9, "step": 3}})"), ElementsAre(3, 6, 9));
  EXPECT_THAT(batches(R"({"batch": [7, {"from": 6, "to": 8, "step": 1}]})"), ElementsAre(7, 6, 8));
  EXPECT_THAT(batches(R"({"batch": {"from": 1, "to": 1048576, "times": 1048576}})"),
              ElementsAre(1, 1048576));
}

TEST(Product, WhatDoesNotApplyIsOnePoint) {
  // HOP-B at one request, without KVP, with more chunks than requests.
  EXPECT_THAT(
      described(R"({"kvp": 8, "batch": [1, 3, 8], "hop_b": [false, true],
                            "chunks": ["auto", 2, 4, 100]})"),
      testing::ElementsAre("helix KVP 8 -> TPF 8 B1", "helix KVP 8 -> TPF 8 B3",
                           "helix KVP 8 -> TPF 8 B3 C2", "helix KVP 8 -> TPF 8 B3 C3",
                           "helix KVP 8 -> TPF 8 B8", "helix KVP 8 -> TPF 8 B8 C2",
                           "helix KVP 8 -> TPF 8 B8 C4", "helix KVP 8 -> TPF 8 B8 C8",
                           "tp TPA 8 -> TPF 8 B1", "tp TPA 8 -> TPF 8 B3", "tp TPA 8 -> TPF 8 B8"));
  // KVP under tp, DP under dp_ep, routing and MoE's choice on a dense model, medha overlaps
  // nothing.
  EXPECT_EQ(described(R"({"strategy": "tp", "kvp": [1, 2, 4]})").size(), 1U);
  EXPECT_EQ(described(R"({"strategy": "dp_ep", "dp": 1})").size(), 1U);
  EXPECT_EQ(described(R"({"strategy": "tp", "routing": [null, {"zipf": 1.5}]})").size(), 1U);
  EXPECT_EQ(described(R"({"strategy": "tp", "dp": 2, "moe": [null, "gather"]})").size(), 1U);
  EXPECT_EQ(described(R"({"strategy": "medha", "kvp": 8, "hop_b": [false, true]})").size(), 1U);
  EXPECT_EQ(described(R"({"strategy": ["tp", "tp"], "batch": [8, 8], "ranks": [8, 8]})").size(),
            1U);
  // Chunks are of the largest replica in the largest micro-batch.
  EXPECT_THAT(described(R"({"kvp": 2, "tpa": 1, "dp": 2, "pp": 2, "batch": 9, "hop_b": true,
                            "chunks": 100, "strategy": "helix"})"),
              testing::ElementsAre("helix PP 2 x DP 2 x KVP 2 -> TPF 4 B9 C3"));
}

TEST(Product, OwnChoicesAndLists) {
  EXPECT_EQ(described(R"({"model": "tiny-deepseek", "strategy": "dp_ep", "tpf": 1})").size(), 2U);
  EXPECT_EQ(described(R"({"strategy": "dcp", "kvp": 8})").size(), 1U);
  EXPECT_EQ(described(R"({"strategy": ["helix", "dcp"], "kvp": 8, "query": "all",
                          "merge": "all"})")
                .size(),
            4U);
  EXPECT_EQ(described(R"({"model": "tiny-deepseek", "strategy": "helix", "kvp": 8, "tpf": 8,
                          "mla": ["latent", "value"]})")
                .size(),
            2U);
  EXPECT_EQ(described(R"({"strategy": "helix", "tpa": 8, "ranks": 16})").at(0),
            "helix KVP 2 x TPA 8 -> TPF 16 B8");
}

TEST(Product, PointsThatShareWeightsStandTogether) {
  const Sweep sweep = read(with(R"({"batch": [1, 8], "interval": [1, 2], "points": [
      {"strategy": "tp", "batch": 5}, {"strategy": "helix", "kvp": 4, "tpa": 2, "batch": 3},
      {"strategy": "tp", "batch": 5, "steps": 99}]})"));
  EXPECT_EQ(sweep.points.size(), 4U * 2 * 2 + 2);
  const Sweep one = read(with(R"({"batch": [1, 8], "points": [
      {"strategy": "tp", "batch": 5}, {"strategy": "helix", "kvp": 4, "tpa": 2, "batch": 3},
      {"strategy": "tp", "batch": 5, "steps": 99}]})"));
  EXPECT_THAT(
      described(one),
      testing::ElementsAre("helix KVP 2 x TPA 4 -> TPF 8 B1", "helix KVP 2 x TPA 4 -> TPF 8 B8",
                           "helix KVP 4 x TPA 2 -> TPF 8 B1", "helix KVP 4 x TPA 2 -> TPF 8 B8",
                           "helix KVP 4 x TPA 2 -> TPF 8 B3", "helix KVP 8 -> TPF 8 B1",
                           "helix KVP 8 -> TPF 8 B8", "tp TPA 8 -> TPF 8 B1",
                           "tp TPA 8 -> TPF 8 B8", "tp TPA 8 -> TPF 8 B5"));
}

TEST(Product, ExplicitPointsStandAlone) {
  Json sweep = with(R"({"points": [
    {"strategy": "helix", "kvp": 2, "tpa": 2, "ranks": 4, "hop_b": true, "chunks": 3},
    {"strategy": "dp_ep", "model": "tiny-deepseek", "ranks": 4, "tpf": 1, "moe": "gather"}]})");
  sweep.erase("ranks");
  sweep.erase("strategy");
  EXPECT_THAT(described(read(sweep)),
              testing::ElementsAre("helix KVP 2 x TPA 2 -> TPF 4 B8 C3",
                                   "dp_ep DP 4 -> TPF 1 x EP 4, gather B8"));
}

TEST(Exclude, LeavesOutWhatMatchesAllItsFields) {
  EXPECT_THAT(described(R"({"batch": [1, 8], "hop_b": [false, true], "exclude": [
                 {"strategy": "tp"}, {"kvp": [2, 4]}, {"batch": 8, "hop_b": true, "chunks": 4}]})"),
              testing::ElementsAre("helix KVP 8 -> TPF 8 B1", "helix KVP 8 -> TPF 8 B8"));
}

TEST(LeftOut, CountsCombinationsOfListedValuesByReason) {
  const Sweep sweep = read(with(R"({"kvp": [1, 2, 8], "tpa": [1, 4], "ranks": [4, 8, 32],
                                    "dp": [1, 4]})"));
  EXPECT_EQ(sweep.left_out.at("kvp: helix shards the KV cache over 2 ranks or more (1: tp)"), 2);
  EXPECT_EQ(sweep.left_out.at("kvp: kvp x tpa must divide the 16 query heads: 1, 2, 4, 8, 16"), 1);
  int64_t unfilled = 0;
  for (const int ranks : {4, 8, 32})
    for (const int kvp : {1, 2, 8})
      for (const int tpa : {1, 4})
        for (const int dp : {1, 4}) unfilled += kvp * tpa * dp != ranks;
  EXPECT_EQ(sweep.left_out.at("ranks: pp x dp x kvp x tpa does not give them"), unfilled);
}

TEST(Resolved, HasDefaultsAndReadsAsTheSameSweep) {
  const Sweep sweep = read(with(R"({"batch": [1, 8], "hop_b": [true, false]})"));
  EXPECT_EQ(sweep.resolved["kvp"], "all");
  EXPECT_EQ(sweep.resolved["interval"], 32);
  EXPECT_EQ(sweep.resolved["batch"], Json({1, 8}));
  const Sweep again = read(sweep.resolved);
  EXPECT_EQ(again.resolved, sweep.resolved);
  EXPECT_EQ(described(again), described(sweep));
  Json other_order = Json::object();
  const Json document = with(R"({"batch": [1, 8], "hop_b": [true, false]})");
  for (auto it = document.rbegin(); it != document.rend(); ++it) other_order[it.key()] = it.value();
  EXPECT_EQ(read(other_order).resolved, sweep.resolved);
}

TEST(Resolved, ModelFilesAreNamedFromTheRoot) {
  const std::filesystem::path folder = testing::TempDir();
  Json model = Json::parse(std::ifstream(preset_path("tiny-llama")));
  model["name"] = "mine";
  std::ofstream(folder / "mine.json") << model;
  const Sweep sweep = read(with(R"({"model": ["mine.json", "tiny-llama"]})"), folder);
  EXPECT_EQ(sweep.resolved["model"][0], (folder / "mine.json").lexically_normal().string());
  EXPECT_EQ(sweep.points.size(), 8U);
  EXPECT_EQ(read(sweep.resolved, "/elsewhere").points.size(), 8U);
  model["name"] = "tiny-llama";
  std::ofstream(folder / "mine.json") << model;
  EXPECT_THROW(read(with(R"({"model": "mine.json"})"), folder), InputError);
}

// --- Refusals ---

struct Wrong {
  const char* changes;
  const char* pointer;
  const char* text;
};

class Refused : public testing::TestWithParam<Wrong> {};

TEST_P(Refused, InOneLineThatSaysWhereAndWhatIsAllowed) {
  const std::string line = refusal(with(GetParam().changes));
  EXPECT_THAT(line, HasSubstr("s.json: " + std::string(GetParam().pointer)));
  EXPECT_THAT(line, HasSubstr(GetParam().text));
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

const Wrong wrong[] = {
    {R"({"bach": 3})", "/bach: ", "did you mean \"batch\"?"},
    {R"({"schema": "helix-bench/sweep/2"})", "/schema: ", "allowed is \"helix-bench/sweep/1\""},
    {R"({"name": "../x"})", "/name: ", "no path"},
    {R"({"name": ""})", "/name: ", "1 to 100"},
    {R"({"name": ".."})", "/name: ", "allowed are"},
    {R"({"model": "tiny-lama"})", "/model: ", "did you mean \"tiny-llama\"?"},
    {R"({"model": []})", "/model: ", "an empty list"},
    {R"({"strategy": "helx"})", "/strategy: ", "did you mean \"helix\"?"},
    {R"({"strategy": []})", "/strategy: ", "an empty list"},
    {R"({"batch": 0})", "/batch: ", "found 0, allowed are integers from 1 to 1048576"},
    {R"({"batch": -1})", "/batch: ", "found -1"},
    {R"({"batch": [1, 8.5]})", "/batch/1: ", "found 8.5"},
    {R"({"batch": "8"})", "/batch: ", "found \"8\""},
    {R"({"batch": 1e30})", "/batch: ", "found 1e+30"},
    {R"({"batch": []})", "/batch: ", "an empty list"},
    {R"({"context": 0})", "/context: ", "found 0"},
    {R"({"context": {"uniform": [9, 5]}})", "/context/uniform/1: ", "from 9"},
    {R"({"context": {"uniform": 5}})", "/context/uniform: ", "[shortest, longest]"},
    {R"({"context": {"unifrom": [1, 5]}})", "/context/unifrom: ", "did you mean \"uniform\"?"},
    {R"({"interval": 0})", "/interval: ", "found 0"},
    {R"({"hop_b": 1})", "/hop_b: ", "allowed are true and false"},
    {R"({"chunks": "aut"})", "/chunks: ", "\"auto\""},
    {R"({"steps": 0})", "/steps: ", "found 0"},
    {R"({"seed": -1})", "/seed: ", "found -1"},
    {R"({"ranks": 0})", "/ranks: ", "from 1 to 4096"},
    {R"({"ranks": "all"})", "/ranks: ", "from 1 to 4096"},
    {R"({"ranks": {"from": 1, "to": 8}})", "/ranks: ", "either times or step"},
    {R"({"ranks": {"from": 1, "to": 8, "times": 1}})", "/ranks/times: ", "from 2"},
    {R"({"ranks": {"from": 8, "to": 1, "step": 1}})", "/ranks/to: ", "from 8"},
    {R"({"kvp": "al"})", "/kvp: ", "or \"all\" alone"},
    {R"({"kvp": ["all", 2]})", "/kvp/0: ", "or \"all\" alone"},
    {R"({"precision": {"weights": "int4", "kv": "bf16", "activations": "bf16"}})",
     "/precision/weights: ", "\"nvfp4\""},
    {R"({"precision": {"weights": "bf16", "kv": "bf16"}})", "/precision: ", "\"activations\""},
    {R"({"routing": {"zipf": -1}})", "/routing/zipf: ", "from 0"},
    {R"({"depths": [1, 99]})", "/depths/1: ", "tiny-llama has 4 layers"},
    {R"({"depths": [0, 2]})", "/depths/0: ", "from 1"},
    {R"({"depths": 2})", "/depths: ", "[a, b]"},
    {R"({"model": "tiny-deepseek", "depths": [1, 2], "pp": [1, 2]})",
     "/pp/1: ", "depths are measured at PP 1"},
    {R"({"query_tokens": 2})", "/query_tokens: ", "not supported"},
    {R"({"kv_layout": "pagd"})", "/kv_layout: ", "did you mean \"paged\"?"},
    {R"({"kv_layout": []})", "/kv_layout: ", "an empty list"},
    {R"({"kv_layout": true})", "/kv_layout: ", "found true"},
    // What others do and we do not.
    {R"({"prefill": true})", "/prefill: ", "not supported: prefill"},
    {R"({"sliding_window": 4096})", "/sliding_window: ", "not supported: sliding windows"},
    {R"({"sparse_attention": true})", "/sparse_attention: ", "not supported: sparse attention"},
    {R"({"lora_adapters": []})", "/lora_adapters: ", "not supported: adapters"},
    {R"({"encoder": "x"})", "/encoder: ", "not supported: encoder models"},
    {R"({"training": true})", "/training: ", "not supported: training"},
    // Values that are legal nowhere.
    {R"({"kvp": [2, 3]})", "/kvp/1: ", "legal are 1, 2, 4, 8; nearest legal layout: helix KVP 4"},
    {R"({"strategy": "helix", "kvp": 1, "ranks": 4})",
     "/kvp: ", "helix shards the KV cache over 2 ranks"},
    {R"({"strategy": "tp", "kvp": 4})", "/kvp: ", "legal are 1; nearest legal layout: tp TPA 8"},
    {R"({"tpa": [1, 3]})", "/tpa/1: ", "legal are 1, 2, 4, 8"},
    {R"({"tpf": [8, 4]})", "/tpf/1: ", "a dense model has EP 1"},
    {R"({"ep": 2})", "/ep: ", "a dense model has EP 1"},
    {R"({"model": "tiny-deepseek", "ep": [3, 4], "ranks": 24, "kvp": 8, "tpa": 3})",
     "/kvp: ", "legal"},
    {R"({"model": "tiny-qwen3-moe", "ep": [8, 4], "dp": "all"})",
     "/ep/0: ", "must divide the 12 experts: 1, 2, 3, 4, 6, 12"},
    {R"({"pp": [1, 8]})", "/pp/1: ", "from 1 to 4, a layer for each stage"},
    {R"({"ranks": [8, 7]})", "/ranks/1: ", "must divide the 16 query heads"},
    {R"({"strategy": ["helix", "medha"], "model": "tiny-deepseek"})",
     "/strategy/1: ", "medha is not for MLA models"},
    {R"({"moe": "dispatch"})", "/moe: ", "dispatch needs a model with experts"},
    {R"({"model": "tiny-deepseek", "moe": "dispatch"})", "/moe: ", "dispatch needs DP > 1"},
    {R"({"query": "gather"})", "/query: ", "helix allows replicate"},
    {R"({"strategy": "dcp", "query": "replicate", "merge": "a2a"})", "/merge: ", "is helix"},
    {R"({"merge": "all_reduce"})", "/merge: ", "helix allows a2a"},
    {R"({"ffn": "replica"})", "/ffn: ", "allows all"},
    // Exclusions and explicit points.
    {R"({"exclude": [{"batch": 8}]})", "/exclude: ", "no legal point is left"},
    {R"({"exclude": [{}]})", "/exclude/0: ", "empty"},
    {R"({"exclude": {"batch": 8}})", "/exclude: ", "a list"},
    {R"({"exclude": [{"steps": 8}]})", "/exclude/0/steps: ", "unknown key"},
    {R"({"points": {}})", "/points: ", "a list"},
    {R"({"points": [{"points": []}]})", "/points/0/points: ", "unknown key"},
    {R"({"points": [{"batch": [1, 2], "strategy": "tp"}]})", "/points/0/batch: ", "one value"},
    {R"({"points": [{"batch": 1}]})", "/points/0: ", "\"strategy\" is missing"},
    {R"({"points": [{"strategy": "helix"}]})", "/points/0: ", "give more widths"},
    {R"({"points": [{"strategy": "helix", "kvp": 3, "tpa": 1}]})", "/points/0/kvp: ",
     "must divide the 16 query heads: 1, 2, 4, 8, 16; nearest legal layout: helix KVP 4"},
    {R"({"points": [{"strategy": "helix", "kvp": 1, "ranks": 8, "tpa": 8}]})",
     "/points/0/kvp: ", "nearest legal layout: helix KVP 2 x TPA 4"},
    {R"({"points": [{"strategy": "tp", "kvp": 2, "ranks": 8}]})",
     "/points/0/kvp: ", "tp has KVP 1"},
    {R"({"points": [{"strategy": "helix", "kvp": 4, "tpa": 4, "ranks": 8}]})",
     "/points/0: ", "the widths do not give 8 ranks"},
    {R"({"points": [{"strategy": "helix", "kvp": 4, "tpa": 2, "pp": 5}]})",
     "/points/0/pp: ", "from 1 to 4"},
    {R"({"batch": {"from": 1, "to": 1000000, "step": 1}, "context": [1, 2]})", "", "over 1000000"},
};
INSTANTIATE_TEST_SUITE_P(Sweep, Refused, testing::ValuesIn(wrong));

TEST(Refusals, NameMissingKeys) {
  for (const char* key : {"schema", "name", "model", "ranks", "batch", "context"}) {
    Json sweep = with("{}");
    sweep.erase(key);
    EXPECT_THAT(refusal(sweep), HasSubstr(in_quotes(key) + " is missing"));
  }
  EXPECT_THAT(refusal(Json::array()), HasSubstr("an object"));
  EXPECT_THROW(read_sweep("/no/such/sweep.json"), InputError);
}

// 185 000 points and more are read in well under a second; sanitizers take their share.
TEST(Speed, OfALargeSweep) {
  const Json sweep = with(R"({"model": "deepseek-r1", "strategy": "all", "hop_b": [false, true],
    "ranks": {"from": 1, "to": 64, "times": 2}, "pp": "all", "dp": "all",
    "tpa": {"from": 1, "to": 64, "times": 2}, "batch": {"from": 1, "to": 100, "step": 1}, "context": 1000000})");
  const auto start = std::chrono::steady_clock::now();
  const Sweep read_in = read(sweep);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_GT(read_in.points.size(), 185'000U);
  EXPECT_LT(seconds.count(), 2);
  RecordProperty("points", static_cast<int>(read_in.points.size()));
  RecordProperty("milliseconds", static_cast<int>(seconds.count() * 1e3));
}

}  // namespace
}  // namespace helix
