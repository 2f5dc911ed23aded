#include "judge/memory.h"

#include <algorithm>

namespace helix {

namespace {

constexpr int64_t block_positions = 256;

// Adds to `to` what a cache of format T gives back for `from`, and to `codes` what it stores.
template <class T>
void store_as(std::span<const double> from, float scale, std::vector<float>& to,
              std::vector<std::byte>& codes) {
  const auto count = static_cast<int64_t>(from.size());
  const std::vector<float> single(from.begin(), from.end());
  std::vector<std::byte> memory(static_cast<size_t>(bytes_for<T>(count)));
  const auto values = values_at<T>(memory.data(), count, scale);
  encode(single.data(), count, values);
  for (int64_t i = 0; i < count; ++i) to.push_back(value_at(values, i));
  codes.insert(codes.end(), memory.begin(), memory.end());
}

void store(Format format, float scale, std::span<const double> from, std::vector<float>& to,
           std::vector<std::byte>& codes) {
  switch (format) {
    case Format::bf16: return store_as<bf16>(from, scale, to, codes);
    case Format::fp8: return store_as<fp8>(from, scale, to, codes);
    case Format::nvfp4: return store_as<nvfp4>(from, scale, to, codes);
    default: return store_as<float>(from, scale, to, codes);
  }
}

}  // namespace

KvMemory::KvMemory(const Tensors& tensors, int64_t cached_values, int64_t request, int64_t history)
    : generator_(tensors.generator()),
      attention_(tensors.model().attention),
      request_(request),
      history_(history) {
  const int64_t slots = tensors.model().layers * attention_.kv_heads;
  const int64_t numbers = attention_.head_size + (attention_.mla() ? 0 : attention_.value_size);
  keep_ = slots * numbers * history <= cached_values;
  drawn_.resize(static_cast<size_t>(slots));
  appended_.resize(static_cast<size_t>(slots));
  if (attention_.mla())
    made_.resize(static_cast<size_t>(tensors.model().layers * attention_.query_heads));
}

void KvMemory::append(int64_t layer, int64_t kv_head, std::span<const double> key,
                      std::span<const double> value) {
  const Format format = generator_.precision().kv;
  const float scale = generator_.kv_scale(layer, kv_head);
  Store& to = appended_[slot(layer, kv_head)];
  to.codes.clear();
  store(format, scale, key, to.keys, to.codes);
  store(format, scale, value, to.values, to.codes);
}

std::vector<std::byte> KvMemory::newest_codes(int64_t layer) const {
  std::vector<std::byte> all;
  if (!quantised(generator_.precision().kv)) return all;
  for (int64_t head = 0; head < attention_.kv_heads; ++head) {
    const std::vector<std::byte>& mine = appended_[slot(layer, head)].codes;
    all.insert(all.end(), mine.begin(), mine.end());
  }
  return all;
}

std::vector<float> KvMemory::newest(int64_t layer) const {
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

int64_t KvMemory::positions(int64_t layer) const {
  const auto floats = static_cast<int64_t>(appended_[slot(layer, 0)].keys.size());
  return history_ + floats / attention_.head_size;
}

int64_t KvMemory::blocks(int64_t layer) const {
  const int64_t past = (history_ + block_positions - 1) / block_positions;
  return past + (positions(layer) > history_ ? 1 : 0);
}

void KvMemory::draw(int64_t layer, int64_t kv_head, int64_t first, int64_t count, float* keys,
                    float* values) const {
  generator_.history(layer, request_, history_, kv_head, {first, count}, keys, values);
}

void KvMemory::fetch(int64_t layer, int64_t kv_head) {
  Store& to = drawn_[slot(layer, kv_head)];
  if (!keep_ || !to.keys.empty()) return;
  to.keys.resize(static_cast<size_t>(history_ * attention_.head_size));
  to.values.resize(attention_.mla() ? 0 : static_cast<size_t>(history_ * attention_.value_size));
  if (history_ > 0)
    draw(layer, kv_head, 0, history_, to.keys.data(),
         attention_.mla() ? nullptr : to.values.data());
}

KvMemory::Rows KvMemory::rows(const Store& store, int64_t from, int64_t first,
                              int64_t count) const {
  const float* keys = store.keys.data() + (first - from) * attention_.head_size;
  if (attention_.mla()) return {first, count, keys, keys, attention_.head_size};
  const float* values = store.values.data() + (first - from) * attention_.value_size;
  return {first, count, keys, values, attention_.value_size};
}

KvMemory::Rows KvMemory::block(int64_t layer, int64_t kv_head, int64_t index,
                               Scratch& scratch) const {
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
