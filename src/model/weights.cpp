#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>
#include <vector>

#include "base/random.h"
#include "model/checkpoint.h"
#include "model/marks.h"

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

namespace {

enum Stream : uint64_t { keys = 1000, values = 1001, tokens = 1002, ranks = 1003 };

using Draw = Generator::Draw;

// Gains keep activations near 1; keys are drawn 2.5 times as large, for a peaky softmax.
Draw draw_of(const Model& m, W weight, uint64_t seed, int64_t layer) {
  const uint64_t stream =
      combine(combine(seed, static_cast<uint64_t>(weight)), static_cast<uint64_t>(layer));
  switch (weight) {
    case W::embed: return {stream, 1};
    case W::attention_norm:
    case W::ffn_norm:
    case W::q_norm:
    case W::k_norm:
    case W::q_latent_norm:
    case W::kv_latent_norm: return {stream, 0.1F, 1};
    case W::router_bias: return {stream, 0.1F};
    default: return {stream, static_cast<float>(std::sqrt(3.0 / double(fan_in(m, weight))))};
  }
}

template <class T>
void fill(const Draw& draw, int64_t first, int64_t count, T* out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = from_float<T>(uniform_at(draw.stream, static_cast<uint64_t>(first + i)) * draw.scale +
                           draw.offset);
}

void fill_tokens(const Draw& draw, const Generator::Positions& positions, int64_t width,
                 float* out) {
  for (int64_t i = 0; i < positions.count; i += positions.run) {
    const int64_t tokens = std::min(positions.run, positions.count - i);
    fill(draw, positions.at(i) * width, tokens * width, out + i * width);
  }
}

constexpr float key_spread = 2.5F * 1.7320508F;
constexpr float value_spread = 1.7320508F;  // of variance 1

}  // namespace

template <class T>
void Generator::weights(W weight, int64_t layer, const Part& part, T* out) const {
  if (weight == W::lm_head && model_->tied) weight = W::embed;
  if (weight == W::embed || weight == W::lm_head) layer = 0;
  const Extents e = extents_of(*model_, weight);
  const Draw draw = draw_of(*model_, weight, seed_, layer);
  const bool rounded = format_of(precision_, weight) == Format::bf16;
  const float keys_gain = key_gain(weight);
  int run = 3;
  while (run > 0 && e[run] == 1) --run;
  const auto at = [&](int axis, int64_t i) { return axis < run ? part[axis].first + i : 0; };
  const auto count = [&](int axis) { return axis < run ? part[axis].count : 1; };
  std::vector<float> drawn(static_cast<size_t>(part[run].count));
  for (int64_t i = 0; i < count(0); ++i)
    for (int64_t j = 0; j < count(1); ++j)
      for (int64_t k = 0; k < count(2); ++k) {
        Extents index = {at(0, i), at(1, j), at(2, k), 0};
        index[run] = part[run].first;
        const int64_t first = ((index[0] * e[1] + index[1]) * e[2] + index[2]) * e[3] + index[3];
        Draw here = draw;
        if (weight == W::kv && index[0] == 0) here.scale *= keys_gain;
        if (model_->checkpoint)
          model_->checkpoint->read(weight, layer, first, part[run].count, drawn.data());
        else fill(here, first, part[run].count, drawn.data());
        for (int64_t n = 0; n < part[run].count; ++n, ++index[run]) {
          float value = drawn[n];
          if (model_->marked) value = marked_weight(*model_, weight, layer, index, value);
          *out++ = from_float<T>(rounded ? to_float(to_bf16(value)) : value);
        }
      }
}

template <class T>
void Generator::history(int64_t layer, int64_t request, int64_t length, int64_t kv_head,
                        Positions positions, T* k, T* v) const {
  const Attention& a = model_->attention;
  const bool rounded = precision_.kv == Format::bf16;
  const auto store = [&](const std::vector<float>& from, T* to) {
    for (size_t i = 0; i < from.size(); ++i)
      to[i] = from_float<T>(rounded ? to_float(to_bf16(from[i])) : from[i]);
  };
  std::vector<float> drawn(static_cast<size_t>(positions.count * a.head_size));
  fill_tokens(key_draw(layer, request, kv_head), positions, a.head_size, drawn.data());
  if (model_->marked) mark_keys(*model_, layer, kv_head, length, positions, drawn.data());
  store(drawn, k);
  if (v == nullptr) return;
  drawn.resize(static_cast<size_t>(positions.count * a.value_size));
  fill_tokens(value_draw(layer, request, kv_head), positions, a.value_size, drawn.data());
  store(drawn, v);
}

float Generator::key_gain(W weight) const {
  return weight == W::kv && !model_->marked ? 2.5F : 1.0F;
}

Draw Generator::draw(W weight, int64_t layer) const {
  if (weight == W::lm_head && model_->tied) weight = W::embed;
  return draw_of(*model_, weight, seed_, weight == W::embed || weight == W::lm_head ? 0 : layer);
}

namespace {

uint64_t history_stream(uint64_t seed, Stream what, int64_t layer, int64_t request,
                        int64_t kv_head) {
  uint64_t stream = combine(seed, what);
  for (const int64_t part : {layer, request, kv_head})
    stream = combine(stream, static_cast<uint64_t>(part));
  return stream;
}

}  // namespace

Draw Generator::key_draw(int64_t layer, int64_t request, int64_t kv_head) const {
  const float spread = model_->attention.mla() || model_->marked ? value_spread : key_spread;
  return {history_stream(seed_, keys, layer, request, kv_head), spread};
}
Draw Generator::value_draw(int64_t layer, int64_t request, int64_t kv_head) const {
  return {history_stream(seed_, values, layer, request, kv_head), value_spread};
}

int32_t Generator::first_token(int64_t request) const {
  const uint64_t hash = combine(combine(seed_, tokens), static_cast<uint64_t>(request));
  return static_cast<int32_t>(hash % static_cast<uint64_t>(model_->vocabulary));
}

namespace {

// d ln P / d threshold of P(logit > threshold) = share: logits are normal, with a variance about 1.
double steepness(double share) {
  double low = 0, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(middle / std::numbers::sqrt2) / 2 > share ? low : high) = middle;
  }
  return std::exp(-low * low / 2) / std::sqrt(2 * std::numbers::pi) / share;
}

}  // namespace

// An offset of -zipf ln(rank) would change ln P by `steepness` times as much around the mean share.
std::vector<float> Generator::routing_skew(int64_t layer) const {
  const Experts& e = model_->experts;
  if (!(zipf_ > 0) || layer < model_->dense_layers || e.count == 0) return {};
  const double share = std::min(0.5, static_cast<double>(e.chosen) / static_cast<double>(e.count));
  const double scale = zipf_ / steepness(share);
  const uint64_t stream = combine(combine(seed_, ranks), static_cast<uint64_t>(layer));
  std::vector<size_t> expert_of(static_cast<size_t>(e.count));  // a rank, from 0
  std::iota(expert_of.begin(), expert_of.end(), size_t{0});
  for (size_t i = expert_of.size(); i > 1; --i)
    std::swap(expert_of[i - 1], expert_of[combine(stream, i) % i]);
  std::vector<float> skew(expert_of.size());
  for (size_t rank = 0; rank < skew.size(); ++rank)
    skew[expert_of[rank]] = static_cast<float>(-scale * std::log(static_cast<double>(rank + 1)));
  return skew;
}

template void Generator::weights<float>(W, int64_t, const Part&, float*) const;
template void Generator::weights<bf16>(W, int64_t, const Part&, bf16*) const;
template void Generator::history<float>(int64_t, int64_t, int64_t, int64_t, Positions, float*,
                                        float*) const;
template void Generator::history<bf16>(int64_t, int64_t, int64_t, int64_t, Positions, bf16*,
                                       bf16*) const;

}  // namespace helix
