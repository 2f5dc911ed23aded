#include "judge/memory.h"

#include <algorithm>

namespace helix {

namespace {

constexpr int64_t block_positions = 256;

float stored(Format format, double value) {
  const auto single = static_cast<float>(value);
  return format == Format::bf16 ? to_float(to_bf16(single)) : single;
}

void store(Format format, std::span<const double> from, std::vector<float>& to) {
  for (const double value : from) to.push_back(stored(format, value));
}

}  // namespace

Memory::Memory(const Tensors& tensors, int64_t cached_values, int64_t request, int64_t history)
    : generator_(tensors.generator()),
      attention_(tensors.model().attention),
      request_(request),
      history_(history) {
  const int64_t slots = tensors.model().layers * attention_.kv_heads;
  const int64_t numbers = attention_.head_size + (attention_.mla() ? 0 : attention_.value_size);
  keep_ = slots * numbers * history <= cached_values;
  drawn_.resize(static_cast<size_t>(slots));
  appended_.resize(static_cast<size_t>(slots));
}

void Memory::append(int64_t layer, int64_t kv_head, std::span<const double> key,
                    std::span<const double> value) {
  const Format format = generator_.precision().kv;
  Store& to = appended_[slot(layer, kv_head)];
  store(format, key, to.keys);
  store(format, value, to.values);
}

std::vector<float> Memory::newest(int64_t layer) const {
  std::vector<float> all;
  const auto add = [&](const std::vector<float>& from, int64_t size) {
    if (!from.empty()) all.insert(all.end(), from.end() - size, from.end());
  };
  for (int64_t head = 0; head < attention_.kv_heads; ++head)
    add(appended_[slot(layer, head)].keys, attention_.head_size);
  for (int64_t head = 0; head < attention_.kv_heads; ++head)
    add(appended_[slot(layer, head)].values, attention_.value_size);
  return all;
}

int64_t Memory::positions(int64_t layer) const {
  const auto floats = static_cast<int64_t>(appended_[slot(layer, 0)].keys.size());
  return history_ + floats / attention_.head_size;
}

int64_t Memory::blocks(int64_t layer) const {
  const int64_t past = (history_ + block_positions - 1) / block_positions;
  return past + (positions(layer) > history_ ? 1 : 0);
}

void Memory::draw(int64_t layer, int64_t kv_head, int64_t first, int64_t count, float* keys,
                  float* values) const {
  generator_.history(layer, request_, history_, kv_head, {first, count}, keys, values);
}

void Memory::fetch(int64_t layer, int64_t kv_head) {
  Store& to = drawn_[slot(layer, kv_head)];
  if (!keep_ || !to.keys.empty()) return;
  to.keys.resize(static_cast<size_t>(history_ * attention_.head_size));
  to.values.resize(attention_.mla() ? 0 : static_cast<size_t>(history_ * attention_.value_size));
  if (history_ > 0)
    draw(layer, kv_head, 0, history_, to.keys.data(),
         attention_.mla() ? nullptr : to.values.data());
}

Memory::Rows Memory::rows(const Store& store, int64_t from, int64_t first, int64_t count) const {
  const float* keys = store.keys.data() + (first - from) * attention_.head_size;
  if (attention_.mla()) return {first, count, keys, keys, attention_.head_size};
  const float* values = store.values.data() + (first - from) * attention_.value_size;
  return {first, count, keys, values, attention_.value_size};
}

Memory::Rows Memory::block(int64_t layer, int64_t kv_head, int64_t index, Scratch& scratch) const {
  const int64_t first = index * block_positions;
  if (first >= history_)  // what was appended is one block, the last
    return rows(appended_[slot(layer, kv_head)], history_, history_, positions(layer) - history_);
  const int64_t count = std::min(block_positions, history_ - first);
  if (keep_) return rows(drawn_[slot(layer, kv_head)], 0, first, count);
  const int64_t key_floats = count * attention_.head_size;
  scratch.resize(static_cast<size_t>(key_floats + count * attention_.value_size));
  float* values = attention_.mla() ? nullptr : scratch.data() + key_floats;
  draw(layer, kv_head, first, count, scratch.data(), values);
  if (values == nullptr)
    return {first, count, scratch.data(), scratch.data(), attention_.head_size};
  return {first, count, scratch.data(), values, attention_.value_size};
}

}  // namespace helix
