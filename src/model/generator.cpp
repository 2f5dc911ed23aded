// The values themselves: what Generator (weights.h) draws for weights and histories.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>
#include <vector>

#include "base/random.h"
#include "model/checkpoint.h"
#include "model/marks.h"
#include "model/weights.h"

namespace helix {

namespace {

enum Stream : uint64_t { keys = 1000, values = 1001, tokens = 1002, ranks = 1003, scales = 1004 };

using Draw = Generator::Draw;

// A tied LM head is the embedding, which has no layer.
struct Drawn {
  W weight;
  int64_t layer;
};
Drawn drawn_as(const Model& m, W weight, int64_t layer) {
  if (weight == W::lm_head && m.tied) weight = W::embed;
  return {weight, weight == W::embed || weight == W::lm_head ? 0 : layer};
}

// Gains keep activations near 1; keys are drawn 2.5 times as large, for a peaky softmax.
Draw draw_of(const Model& m, const Drawn& what, uint64_t seed) {
  const uint64_t stream =
      combine(combine(seed, static_cast<uint64_t>(what.weight)), static_cast<uint64_t>(what.layer));
  switch (what.weight) {
    case W::embed: return {stream, 1};
    case W::attention_norm:
    case W::ffn_norm:
    case W::q_norm:
    case W::k_norm:
    case W::q_latent_norm:
    case W::kv_latent_norm: return {stream, 0.1F, 1};
    case W::router_bias: return {stream, 0.1F};
    default: return {stream, static_cast<float>(std::sqrt(3.0 / double(fan_in(m, what.weight))))};
  }
}

// Values [first, first + count) of a stream: a hash gives four. One rounding on any machine.
void fill(const Draw& draw, int64_t first, int64_t count, float* out) {
  const auto value = [&](float uniform) {
    return draw.offset == 0 ? uniform * draw.scale : std::fma(uniform, draw.scale, draw.offset);
  };
  int64_t i = 0;
  const auto one = [&] {
    out[i] = value(uniform_at(draw.stream, static_cast<uint64_t>(first + i)));
    ++i;
  };
  while (i < count && (first + i) % 4 != 0) one();
  for (; i + 4 <= count; i += 4) {
    const uint64_t hash = quad(draw.stream, static_cast<uint64_t>(first + i));
    for (unsigned lane = 0; lane < 4; ++lane) out[i + lane] = value(uniform(hash, lane));
  }
  while (i < count) one();
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

// Rounds values in place to what a format can hold.
template <class T>
void round_through(int64_t count, float scale, float* values) {
  constexpr int64_t block = std::is_same_v<T, nvfp4> ? nvfp4_block : 1;
  std::byte memory[16];
  const auto stored = values_at<T>(memory, block, scale);
  for (int64_t i = 0; i < count; i += block) {
    encode(values + i, block, stored);
    decode(stored, block, values + i);
  }
}
void round_to(Format format, int64_t count, float scale, float* values) {
  if (format == Format::bf16) round_through<bf16>(count, scale, values);
  if (format == Format::fp8) round_through<fp8>(count, scale, values);
  if (format == Format::nvfp4) round_through<nvfp4>(count, scale, values);
}

// The power of two at or below `size`, or the next one: a scale that belongs to another tensor is
// seen.
float power_near(float size, uint64_t hash) {
  return std::ldexp(1.0F, std::ilogb(size) + static_cast<int>(hash & 1U));
}

constexpr int64_t parallel_values = 1 << 18;  // fewer stay in one thread

}  // namespace

template <class Out>
void Generator::draw_weights(W weight, int64_t layer, const Part& part, Out&& out) const {
  const Drawn what = drawn_as(*model_, weight, layer);
  const W which = what.weight;  // threads cannot capture a structured binding
  const int64_t at_layer = what.layer;
  const Extents e = extents_of(*model_, which);
  const Draw draw = draw_of(*model_, what, seed_);
  const float keys_gain = key_gain(which);
  int run = 3;
  while (run > 0 && e[run] == 1) --run;
  const auto count = [&](int axis) { return axis < run ? part[axis].count : 1; };
  const auto at = [&](int axis, int64_t i) { return axis < run ? part[axis].first + i : 0; };
  const int64_t width = part[run].count;
  const int64_t runs = count(0) * count(1) * count(2);
#pragma omp parallel if (runs > 1 && runs * width > parallel_values && !model_->checkpoint)
  {
    std::vector<float> drawn(static_cast<size_t>(width));
#pragma omp for schedule(static)
    for (int64_t r = 0; r < runs; ++r) {
      Extents index = {at(0, r / (count(1) * count(2))), at(1, r / count(2) % count(1)),
                       at(2, r % count(2)), 0};
      index[run] = part[run].first;
      const int64_t first = ((index[0] * e[1] + index[1]) * e[2] + index[2]) * e[3] + index[3];
      Draw here = draw;
      if (which == W::kv && index[0] == 0) here.scale *= keys_gain;
      if (model_->checkpoint) model_->checkpoint->read(which, at_layer, first, width, drawn.data());
      else fill(here, first, width, drawn.data());
      for (int64_t n = 0; model_->marked && n < width; ++n, ++index[run])
        drawn[n] = marked_weight(*model_, which, at_layer, index, drawn[n]);
      out(r * width, drawn);
    }
  }
}

template <class T>
void Generator::weights(W weight, int64_t layer, const Part& part, const Values<T>& out) const {
  draw_weights(weight, layer, part, [&](int64_t first, const std::vector<float>& drawn) {
    encode(drawn.data(), std::ssize(drawn), out.at(first));
  });
}

void Generator::weights(W weight, int64_t layer, const Part& part, float* out) const {
  draw_weights(weight, layer, part, [&](int64_t first, const std::vector<float>& drawn) {
    std::ranges::copy(drawn, out + first);
    round(weight, layer, std::ssize(drawn), out + first);
  });
}

void Generator::round(W weight, int64_t layer, int64_t count, float* values) const {
  round_to(format_of(precision_, weight), count, scale(weight, layer), values);
}

// Marks are up to 700 times what is drawn beside them, and blocks a twentieth: both fit.
float Generator::scale(W weight, int64_t layer) const {
  const Format format = format_of(precision_, weight);
  if (!quantised(format)) return 1;
  if (model_->checkpoint) {  // nvfp4: its largest value is the largest code times the largest scale
    const Drawn from = drawn_as(*model_, weight, layer);
    const float largest = model_->checkpoint->largest(from.weight, from.layer);
    return largest > 0 ? largest / (e2m1_largest * fp8_largest) : 1;
  }
  const Draw from = draw(weight, layer);
  return power_near(from.scale, from.stream) * (format == Format::fp8 ? 2.0F : 0.25F);
}

float Generator::kv_scale(int64_t layer, int64_t kv_head) const {
  if (!quantised(precision_.kv)) return 1;
  const uint64_t hash = combine(combine(combine(seed_, scales), static_cast<uint64_t>(layer)),
                                static_cast<uint64_t>(kv_head));
  return power_near(precision_.kv == Format::fp8 ? 0.25F : 0.0625F, hash);
}

template <class Out>
void Generator::draw_history(int64_t layer, int64_t request, int64_t length, int64_t kv_head,
                             const Positions& positions, Out&& out_keys, Out&& out_values) const {
  const Attention& a = model_->attention;
  std::vector<float> drawn(static_cast<size_t>(positions.count * a.head_size));
  fill_tokens(key_draw(layer, request, kv_head), positions, a.head_size, drawn.data());
  if (model_->marked) mark_keys(*model_, layer, kv_head, length, positions, drawn.data());
  out_keys(drawn);
  if (a.mla()) return;
  drawn.resize(static_cast<size_t>(positions.count * a.value_size));
  fill_tokens(value_draw(layer, request, kv_head), positions, a.value_size, drawn.data());
  out_values(drawn);
}

template <class T>
void Generator::history(int64_t layer, int64_t request, int64_t length, int64_t kv_head,
                        Positions positions, const Values<T>& k, const Values<T>& v) const {
  const auto into = [](const Values<T>& to) {
    return [&](const std::vector<float>& from) { encode(from.data(), std::ssize(from), to); };
  };
  draw_history(layer, request, length, kv_head, positions, into(k), into(v));
}

void Generator::history(int64_t layer, int64_t request, int64_t length, int64_t kv_head,
                        Positions positions, float* k, float* v) const {
  const auto into = [&](float* to) {
    return [&, to](const std::vector<float>& from) {
      std::ranges::copy(from, to);
      round_to(precision_.kv, std::ssize(from), kv_scale(layer, kv_head), to);
    };
  };
  draw_history(layer, request, length, kv_head, positions, into(k), into(v));
}

float Generator::key_gain(W weight) const {
  return weight == W::kv && !model_->marked ? 2.5F : 1.0F;
}

Draw Generator::draw(W weight, int64_t layer) const {
  return draw_of(*model_, drawn_as(*model_, weight, layer), seed_);
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

#define INSTANTIATE(T)                                                               \
  template void Generator::weights(W, int64_t, const Part&, const Values<T>&) const; \
  template void Generator::history(int64_t, int64_t, int64_t, int64_t, Positions,    \
                                   const Values<T>&, const Values<T>&) const;
INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE(fp8)
INSTANTIATE(nvfp4)
#undef INSTANTIATE

}  // namespace helix
