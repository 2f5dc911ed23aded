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
  int rows = 0;        // requests
  int heads = 0;       // query heads of this rank, all parts together
  int kv_heads = 0;    // query head h reads KV head h * kv_heads / heads; at most 128 read one
  int head_size = 0;   // of queries and keys; at most 576
  int value_size = 0;  // of values and outputs; at most 512. MLA: values are the keys' beginnings
  float scale = 0;     // of the logits

  constexpr int pairs() const { return rows * kv_heads; }
  constexpr int group() const { return heads / kv_heads; }
  // Values from one token's value to the next.
  constexpr int value_stride() const { return value_size < head_size ? head_size : value_size; }
  // More query heads than one block holds go to blocks side by side, which read the same tokens.
  constexpr int head_blocks() const { return (group() + 63) / 64; }
};
inline constexpr int max_parts = 160;  // splits of a pair (shares of a plan), messages of a merge

// One layer's cache. The tokens of pair = (row, KV head) stand one after another, `head_size`
// (`value_size`) values each, keys from `keys[pair]` and values from `values[pair]` on (values from
// base, of `format`; 16-byte aligned). MLA: both are the same. Or in pages of `page_tokens`, where
// a row's page i begins `pages[row * max_pages + i] * page_stride` values further on.
// Quantised formats (base/format.h): `base` are the codes; a KV head's values are multiplied by
// `scales[head]` (null: by 1), nvfp4's also by `block_scales[index / 16]`.
// `tokens[row]` counts the newest token, which alone may be written by the kernel launched just
// before; all else is read ahead.
struct KvView {
  void* base = nullptr;  // `append` writes
  Format format = Format::bf16;
  const int64_t* keys = nullptr;
  const int64_t* values = nullptr;
  const int32_t* tokens = nullptr;
  const int32_t* pages = nullptr;  // null: dense
  int64_t page_stride = 0;
  int max_pages = 0;  // of a row
  const float* scales = nullptr;
  fp8* block_scales = nullptr;
};
inline constexpr int page_tokens = 64;

// The newest tokens' keys and values into the cache. kv: rows of [kinds][heads][size], of one kind
// (MLA) or two. `place[row]`: of the newest token among the row's, negative where another rank owns
// it.
struct AppendShape {
  int rows = 0;
  int heads = 0;
  int size = 0;
  int kinds = 2;
};
// For verified steps with a quantised cache: what is kept in place of the own codes, and where
// these go. Both [rows][heads][kinds] vectors as they are stored (base/format.h).
struct CodesTrace {
  const std::byte* forced = nullptr;
  std::byte* own = nullptr;
};
template <class Activation>
void append(const AppendShape& shape, const Activation* kv, const int32_t* place, const KvView& to,
            const CodesTrace& trace, const Launch& launch);

// Tokens of a tile, the grain of what blocks share; a page holds whole tiles.
constexpr int attention_tile(int head_size) {
  return head_size <= 64 ? 32 : head_size <= 128 ? 16 : 64;
}
// Where a share of the tiles begins.
struct Cut {
  int32_t pair;
  int32_t tile;
};
// The partial results of one pair: `count` of them from slot `first` on.
struct Splits {
  int32_t first;
  int32_t count;
};

// How tokens are cut into shares, one for each block (of head_blocks() side by side), and room for
// partial results; one a step, shared by its layers. Lives in `memory` (device, 16-byte aligned).
struct AttentionPlan {
  AttentionPlan(const AttentionShape& of, int over_blocks, std::byte* memory);
  static int64_t bytes(const AttentionShape& shape, int over_blocks);

  constexpr int slots() const { return shares + shape.pairs(); }
  constexpr int blocks() const { return shares * shape.head_blocks(); }

  AttentionShape shape;
  int shares;
  float* outs;          // [slots][group][value_size]
  float* lses;          // [group][slots]
  Cut* cuts;            // [shares + 1]
  Splits* splits;       // [pairs]
  int32_t* starts;      // [rows + 1] tiles before a row
  int32_t* own_starts;  // [rows + 1] shares before a row, if each pair has its own
  // Chunks of a step whose attentions are launched one after another, each dependent on the one
  // before: those behind the first begin as blocks of the one before end, and do not wait for them.
  bool has_next = false;      // another comes after this one
  bool has_previous = false;  // which waited for all that this one reads
};

// Cuts the tokens evenly, or nearly so, into the plan's shares. Once a step, and not as a dependent
// launch.
void cut_attention(const AttentionPlan& plan, const int32_t* tokens, const Launch& launch);

// As cpu::decode_attention: q [rows][heads][head_size], out: messages of `part`, ordered by the
// peer that merges them. An empty shard gives output 0 and log-sum-exp -inf. Results are bit-equal
// for one (token counts, blocks). Any shape runs; with bf16 activations tensor cores serve keys and
// values of 128 (bf16: also 64) with at most 16 query heads a KV head, and MLA's 576 and 512.
template <class Activation>
void decode_attention(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                      const PartialLayout& part, std::byte* out, const Launch& launch);

// Its halves, of which the second may go to another stream: partial results into the plan, and from
// there into messages.
template <class Activation>
void attend_splits(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                   const Launch& launch);
template <class Activation>
void merge_splits(const AttentionPlan& plan, const PartialLayout& part, std::byte* out,
                  const Launch& launch);

// As cpu::merge_partials: `parts` messages one after another, out [rows][heads][value_size].
template <class Activation>
void merge_partials(const PartialLayout& part, int parts, const std::byte* messages,
                    Activation* out, const Launch& launch);

}  // namespace helix::cuda
