#include "model/published.h"

#include <fmt/format.h>

namespace helix {

namespace {

// Of a layer's tensor; `%` stands for the expert.
std::vector<std::string_view> suffixes(const Model& m, W weight) {
  switch (weight) {
    case W::attention_norm: return {"input_layernorm"};
    case W::ffn_norm: return {"post_attention_layernorm"};
    case W::q: return {m.attention.q_lora > 0 ? "self_attn.q_b_proj" : "self_attn.q_proj"};
    case W::kv: return {"self_attn.k_proj", "self_attn.v_proj"};
    case W::q_norm: return {"self_attn.q_norm"};
    case W::k_norm: return {"self_attn.k_norm"};
    case W::o: return {"self_attn.o_proj"};
    case W::dq: return {"self_attn.q_a_proj"};
    case W::q_latent_norm: return {"self_attn.q_a_layernorm"};
    case W::dkv: return {"self_attn.kv_a_proj_with_mqa"};
    case W::kv_latent_norm: return {"self_attn.kv_a_layernorm"};
    case W::uk:
    case W::uv: return {"self_attn.kv_b_proj"};
    case W::up: return {"mlp.gate_proj", "mlp.up_proj"};
    case W::down: return {"mlp.down_proj"};
    case W::router: return {"mlp.gate"};
    case W::experts_up: return {"mlp.experts.%.gate_proj", "mlp.experts.%.up_proj"};
    case W::experts_down: return {"mlp.experts.%.down_proj"};
    case W::shared_up: return {"mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"};
    case W::shared_down: return {"mlp.shared_experts.down_proj"};
    default: return {};
  }
}

// Leading axes of a weight that count its parts, and those behind them that are outputs.
struct Leading {
  int parts, rows;
};
Leading leading_axes(W weight) {
  switch (weight) {
    case W::q: return {0, 2};
    case W::kv: return {1, 2};
    case W::up:
    case W::shared_up:
    case W::experts_down: return {1, 1};
    case W::experts_up: return {2, 1};
    default: return {0, 1};
  }
}

bool is_vector(W weight) {
  switch (weight) {
    case W::attention_norm:
    case W::ffn_norm:
    case W::q_norm:
    case W::k_norm:
    case W::q_latent_norm:
    case W::kv_latent_norm:
    case W::router_bias: return true;
    default: return false;
  }
}

}  // namespace

std::vector<std::string> published_names(const Model& m, W weight, int64_t layer) {
  if (weight == W::embed || (weight == W::lm_head && m.tied)) return {"model.embed_tokens.weight"};
  if (weight == W::lm_head) return {"lm_head.weight"};
  if (weight == W::attention_norm && layer == m.layers) return {"model.norm.weight"};
  if (weight == W::router_bias)
    return {fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layer)};
  const bool routed = weight == W::experts_up || weight == W::experts_down;
  std::vector<std::string> names;
  for (int64_t expert = 0; expert < (routed ? m.experts.count : 1); ++expert)
    for (const std::string_view suffix : suffixes(m, weight)) {
      std::string name = fmt::format("model.layers.{}.{}.weight", layer, suffix);
      if (routed) name.replace(name.find('%'), 1, std::to_string(expert));
      names.push_back(std::move(name));
    }
  return names;
}

Shape published_shape(const Model& m, W weight) {
  const Attention& a = m.attention;
  if (weight == W::uk || weight == W::uv) return {a.query_heads * (a.nope + a.v), a.kv_lora};
  const Extents e = extents_of(m, weight);
  if (is_vector(weight)) return {e[0]};
  const auto [parts, rows] = leading_axes(weight);
  Shape shape = {1, 1};
  for (int axis = parts; axis < 4; ++axis) shape[axis < parts + rows ? 0 : 1] *= e[axis];
  return shape;
}

Part published_part(const Model& m, W weight, int64_t part) {
  const Extents e = extents_of(m, weight);
  Part at = {whole(e[0]), whole(e[1]), whole(e[2]), whole(e[3])};
  for (int axis = leading_axes(weight).parts - 1; axis >= 0; part /= e[axis], --axis)
    at[axis] = {part % e[axis], 1};
  return at;
}

std::vector<Published> published_tensors(const Model& m) {
  std::vector<Published> all;
  const auto add = [&](W weight, int64_t layer) {
    const std::vector<std::string> names = published_names(m, weight, layer);
    for (size_t part = 0; part < names.size(); ++part)
      all.push_back(
          {names[part], published_shape(m, weight), weight, layer, static_cast<int64_t>(part)});
  };
  add(W::embed, 0);
  for (int64_t layer = 0; layer < m.layers; ++layer)
    for (int i = 0; i < weight_count; ++i)
      if (const W weight = static_cast<W>(i); weight != W::uv && in_layer(m, weight, layer))
        add(weight, layer);
  add(W::attention_norm, m.layers);
  if (!m.tied) add(W::lm_head, 0);
  return all;
}

}  // namespace helix
