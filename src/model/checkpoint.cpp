#include "model/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

namespace helix {

namespace {

constexpr int64_t block = 128;  // rows and columns that share a scale
constexpr Dtype weight_dtypes[] = {Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::f8_e4m3};
constexpr Dtype scale_dtypes[] = {Dtype::f32};

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// IEEE half precision: 5 bits of exponent, 10 of fraction.
float from_half(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000U) << 16;
  const uint32_t rest = bits & 0x7fffU;
  const float size = rest < 0x400U    ? static_cast<float>(rest) * 0x1p-24F
                     : rest < 0x7c00U ? std::bit_cast<float>((rest << 13) + (112U << 23))
                                      : std::bit_cast<float>(0x7f800000U | (rest & 0x3ffU) << 13);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}

// A bias or a part that no weight here stands for would change what the model computes.
void refuse_others(const TensorFolder& tensors, const Model& model,
                   const std::vector<std::string>& known) {
  for (int64_t layer = 0; layer < model.layers; ++layer)
    tensors.each_name(fmt::format("model.layers.{}.", layer), [&](const std::string& name) {
      std::string_view weight = name;
      if (weight.ends_with("_scale_inv")) weight.remove_suffix(10);
      if (weight.ends_with("rotary_emb.inv_freq") ||
          std::binary_search(known.begin(), known.end(), weight))
        return;
      tensors.fail(name, "not supported: config.json describes no such tensor");
    });
}

}  // namespace

Checkpoint::Checkpoint(std::string folder, const Model& model)
    : folder_(std::move(folder)), attention_(model.attention), tensors_(folder_) {
  std::vector<std::string> known;
  const auto add = [&](W weight, int64_t layer) {
    const Shape shape = published_shape(model, weight);
    Parts all = {{}, 1};
    for (std::string& name : published_names(model, weight, layer)) {
      all.parts.push_back(find(name, shape));
      known.push_back(std::move(name));
    }
    for (const int64_t extent : shape) all.values *= extent;
    weights_[{weight, layer}] = std::move(all);
  };
  add(W::embed, 0);
  add(W::lm_head, 0);
  add(W::attention_norm, model.layers);
  for (int64_t layer = 0; layer < model.layers; ++layer)
    for (int i = 0; i < weight_count; ++i)
      if (const W weight = static_cast<W>(i); in_layer(model, weight, layer)) add(weight, layer);
  std::ranges::sort(known);
  refuse_others(tensors_, model, known);
}

Checkpoint::Stored Checkpoint::find(const std::string& name, const Shape& shape) const {
  const StoredTensor& values = tensors_.tensor(name, shape, weight_dtypes);
  if (values.dtype != Dtype::f8_e4m3) return {&values, nullptr};
  Shape blocks;
  for (const int64_t extent : shape) blocks.push_back((extent + block - 1) / block);
  if (shape.size() != 2) tensors_.fail(name, "is F8_E4M3, allowed are matrices alone");
  return {&values, &tensors_.tensor(name + "_scale_inv", blocks, scale_dtypes)};
}

void Checkpoint::convert(const Stored& from, int64_t index, int64_t stride, int64_t count,
                         float* out) {
  const auto each = [&](auto value) {
    for (int64_t i = 0; i < count; ++i) out[i] = value(index + i * stride);
  };
  const std::byte* data = from.values->data;
  switch (from.values->dtype) {
    case Dtype::bf16:
      return each([&](int64_t i) { return to_float(bf16{load<uint16_t>(data + 2 * i)}); });
    case Dtype::f16:
      return each([&](int64_t i) { return from_half(load<uint16_t>(data + 2 * i)); });
    case Dtype::f8_e4m3: {
      const int64_t columns = from.values->shape[1], across = from.scales->shape[1];
      return each([&](int64_t i) {
        const int64_t at = i / columns / block * across + i % columns / block;
        return to_float(load<fp8>(data + i)) * load<float>(from.scales->data + 4 * at);
      });
    }
    default: return each([&](int64_t i) { return load<float>(data + 4 * i); });
  }
}

void Checkpoint::read(W weight, int64_t layer, int64_t first, int64_t count, float* out) const {
  const auto& [parts, values] = weights_.at({weight, layer});
  const Attention& a = attention_;
  const auto head_rows = a.nope + a.v;  // of kv_b_proj
  if (weight == W::uv) {
    const int64_t head = first / (a.v * a.kv_lora), rest = first % (a.v * a.kv_lora);
    return convert(parts[0], (head * head_rows + a.nope) * a.kv_lora + rest, 1, count, out);
  }
  if (weight != W::uk) return convert(parts[first / values], first % values, 1, count, out);
  for (int64_t i = 0; i < count;) {  // [Q][kv_lora][nope] is stored with its last axes turned over
    const int64_t n = (first + i) % a.nope, latent = (first + i) / a.nope % a.kv_lora;
    const int64_t head = (first + i) / a.nope / a.kv_lora, run = std::min(count - i, a.nope - n);
    convert(parts[0], (head * head_rows + n) * a.kv_lora + latent, a.kv_lora, run, out + i);
    i += run;
  }
}

float Checkpoint::largest(W weight, int64_t layer) const {
  const std::scoped_lock lock(mutex_);
  const auto [at, missing] = largest_.try_emplace({weight, layer}, 0.0F);
  if (!missing) return at->second;
  const auto& [parts, values] = weights_.at({weight, layer});
  std::vector<float> some(4096);
  for (const Stored& part : parts) {
    const auto& shape = part.values->shape;
    const int64_t all =
        std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    for (int64_t i = 0; i < all; i += std::ssize(some)) {
      const int64_t count = std::min<int64_t>(all - i, std::ssize(some));
      convert(part, i, 1, count, some.data());
      for (int64_t n = 0; n < count; ++n) at->second = std::max(at->second, std::abs(some[n]));
    }
  }
  return at->second;
}

}  // namespace helix
