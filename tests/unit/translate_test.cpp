// Six layouts an engine against what its documents say, and properties over all layouts.
#include "bench/translate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/error.h"
#include "layout/strategy.h"
#include "tests/unit/layout_cases.h"

namespace helix {
namespace {

const Engine& engine(std::string_view name) {
  return *std::ranges::find(engines(), name, &Engine::name);
}
std::string joined(const std::vector<Sourced>& texts) {
  std::string all;
  for (const Sourced& s : texts) (all += all.empty() ? "" : " | ") += s.text;
  return all;
}
// The flags in a row, or "cannot: " and why.
std::string said(std::string_view name, const Model& model, const Layout& layout,
                 int64_t interval) {
  EXPECT_FALSE(refuse(model, {}, layout)) << describe(layout);
  const Translation t = translate(engine(name), {model, layout, interval});
  return t.refusal ? "cannot: " + t.refusal->text : joined(t.flags);
}

// R1 on one node of eight, sharded the four ways that engines have or lack.
Layout helix_mla() {
  return {.strategy = "helix",
          .kvp = 8,
          .tpf = 1,
          .ep = 8,
          .query = Query::replicate,
          .merge = Merge::a2a,
          .mla = Mla::latent};
}
Layout dcp_mla() {
  Layout l = helix_mla();
  l.strategy = "dcp";
  l.query = Query::gather;
  l.merge = Merge::ag_rs;
  return l;
}
Layout helix_replicas() {  // as measured on GB300: KVP 32 x DP 2, EP 64
  Layout l = helix_mla();
  l.dp = 2;
  l.kvp = 32;
  l.ep = 64;
  l.moe = Moe::gather;
  return l;
}
Layout hybrid_experts() { return {.strategy = "tp", .tpa = 8, .tpf = 2, .ep = 4}; }
Layout data_parallel() {
  return {.strategy = "dp_ep", .dp = 64, .tpf = 1, .ep = 64, .moe = Moe::dispatch};
}
Layout dcp_gqa() {  // Llama-405B: all eight KV heads, and two shards of the sequence
  return {.strategy = "dcp",
          .pp = 2,
          .kvp = 2,
          .tpa = 8,
          .tpf = 16,
          .query = Query::gather,
          .merge = Merge::a2a};
}

TEST(Translate, Vllm) {
  const Model r1 = preset("deepseek-r1");
  EXPECT_EQ(said("vllm", r1, helix_mla(), 1),
            "-tp 8 | -dcp 8 | --dcp-comm-backend a2a | --dcp-q-replicate | "
            "--cp-kv-cache-interleave-size 1 | --enable-expert-parallel");
  EXPECT_EQ(said("vllm", r1, dcp_mla(), 16),
            "-tp 8 | -dcp 8 | --dcp-comm-backend ag_rs | --cp-kv-cache-interleave-size 16 | "
            "--enable-expert-parallel");
  EXPECT_EQ(said("vllm", r1, helix_replicas(), 1),
            "-tp 32 | -dcp 32 | --dcp-comm-backend a2a | --dcp-q-replicate | "
            "--cp-kv-cache-interleave-size 1 | --data-parallel-size 2 | --enable-expert-parallel | "
            "--all2all-backend allgather_reducescatter");
  EXPECT_EQ(said("vllm", r1, hybrid_experts(), 1),
            "cannot: experts are cut by tensor or by expert parallelism, not by both: TPF 1 or EP "
            "1");
  EXPECT_EQ(said("vllm", r1, data_parallel(), 1),
            "-tp 1 | --data-parallel-size 64 | --enable-expert-parallel | --all2all-backend "
            "deepep_low_latency");
  EXPECT_EQ(said("vllm", preset("llama-3.1-405b"), dcp_gqa(), 1),
            "-tp 16 | -dcp 2 | --dcp-comm-backend a2a | --cp-kv-cache-interleave-size 1 | "
            "--pipeline-parallel-size 2");
}

TEST(Translate, Sglang) {
  const Model r1 = preset("deepseek-r1");
  EXPECT_EQ(said("sglang", r1, helix_mla(), 1),
            "--tp-size 8 | --dcp-size 8 | --dcp-comm-backend a2a | --dcp-replicate-q-proj | "
            "--ep-size 8");
  EXPECT_EQ(said("sglang", r1, dcp_mla(), 1),
            "--tp-size 8 | --dcp-size 8 | --dcp-comm-backend ag_rs | --ep-size 8");
  EXPECT_EQ(said("sglang", r1, helix_replicas(), 1),
            "--tp-size 64 | --dcp-size 32 | --dcp-comm-backend a2a | --dcp-replicate-q-proj | "
            "--dp-size 2 | --enable-dp-attention | --ep-size 64");
  EXPECT_EQ(said("sglang", r1, hybrid_experts(), 1), "--tp-size 8 | --ep-size 4");
  EXPECT_EQ(said("sglang", r1, data_parallel(), 1),
            "--tp-size 64 | --dp-size 64 | --enable-dp-attention | --ep-size 64 | "
            "--moe-a2a-backend deepep");
  EXPECT_EQ(said("sglang", preset("llama-3.1-405b"), dcp_gqa(), 1),
            "--tp-size 16 | --dcp-size 2 | --dcp-comm-backend a2a | --pp-size 2");
}

TEST(Translate, TensorRtLlm) {
  const Model r1 = preset("deepseek-r1");
  EXPECT_EQ(said("tensorrt-llm", r1, helix_mla(), 32),
            "tensor_parallel_size: 1 | context_parallel_size: 8 | cp_config: {cp_type: HELIX, "
            "tokens_per_block: 32} | kv_cache_config: {tokens_per_block: 32} | "
            "moe_tensor_parallel_size: 1 | moe_expert_parallel_size: 8");
  EXPECT_EQ(said("tensorrt-llm", r1, dcp_mla(), 32),
            "cannot: the one way to shard KV is Helix: queries replicated, merged by all-to-all");
  EXPECT_EQ(said("tensorrt-llm", r1, helix_replicas(), 32),
            "tensor_parallel_size: 2 | context_parallel_size: 32 | cp_config: {cp_type: HELIX, "
            "tokens_per_block: 32} | kv_cache_config: {tokens_per_block: 32} | "
            "enable_attention_dp: true | moe_tensor_parallel_size: 1 | moe_expert_parallel_size: "
            "64");
  EXPECT_EQ(said("tensorrt-llm", r1, hybrid_experts(), 32),
            "tensor_parallel_size: 8 | moe_tensor_parallel_size: 2 | moe_expert_parallel_size: 4");
  EXPECT_EQ(said("tensorrt-llm", r1, data_parallel(), 32),
            "tensor_parallel_size: 64 | enable_attention_dp: true | moe_tensor_parallel_size: 1 | "
            "moe_expert_parallel_size: 64");
  EXPECT_EQ(said("tensorrt-llm", preset("llama-3.1-405b"), dcp_gqa(), 32),
            "cannot: Helix is for MLA models (DeepSeek-V3, Kimi-K2)");
}

// The number after one of the flags; 1 where it is not there.
int64_t number(const Translation& t, std::initializer_list<std::string_view> names) {
  for (const Sourced& flag : t.flags)
    for (const std::string_view name : names) {
      if (!flag.text.starts_with(name)) continue;
      int64_t value = 0;
      std::from_chars(flag.text.data() + name.size(), flag.text.data() + flag.text.size(), value);
      return value;
    }
  return 1;
}

int64_t ranks_of(const Translation& t) {
  if (t.engine == "vllm")  // DCP adds no ranks
    return number(t, {"-tp "}) * number(t, {"--pipeline-parallel-size "}) *
           number(t, {"--data-parallel-size "});
  if (t.engine == "sglang") return number(t, {"--tp-size "}) * number(t, {"--pp-size "});
  return number(t, {"tensor_parallel_size: "}) * number(t, {"context_parallel_size: "}) *
         number(t, {"pipeline_parallel_size: "});
}

TEST(Translate, TakesAsManyRanksAsTheLayout) {
  std::map<std::string_view, std::set<std::string_view>> runs;
  LayoutQuery query;
  query.pp = {1, 2};
  query.dp = {1, 2, 4};
  query.tpa = {1, 2, 4, 8, 16};
  query.query = {Query::replicate, Query::gather};
  query.merge = {Merge::a2a, Merge::ag_rs, Merge::all_reduce};
  query.mla = {Mla::latent, Mla::value};
  query.moe = {Moe::gather, Moe::dispatch};
  for (const char* name : {"deepseek-r1", "llama-3.1-405b", "qwen3-235b-a22b"}) {
    const Model model = preset(name);
    for (const Strategy& strategy : strategies())
      for (const Layout& l : layouts(model, {}, strategy, 32, query))
        for (const Engine& e : engines())
          for (const bool hop_b : {false, true}) {
            const Translation t = translate(e, {model, l, 32, hop_b});
            ASSERT_NE(t.refusal.has_value(), !t.flags.empty()) << describe(l);
            if (t.refusal) continue;
            runs[e.name].insert(l.strategy);
            EXPECT_EQ(ranks_of(t), l.ranks()) << e.name << ": " << describe(l);
            EXPECT_EQ(!t.remarks.empty() && t.remarks.front().text.starts_with("without HOP-B"),
                      hop_b);
            for (const Sourced& flag : t.flags) EXPECT_FALSE(flag.source.empty());
          }
  }
  using Names = std::set<std::string_view>;
  EXPECT_EQ(runs["vllm"], (Names{"helix", "dcp", "tp", "dp_ep"}));
  EXPECT_EQ(runs["sglang"], (Names{"helix", "dcp", "tp", "dp_ep"}));
  EXPECT_EQ(runs["tensorrt-llm"], (Names{"helix", "tp", "dp_ep"}));
}

TEST(Translate, RefusesAnUnknownEngine) {
  TranslateOptions options;
  options.engine = "vlm";
  EXPECT_THROW(translate(options), InputError);
}

}  // namespace
}  // namespace helix
