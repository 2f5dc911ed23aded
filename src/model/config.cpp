// config.json of Hugging Face folders, both ways.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "base/text.h"
#include "model/checkpoint.h"

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

namespace {

// The keys of config.json. Whoever asks for a key has understood it; at the end none may be left
// that could change what the model computes.
class Config {
 public:
  explicit Config(const Node& node) : node_(node) {}

  // null is as good as not there.
  std::optional<Node> find(std::string_view key) {
    known_.emplace_back(key);
    if (!node_.has(key) || node_[key].is_null()) return std::nullopt;
    return node_[key];
  }
  Node operator[](std::string_view key) {
    known_.emplace_back(key);
    return node_[key];
  }
  int64_t count(std::string_view key, int64_t low, int64_t high) {
    return (*this)[key].integer(low, high);
  }
  // Where it is said, it has to be this.
  void only(std::string_view key, const Json& allowed) {
    if (const auto node = find(key); node && node->json() != allowed)
      node->fail(
          fmt::format("not supported: {}, allowed is {}", node->json().dump(), allowed.dump()));
  }
  void ignore(std::initializer_list<std::string_view> keys) {
    known_.insert(known_.end(), keys.begin(), keys.end());
  }
  void finish() const {
    for (const auto& [key, value] : node_.members())
      if (std::ranges::find(known_, key) == known_.end() && !value.is_null() &&
          value.json() != Json(false))
        value.fail(fmt::format("not supported: {} = {} may change what the model computes",
                               key.substr(0, 100), one_line(value.json().dump(), 100)));
  }
  const Node& node() const { return node_; }

 private:
  Node node_;
  std::vector<std::string> known_;
};

Rope read_scaling(const Node& node, const Rope& plain, bool mla) {
  Config s(node);
  Rope r = plain;
  const std::string_view key = node.has("rope_type") ? "rope_type" : "type";
  s.ignore({"rope_type", "type", "rope_theta"});
  s.only("partial_rotary_factor", 1.0);
  s.only("truncate", true);
  if (node.has(key)) {
    const size_t kind = node[key].choice({"default", "llama3", "yarn"});
    r.scaling = static_cast<RopeScaling>(kind);
  }
  if (r.scaling == RopeScaling::none) {
    s.finish();
    return r;
  }
  r.factor = s["factor"].number(1, 1e6);
  r.original_positions = s["original_max_position_embeddings"].number(1, 1e12);
  if (r.scaling == RopeScaling::llama3) {
    r.low = s["low_freq_factor"].number(1e-6, 1e6);
    r.high = s["high_freq_factor"].number(1e-6, 1e6);
    if (r.high <= r.low) s["high_freq_factor"].fail("must be greater than low_freq_factor");
  } else {
    if (!mla) node[key].fail("not supported: yarn without MLA");
    if (const auto fast = s.find("beta_fast")) r.beta_fast = fast->number(1e-6, 1e6);
    if (const auto slow = s.find("beta_slow")) r.beta_slow = slow->number(1e-6, 1e6);
    r.mscale_all_dim = s["mscale_all_dim"].number(1e-6, 1e3);
    if (s["mscale"].number(0, 1e3) != r.mscale_all_dim)
      s["mscale"].fail("not supported: another value than mscale_all_dim");
  }
  s.finish();
  return r;
}

// rope_parameters, or as older files have it rope_theta and rope_scaling.
Rope read_rope(Config& c, bool mla) {
  Rope r;
  if (const auto all = c.find("rope_parameters")) {
    c.ignore({"rope_theta", "rope_scaling"});
    r.theta = (*all)["rope_theta"].number(1, 1e12);
    return read_scaling(*all, r, mla);
  }
  r.theta = c["rope_theta"].number(1, 1e12);
  if (const auto scaling = c.find("rope_scaling")) return read_scaling(*scaling, r, mla);
  return r;
}

void read_heads(Config& c, Model& m, bool qk_norm) {
  Attention& a = m.attention;
  a.query_heads = c.count("num_attention_heads", 1, 65536);
  const auto kv_heads = c.find("num_key_value_heads");
  a.kv_heads = kv_heads ? kv_heads->integer(1, a.query_heads) : a.query_heads;
  if (a.query_heads % a.kv_heads != 0) kv_heads->fail("must divide num_attention_heads");
  const auto size = c.find("head_dim");
  a.head_size = a.value_size = size ? size->integer(2, 65536) : m.hidden / a.query_heads;
  if (a.head_size < 2 || a.head_size % 2 != 0)
    (size ? *size : c["hidden_size"]).fail("a head must be even, RoPE turns pairs");
  a.qk_norm = qk_norm;
}

void read_latents(Config& c, Model& m) {
  Attention& a = m.attention;
  a.query_heads = c.count("num_attention_heads", 1, 65536);
  c.only("num_key_value_heads", a.query_heads);
  if (const auto latent = c.find("q_lora_rank")) a.q_lora = latent->integer(1, 65536);
  a.kv_lora = c.count("kv_lora_rank", 1, 65536);
  a.nope = c.count("qk_nope_head_dim", 1, 65536);
  a.rope = c.count("qk_rope_head_dim", 2, 65536);
  if (a.rope % 2 != 0) c["qk_rope_head_dim"].fail("must be even, RoPE turns pairs");
  a.v = c.count("v_head_dim", 1, 65536);
  a.kv_heads = 1;
  a.head_size = a.kv_lora + a.rope;
  a.value_size = a.kv_lora;
  c.only("qk_head_dim", a.nope + a.rope);
  c.only("head_dim", a.rope);
  // That of the latents' norms is always this.
  if (m.norm_eps != 1e-6) c["rms_norm_eps"].fail("not supported: another value than 1e-6");
}

void read_deepseek_experts(Config& c, Model& m, bool v3) {
  Experts& e = m.experts;
  e.count = c.count("n_routed_experts", 1, 65536);
  c.only("num_local_experts", e.count);
  e.chosen = c.count("num_experts_per_tok", 1, e.count);
  e.width = c.count("moe_intermediate_size", 1, most);
  e.shared = c.count("n_shared_experts", 1, 1024);
  const auto groups = c.find("n_group"), best = c.find("topk_group");
  e.groups = groups ? groups->integer(1, v3 ? e.count : 1) : 1;
  e.chosen_groups = best ? best->integer(1, e.groups) : e.groups;
  e.scale = c["routed_scaling_factor"].number(1e-6, 1e6);
  e.scoring = v3 ? Scoring::sigmoid : Scoring::softmax;
  e.bias = v3;
  e.renormalise = c["norm_topk_prob"].boolean();
  if (!v3 && e.renormalise) c["norm_topk_prob"].fail("not supported: true");
  c.only("scoring_func", v3 ? "sigmoid" : "softmax");
  c.only("topk_method", v3 ? "noaux_tc" : "greedy");
  c.only("moe_layer_freq", 1);
  m.dense_layers = c.count("first_k_dense_replace", 0, m.layers);
  if (e.count % e.groups != 0 || (e.groups > 1 && e.count / e.groups < 2))
    groups->fail("does not divide the experts into groups of two or more");
  if (e.count / e.groups * e.chosen_groups < e.chosen)
    c["num_experts_per_tok"].fail("the chosen groups hold fewer experts");
}

void read_qwen_experts(Config& c, Model& m) {
  Experts& e = m.experts;
  const std::string_view count = c.find("num_experts") ? "num_experts" : "num_local_experts";
  e.count = c.count(count, 1, 65536);
  c.only("num_local_experts", e.count);
  e.chosen = c.count("num_experts_per_tok", 1, e.count);
  e.width = c.count("moe_intermediate_size", 1, most);
  e.renormalise = c["norm_topk_prob"].boolean();
  c.only("decoder_sparse_step", 1);
  c.only("mlp_only_layers", Json::array());
  c.only("use_sliding_window", false);
  c.ignore({"sliding_window", "max_window_layers", "intermediate_size"});
}

void check_quantisation(Config& c) {
  const auto node = c.find("quantization_config");
  if (!node) return;
  Config q(*node);
  q.only("quant_method", "fp8");
  q.only("fmt", "e4m3");
  q.only("weight_block_size", Json{128, 128});
  q.ignore({"activation_scheme", "modules_to_not_convert", "ignored_layers"});
  q.finish();
}

}  // namespace

Model read_published(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::path(folder).lexically_normal();
  Config c(read_json(folder + "/config.json"));
  Model m;
  m.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  const auto family = static_cast<Family>(
      c["model_type"].choice({"llama", "qwen3_moe", "deepseek_v2", "deepseek_v3"}));
  const bool mla = family >= Family::deepseek_v2;
  c.only("architectures", Json{classes[static_cast<size_t>(family)]});
  m.layers = c.count("num_hidden_layers", 1, 10000);
  m.hidden = c.count("hidden_size", 1, 1 << 24);
  m.vocabulary = c.count("vocab_size", 2, 1 << 30);
  m.max_positions = c.count("max_position_embeddings", 1, most);
  m.norm_eps = c["rms_norm_eps"].number(0, 1);
  m.tied = c.find("tie_word_embeddings") && c["tie_word_embeddings"].boolean();
  m.dense_layers = family == Family::llama ? m.layers : 0;
  mla ? read_latents(c, m) : read_heads(c, m, family == Family::qwen3_moe);
  m.rope = read_rope(c, mla);
  m.rope.interleaved = mla;
  if (family == Family::deepseek_v3)
    if (const auto node = c.find("rope_interleave")) m.rope.interleaved = node->boolean();
  if (mla) read_deepseek_experts(c, m, family == Family::deepseek_v3);
  if (family == Family::qwen3_moe) read_qwen_experts(c, m);
  if (family != Family::qwen3_moe) m.ffn = c.count("intermediate_size", 1, most);
  for (const char* biased : {"attention_bias", "mlp_bias"}) c.only(biased, false);
  c.only("hidden_act", "silu");
  check_quantisation(c);
  if (const auto types = c.find("layer_types"))
    for (const Node& type : types->items()) type.choice({"full_attention"});
  // Nothing of what one decode step computes: training, generation, bookkeeping, other heads.
  c.ignore({"_name_or_path", "torch_dtype", "dtype", "transformers_version", "use_cache",
            "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
            "attention_dropout", "auto_map", "aux_loss_alpha", "seq_aux", "output_router_logits",
            "router_aux_loss_coef", "pretraining_tp", "ep_size", "num_nextn_predict_layers",
            "num_mtp_layers"});
  c.finish();
  m.checkpoint = std::make_shared<const Checkpoint>(folder, m);
  return m;
}

}  // namespace helix
