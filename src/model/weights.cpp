#include "model/weights.h"

namespace helix {

std::string_view name_of(W weight) {
  static constexpr std::string_view names[weight_count] = {
      "W_EMBED",        "W_LM",        "attention_norm", "ffn_norm",    "W_Q",
      "W_KV",           "q_norm",      "k_norm",         "W_O",         "W_DQ",
      "q_latent_norm",  "W_DKV",       "kv_latent_norm", "W_UK",        "W_UV",
      "W_UP",           "W_DOWN",      "W_ROUTER",       "router_bias", "W_EXPERTS_UP",
      "W_EXPERTS_DOWN", "W_SHARED_UP", "W_SHARED_DOWN"};
  return names[static_cast<int>(weight)];
}

Extents extents_of(const Model& m, W weight) {
  const Attention& a = m.attention;
  const Experts& e = m.experts;
  switch (weight) {
    case W::embed:
    case W::lm_head: return {m.vocabulary, m.hidden, 1, 1};
    case W::attention_norm:
    case W::ffn_norm: return {m.hidden, 1, 1, 1};
    case W::q: return {a.query_heads, a.query_size(), a.q_lora > 0 ? a.q_lora : m.hidden, 1};
    case W::kv: return {2, a.kv_heads, a.head_size, m.hidden};
    case W::q_norm:
    case W::k_norm: return {a.head_size, 1, 1, 1};
    case W::o: return {m.hidden, a.query_heads, a.output_size(), 1};
    case W::dq: return {a.q_lora, m.hidden, 1, 1};
    case W::q_latent_norm: return {a.q_lora, 1, 1, 1};
    case W::dkv: return {a.kv_lora + a.rope, m.hidden, 1, 1};
    case W::kv_latent_norm: return {a.kv_lora, 1, 1, 1};
    case W::uk: return {a.query_heads, a.kv_lora, a.nope, 1};
    case W::uv: return {a.query_heads, a.v, a.kv_lora, 1};
    case W::up: return {2, m.ffn, m.hidden, 1};
    case W::down: return {m.hidden, m.ffn, 1, 1};
    case W::router: return {e.count, m.hidden, 1, 1};
    case W::router_bias: return {e.count, 1, 1, 1};
    case W::experts_up: return {e.count, 2, e.width, m.hidden};
    case W::experts_down: return {e.count, m.hidden, e.width, 1};
    case W::shared_up: return {2, e.shared * e.width, m.hidden, 1};
    case W::shared_down: return {m.hidden, e.shared * e.width, 1, 1};
  }
  return {};
}

int64_t fan_in(const Model& m, W weight) {
  const Extents e = extents_of(m, weight);
  if (weight == W::o) return e[1] * e[2];
  for (int i = 3; i > 0; --i)
    if (e[i] > 1) return e[i];
  return 1;
}

Format format_of(const Precision& p, W weight) {
  switch (weight) {
    case W::lm_head: return p.lm_head;
    case W::q:
    case W::kv:
    case W::o:
    case W::dq:
    case W::dkv:
    case W::uk:
    case W::uv: return p.attention;
    case W::experts_up:
    case W::experts_down: return p.experts;
    case W::up:
    case W::down:
    case W::shared_up:
    case W::shared_down: return p.weights;
    case W::router_bias: return Format::fp32;  // as checkpoints have it: it decides near ties
    default: return p.small();
  }
}

bool in_layer(const Model& m, W weight, int64_t layer) {
  const Attention& a = m.attention;
  const bool moe = layer >= m.dense_layers;
  switch (weight) {
    case W::embed:
    case W::lm_head: return false;
    case W::attention_norm:
    case W::ffn_norm:
    case W::q:
    case W::o: return true;
    case W::kv: return !a.mla();
    case W::q_norm:
    case W::k_norm: return a.qk_norm;
    case W::dq:
    case W::q_latent_norm: return a.q_lora > 0;
    case W::dkv:
    case W::kv_latent_norm:
    case W::uk:
    case W::uv: return a.mla();
    case W::up:
    case W::down: return !moe;
    case W::router:
    case W::experts_up:
    case W::experts_down: return moe;
    case W::router_bias: return moe && m.experts.bias;
    case W::shared_up:
    case W::shared_down: return moe && m.experts.shared > 0;
  }
  return false;
}

namespace {

int64_t volume(const Extents& e) { return e[0] * e[1] * e[2] * e[3]; }

int64_t count_parameters(const Model& m, bool active) {
  int64_t sum =
      volume(extents_of(m, W::embed)) * (m.tied ? 1 : 2) + m.hidden;  // and the final norm
  for (int i = 0; i < weight_count; ++i) {
    const W weight = static_cast<W>(i);
    int64_t one = volume(extents_of(m, weight));
    if (active && m.experts.count > 0 && (weight == W::experts_up || weight == W::experts_down))
      one = one / m.experts.count * m.experts.chosen;
    const int64_t dense = in_layer(m, weight, 0) && m.dense_layers > 0 ? m.dense_layers : 0;
    const int64_t moe = in_layer(m, weight, m.layers - 1) ? m.layers - m.dense_layers : 0;
    sum += one * (dense + moe);
  }
  return sum;
}

}  // namespace

int64_t parameters(const Model& m) { return count_parameters(m, false); }
int64_t active_parameters(const Model& m) { return count_parameters(m, true); }

}  // namespace helix
