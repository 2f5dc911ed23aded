// What a frontier is, checked by looking at every pair of points; and what must never be on one.
#include "bench/frontier.h"

#include <algorithm>
#include <random>
#include <set>

#include "tests/unit/lines.h"

namespace helix {
namespace {

using testing::HasSubstr;

bool dominates(const Dot& a, const Dot& b) {
  return a.x >= b.x && a.y >= b.y && (a.x > b.x || a.y > b.y);
}

bool proven(const Dot& dot) {
  return dot.proof == Proof::verified || dot.proof == Proof::simulated;
}

// On a coarse grid, so that points share an axis or are equal.
std::vector<Dot> random_dots(std::mt19937& random, int count, int grid) {
  std::vector<Dot> dots(static_cast<size_t>(count));
  std::uniform_int_distribution<int> place(1, grid);
  for (Dot& dot : dots) {
    dot.x = place(random);
    dot.y = place(random);
    dot.proof = static_cast<Proof>(place(random) % 4);
    dot.frontier = place(random) % 2 == 0;  // of an earlier marking
  }
  return dots;
}

void mark(std::vector<Dot>& dots) {
  std::vector<Dot*> curve;
  curve.reserve(dots.size());
  for (Dot& dot : dots) curve.push_back(&dot);
  mark_frontier(curve);
}

TEST(Frontier, APointIsOnItWhenItIsProvenAndNoProvenPointDominatesIt) {
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<Dot> dots = random_dots(random, round % 40, 2 + round % 17);
    mark(dots);
    for (const Dot& dot : dots) {
      const bool dominated = std::ranges::any_of(
          dots, [&](const Dot& other) { return proven(other) && dominates(other, dot); });
      EXPECT_EQ(dot.frontier, proven(dot) && !dominated);
      // What dominates a point may itself be dominated, but then by a point of the frontier.
      const bool by_frontier = std::ranges::any_of(
          dots, [&](const Dot& other) { return other.frontier && dominates(other, dot); });
      EXPECT_EQ(by_frontier, dominated);
    }
  }
}

TEST(Frontier, TheOrderOfPointsSaysNothing) {
  std::mt19937 random(2);
  for (int round = 0; round < 100; ++round) {
    std::vector<Dot> dots = random_dots(random, 30, 12);
    for (size_t i = 0; i < dots.size(); ++i) dots[i].key = std::to_string(i);
    const auto marked = [](std::vector<Dot> all) {
      mark(all);
      std::set<std::string> keys;
      for (const Dot& dot : all)
        if (dot.frontier) keys.insert(dot.key);
      return keys;
    };
    const std::set<std::string> before = marked(dots);
    std::ranges::shuffle(dots, random);
    EXPECT_EQ(marked(dots), before);
  }
}

class FrontierFiles : public FolderTest {
 protected:
  Frontier read(const std::vector<Json>& lines) const {
    std::string text;
    for (const Json& line : lines) text += line.dump() + "\n";
    write_text(folder + "/results.jsonl", text);
    return read_frontier({folder});
  }
  static const Dot& find(const Panel& panel, const std::string& key) {
    return *std::ranges::find(panel.dots, key, &Dot::key);
  }
};

TEST_F(FrontierFiles, EqualPointsAreKeptTogetherAndADominatedTieIsNot) {
  const Panel panel = read({ok({.key = "a", .x = 10, .y = 5}), ok({.key = "b", .x = 10, .y = 5}),
                            ok({.key = "c", .x = 10, .y = 4}), ok({.key = "d", .x = 9, .y = 5})})
                          .panels.at(0);
  EXPECT_TRUE(find(panel, "a").frontier);
  EXPECT_TRUE(find(panel, "b").frontier);
  EXPECT_FALSE(find(panel, "c").frontier);
  EXPECT_FALSE(find(panel, "d").frontier);
}

TEST_F(FrontierFiles, EachStrategyHasItsOwn) {
  const Panel panel = read({ok({.key = "a", .strategy = "helix", .x = 10, .y = 5}),
                            ok({.key = "b", .strategy = "tp", .x = 1, .y = 1})})
                          .panels.at(0);
  EXPECT_TRUE(find(panel, "a").frontier);
  EXPECT_TRUE(find(panel, "b").frontier);
}

TEST_F(FrontierFiles, OptionsSayWhatDiffersWithinAStrategyAndNotWhatMakesIt) {
  Json latent = ok({.key = "latent"});
  Json value = ok({.key = "value"});
  Json dcp = ok({.key = "dcp", .strategy = "dcp"});
  latent["point"]["layout"]["mla"] = "latent";
  value["point"]["layout"]["mla"] = "value";
  dcp["point"]["layout"]["query"] = "gather";
  dcp["point"]["layout"]["mla"] = "latent";
  const Panel panel = read({latent, value, dcp}).panels.at(0);
  EXPECT_EQ(find(panel, "latent").options, "mla latent");
  EXPECT_EQ(find(panel, "value").options, "mla value");
  EXPECT_EQ(find(panel, "dcp").options, "");
}

TEST_F(FrontierFiles, TheHullIsTheFrontierOfTheBaselinesTogether) {
  const Panel panel = read({ok({.key = "helix", .strategy = "helix", .x = 90, .y = 90}),
                            ok({.key = "dcp", .strategy = "dcp", .x = 80, .y = 80}),
                            ok({.key = "tp", .strategy = "tp", .x = 20, .y = 10}),
                            ok({.key = "medha", .strategy = "medha", .x = 10, .y = 20}),
                            ok({.key = "dp_ep", .strategy = "dp_ep", .x = 9, .y = 19})})
                          .panels.at(0);
  for (const Dot& dot : panel.dots)
    EXPECT_EQ(dot.hull, dot.key == "tp" || dot.key == "medha") << dot.key;
}

TEST_F(FrontierFiles, TheMedianRepeatSpeaksForAPoint) {
  const Panel panel = read({ok({.key = "a", .x = 30, .y = 3, .repeat = 1}),
                            ok({.key = "a", .x = 10, .y = 1, .repeat = 2}),
                            ok({.key = "a", .x = 20, .y = 2, .repeat = 3})})
                          .panels.at(0);
  ASSERT_EQ(panel.dots.size(), 1U);
  EXPECT_EQ(panel.dots[0].x, 20);
  EXPECT_EQ(panel.dots[0].y, 2);
  EXPECT_EQ(panel.dots[0].repeats, 3);
  EXPECT_THAT(panel.dots[0].line, testing::EndsWith("results.jsonl:3"));
  EXPECT_DOUBLE_EQ(panel.dots[0].ttl_high_us, 1e5);
}

TEST_F(FrontierFiles, TheLastLineOfAnIdentityCounts) {
  const Frontier frontier =
      read({ok({.key = "a", .x = 99}), not_ok("b", "failed", "x"), ok({.key = "a", .x = 20}),
            ok({.key = "b", .x = 1}), not_ok("c", "skipped", "x"), not_ok("d", "failed", "x")});
  EXPECT_EQ(find(frontier.panels.at(0), "a").x, 20);
  EXPECT_EQ(frontier.panels[0].dots.size(), 2U);
  EXPECT_EQ(frontier.skipped, 1);
  EXPECT_EQ(frontier.failed, 1);
}

TEST_F(FrontierFiles, WhatIsNotVerifiedOrWrongIsOnNone) {
  const Panel panel = read({ok({.key = "none", .x = 90, .y = 90, .verified = false}),
                            ok({.key = "wrong", .x = 80, .y = 80, .error = 0.5}),
                            ok({.key = "nan", .x = 70, .y = 70, .error = nullptr}),
                            ok({.key = "half", .x = 60, .y = 60, .repeat = 1}),
                            ok({.key = "half", .x = 60, .y = 60, .repeat = 2, .verified = false}),
                            ok({.key = "good", .x = 1, .y = 1})})
                          .panels.at(0);
  EXPECT_EQ(find(panel, "none").proof, Proof::unverified);
  EXPECT_EQ(find(panel, "half").proof, Proof::unverified);
  EXPECT_EQ(find(panel, "wrong").proof, Proof::failed);
  EXPECT_EQ(find(panel, "nan").proof, Proof::failed);
  for (const Dot& dot : panel.dots) EXPECT_EQ(dot.frontier, dot.key == "good") << dot.key;
}

TEST_F(FrontierFiles, KindsOfLineAndLoadsAreNeverMixed) {
  Json shard = ok({.key = "s"});
  shard["shard"] = "0/8";
  Json context = ok({.key = "c"});
  context["point"]["context"] = {{"uniform", {100, 4096}}};
  Json routing = ok({.key = "r"});
  routing["point"]["routing"] = {{"zipf", 1.2}};
  const Frontier frontier = read({ok({}), ok({.executor = "simulate", .verified = false}),
                                  ok({.key = "d", .depths = {1, 2}}), shard, context, routing,
                                  ok({.key = "o", .model = "other"})});
  std::multiset<std::string> heads;
  for (const Panel& panel : frontier.panels) heads.insert(panel.kind + " " + panel.context);
  EXPECT_EQ(heads, (std::multiset<std::string>{"executed in part 4096", "executed whole 100–4096",
                                               "executed whole 4096", "executed whole 4096",
                                               "executed whole 4096", "simulated 4096"}));
  for (const Panel& panel : frontier.panels)
    for (const Dot& dot : panel.dots) EXPECT_TRUE(dot.frontier);
}

// A shard's step without its exchanges is no TTL.
TEST_F(FrontierFiles, AShardIsOnAFrontierOnceItsExchangesArePriced) {
  for (const Json& machine : {Json(), Json("gb200-nvl72")}) {
    Json shard = ok({.key = "s"});
    shard["shard"] = "0/8";
    shard["not_executed"] = {{"priced_on", machine}};
    const Dot dot = read({shard}).panels.at(0).dots.at(0);
    EXPECT_EQ(dot.frontier, !machine.is_null());
    EXPECT_EQ(dot.proof, machine.is_null() ? Proof::unverified : Proof::verified);
  }
}

TEST_F(FrontierFiles, TheSamePointInTwoFilesIsARepeatAndAFileGivenTwiceIsNot) {
  const std::string other = folder + "/other.jsonl";
  write_text(other, ok({.key = "a", .x = 20}).dump() + "\n");
  read({ok({.key = "a", .x = 10})});
  const Frontier frontier = read_frontier({folder, other, folder + "/results.jsonl"});
  EXPECT_EQ(frontier.panels.at(0).dots.at(0).repeats, 2);
}

TEST_F(FrontierFiles, AtAnInteractivityThePointsThatReachItCount) {
  const AtInteractivity at = at_interactivity(
      read({ok({.key = "a", .x = 10, .y = 50}), ok({.key = "b", .x = 100, .y = 20}),
            ok({.key = "t", .strategy = "tp", .x = 40, .y = 70})})
          .panels.at(0));
  EXPECT_EQ(at.levels, (std::vector<double>{10, 20, 50, 100}));
  using Row = std::vector<std::optional<double>>;
  EXPECT_EQ(at.best.at("helix"), (Row{50, 20, 20, 20}));
  EXPECT_EQ(at.best.at("tp"), (Row{70, 70, std::nullopt, std::nullopt}));
}

TEST_F(FrontierFiles, CommitAndHardwareComeFromTheEnvironmentBeside) {
  write_text(folder + "/environment.json", R"({"e": {"machine": {"cpu": "Z80", "cores": 1},
                                           "build": {"commit": "0123456789abcdef", "dirty": true}}})");
  const Panel panel = read({ok({})}).panels.at(0);
  EXPECT_EQ(panel.commits, std::set<std::string>{"0123456789ab+"});
  EXPECT_EQ(panel.hardware, "Z80, 1 cores");
  write_text(folder + "/environment.json", "[3");
  const Frontier frontier = read({ok({})});
  EXPECT_EQ(frontier.panels.at(0).hardware, "unknown");
  EXPECT_EQ(frontier.notes.size(), 1U);
}

TEST_F(FrontierFiles, LinesThatCannotBeReadAreRefusedWithTheirPlace) {
  const auto said = [&](const char* name, const Json& value) {
    Json line = ok({});
    line[name] = value;
    return error_of<InputError>([&] { read({ok({.key = "first"}), line}); });
  };
  EXPECT_THAT(said("tokens_per_s_per_user", "fast"), HasSubstr("jsonl:2: /tokens_per_s_per_user"));
  for (const Json& value : {Json(0), Json(-1), Json(), Json::array()})
    EXPECT_THAT(said("tokens_per_s_per_rank", value), HasSubstr("jsonl:2: /tokens_per_s_per_rank"));
  EXPECT_THAT(said("ttl_us", 3), HasSubstr("jsonl:2: /ttl_us"));
  EXPECT_THAT(said("point", Json::array()), HasSubstr("jsonl:2: /point"));
  EXPECT_THAT(said("repeat", 0), HasSubstr("jsonl:2: /repeat"));
  EXPECT_THAT(said("verified", 1), HasSubstr("jsonl:2: /verified"));
  EXPECT_THAT(error_of<InputError>([&] { read({not_ok("a", "skipped", "x")}); }),
              HasSubstr("no point was measured (1 skipped, 0 failed)"));
  EXPECT_THAT(error_of<InputError>([&] { read({}); }), HasSubstr("no point was measured"));
}

TEST_F(FrontierFiles, JsonSaysForEachPointWhetherItIsOnTheFrontier) {
  const Json json = to_json(read({ok({.key = "a"}), ok({.key = "b", .x = 1, .y = 1})}));
  EXPECT_EQ(json["schema"], "helix-bench/frontier/1");
  const Json& points = json["panels"][0]["points"];
  ASSERT_EQ(points.size(), 2U);
  for (const Json& point : points) {
    EXPECT_EQ(point["frontier"], point["key"] == "a");
    EXPECT_EQ(point["proof"], "verified");
    EXPECT_EQ(point["label"], "KVP4×TPA2→TPF8");
  }
}

TEST_F(FrontierFiles, TextShowsThePointsAndCarriesNoControlCharacters) {
  Json hostile = ok({.key = "h", .x = 5, .y = 500, .model = "m\x1b[2J\n"});
  hostile["point"]["layout"]["strategy"] = "helix\x1b]0;x\n\r";
  const std::string text = to_text(read({ok({.x = 123}), hostile, ok({.key = "w", .error = 1})}));
  EXPECT_THAT(text, HasSubstr("KVP4×TPA2→TPF8"));
  EXPECT_THAT(text, HasSubstr("123"));
  EXPECT_THAT(text, HasSubstr("FAILED verification"));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find('\r'), std::string::npos);
}

TEST_F(FrontierFiles, AnyRangeOfValuesIsDrawn) {
  for (const double far : {1.0, 1.0000001, 2.0, 1e6, 1e300})
    EXPECT_FALSE(
        to_text(read({ok({.key = "a"}), ok({.key = "b", .x = 100 * far, .y = 10 / far})})).empty());
}

}  // namespace
}  // namespace helix
