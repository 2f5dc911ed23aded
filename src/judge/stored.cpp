#include "judge/stored.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"
#include "model/checkpoint.h"

namespace helix {

namespace {

// Numbers of a stored matrix or vector: from (row, column) onward along the columns, or along the
// rows.
struct Run {
  std::string name;
  Shape shape;
  int64_t row = 0;
  int64_t column = 0;
  bool down = false;
};

std::string in_layer(int64_t layer, std::string_view part) {
  return fmt::format("model.layers.{}.{}.weight", layer, part);
}

Run vector(std::string name, int64_t size) { return {std::move(name), {size}}; }

Run expert(const Model& m, int64_t layer, int64_t index, std::string_view part, int64_t row) {
  const bool down = part == "down_proj";
  return {in_layer(layer, fmt::format("mlp.experts.{}.{}", index, part)),
          {down ? m.hidden : m.experts.width, down ? m.experts.width : m.hidden},
          row};
}

Run mlp(const Model& m, int64_t layer, std::string_view prefix, int64_t width, int64_t half,
        int64_t row) {
  return {in_layer(layer, fmt::format("{}.{}_proj", prefix, half == 0 ? "gate" : "up")),
          {width, m.hidden},
          row};
}

// Where the numbers stand that begin at [i][j][k] of an attention's weight.
Run run_of_attention(const Model& m, W weight, int64_t layer, int64_t i, int64_t j, int64_t k) {
  const Attention& a = m.attention;
  const auto at = [&](std::string_view part) {
    return in_layer(layer, "self_attn." + std::string(part));
  };
  const int64_t query = a.mla() ? a.nope + a.rope : a.head_size;
  const int64_t head = a.nope + a.v;  // rows of kv_b_proj
  switch (weight) {
    case W::q:
      if (a.q_lora > 0) return {at("q_b_proj"), {a.query_heads * query, a.q_lora}, i * query + j};
      return {at("q_proj"), {a.query_heads * query, m.hidden}, i * query + j};
    case W::kv:
      return {at(i == 0 ? "k_proj" : "v_proj"),
              {a.kv_heads * a.head_size, m.hidden},
              j * a.head_size + k};
    case W::q_norm: return vector(at("q_norm"), a.head_size);
    case W::k_norm: return vector(at("k_norm"), a.head_size);
    case W::o: {
      const int64_t width = a.mla() ? a.v : a.head_size;
      return {at("o_proj"), {m.hidden, a.query_heads * width}, i, j * width + k};
    }
    case W::dq: return {at("q_a_proj"), {a.q_lora, m.hidden}, i};
    case W::q_latent_norm: return vector(at("q_a_layernorm"), a.q_lora);
    case W::dkv: return {at("kv_a_proj_with_mqa"), {a.kv_lora + a.rope, m.hidden}, i};
    case W::kv_latent_norm: return vector(at("kv_a_layernorm"), a.kv_lora);
    case W::uk: return {at("kv_b_proj"), {a.query_heads * head, a.kv_lora}, i * head + k, j, true};
    case W::uv: return {at("kv_b_proj"), {a.query_heads * head, a.kv_lora}, i * head + a.nope + j};
    default: throw RunError("no weight of attention: " + std::string(name_of(weight)));
  }
}

Run run_of(const Model& m, W weight, int64_t layer, int64_t i, int64_t j, int64_t k) {
  const Experts& e = m.experts;
  switch (weight) {
    case W::embed: return {"model.embed_tokens.weight", {m.vocabulary, m.hidden}, i};
    case W::lm_head:
      return {m.tied ? "model.embed_tokens.weight" : "lm_head.weight", {m.vocabulary, m.hidden}, i};
    case W::attention_norm:
      return vector(layer == m.layers ? "model.norm.weight" : in_layer(layer, "input_layernorm"),
                    m.hidden);
    case W::ffn_norm: return vector(in_layer(layer, "post_attention_layernorm"), m.hidden);
    case W::up: return mlp(m, layer, "mlp", m.ffn, i, j);
    case W::down: return {in_layer(layer, "mlp.down_proj"), {m.hidden, m.ffn}, i};
    case W::router: return {in_layer(layer, "mlp.gate"), {e.count, m.hidden}, i};
    case W::router_bias:
      return vector(fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layer),
                    e.count);
    case W::experts_up: return expert(m, layer, i, j == 0 ? "gate_proj" : "up_proj", k);
    case W::experts_down: return expert(m, layer, i, "down_proj", j);
    case W::shared_up: return mlp(m, layer, "mlp.shared_experts", e.shared * e.width, i, j);
    case W::shared_down:
      return {in_layer(layer, "mlp.shared_experts.down_proj"), {m.hidden, e.shared * e.width}, i};
    default: return run_of_attention(m, weight, layer, i, j, k);
  }
}

// Sign, exponent and fraction of a small float, as its definition has them.
double small_float(unsigned bits, int exponent_bits, int fraction_bits) {
  const unsigned fraction = bits & ((1U << fraction_bits) - 1);
  const auto exponent = static_cast<int>(bits >> fraction_bits & ((1U << exponent_bits) - 1));
  const bool negative = (bits >> (fraction_bits + exponent_bits) & 1U) != 0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double size =
      exponent == 0 ? std::ldexp(fraction, 1 - bias - fraction_bits)
                    : std::ldexp(fraction + (1U << fraction_bits), exponent - bias - fraction_bits);
  return negative ? -size : size;
}

// A number of a tensor, dequantised in fp32.
float number(const StoredTensor& tensor, const StoredTensor* scales, int64_t row, int64_t column) {
  const int64_t columns = tensor.shape.back();
  const std::byte* at = tensor.data + (row * columns + column) * row_of(tensor.dtype).bytes;
  uint32_t bits = 0;
  for (int64_t i = 0; i < row_of(tensor.dtype).bytes; ++i)
    bits |= static_cast<uint32_t>(at[i]) << (8 * i);
  switch (tensor.dtype) {
    case Dtype::bf16: return static_cast<float>(small_float(bits, 8, 7));
    case Dtype::f16: return static_cast<float>(small_float(bits, 5, 10));
    case Dtype::f8_e4m3: {
      float scale = 0;
      const int64_t across = (columns + 127) / 128;
      std::memcpy(&scale, scales->data + 4 * (row / 128 * across + column / 128), 4);
      return static_cast<float>(small_float(bits, 4, 3)) * scale;
    }
    default: {
      float value = 0;
      std::memcpy(&value, &bits, 4);
      return value;
    }
  }
}

}  // namespace

void read_stored(const Model& model, const Precision& precision, W weight, int64_t layer,
                 const Part& part, float* out) {
  static constexpr Dtype any[] = {Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::f8_e4m3};
  const TensorFolder& folder = model.checkpoint->tensors();
  const bool rounded = format_of(precision, weight) == Format::bf16;
  const Extents extents = extents_of(model, weight);
  int last = 3;  // the axis that a run goes along
  while (last > 0 && extents[last] == 1) --last;
  const auto count = [&](int axis) { return axis < last ? part[axis].count : 1; };
  const auto index = [&](int axis, int64_t i) { return axis < last ? part[axis].first + i : 0; };
  for (int64_t i = 0; i < count(0); ++i)
    for (int64_t j = 0; j < count(1); ++j)
      for (int64_t k = 0; k < count(2); ++k) {
        Run run = run_of(model, weight, layer, index(0, i), index(1, j), index(2, k));
        (run.down ? run.row : run.column) += part[last].first;
        const StoredTensor& tensor = folder.tensor(run.name, run.shape, any);
        const StoredTensor* scales = nullptr;
        if (tensor.dtype == Dtype::f8_e4m3)
          scales = &folder.tensor(run.name + "_scale_inv",
                                  {(run.shape[0] + 127) / 128, (run.shape[1] + 127) / 128},
                                  std::span(any).first(1));
        for (int64_t n = 0; n < part[last].count; ++n) {
          const float value =
              number(tensor, scales, run.row + (run.down ? n : 0), run.column + (run.down ? 0 : n));
          *out++ = rounded ? to_float(to_bf16(value)) : value;
        }
      }
}

}  // namespace helix
