#include "model/marks.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace helix {

namespace {

constexpr int64_t reach = 272;     // a round of KVP 8 at interval 32 is 256 tokens
constexpr int64_t mla_groups = 4;  // latent channels 0 to 3 carry the marks
// W_Q (MLA: W_UK) on the constant channel. QK-norm divides it by the head's length, which must not
// depend much on the rest of the head.
double query_gain(const Model& model) { return model.attention.qk_norm ? 12 : 4; }
// The constant channel dominates its vector by this factor, so that RMSNorm leaves it constant
// within some percent: the background's logit is about -10, and e to the power of 10 % of it would
// be a factor 2.7.
constexpr double dominance = 8;
// What else keys hold is small, so that logits of marked and appended keys spread by 0.07 only:
// when 8 marks and 8 appended tokens share the attention, an even share is 0.061, and the least of
// thousands is to weigh 0.05.
constexpr float spread = 0.05F;                // GQA keys
constexpr float latent_query_spread = 0.018F;  // MLA: W_UK, where latents are 1
constexpr float rotated_spread = 0.035F;       // MLA: the rotated key
// What a block adds to the hidden state. A norm that the constant channel dominates does not hold
// growth back, and SwiGLU squares it: with 0.5 the hidden state of four layers grows tenfold.
constexpr float residual_gain = 0.2F;
// The background weighs e^-1.5 of a token: enough to see a lost block of it.
constexpr double background_logit = 1.5;

// Embeddings are uniform over (-1, 1).
float constant(int64_t width) {
  return static_cast<float>(dominance * std::sqrt(double(width) / 3));
}

// All biased scores are negative, so that groups masked with 0 instead of -inf are seen to win. An
// offset for all experts alike changes no choice.
constexpr float bias_offset = -1.5F;

// What a query head holds in its mark channel, about: the norm leaves 0.98 of the constant, and
// QK-norm shrinks the channel with the rest of the head.
double query_strength(const Model& model) {
  const auto d = double(model.attention.head_size);
  const double before = 0.98 * query_gain(model);
  if (!model.attention.qk_norm) return before;
  return before / std::sqrt((before * before + d - 1) / d);
}

float norm_weight(const Model& model, W weight, int64_t layer, int64_t channel, float drawn) {
  const double width = double(extents_of(model, weight)[0]);
  if (weight == W::k_norm)
    return 2 * spread * drawn;  // as QK-norm shrinks the query's other channels
  if (weight == W::q_norm || weight == W::kv_latent_norm) return drawn;
  const bool last = weight == W::attention_norm && layer == model.layers;
  // Back to about 1. The final norm turns every other sign: a tied LM head would find the input
  // token in its own embedding again, by far the best, and repeat it for ever.
  if (channel != 0)
    return static_cast<float>(last && channel % 2 == 1 ? -dominance : dominance) * drawn;
  return last ? 0.0F : static_cast<float>(1 / std::sqrt(width));
}

}  // namespace

std::vector<int64_t> mark_candidates(int64_t length) {
  std::set<int64_t> found;
  const auto add = [&](int64_t position) {
    if (position >= 0 && position < length) found.insert(position);
  };
  for (int64_t i = 0; i < 8; ++i) add(length - 1 - i);
  for (int64_t i = 0; i <= 8; ++i) add(i);
  const auto sides = [&](int64_t low, int64_t high) {
    for (int64_t edge = (low + 15) / 16 * 16; edge <= high; edge += 16) add(edge - 1), add(edge);
  };
  sides(16, std::min(reach, length));
  sides(std::max<int64_t>(16, length - reach), length);
  return {found.begin(), found.end()};
}

int64_t mark_groups(const Model& model) {
  return model.attention.mla() ? mla_groups : model.attention.kv_heads;
}

std::vector<int64_t> marks_of(const Model& model, int64_t layer, int64_t group, int64_t length) {
  const std::vector<int64_t> all = mark_candidates(length);
  const auto slots = static_cast<size_t>(model.layers * mark_groups(model));
  std::vector<int64_t> mine;
  for (auto i = static_cast<size_t>(layer * mark_groups(model) + group); i < all.size(); i += slots)
    mine.push_back(all[i]);
  return mine;
}

float marked_weight(const Model& model, W weight, int64_t layer, const Extents& index,
                    float drawn) {
  const Attention& a = model.attention;
  const auto [i, j, k, l] = index;
  switch (weight) {
    case W::embed: return j == 0 ? constant(model.hidden) : drawn;
    case W::o:
    case W::down:
    case W::shared_down:
      return i == 0 ? 0.0F : residual_gain * drawn;  // channel 0 stays as embedded
    case W::experts_down: return j == 0 ? 0.0F : residual_gain * drawn;
    case W::attention_norm:
    case W::ffn_norm:
    case W::q_norm:
    case W::k_norm:
    case W::q_latent_norm:
    case W::kv_latent_norm: return norm_weight(model, weight, layer, i, drawn);
    case W::dq:  // query latent 0 repeats the constant channel
      return i != 0 ? drawn : j == 0 ? constant(a.q_lora) * std::sqrt(3.0F) : 0.0F;
    case W::q:
      if (a.mla()) return j != 0 ? drawn : k == 0 ? 1.0F : 0.0F;
      return j != a.head_size - 1 ? drawn : k == 0 ? static_cast<float>(query_gain(model)) : 0.0F;
    case W::uk:
      if (j >= mla_groups) return latent_query_spread * drawn;
      return k == 0 && j == i % mla_groups ? static_cast<float>(query_gain(model)) : 0.0F;
    case W::uv:  // the mark channels hold about -10
      return k < mla_groups ? 0.1F * drawn : drawn;
    case W::kv:  // keys: 0 in the mark channel, and small elsewhere
      return i == 1 ? drawn : k == a.head_size - 1 ? 0.0F : spread * drawn;
    case W::router_bias: return bias_offset + drawn;
    case W::dkv: return i < mla_groups ? 0.0F : i >= a.kv_lora ? rotated_spread * drawn : drawn;
    default: return drawn;
  }
}

void mark_keys(const Model& model, int64_t layer, int64_t kv_head, int64_t length,
               const Generator::Positions& positions, float* keys) {
  const Attention& a = model.attention;
  const bool mla = a.mla();
  const double logit = std::log(double(std::max<int64_t>(length, 1))) + background_logit;
  const auto background =
      static_cast<float>(-logit / (softmax_scale(model) * query_strength(model)));
  for (int64_t i = 0; i < positions.count; ++i)
    for (int64_t d = mla ? a.kv_lora : 0; d < a.head_size; ++d)
      keys[i * a.head_size + d] *= mla ? rotated_spread : spread;
  for (int64_t group = mla ? 0 : kv_head; group < (mla ? mla_groups : kv_head + 1); ++group) {
    const std::vector<int64_t> marks = marks_of(model, layer, group, length);
    const int64_t channel = mla ? group : a.head_size - 1;
    for (int64_t i = 0; i < positions.count; ++i) {
      float* key = keys + i * a.head_size;
      key[channel] =
          std::binary_search(marks.begin(), marks.end(), positions.at(i)) ? 0.0F : background;
    }
  }
}

}  // namespace helix
