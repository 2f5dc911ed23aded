// The schedule against a table that someone who had not read it calculated by hand from helix.md
// (hand_table.py, whose "conventions" say what is counted where).
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "execute/simulate/passage.h"
#include "schedule/cost.h"
#include "schedule/covers.h"
#include "tests/unit/machines.h"

namespace helix {
namespace {

using Counts = std::map<std::string, double>;

template <class Choice>
Choice choice_of(const Node& layout, std::string_view key, std::initializer_list<Choice> choices) {
  if (layout[key].is_null()) return Choice{};
  for (const Choice choice : choices)
    if (name_of(choice) == layout[key].text()) return choice;
  layout[key].fail("not a choice");
}

Layout layout_of(const Node& node) {
  const auto width = [&](std::string_view key) {
    return static_cast<int>(node[key].integer(1, 64));
  };
  Layout layout{node["strategy"].text(),
                width("pp"),
                width("dp"),
                width("kvp"),
                width("tpa"),
                width("tpf"),
                width("ep")};
  layout.query = choice_of(node, "query", {Query::replicate, Query::gather});
  layout.merge = choice_of(node, "merge", {Merge::a2a, Merge::ag_rs, Merge::all_reduce});
  layout.mla = choice_of(node, "mla", {Mla::latent, Mla::value});
  layout.ffn = choice_of(node, "ffn", {Ffn::all, Ffn::replica});
  layout.moe = choice_of(node, "moe", {Moe::gather, Moe::dispatch});
  return layout;
}

// The table keeps apart what we keep as one tensor.
std::string our_name(const Model& model, const std::string& name, bool moe) {
  static const std::map<std::string, W> names = {{"W_K", W::kv},
                                                 {"W_V", W::kv},
                                                 {"W_GATE", W::up},
                                                 {"W_UP", W::up},
                                                 {"W_UQ", W::q},
                                                 {"experts_gate", W::experts_up},
                                                 {"experts_up", W::experts_up},
                                                 {"experts_down", W::experts_down},
                                                 {"shared_gate", W::shared_up},
                                                 {"shared_up", W::shared_up},
                                                 {"shared_down", W::shared_down},
                                                 {"router", W::router},
                                                 {"embedding", W::embed},
                                                 {"lm_head", W::lm_head},
                                                 {"final_norm", W::attention_norm}};
  EXPECT_TRUE(moe || name != "router") << model.name;
  const auto found = names.find(name);
  return found == names.end() ? name : std::string(name_of(found->second));
}

Counts ours(const Model& model, const Node& table, bool moe) {
  Counts counts;
  for (const auto& [name, value] : table.json().items())
    if (value.get<double>() != 0) counts[our_name(model, name, moe)] += value.get<double>();
  return counts;
}

class HandTable : public testing::Test {
 protected:
  // One row: its schedule, and the load of a step.
  void begin(const Node& row) {
    model_ = read_model(preset_path(row["model"].text()));
    layout_ = layout_of(row["layout"]);
    schedule_ = build_schedule({&model_, layout_, Precision{}}, 0);
    lengths_.assign(static_cast<size_t>(row["batch"].integer(1, 1000)),
                    row["context"].integer(1, 1 << 30));
    const Requests requests{lengths_, row["interval"].integer(1, 1000)};
    state_ = state_of(schedule_, model_, requests);
    capacity_ = capacity_of(schedule_, model_, requests, 1);
    early_.clear(), late_.clear(), flops_.clear(), sent_.clear();
  }

  // Layers of one kind, the prologue or the epilogue.
  void check(const Node& expected, const Segment& segment) {
    const bool moe = segment.kind == "moe";
    Counts weights, flops;
    for (int i = segment.begin; i < segment.end; ++i) {
      const Task& task = schedule_.tasks[static_cast<size_t>(i)];
      for (const Id id : task.reads)
        if (const Tensor& t = schedule_[id]; t.kind == Kind::weight)
          weights[std::string(t.name)] += volume(t, capacity_, task.chunk);
      if (const double f = cost(schedule_, task, state_).flops; f > 0)
        flops[std::string(task.op == Op::route ? name_of(W::router) : task.name)] += f;
    }
    if (moe && model_.experts.bias) {
      EXPECT_EQ(weights["router_bias"], expected["router_bias_elements"].number(0, 1e18));
      weights.erase("router_bias");
    }
    if (segment.kind ==
        "prologue") {  // the first block's norm stands here, the final one at the last block's end
      EXPECT_EQ(weights["attention_norm"], static_cast<double>(model_.hidden));
      weights.erase("attention_norm");
    }
    if (segment.kind == "epilogue") weights["attention_norm"] += static_cast<double>(model_.hidden);
    if (moe) {
      EXPECT_NEAR((flops["experts_up"] + flops["experts_down"]) / state_.routed,
                  expected["flops_per_routed_pair"].number(0, 1e18), 1e-3);
      flops.erase("experts_up"), flops.erase("experts_down");
    }
    EXPECT_EQ(weights, ours(model_, expected["weight_elements"], moe));
    Counts by_hand = ours(model_, expected["flops"], moe);
    EXPECT_EQ(flops, by_hand);
    check_exchanges(expected, segment);
    note(expected, segment);
  }

  // What the table says of each task, over the layers; bytes of activations are the schedule's own.
  void note(const Node& expected, const Segment& segment) {
    const bool moe = segment.kind == "moe";
    Counts weights = ours(model_, expected["weight_elements"], moe);
    Counts flops = ours(model_, expected["flops"], moe);
    const auto times = [&](Counts& sum, const std::string& name, double value) {
      if (value != 0) sum[name] += value * segment.layers;
    };
    size_t exchange = 0;
    for (int i = segment.begin; i < segment.end; ++i) {
      const Task& task = schedule_.tasks[static_cast<size_t>(i)];
      const std::string name(task.name);
      const std::string table_name(task.op == Op::route ? name_of(W::router) : task.name);
      times(late_, name, cost(schedule_, task, state_).late);
      times(flops_, name, std::exchange(flops[table_name], 0));
      for (const Id id : task.reads)
        if (schedule_[id].kind == Kind::weight && whole_weight(task))
          times(early_, name, 2 * std::exchange(weights[std::string(schedule_[id].name)], 0));
      if (!communicates(task.op)) continue;
      const Node e = expected["exchanges"].items()[exchange++];
      const bool open = e["bytes"].is_null();
      times(sent_, name, open ? cost(schedule_, task, state_).sent : e["bytes"].number(0, 1e18));
    }
    if (moe) {
      const double pairs = state_.routed * expected["flops_per_routed_pair"].number(0, 1e18);
      times(flops_, "experts_up", pairs * 2 / 3);  // gate and up, then down
      times(flops_, "experts_down", pairs / 3);
    }
    if (segment.kind == "dense" || moe)
      times(early_, "attention", expected["kv"]["history_bytes"].number(0, 1e18));
  }
  // Not of experts and the embedding, of which a step reads what tokens choose.
  static bool whole_weight(const Task& task) {
    return task.op == Op::product || task.op == Op::per_head;
  }

  // Every efficiency 1, every fixed time 0, and one rate at a time that counts: a task takes its
  // hand-calculated bytes, FLOPs or messages over that rate.
  void check_times() {
    Machine reads = ideal_machine({{"read_gb_per_s", 1000}});
    Machine computes = ideal_machine();
    Machine sends = ideal_machine({{"link_gb_per_s", 100}});
    computes.product_tflops.fill(500), computes.attention_tflops.fill(500);
    const auto us = [&](const Machine& machine) {
      simulated::Passage passage(schedule_, cpu_fusions(), machine,  // each task by itself
                                 simulated::Accounting::chunks);
      Counts times;
      for (const auto& cover : passage.price(state_).covers)
        times[std::string(cover.name)] = cover.us;
      return times;
    };
    const auto near = [](double value, double expected, const std::string& name) {
      EXPECT_NEAR(value, expected, 1e-4 * expected + 1e-3) << name;
    };
    Counts read = us(reads), computed = us(computes), sent = us(sends);
    for (const auto& [name, bytes] : early_) near(read[name], (bytes + late_[name]) / 1e6, name);
    for (const auto& [name, flops] : flops_) near(computed[name], flops / 500e6, name);
    for (const auto& [name, bytes] : sent_) near(sent[name], bytes / 100e3, name);
    EXPECT_GT(early_.size(), 4U);
    EXPECT_GT(flops_.size(), 4U);
  }

  void check_exchanges(const Node& expected, const Segment& segment) {
    std::vector<std::string> found, wanted;
    const auto line = [](int64_t ranks, int64_t stride, int messages, double bytes) {
      return std::to_string(ranks) + " ranks, stride " + std::to_string(stride) + ", " +
             std::to_string(messages) + " messages, " +
             std::to_string(static_cast<int64_t>(bytes)) + " bytes";
    };
    for (int i = segment.begin; i < segment.end; ++i) {
      const Task& task = schedule_.tasks[static_cast<size_t>(i)];
      if (!communicates(task.op)) continue;
      const Cost c = cost(schedule_, task, state_);
      const bool open =
          task.op == Op::dispatch || task.op == Op::combine;  // bytes depend on routing
      EXPECT_TRUE(!open || c.sent > 0) << task.name;
      found.push_back(line(task.group.size, task.group.stride, c.messages, open ? -1 : c.sent));
    }
    const std::map<std::string, int> strides = {
        {"n", 1}, {"a", 1}, {"kvp", 1}, {"tpa", layout_.kvp}, {"dp", layout_.replica_ranks()}};
    if (expected["exchanges"].json().empty()) {
      EXPECT_TRUE(found.empty());
      return;
    }
    for (const Node& e : expected["exchanges"].items())
      wanted.push_back(line(e["ranks"].integer(2, 64), strides.at(e["over"].text()),
                            static_cast<int>(e["messages"].integer(1, 1000)),
                            e["bytes"].is_null() ? -1 : e["bytes"].number(0, 1e18)));
    EXPECT_EQ(found, wanted);
  }

  void check_attention(const Node& kv, const Segment& segment) {
    for (int i = segment.begin; i < segment.end; ++i) {
      const Task& task = schedule_.tasks[static_cast<size_t>(i)];
      if (task.op != Op::attend) continue;
      EXPECT_EQ(cost(schedule_, task, state_).early, kv["history_bytes"].number(0, 1e18));
      EXPECT_EQ(bytes_of(schedule_[task.reads[1]], state_), kv["newest_bytes"].number(0, 1e18));
    }
  }

  Model model_;
  Layout layout_;
  Schedule schedule_;
  std::vector<int64_t> lengths_;
  StepState state_, capacity_;
  Counts early_, late_, flops_, sent_;
};

TEST_F(HandTable, EveryRowAgrees) {
  const std::string path =
      std::string(__FILE__).substr(0, std::string(__FILE__).rfind('/')) + "/hand_table.json";
  const Node table = read_json(path);
  for (const Node& row : table["rows"].items()) {
    SCOPED_TRACE(row["id"].text());
    begin(row);
    double history = 0;
    size_t kinds = 0;
    for (const Segment& segment : schedule_.segments) {
      SCOPED_TRACE(std::string(segment.kind));
      const bool layers = segment.kind == "dense" || segment.kind == "moe";
      const Node expected = layers ? row["layers"][segment.kind] : row[segment.kind];
      check(expected, segment);
      if (!layers) continue;
      ++kinds;
      EXPECT_EQ(segment.layers, expected["count"].integer(1, 1000));
      check_attention(expected["kv"], segment);
      history += expected["kv"]["history_bytes"].number(0, 1e18) * segment.layers;
    }
    EXPECT_EQ(kinds, row["layers"].json().size());
    check_times();
    const double bytes = 2 * row["rank_weight_elements"].number(0, 1e18) +
                         4 * row["rank_router_bias_elements"].number(0, 1e18);  // fp32
    EXPECT_EQ(memory(schedule_, state_).kv, history);
    EXPECT_EQ(memory(schedule_, capacity_).weights, bytes);
  }
}

TEST(Weights, ParametersAgree) {
  const std::string path =
      std::string(__FILE__).substr(0, std::string(__FILE__).rfind('/')) + "/hand_table.json";
  const Json totals = read_json(path)["parameters"].json();
  for (const auto& [name, entry] : totals.items()) {
    const Model model = read_model(preset_path(name));
    EXPECT_EQ(parameters(model), entry["total"].get<int64_t>()) << name;
    if (entry.contains("active")) {
      EXPECT_EQ(active_parameters(model), entry["active"].get<int64_t>()) << name;
    }
  }
}

}  // namespace
}  // namespace helix
