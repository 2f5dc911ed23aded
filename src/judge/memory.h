// The judge's KV memory of one request: history from the generator, and what the model appended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "judge/tensors.h"

namespace helix {

class KvMemory {
 public:
  // Keys and values of consecutive positions, row by row; MLA: a value is the head of its key.
  struct Rows {
    int64_t first;
    int64_t count;
    const float* keys;
    const float* values;
    int64_t value_stride;
  };
  // Where a block's rows are generated when they are not in memory; one a thread.
  using Scratch = std::vector<float>;

  KvMemory(const Tensors& tensors, int64_t cached_values, int64_t request, int64_t history);

  // The newest token's key and value, rounded to the cache's format. A layer's heads in any order,
  // once a token.
  void append(int64_t layer, int64_t kv_head, std::span<const double> key,
              std::span<const double> value);
  // Keys of all KV heads that `layer` appended last, then values.
  std::vector<float> newest(int64_t layer) const;
  // The same as a quantised cache stores it: each KV head's key, then its value. Else empty.
  std::vector<std::byte> newest_codes(int64_t layer) const;

  int64_t positions(int64_t layer) const;  // 0 … the newest
  // Blocks cover them in order. Fetch a layer before blocks of it are read in a parallel region.
  int64_t blocks(int64_t layer) const;
  void fetch(int64_t layer, int64_t kv_head);
  Rows block(int64_t layer, int64_t kv_head, int64_t index, Scratch& scratch) const;

  // MLA in its expanded form: keys and values that a query head has made of the latents so far,
  // position by position.
  struct Made {
    Vector keys, values;
  };
  Made& made(int64_t layer, int64_t head) {
    return made_.at(static_cast<size_t>(layer * attention_.query_heads + head));
  }

 private:
  struct Store {
    std::vector<float> keys, values;
    std::vector<std::byte> codes;  // of the newest token
  };
  size_t slot(int64_t layer, int64_t kv_head) const {
    return static_cast<size_t>(layer * attention_.kv_heads + kv_head);
  }
  Rows rows(const Store& store, int64_t from, int64_t first, int64_t count) const;
  void draw(int64_t layer, int64_t kv_head, int64_t first, int64_t count, float* keys,
            float* values) const;

  const Generator& generator_;
  const Attention& attention_;
  int64_t request_, history_;
  bool keep_;
  std::vector<Store> drawn_, appended_;  // by slot
  std::vector<Made> made_;
};

}  // namespace helix
