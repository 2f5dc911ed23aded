// The simulated executor: what it must give where it can be calculated by hand, and what holds
// everywhere.
#include "bench/pricer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/random.h"
#include "bench/simulate.h"
#include "tests/unit/machines.h"
#include "tests/unit/sweeps.h"

namespace helix {
namespace {

const CoverPrice& cover(const Priced& priced, std::string_view name) {
  const auto found = std::ranges::find(priced.covers, name, &CoverPrice::name);
  EXPECT_NE(found, priced.covers.end()) << name;
  return *found;
}

Point point_of(const char* changes) { return read(with(changes)).points.front(); }

// ---- Figure 1: one layer's KV and weights, read at 8 TB/s ----

struct Read {
  double kv_us = 0, weights_us = 0, output_us = 0;  // output: W_O's part of the weights
};
Read figure_1(const std::string& widths) {
  const std::string common =
      R"({"model": "figure-1", "batch": 8, "context": 1000000, )"
      R"("precision": {"weights": "fp4", "kv": "fp4", "activations": "bf16"}, )";
  const Point p = point_of((common + widths + "}").c_str());
  const Schedule s = build_schedule({p.model.get(), p.layout, p.precision}, 0);
  const StepState state = state_of(s, *p.model, {lengths_of(p), p.interval});
  const Machine machine = ideal_machine({{"read_gb_per_s", 8000}});
  const Segment& layer = s.segments[1];
  Read read;
  for (const Cover& c : covers_of(s, gpu_fusions())) {
    if (c.begin < layer.begin || c.begin >= layer.end) continue;
    const simulated::Rates rates = simulated::rates_of(s, c, machine);
    const double early = cost(s, c, state).early * rates.early_byte_us;
    const Op op = s.tasks[static_cast<size_t>(c.begin)].op;
    if (op == Op::attend) read.kv_us += early;
    if (op == Op::product) read.weights_us += early;
    if (name_of(s, c) == "W_O") read.output_us += early;
  }
  return read;
}
TEST(Figure1, SixValuesComeOut) {
  const Read tp8 = figure_1(R"("strategy": "tp", "ranks": 8)");
  EXPECT_NEAR(tp8.kv_us, 128, 0.5);
  EXPECT_NEAR(tp8.weights_us, 29.6, 0.05);
  const Read tp64 = figure_1(R"("strategy": "tp", "ranks": 64)");
  EXPECT_NEAR(tp64.kv_us, 128, 0.5);
  EXPECT_NEAR(tp64.weights_us, 3.9, 0.05);
  const Read helix = figure_1(R"("strategy": "helix", "ranks": 64, "kvp": 8, "tpa": 8, "tpf": 64)");
  EXPECT_NEAR(helix.kv_us, 16, 0.05);
  // Its formula charges W_O at width TPA, its text runs it on all ranks.
  EXPECT_NEAR(helix.weights_us + (8 - 1) * helix.output_us, 7.6, 0.05);
  EXPECT_NEAR(helix.weights_us, 5.8, 0.05);
}

// ---- Figure 3: HOP-B ----

constexpr const char* figure_3_point =
    R"({"model": "tiny-llama", "strategy": "helix", "ranks": 2, "kvp": 2, "tpf": 2, "batch": 8,
        "context": 65536, "hop_b": true, "chunks": 8})";
double figure_3(double attention_us, double exchange_us, bool hop_b, Accounting accounting) {
  Machine m = ideal_machine();
  m.covers["attention"] = {.fixed_us = attention_us};
  m.covers["exchange+merge"] = {.fixed_us = exchange_us};
  Point p = point_of(figure_3_point);
  p.hop_b = hop_b;
  if (!hop_b) p.chunks = 1;
  return Pricer(m, accounting).price(p).ttl_us / static_cast<double>(p.model->layers);
}

TEST(HopB, Figure3InBothAccountings) {
  // Eight requests of 2 and 1.2: 25.6 without, 17.2 with.
  EXPECT_NEAR(figure_3(16, 9.6, false, Accounting::chunks), 25.6, 1e-3);
  EXPECT_NEAR(figure_3(16, 9.6, true, Accounting::paper), 17.2, 1e-3);
  EXPECT_NEAR(figure_3(2, 1.2, true, Accounting::chunks), 17.2, 1e-3);  // a chunk each
  // The exchange is the longer one.
  EXPECT_NEAR(figure_3(9.6, 16, true, Accounting::paper), 1.2 + 16, 1e-3);
  EXPECT_NEAR(figure_3(1.2, 2, true, Accounting::chunks), 1.2 + 16, 1e-3);
}

TEST(HopB, ExposedAndHiddenAddUp) {
  Machine m = ideal_machine();
  m.covers["attention"] = {.fixed_us = 2};
  m.covers["exchange+merge"] = {.fixed_us = 1.2};
  const Point p = point_of(figure_3_point);
  for (const Accounting accounting : {Accounting::chunks, Accounting::paper}) {
    Pricer pricer(m, accounting);
    const ExchangeTimes e = pricer.price(p).exchange;
    EXPECT_NEAR(e.alone, e.exposed + e.hidden, 1e-9);
    EXPECT_GT(e.hidden, 0);
  }
  Pricer pricer(m);
  const ExchangeTimes e = pricer.price(p).exchange;
  const auto layers = static_cast<double>(p.model->layers);
  EXPECT_NEAR(e.alone / layers, 9.6, 1e-3);
  EXPECT_NEAR(e.exposed / layers, 1.2, 1e-3);  // the last one
}

// ---- Reading ahead ----

TEST(ReadAhead, FillsIdleMemoryButNotBeforeTheRouterHasDecided) {
  const Point p = point_of(R"({"model": "deepseek-r1", "strategy": "tp", "ranks": 8, "ep": 1,
                               "batch": 1, "context": 4096})");
  const auto price = [&](const char* slow, double ahead_mb) {
    Machine m = ideal_machine({{"read_gb_per_s", 1000}, {"read_ahead_mb", ahead_mb}});
    m.covers[slow] = {.fixed_us = 1000};
    Pricer pricer(m);
    const Priced& priced = pricer.price(p);
    return std::tuple(priced.ttl_us, cover(priced, "experts_up+swiglu").us,
                      cover(priced, "experts_down").us);
  };
  const auto [plain, up, down] = price("route", 0);
  const auto [ahead, ahead_up, ahead_down] = price("route", 1e6);
  EXPECT_LT(ahead, plain);
  EXPECT_EQ(up, ahead_up);  // a cover's own time is without
  EXPECT_GE(ahead, 58 * 1000 + up + down - 1e-6);
  // W_UP follows a norm that waits for nobody: 1000 us before W_O hide what is read then.
  const auto [late, u, d] = price("W_UV", 0);
  const auto [early, u2, d2] = price("W_UV", 1e6);
  EXPECT_LT(early, late - 58 * 10);
}

// A library's products begin in turn, and so does what follows them: of a layer's ten covers all
// but attention.
TEST(ReadAhead, NothingBeginsBeforeALibrarysProductsHaveEnded) {
  const auto price = [](int64_t library_rows, const std::string& batch,
                        const std::string& weights) {
    Machine m = ideal_machine({{"kernel_us", 10}, {"launch_ahead_us", 4}});
    m.library_rows = library_rows;
    Pricer pricer(m);
    const std::string point = R"({"model": "llama-3.1-8b", "strategy": "tp", "ranks": 1,
      "context": 64, "batch": )" +
                              batch + R"(, "precision": {"weights": ")" + weights +
                              R"(", "kv": "bf16", "activations": "bf16"}})";
    return pricer.price(point_of(point.c_str())).ttl_us;
  };
  const double early = price(0, "9", "bf16");
  EXPECT_NEAR(price(8, "8", "bf16"), early, 0.1);
  EXPECT_NEAR(price(8, "9", "nvfp4"), early, 0.1);
  EXPECT_NEAR(price(8, "9", "bf16"), early + 4 * (32 * 9 + 2), 0.1);
}

// ---- One rank alone ----

TEST(Alone, ExchangesTakeWhatIsSaidAndOthersWhatTheyTake) {
  const Point p = point_of(R"({"model": "tiny-deepseek", "strategy": "helix", "ranks": 4, "kvp": 4,
                               "tpa": 1, "tpf": 2, "ep": 2, "batch": 4, "context": 5000})");
  Pricer pricer(read_machine("gb200-nvl72")), other(pricer.machine());
  pricer.set_fusions(cpu_fusions());
  other.set_fusions(cpu_fusions());
  const Priced& whole = other.price(p);
  const Priced silent = pricer.price_alone(p, 0, {});
  EXPECT_EQ(silent.exchange.alone, 0);
  EXPECT_NEAR(silent.ttl_us, whole.ttl_us - whole.exchange.exposed, 0.02 * whole.ttl_us);
  const Priced& slow = pricer.price_alone(p, 0, {{"exchange", 500}, {"reduce_ffn", 70}});
  EXPECT_NEAR(slow.exchange.alone, 570, 1e-6);
  EXPECT_NEAR(slow.exchange.exposed, 570, 1e-6);
  EXPECT_NEAR(cover(slow, "exchange").us, 500, 1e-6);
  ASSERT_EQ(slow.covers.size(), whole.covers.size());
  for (size_t i = 0; i < slow.covers.size(); ++i) {
    EXPECT_EQ(slow.covers[i].name, whole.covers[i].name);
    if (!slow.covers[i].communicates) {
      EXPECT_EQ(slow.covers[i].us, whole.covers[i].us) << slow.covers[i].name;
    }
  }
  // The rank that holds the newest token of a request appends it.
  EXPECT_NE(cover(pricer.price_alone(p, 1, {}), "append").bytes, cover(whole, "append").bytes);
}

// ---- Domains ----

TEST(Domains, GroupsThatLeaveThemPayTheNetwork) {
  const Point p = point_of(R"({"model": "llama-3.1-8b", "strategy": "helix", "ranks": 16, "kvp": 2,
                               "tpa": 8, "tpf": 16, "batch": 4, "context": 4096})");
  const auto exchange = [&](int64_t domain_ranks) {
    Machine m = ideal_machine({{"link_gb_per_s", 100},
                               {"network_gb_per_s", 10},
                               {"exchange_us", 5},
                               {"all_reduce_us", 7},
                               {"network_us", 11}});
    m.domain_ranks = domain_ranks;
    Pricer pricer(m);
    const Priced& priced = pricer.price(p);
    return std::pair(cover(priced, "exchange+merge"), cover(priced, "reduce_ffn+add_norm"));
  };
  const auto [inside, reduce_inside] = exchange(16);
  EXPECT_NEAR(inside.us, 32 * 5 + inside.sent_bytes / 100e3, 1e-3);
  EXPECT_NEAR(reduce_inside.us, 32 * 7 + reduce_inside.sent_bytes / 100e3, 1e-3);
  const auto [kvp_inside, reduce_outside] = exchange(8);  // KVP ranks are neighbours
  EXPECT_EQ(kvp_inside.us, inside.us);
  // 8 of 15 peers are elsewhere.
  EXPECT_NEAR(reduce_outside.us, 32 * 18 + reduce_outside.sent_bytes * 8 / 15 / 10e3, 1e-3);
  const auto [all_outside, other] = exchange(1);
  EXPECT_NEAR(all_outside.us, 32 * 16 + all_outside.sent_bytes / 10e3, 1e-3);
}

// ---- Pipelines ----

TEST(Pipeline, TicksOfTheSlowestStage) {
  const Machine m = ideal_machine({{"kernel_us", 1}, {"exchange_us", 10}});
  const auto ttl = [&](const char* text) {
    Pricer pricer(m);
    return pricer.price(point_of(text)).ttl_us;
  };
  const double whole = ttl(R"({"model": "llama-3.1-8b", "strategy": "tp", "ranks": 1,
                               "batch": 4})");
  const double halves = ttl(R"({"model": "llama-3.1-8b", "strategy": "tp", "ranks": 2, "pp": 2,
                                "batch": 4})");
  // 32 layers of 14 covers either way; the last stage has the LM head in each tick, and each tick a
  // shift.
  EXPECT_GT(halves, whole + 2 * 10);
  EXPECT_LT(halves, whole + 2 * 10 + 10);
}

// ---- Everywhere ----

std::vector<Point> chosen_points() {
  std::vector<Point> points;
  for (const char* text :
       {R"({"model": "deepseek-r1", "strategy": "all", "ranks": [8, 64], "dp": "all", "moe": "all",
            "batch": [1, 7, 64, 500], "context": [4096, 1000000], "hop_b": [false, true]})",
        R"({"model": "llama-3.1-405b", "strategy": "all", "ranks": [8, 64], "pp": [1, 2, 4],
            "dp": [1, 2], "batch": [1, 8, 100], "context": [65536], "hop_b": [false, true]})",
        R"({"model": "qwen3-235b-a22b", "strategy": "all", "ranks": 16, "batch": [3, 32],
            "context": {"uniform": [100, 100000]}, "dp": "all", "routing": {"zipf": 0.8}})"}) {
    const std::vector<Point> some = read(with(text)).points;
    for (size_t i = 0; i < some.size(); ++i)  // 60 of each, at random
      if (mix(i) % some.size() < 60) points.push_back(some[i]);
  }
  return points;
}
const std::vector<Point>& many_points() {
  static const std::vector<Point> points = chosen_points();
  return points;
}

TEST(Properties, BetterMachinesAreNeverSlower) {
  const std::vector<Point>& points = many_points();
  ASSERT_GT(points.size(), 100U);
  Machine base = read_machine("h200-sxm");
  base.touched_expert_us = 0.5;
  Pricer pricer(base);
  std::vector<double> before;
  for (const Point& p : points) before.push_back(pricer.price(p).ttl_us);
  for (const MachineNumber& number : machine_numbers()) {
    if (number.key.starts_with("memory")) continue;
    Machine better = base;
    double& value = better.*number.value;
    const bool time = number.key.ends_with("_us");
    value = time ? value / 2 : std::min(number.high, value * 2);
    pricer.set_machine(better);
    for (size_t i = 0; i < points.size(); ++i) {
      ASSERT_GT(before[i], 0);
      EXPECT_LE(pricer.price(points[i]).ttl_us, before[i] * (1 + 1e-12))
          << number.key << " " << key_of(points[i]);
    }
  }
}

TEST(Properties, HopBInThePapersAccountingNeverLoses) {
  for (const char* name : {"h200-sxm", "gb200-nvl72"}) {
    Pricer pricer(read_machine(name), Accounting::paper);
    for (Point p : many_points()) {
      if (!p.hop_b) continue;
      const double on = pricer.price(p).ttl_us;
      p.hop_b = false;
      p.chunks = 1;
      EXPECT_LE(on, pricer.price(p).ttl_us * (1 + 1e-12)) << key_of(p);
    }
  }
}

TEST(Properties, TimesAddUp) {
  Pricer pricer(read_machine("h200-sxm"));
  for (const Point& p : many_points()) {
    const Priced& priced = pricer.price(p);
    double alone = 0;
    for (const CoverPrice& c : priced.covers) {
      EXPECT_GE(c.us, 0);
      alone += c.us;
    }
    EXPECT_LE(priced.ttl_us, alone * (1 + 1e-9));
    EXPECT_GE(priced.ttl_us * (1 + 1e-9), priced.roofline.floor_us);
    // What the compute lane waits for may be more than messages: a rescaling in the exchange lane.
    EXPECT_LE(priced.exchange.alone, priced.exchange.exposed + priced.exchange.hidden + 1e-6);
    EXPECT_LE(priced.exchange.exposed, priced.ttl_us);
  }
}

TEST(Properties, WhatFitsIsWhatHasRoom) {
  Machine m = read_machine("h200-sxm");
  Pricer pricer(m);
  int fit = 0, not_fit = 0;
  for (const Point& p : many_points()) {
    const Priced& priced = pricer.price(p);
    ++(priced.fits() ? fit : not_fit);
    EXPECT_EQ(priced.fits(), priced.memory.total() <= 141e9 * 0.95);
    if (!priced.fits()) {
      EXPECT_NE(priced.why_not.find("has 133.9 GB"), std::string::npos) << priced.why_not;
    }
  }
  EXPECT_GT(fit, 0);
  EXPECT_GT(not_fit, 0);
}

TEST(Pricer, KnowsAModelFromOneThatStoodInItsPlace) {
  Pricer pricer(read_machine("h200-sxm"));
  for (int i = 0; i < 20; ++i) {  // each is freed before the next is read
    const bool mla = i % 2 == 1;
    const Priced& priced =
        pricer.price(point_of(mla ? R"({"model": "tiny-deepseek", "strategy": "tp", "ranks": 1})"
                                  : R"({"model": "tiny-llama", "strategy": "tp", "ranks": 1})"));
    EXPECT_EQ(mla,
              std::ranges::find(priced.covers, "W_DQ", &CoverPrice::name) != priced.covers.end());
  }
}

TEST(Properties, APriceDependsOnNothingBeforeIt) {
  const std::vector<Point>& points = many_points();
  const Machine machine = read_machine("gb300-nvl72");
  Pricer forwards(machine), backwards(machine);
  std::vector<std::string> lines;
  for (const Point& p : points)
    lines.push_back(
        line_of(p, setting_of(machine, Accounting::chunks, p), forwards.price(p)).dump());
  for (size_t i = points.size(); i-- > 0;) {
    const Point& p = points[i];
    EXPECT_EQ(line_of(p, setting_of(machine, Accounting::chunks, p), backwards.price(p)).dump(),
              lines[i]);
  }
}

}  // namespace
}  // namespace helix
