// Decode attention over one rank's KV shard on a GPU, and the exact merge of the shards' partial
// outputs. Twins: kernels/cpu/reference.h. All pointers are device memory unless said.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/format.h"
#include "kernels/cpu/partial.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

using cpu::PartialLayout;

struct AttentionShape {
  int rows = 0;       // requests
  int heads = 0;      // query heads of this rank, all parts together
  int kv_heads = 0;   // query head h reads KV head h * kv_heads / heads; at most 16 read one
  int head_size = 0;  // 64 or 128, of keys and values
  float scale = 0;    // of the logits

  constexpr int pairs() const { return rows * kv_heads; }
  constexpr int group() const { return heads / kv_heads; }
};
inline constexpr int max_parts = 160;  // splits of a pair (blocks of a plan), messages of a merge
inline constexpr int max_group = 16;   // query heads a KV head: the rows of a tensor-core product

// One layer's cache. The tokens of pair = (row, KV head) stand one after another, `head_size`
// values each, keys from `keys[pair]` and values from `values[pair]` on (values from base;
// multiples of 8). `tokens[row]` counts the newest token, which alone may be written by the kernel
// launched just before; all else is read ahead.
struct KvView {
  const bf16* base = nullptr;
  const int64_t* keys = nullptr;
  const int64_t* values = nullptr;
  const int32_t* tokens = nullptr;
};

// Tokens of a tile: 4 KB of keys.
constexpr int attention_tile(int head_size) { return 2048 / head_size; }
// Where a block's share of the tiles begins.
struct Cut {
  int32_t pair;
  int32_t tile;
};
// The partial results of one pair: `count` of them from slot `first` on.
struct Splits {
  int32_t first;
  int32_t count;
};

// How tokens are cut over blocks, and room for partial results; one a step, shared by its layers.
// Lives in `memory` (device, 16-byte aligned).
struct AttentionPlan {
  AttentionPlan(const AttentionShape& of, int over_blocks, std::byte* memory);
  static int64_t bytes(const AttentionShape& shape, int blocks);

  constexpr int slots() const { return blocks + shape.pairs(); }

  AttentionShape shape;
  int blocks;
  float* outs;      // [blocks + pairs][16][head_size]
  float* lses;      // [16][blocks + pairs]
  Cut* cuts;        // [blocks + 1]
  Splits* splits;   // [pairs]
  int32_t* starts;  // [rows + 1]
};

// Cuts the tokens evenly over the plan's blocks. Once a step, and not as a dependent launch.
void cut_attention(const AttentionPlan& plan, const int32_t* tokens, const Launch& launch);

// As cpu::decode_attention: q [rows][heads][head_size], out: messages of `part`, ordered by the
// peer that merges them. An empty shard gives output 0 and log-sum-exp -inf. Results are bit-equal
// for one (token counts, blocks).
template <class Activation>
void decode_attention(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                      const PartialLayout& part, std::byte* out, const Launch& launch);

// Its second half, which a fused exchange may take over: the plan's partial results into messages.
template <class Activation>
void merge_splits(const AttentionPlan& plan, const PartialLayout& part, std::byte* out,
                  const Launch& launch);

// As cpu::merge_partials: `parts` messages one after another, out [rows][heads][value_size].
template <class Activation>
void merge_partials(const PartialLayout& part, int parts, const std::byte* messages,
                    Activation* out, const Launch& launch);

}  // namespace helix::cuda
