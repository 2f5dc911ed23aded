// config.json of Hugging Face folders, both ways.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "model/published.h"

namespace helix {

namespace {

constexpr int64_t most = int64_t{1} << 40;

enum class Family : uint8_t { llama, qwen3_moe, deepseek_v2, deepseek_v3 };
constexpr std::string_view classes[] = {"LlamaForCausalLM", "Qwen3MoeForCausalLM",
                                        "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"};
constexpr std::string_view types[] = {"llama", "qwen3_moe", "deepseek_v2", "deepseek_v3"};

// The architecture that computes what a model computes; none: throws.
Family family_of(const Model& m) {
  const auto refuse = [&](std::string_view why) {
    throw InputError(fmt::format("{}: no published architecture has {}", m.name, why));
  };
  const Experts& e = m.experts;
  const bool moe = e.count > 0;
  if (!m.attention.mla()) {
    if (m.rope.interleaved) refuse("grouped queries and interleaved RoPE pairs");
    if (m.rope.scaling == RopeScaling::yarn) refuse("grouped queries and this YaRN");
    if (!moe && !m.attention.qk_norm) return Family::llama;
    if (!moe || !m.attention.qk_norm || m.dense_layers > 0 || e.shared > 0 || e.groups > 1 ||
        e.bias || e.scoring != Scoring::softmax || e.scale != 1)
      refuse("this mixture of grouped queries and experts");
    return Family::qwen3_moe;
  }
  if (!m.rope.interleaved || m.rope.scaling == RopeScaling::llama3) refuse("MLA with such a RoPE");
  if (!moe || e.shared == 0) refuse("MLA without experts or without shared ones");
  if (m.norm_eps != 1e-6) refuse("MLA with another norm_eps than 1e-6");  // of the latents, fixed
  if (e.scoring == Scoring::sigmoid) {
    if (!e.bias) refuse("sigmoid scores without a bias");
    return Family::deepseek_v3;
  }
  if (e.bias || e.groups > 1 || e.renormalise) refuse("MLA with such a router");
  return Family::deepseek_v2;
}

Json rope_scaling(const Rope& r) {
  if (r.scaling == RopeScaling::none) return nullptr;
  if (r.scaling == RopeScaling::llama3)
    return {{"rope_type", "llama3"},
            {"factor", r.factor},
            {"low_freq_factor", r.low},
            {"high_freq_factor", r.high},
            {"original_max_position_embeddings", static_cast<int64_t>(r.original_positions)}};
  return {{"rope_type", "yarn"},
          {"factor", r.factor},
          {"beta_fast", r.beta_fast},
          {"beta_slow", r.beta_slow},
          {"mscale", r.mscale_all_dim},
          {"mscale_all_dim", r.mscale_all_dim},
          {"original_max_position_embeddings", static_cast<int64_t>(r.original_positions)}};
}

void add_latents(const Attention& a, Json& config) {
  config["num_key_value_heads"] = a.query_heads;
  config["q_lora_rank"] = a.q_lora > 0 ? Json(a.q_lora) : Json();
  config["kv_lora_rank"] = a.kv_lora;
  config["qk_nope_head_dim"] = a.nope;
  config["qk_rope_head_dim"] = a.rope;
  config["v_head_dim"] = a.v;
}

void add_experts(Family family, const Model& m, Json& config) {
  const Experts& e = m.experts;
  config["num_experts_per_tok"] = e.chosen;
  config["moe_intermediate_size"] = e.width;
  config["norm_topk_prob"] = e.renormalise;
  if (family == Family::qwen3_moe) {
    config["num_experts"] = e.count;
    return;
  }
  config["n_routed_experts"] = e.count;
  config["n_shared_experts"] = e.shared;
  config["first_k_dense_replace"] = m.dense_layers;
  config["routed_scaling_factor"] = e.scale;
  config["n_group"] = e.groups;
  config["topk_group"] = e.chosen_groups;
  config["scoring_func"] = e.scoring == Scoring::sigmoid ? "sigmoid" : "softmax";
  config["topk_method"] = family == Family::deepseek_v3 ? "noaux_tc" : "greedy";
}

}  // namespace

Json published_config(const Model& m, const Precision& precision) {
  const Family family = family_of(m);
  const auto index = static_cast<size_t>(family);
  Json config = {{"architectures", {classes[index]}},
                 {"model_type", types[index]},
                 {"torch_dtype", precision.weights == Format::bf16 ? "bfloat16" : "float32"},
                 {"vocab_size", m.vocabulary},
                 {"hidden_size", m.hidden},
                 {"num_hidden_layers", m.layers},
                 {"num_attention_heads", m.attention.query_heads},
                 {"intermediate_size", std::max<int64_t>(m.ffn, 1)},
                 {"max_position_embeddings", m.max_positions},
                 {"rms_norm_eps", m.norm_eps},
                 {"tie_word_embeddings", m.tied},
                 {"hidden_act", "silu"},
                 {"attention_bias", false},
                 {"rope_theta", m.rope.theta},
                 {"rope_scaling", rope_scaling(m.rope)}};
  if (m.attention.mla()) {
    add_latents(m.attention, config);
  } else {
    config["num_key_value_heads"] = m.attention.kv_heads;
    config["head_dim"] = m.attention.head_size;
  }
  if (m.experts.count > 0) add_experts(family, m, config);
  return config;
}

}  // namespace helix
