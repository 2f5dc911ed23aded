// ranks: 8 timeout: 300
// Every strategy on every tiny model decodes what the judge decodes: layouts on 1 to 8 ranks, dealt
// by seed, with the other axes (format, chunks, interval, batch, ragged lengths) dealt to them.
#include <gtest/gtest.h>

#include <array>

#include "base/random.h"
#include "bench/timing.h"
#include "bench/verification.h"
#include "execute/cpu/executor.h"
#include "kernels/cpu/elementwise.h"
#include "layout/strategy.h"

namespace helix {
namespace {

constexpr int64_t steps = 3;
constexpr size_t cases_each = 5;  // of a model and strategy

constexpr Precision all_of(Format f) { return {f, f, f, f, f, f}; }
const Precision precisions[] = {
    all_of(Format::fp32),
    all_of(Format::bf16),
    {Format::bf16, Format::bf16, Format::fp32, Format::bf16, Format::bf16, Format::bf16}};

// The same numbers on every rank.
class Deal {
 public:
  explicit Deal(uint64_t seed) : state_(seed) {}
  size_t below(size_t count) { return static_cast<size_t>((state_ = combine(state_, 1)) % count); }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(values.size())];
  }

 private:
  uint64_t state_;
};

std::vector<Layout> all_layouts(const Model& model, const Strategy& strategy) {
  LayoutQuery query;
  query.pp = query.dp = {};
  query.query = strategy.query;
  query.merge = strategy.merge;
  if (model.attention.mla() && strategy.shares == Shares::sequence) {
    query.mla = {Mla::latent, Mla::value};
    query.tpa = {1, 2};
  }
  if (model.experts.count > 0 && strategy.ffn == Ffn::all) query.moe = {Moe::gather, Moe::dispatch};
  std::vector<Layout> all;
  for (int64_t ranks = 1; ranks <= 8; ++ranks)
    for (const Layout& l : layouts(model, all_of(Format::fp32), strategy, ranks, query))
      all.push_back(l);
  return all;
}

Assignment assignment(const Model& model, const Layout& layout, Deal& deal) {
  Assignment work{.model = &model,
                  .layout = layout,
                  .precision = precisions[deal.below(3)],
                  .lengths = {},
                  .steps = steps};
  work.interval = deal.pick<int64_t>({1, 16, 32});
  const int64_t round = work.interval * layout.kvp;
  const int64_t lengths[] = {round + 1, 0, 700, 1, work.interval - 1, work.interval, round, 300};
  const auto batch = deal.pick<size_t>({1, 3, 8});
  for (size_t i = 0; i < batch; ++i) work.lengths.push_back(lengths[(i + deal.below(8)) % 8]);
  const auto smallest = static_cast<int>(batch) / (layout.dp * layout.pp);  // replica's share
  if (layout.kvp > 1 && smallest > 1) work.chunks = deal.pick({1, 2, smallest});
  work.kv_layout = deal.pick({KvLayout::dense, KvLayout::paged});
  return work;
}

std::string text_of(const Assignment& work) {
  std::string text = work.model->name + " " + describe(work.layout) + ", chunks " +
                     std::to_string(work.chunks) + ", interval " + std::to_string(work.interval) +
                     ", " + std::string(name_of(work.kv_layout)) + ", " +
                     std::string(name_of(work.precision.weights)) + "/" +
                     std::string(name_of(work.precision.activations)) + ", lengths";
  for (const int64_t length : work.lengths) text += " " + std::to_string(length);
  return text;
}

struct Routed {
  int64_t choices = 0;
  int64_t differing = 0;
  int64_t codes = 0;
  int64_t codes_differing = 0;
};

void expect_few(const std::map<Format, Routed>& routed, const std::string& text) {
  for (const auto& [format, r] : routed) {
    EXPECT_LE(static_cast<double>(r.differing),
              routing_share(format) * static_cast<double>(r.choices))
        << text << ", activations " << name_of(format);
    EXPECT_LE(static_cast<double>(r.codes_differing),
              code_share(format) * static_cast<double>(r.codes))
        << text << ", activations " << name_of(format);
  }
}

// After a rewind and on its own: the judge's tokens, until one of its steps was a near tie.
void check_free_run(Executor& executor, const std::vector<const Verdict*>& verdicts,
                    double tolerance, const std::string& text) {
  executor.rewind();
  std::vector<bool> sure(verdicts.size(), true);
  for (size_t step = 0; step < static_cast<size_t>(steps); ++step) {
    executor.step();
    const auto sampled = executor.sampled();
    for (size_t i = 0; i < sampled.size(); ++i) {
      sure[i] = sure[i] && verdicts[i]->margins[step] > 10 * tolerance;
      EXPECT_TRUE(!sure[i] || sampled[i] == verdicts[i]->tokens[step])
          << text << ", request " << i << ", step " << step;
    }
  }
}

void check(World& world, Judges& judges, const Assignment& work, std::map<Format, Routed>& routed) {
  const auto verdicts = judges.judge(work, steps);
  const Communicator& ranks = world.first(work.layout.ranks());
  const std::string text = text_of(work);
  if (ranks) {
    cpu::CpuExecutor executor(ranks.get(), work);
    const Comparison c = compare_steps(ranks.get(), executor, work, verdicts, steps);
    EXPECT_LE(c.max_rel_err, tolerance(work.precision)) << text;
    EXPECT_EQ(c.tokens_differing, 0) << text;
    EXPECT_EQ(c.hashes_differing, 0) << text;
    EXPECT_LE(c.routers.error, c.allowed_router_error) << text;
    EXPECT_EQ(c.routers.wrong, 0) << text;
    EXPECT_LE(c.beyond, c.allowed_beyond) << text;
    Routed& r = routed[work.precision.activations];
    r.choices += c.routers.choices;
    r.differing += c.routers.differing;
    r.codes += c.codes;
    r.codes_differing += c.codes_differing;
    if (work.precision == all_of(Format::fp32))
      check_free_run(executor, verdicts, tolerance(work.precision), text);
  }
  world.meet();
}

void check_model(const char* name) {
  World world;
  Judges judges(world);
  set_threads(world, 1);
  const Model model = read_model(preset_path(name));
  std::map<Format, Routed> routed;
  for (const Strategy& strategy : strategies()) {
    const std::vector<Layout> all = all_layouts(model, strategy);
    Deal deal(combine(static_cast<uint64_t>(strategy.name.size()), all.size()));
    for (size_t i = 0; i < std::min(cases_each, all.size()); ++i)
      check(world, judges, assignment(model, all[deal.below(all.size())], deal), routed);
  }
  expect_few(routed, name);
}

TEST(Layouts, DecodeTinyLlama) { check_model("tiny-llama"); }
TEST(Layouts, DecodeTinyDeepseek) { check_model("tiny-deepseek"); }
TEST(Layouts, DecodeTinyV2Lite) { check_model("tiny-v2-lite"); }
TEST(Layouts, DecodeTinyQwen3Moe) { check_model("tiny-qwen3-moe"); }

// Skewed routing is decoded exactly, and touches fewer experts.
TEST(Layouts, DecodeSkewedRouting) {
  World world;
  Judges judges(world);
  set_threads(world, 1);
  const Layout one_replica{.strategy = "tp", .tpa = 2, .tpf = 1, .ep = 2};
  const Layout dispatched{.strategy = "dp_ep", .dp = 4, .tpf = 2, .ep = 2, .moe = Moe::dispatch};
  for (const char* name : {"tiny-deepseek", "tiny-v2-lite", "tiny-qwen3-moe"}) {
    const Model model = read_model(preset_path(name));
    for (const Layout& layout : {one_replica, dispatched})
      for (const Precision& precision : {precisions[0], precisions[1]}) {
        Assignment work{.model = &model,
                        .layout = layout,
                        .precision = precision,
                        .lengths = {100, 40, 1, 700, 33, 16, 50, 60},
                        .steps = steps};
        std::array<double, 2> touched = {};
        for (const bool skewed : {false, true}) {
          work.zipf = skewed ? 2 : 0;
          std::map<Format, Routed> routed;
          check(world, judges, work, routed);
          expect_few(routed, name);
          if (const Communicator& ranks = world.first(layout.ranks()); ranks) {
            cpu::CpuExecutor executor(ranks.get(), work);
            executor.step();
            const Json observed = experts_touched(ranks.get(), executor);
            touched[skewed ? 1 : 0] = observed["mean"].get<double>();
            EXPECT_GE(observed["busiest"].get<double>(), observed["mean"].get<double>());
            EXPECT_LE(observed["busiest"].get<double>(),
                      static_cast<double>(model.experts.count / layout.ep));
          }
          world.meet();
        }
        EXPECT_LE(touched[1], 0.9 * touched[0]) << name << " " << describe(layout);
      }
  }
}

// What stands between a run and the judge's choice: a router that is off must be seen.
TEST(Layouts, AnotherChoiceOfExpertsIsSeen) {
  World world;
  Judges judges(world);
  const Model model = read_model(preset_path("tiny-deepseek"));
  const Layout layout{.strategy = "tp", .tpa = 2, .tpf = 1, .ep = 2};
  Assignment work{.model = &model,
                  .layout = layout,
                  .precision = all_of(Format::fp32),
                  .lengths = {100, 40},
                  .steps = steps};
  const auto verdicts = judges.judge(work, steps);
  if (const Communicator& ranks = world.first(2); ranks) {
    cpu::CpuExecutor executor(ranks.get(), work);
    executor.hooks().after = [&](const Task& task, int) {
      if (task.op != Op::norm && task.op != Op::add_norm) return;
      const TensorView x = executor.view(task.writes[0], all_chunks);
      auto* values = reinterpret_cast<float*>(x.data);
      for (int64_t i = 0; i < x.rows * x.values; i += 2) values[i] *= 1.1F;
    };
    const Comparison c = compare_steps(ranks.get(), executor, work, verdicts, steps);
    EXPECT_GT(c.routers.error, 10 * c.allowed_router_error);
    EXPECT_GT(c.routers.differing, 0);
    EXPECT_FALSE(c.passed(1e9));
  }
  world.meet();
}

// A token that the logits do not make, though all of them are right: of a rank that picks the word
// before its best one.
TEST(Layouts, AnotherTokenIsSeen) {
  World world;
  Judges judges(world);
  const Model model = read_model(preset_path("tiny-llama"));
  for (const Format f : {Format::fp32, Format::bf16}) {
    const Assignment work{.model = &model,
                          .layout = {.strategy = "tp", .tpa = 2, .tpf = 2},
                          .precision = all_of(f),
                          .lengths = {100, 40},
                          .steps = steps};
    const auto verdicts = judges.judge(work, steps);
    if (const Communicator& ranks = world.first(2); ranks) {
      cpu::CpuExecutor executor(ranks.get(), work);
      executor.hooks().after = [&](const Task& task, int) {
        if (task.op != Op::pick) return;
        auto* best = reinterpret_cast<cpu::Best*>(executor.view(task.writes[0], all_chunks).data);
        for (size_t row = 0; row < work.lengths.size(); ++row) --best[row].index;
      };
      const Comparison c = compare_steps(ranks.get(), executor, work, verdicts, steps);
      EXPECT_LE(c.max_rel_err, tolerance(work.precision));
      EXPECT_GT(c.tokens_differing, 0);
      EXPECT_FALSE(c.passed(tolerance(work.precision)));
    }
    world.meet();
  }
}

// Another rank's words may have won, wrong by their logits alone: the tokens are then no second
// error, though this rank's logits are right. Each rank in turn, so that every token is met.
TEST(Layouts, ATokenIsNoErrorOfARankWhoseLogitsAreRight) {
  World world;
  Judges judges(world);
  const Model model = read_model(preset_path("tiny-llama"));
  const Assignment work{.model = &model,
                        .layout = {.strategy = "tp", .tpa = 2, .tpf = 2},
                        .precision = all_of(Format::fp32),
                        .lengths = {100, 40},
                        .steps = steps};
  const auto verdicts = judges.judge(work, steps);
  for (int off = 0; off < 2; ++off) {
    if (const Communicator& ranks = world.first(2); ranks) {
      cpu::CpuExecutor executor(ranks.get(), work);
      const int rank = executor.schedule().place.in_stage();
      executor.hooks().after = [&](const Task& task, int) {
        if (task.op != Op::pick || rank != off) return;
        const TensorView logits = executor.view(task.reads[0], all_chunks);
        auto* values = reinterpret_cast<float*>(logits.data);
        for (int64_t i = 0; i < logits.rows * logits.values; ++i) values[i] += 100;
        auto* best = reinterpret_cast<cpu::Best*>(executor.view(task.writes[0], all_chunks).data);
        for (size_t row = 0; row < work.lengths.size(); ++row) best[row].value += 100;
      };
      const Comparison c = compare_steps(ranks.get(), executor, work, verdicts, steps);
      EXPECT_GT(c.max_rel_err, 1);
      EXPECT_EQ(c.tokens_differing, 0);
    }
    world.meet();
  }
}

// Codes of quantised KV caches: near ties are forced and few, and a cache that is off is seen.
TEST(Layouts, QuantisedCachesAreForcedAndBounded) {
  World world;
  Judges judges(world);
  set_threads(world, 1);
  const Layout layout{
      .strategy = "helix", .kvp = 2, .tpf = 2, .query = Query::replicate, .merge = Merge::a2a};
  const Model model = read_model(preset_path("tiny-llama"));
  for (const Format kv : {Format::fp8, Format::nvfp4})
    for (const Format activations : {Format::fp32, Format::bf16}) {
      const Assignment work{
          .model = &model,
          .layout = layout,
          .precision = {Format::nvfp4, kv, activations, Format::fp8, Format::nvfp4, Format::fp8},
          .lengths = {100, 40},
          .steps = steps};
      std::map<Format, Routed> routed;
      check(world, judges, work, routed);
      expect_few(routed, std::string(name_of(kv)));
      const auto verdicts = judges.judge(work, steps);
      if (const Communicator& ranks = world.first(2); ranks) {
        EXPECT_GT(routed[activations].codes, 0);
        cpu::CpuExecutor executor(ranks.get(), work);
        executor.hooks().after = [&](const Task& task, int) {
          if (task.op != Op::rope) return;  // keys a quarter too large
          const TensorView x = executor.view(task.writes[0], all_chunks);
          for (int64_t i = 0; i < x.rows * x.values; ++i) {
            if (activations == Format::fp32) {
              reinterpret_cast<float*>(x.data)[i] *= 1.25F;
            } else {
              auto& value = reinterpret_cast<bf16*>(x.data)[i];
              value = to_bf16(1.25F * to_float(value));
            }
          }
        };
        const Comparison c = compare_steps(ranks.get(), executor, work, verdicts, steps);
        EXPECT_GT(c.beyond, c.allowed_beyond) << name_of(kv);
        EXPECT_FALSE(c.passed(1e9));
      }
      world.meet();
    }
}

}  // namespace
}  // namespace helix
