// The rivals at 64 ranks, priced alike: prints what a rank of each strategy holds, computes and
// sends, and checks what must hold between them.
#include <gtest/gtest.h>

#include <cstdio>

#include "bench/plan.h"
#include "bench/sweep.h"
#include "layout/strategy.h"

namespace helix {
namespace {

// An H200 SXM's data sheet, to choose widths by. Latencies are left out: messages are in the table.
constexpr double memory_rate = 4.8e12, flop_rate = 989e12, link_rate = 450e9, capacity = 141e9;

struct Rival {
  Layout layout;
  Memory memory;
  Cost cost;
  bool fits() const { return memory.total() <= capacity; }
  double floor_s() const {
    return std::max((cost.early + cost.late) / memory_rate, cost.flops / flop_rate) +
           cost.sent / link_rate;
  }
  bool better_than(const Rival& other) const {
    return fits() != other.fits() ? fits() : floor_s() < other.floor_s();
  }
};

Rival priced(Planner& planner, const Point& point) {
  return {point.layout, planner.widest_rank(point),
          step_cost(planner.schedule(point), planner.load(point))};
}

void print(const Rival& r) {
  std::printf("%-50s %10.1f %8.1f %8.1f %8d %9.2f %8.2f%s\n", describe(r.layout).c_str(),
              r.memory.weights / 1e9, r.memory.kv / 1e9, r.cost.flops / 1e9, r.cost.messages,
              r.cost.sent / 1e6, 1e3 * r.floor_s(), r.fits() ? "" : " *");
}

class Rivals : public testing::Test {
 protected:
  static const std::vector<Point>& points() {
    static const Sweep sweep = read_sweep(configs_folder() + "/sweeps/rivals.json");
    return sweep.points;
  }
  // Of all points that `wanted` takes, the best.
  template <class Wanted>
  std::optional<Rival> best(const std::string& model, Wanted wanted) {
    std::optional<Rival> found;
    for (const Point& point : points()) {
      if (point.model->name != model || !wanted(point.layout)) continue;
      const Rival rival = priced(planner_, point);
      if (!found || rival.better_than(*found)) found = rival;
    }
    return found;
  }
  // The one with these widths and the strategy's own choices.
  Rival of(const std::string& model, const Layout& widths) {
    const Layout wanted = canonical(
        points().front().model->name == model ? *points().front().model : *points().back().model,
        widths);
    const auto found = best(model, [&](const Layout& l) { return l == wanted; });
    EXPECT_TRUE(found) << model << " " << describe(wanted);
    return found.value_or(Rival{});
  }
  Planner planner_;
};

constexpr Layout helix_of(int kvp, int tpa, int tpf, int ep) {
  return {.strategy = "helix",
          .kvp = kvp,
          .tpa = tpa,
          .tpf = tpf,
          .ep = ep,
          .query = Query::replicate,
          .merge = Merge::a2a,
          .mla = Mla::latent};
}
constexpr Layout tp_of(int tpf, int ep) {
  return {.strategy = "tp", .tpa = 64, .tpf = tpf, .ep = ep};
}
constexpr Layout dp_ep_of(Moe moe) {
  return {.strategy = "dp_ep", .dp = 64, .tpf = 1, .ep = 64, .moe = moe};
}
constexpr const char* llama = "llama-3.1-405b";
constexpr const char* r1 = "deepseek-r1";

TEST_F(Rivals, TheTable) {
  for (const char* model : {llama, r1}) {
    std::printf(
        "\n%s, 64 ranks, batch 64, 131072 tokens of context, bf16; a rank and step, the widths "
        "with "
        "the\nleast floor on an H200 (* does not fit its 141 GB):\n%-50s %10s %8s %8s %8s %9s "
        "%8s\n",
        model, "", "weights GB", "KV GB", "GFLOP", "messages", "sent MB", "floor ms");
    for (const Strategy& strategy : strategies())
      for (const Moe moe : {Moe::gather, Moe::dispatch}) {
        const bool both =
            strategy.shares == Shares::nothing;  // dp_ep's tokens go by the cheaper way
        if (!both && moe == Moe::dispatch) continue;
        const auto r = best(model, [&](const Layout& l) {
          return l.strategy == strategy.name &&
                 (!both || (l.moe == Moe::dispatch) == (moe == Moe::dispatch));
        });
        if (r) print(*r);
      }
  }
}

// 8 KV heads: a TP rank beyond 8 holds a head that another one has too; MLA has one for all.
TEST_F(Rivals, TensorParallelismRepeatsTheCache) {
  const double llama_tp = of(llama, tp_of(64, 1)).memory.kv;
  EXPECT_NEAR(llama_tp / of(llama, helix_of(8, 8, 64, 1)).memory.kv, 8, 0.02);
  EXPECT_NEAR(of(r1, tp_of(8, 8)).memory.kv / of(r1, helix_of(64, 1, 8, 8)).memory.kv, 64, 1);
  EXPECT_FALSE(of(r1, tp_of(8, 8)).fits());
}

// Whole requests a rank and the sequence over all ranks hold the same cache in all.
TEST_F(Rivals, HelixHoldsNoMoreCacheThanDataParallelism) {
  EXPECT_NEAR(of(r1, helix_of(64, 1, 8, 8)).memory.kv / of(r1, dp_ep_of(Moe::gather)).memory.kv, 1,
              0.02);
}

TEST_F(Rivals, MedhaHoldsItsFfnOnFewRanks) {
  const Layout medha{.strategy = "medha",
                     .kvp = 8,
                     .tpa = 8,
                     .tpf = 8,
                     .query = Query::replicate,
                     .merge = Merge::all_reduce,
                     .ffn = Ffn::replica};
  const Rival ours = of(llama, helix_of(8, 8, 64, 1));
  const Rival theirs = of(llama, medha);
  const double ffn_on_64 = 126.0 * 3 * 16384 * 53248 * 2 / 64;
  // Seven eighths more of the FFN; and W_O at width 8 in place of 64.
  const double output_on_64 = 126.0 * 16384 * 16384 * 2 / 64;
  EXPECT_NEAR(theirs.memory.weights - ours.memory.weights, 7 * (ffn_on_64 + output_on_64),
              1e-3 * ffn_on_64);
  EXPECT_NEAR(theirs.memory.kv, ours.memory.kv, 1e-6 * ours.memory.kv);
}

// A token chooses 8 of 256 experts on 64 ranks: dispatch carries it to 7.1 of the others, there and
// back, gathering to all 63.
TEST_F(Rivals, DispatchSendsLessThanGathering) {
  const Rival gather = of(r1, dp_ep_of(Moe::gather));
  const Rival dispatch = of(r1, dp_ep_of(Moe::dispatch));
  EXPECT_LT(dispatch.cost.sent, gather.cost.sent / 4);
  EXPECT_GT(dispatch.cost.sent, gather.cost.sent / 10);
  EXPECT_GT(dispatch.memory.weights, gather.memory.weights);  // a shared expert on each rank
}

// Projecting queries and keys on every KVP rank: the hidden tax of helix (helix.md).
TEST_F(Rivals, HelixComputesMoreAndReadsLessThanTensorParallelism) {
  for (const char* model : {llama, r1}) {
    const bool dense = model == llama;
    const Rival ours = of(model, dense ? helix_of(8, 8, 64, 1) : helix_of(64, 1, 8, 8));
    const Rival tp = of(model, dense ? tp_of(64, 1) : tp_of(8, 8));
    EXPECT_GT(ours.memory.weights, tp.memory.weights);
    EXPECT_LT(ours.cost.early, 0.5 * tp.cost.early);
    EXPECT_GT(ours.cost.messages, tp.cost.messages);
  }
}

}  // namespace
}  // namespace helix
