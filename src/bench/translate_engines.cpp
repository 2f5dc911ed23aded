// What three serving engines can run, as their own files said on 2026-11-25.
#include "bench/translate.h"

namespace helix {

namespace {

bool always(const Asked&) { return true; }
bool moe(const Asked& a) { return a.model.experts.count > 0; }
bool mla(const Asked& a) { return a.model.attention.mla(); }
bool sharded(const Asked& a) { return a.layout.kvp > 1; }
bool piped(const Asked& a) { return a.layout.pp > 1; }
bool replicas(const Asked& a) { return a.layout.dp > 1; }
bool gathers(const Asked& a) { return a.layout.moe == Moe::gather; }
bool dispatches(const Asked& a) { return a.layout.moe == Moe::dispatch; }
bool replicates(const Asked& a) { return sharded(a) && a.layout.query == Query::replicate; }
bool merges_whole(const Asked& a) { return sharded(a) && a.layout.merge == Merge::all_reduce; }
bool value_exchange(const Asked& a) { return a.layout.mla == Mla::value; }
bool dense_replicas(const Asked& a) { return replicas(a) && !moe(a); }
bool replicates_gqa(const Asked& a) { return replicates(a) && !mla(a); }
bool wide_experts(const Asked& a) { return a.layout.ep > 1; }
bool cuts_dispatched(const Asked& a) { return dispatches(a) && a.layout.tpf > 1; }
bool in_blocks(const Asked& a) { return sharded(a) && a.interval > 1; }
bool hop_b(const Asked& a) { return a.hop_b; }

constexpr std::string_view no_medha =
    "partial outputs are never all-reduced, and the FFN is not repeated by each KVP rank";
constexpr std::string_view no_value = "MLA outputs are merged as latents, before W_UV";
constexpr std::string_view no_hop_b =
    "without HOP-B: the exchange of the whole batch follows its attention";

namespace vllm {
constexpr std::string_view config = "vllm/config/parallel.py@00193b82";
constexpr std::string_view docs = "docs/serving/context_parallel_deployment.md@020505c2";
constexpr std::string_view attention =
    "vllm/model_executor/layers/attention/mla_attention.py@0014ca6b";
constexpr std::string_view query_pr = "pull request 50382";

constexpr EngineRow limits[] = {
    {merges_whole, no_medha, config},
    {value_exchange, no_value, attention},
    {[](const Asked& a) {
       return sharded(a) && !mla(a) && a.layout.tpa < a.model.attention.kv_heads;
     },
     "dcp reaches from 1 to tp / {kv_heads} KV heads, so TPA is {kv_heads} or more", docs},
    {replicates_gqa, "queries are replicated for MLA alone; for GQA they are gathered (dcp)",
     query_pr},
    {dense_replicas, "replicas of a dense model are engines of their own and share no FFN", config},
    {[](const Asked& a) { return a.layout.ep > 1 && a.layout.tpf > 1; },
     "experts are cut by tensor or by expert parallelism, not by both: TPF 1 or EP 1", config},
    {cuts_dispatched, "tokens are dispatched under expert parallelism alone: TPF 1", config},
};
constexpr EngineRow flags[] = {
    {always, "-tp {replica}", docs},
    {sharded, "-dcp {kvp}", docs},
    {sharded, "--dcp-comm-backend {merge}", config},
    {replicates, "--dcp-q-replicate", query_pr},
    {sharded, "--cp-kv-cache-interleave-size {interval}", config},
    {piped, "--pipeline-parallel-size {pp}", config},
    {replicas, "--data-parallel-size {dp}", config},
    {wide_experts, "--enable-expert-parallel", config},
    {gathers, "--all2all-backend allgather_reducescatter", config},
    {dispatches, "--all2all-backend deepep_low_latency", config},
};
constexpr EngineRow remarks[] = {
    {hop_b, no_hop_b, config},
    {replicas, "layers without experts are cut over tp, not over the replicas", config},
    {in_blocks, "--block-size must be a multiple of {interval}", config},
};
}  // namespace vllm

namespace sglang {
constexpr std::string_view fields = "python/sglang/srt/arg_groups/fields/parallel.py@04817247";
constexpr std::string_view exec = "python/sglang/srt/arg_groups/fields/exec_.py@f489bf94";
constexpr std::string_view hook = "python/sglang/srt/arg_groups/parallel_hook.py@22faf6b5";
constexpr std::string_view moe_hook = "python/sglang/srt/arg_groups/moe_hook.py@09eaaf15";
constexpr std::string_view design = "python/sglang/srt/layers/dcp/DESIGN.md@b16287ab";

constexpr EngineRow limits[] = {
    {merges_whole, no_medha, design},
    {value_exchange, no_value, design},
    {replicates_gqa, "queries are replicated for MLA alone; for GQA they are gathered (dcp)",
     fields},
    {[](const Asked& a) { return replicates(a) && a.layout.merge != Merge::a2a; },
     "queries are replicated with a2a alone", hook},
    {dense_replicas, "data-parallel attention is for DeepSeek and Qwen models with experts",
     fields},
    {cuts_dispatched, "tokens are dispatched with an expert parallelism as wide as tp alone: TPF 1",
     moe_hook},
};
constexpr EngineRow flags[] = {
    {always, "--tp-size {stage}", fields},
    {sharded, "--dcp-size {kvp}", fields},
    {sharded, "--dcp-comm-backend {merge}", fields},
    {replicates, "--dcp-replicate-q-proj", fields},
    {piped, "--pp-size {pp}", fields},
    {replicas, "--dp-size {dp}", fields},
    {replicas, "--enable-dp-attention", fields},
    {wide_experts, "--ep-size {ep}", fields},
    {dispatches, "--moe-a2a-backend deepep", exec},
};
constexpr EngineRow remarks[] = {
    {hop_b, no_hop_b, design},
    {in_blocks, "KV goes round token by token: interval 1, not {interval}", design},
    {replicates, "the replicated projections are bf16, and are kept beside the sharded ones",
     design},
    {[](const Asked& a) { return sharded(a) && !mla(a); },
     "its own notes call dcp on GQA with the Triton backend wrong on CUDA", design},
};
}  // namespace sglang

namespace tensorrt_llm {
constexpr std::string_view docs = "docs/source/features/helix.md@04c8822c";
constexpr std::string_view strategy = "docs/source/features/parallel-strategy.md@65b31db1";
constexpr std::string_view options = "tensorrt_llm/commands/common_llm_options.py@1f719075";
constexpr std::string_view mapping = "tensorrt_llm/mapping.py@b35ac1b6 (1.2.0rc2)";
constexpr std::string_view both_pr = "pull request 10477";

constexpr EngineRow limits[] = {
    {merges_whole, no_medha, docs},
    {[](const Asked& a) { return sharded(a) && !mla(a); },
     "Helix is for MLA models (DeepSeek-V3, Kimi-K2)", docs},
    {[](const Asked& a) { return sharded(a) && !(replicates(a) && a.layout.merge == Merge::a2a); },
     "the one way to shard KV is Helix: queries replicated, merged by all-to-all", docs},
    {value_exchange, no_value, docs},
    {[](const Asked& a) { return replicas(a) && a.layout.tpa > 1; },
     "with data-parallel attention every rank of tensor parallelism is a replica: TPA 1", mapping},
    {dense_replicas, "how a dense FFN is cut under data-parallel attention is not documented",
     strategy},
};
constexpr EngineRow flags[] = {
    {[](const Asked& a) { return !replicas(a); }, "tensor_parallel_size: {tpa}", strategy},
    {replicas, "tensor_parallel_size: {dp}", strategy},
    {sharded, "context_parallel_size: {kvp}", docs},
    {sharded, "cp_config: {{cp_type: HELIX, tokens_per_block: {interval}}}", docs},
    {sharded, "kv_cache_config: {{tokens_per_block: {interval}}}", docs},
    {piped, "pipeline_parallel_size: {pp}", options},
    {[](const Asked& a) { return replicas(a) && !sharded(a); }, "enable_attention_dp: true",
     strategy},
    {[](const Asked& a) { return replicas(a) && sharded(a); }, "enable_attention_dp: true",
     both_pr},
    {moe, "moe_tensor_parallel_size: {tpf}", strategy},
    {moe, "moe_expert_parallel_size: {ep}", strategy},
};
constexpr EngineRow remarks[] = {
    {hop_b, no_hop_b, docs},
    {sharded, "for the generation servers of disaggregated serving, on Blackwell", docs},
    {replicas, "what was read has no flag for how tokens reach their experts", strategy},
};
}  // namespace tensorrt_llm

}  // namespace

std::span<const Engine> engines() {
  static constexpr Engine table[] = {
      {"vllm", "vllm serve MODEL", "vllm-project/vllm, 2026-11-25", vllm::limits, vllm::flags,
       vllm::remarks},
      {"sglang", "python -m sglang.launch_server --model-path MODEL",
       "sgl-project/sglang, 2026-11-25", sglang::limits, sglang::flags, sglang::remarks},
      {"tensorrt-llm", "trtllm-serve MODEL --config FILE", "NVIDIA/TensorRT-LLM, 2026-11-25",
       tensorrt_llm::limits, tensorrt_llm::flags, tensorrt_llm::remarks},
  };
  return table;
}

}  // namespace helix
