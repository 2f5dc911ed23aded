// Decode attention over one rank's KV shard, and the exact merge of the shards' partial outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/format.h"
#include "kernels/cpu/partial.h"

namespace helix::cpu {

// A kernel's unit of tokens, and what the blocks of a paged cache are multiples of.
inline constexpr int64_t tile_tokens = 64;

// The tokens of one (request, KV head): K rows of head_size and V rows of value_size, token-major.
// MLA: both are the same rows of 576 values. Dense, or paged: token t stands in row
// block_table[t / block_tokens] * block_tokens + t % block_tokens of both planes.
template <class T>
struct KvView {
  Values<const T> k;
  Values<const T> v;
  int64_t k_stride = 0;  // values between two rows; nvfp4: a multiple of 16
  int64_t v_stride = 0;
  int64_t tokens = 0;
  const int32_t* block_table = nullptr;  // null: dense
  int64_t block_tokens = 0;              // a multiple of tile_tokens

  int64_t row(int64_t token) const {
    return block_table == nullptr
               ? token
               : block_table[token / block_tokens] * block_tokens + token % block_tokens;
  }
};

struct AttentionShape {
  int64_t rows = 0;        // requests
  int64_t heads = 0;       // query heads of this rank, all parts together
  int64_t kv_heads = 0;    // KV heads of this rank; query head h reads KV head h * kv_heads / heads
  int64_t head_size = 0;   // D
  int64_t value_size = 0;  // Dv
  float scale = 0;         // of the logits
};

// out = softmax(scale q k^T) v for each (row, head) over this shard's tokens, normalised, with the
// natural log-sum-exp of the scaled logits in fp32. q: [rows][heads][head_size]. kv:
// [rows][kv_heads] views. out: heads / part.heads messages of `part` one after another; query head
// h stands in message h / part.heads. An empty shard gives output 0 and log-sum-exp -inf. Sums and
// softmax are fp32; of bf16 activations over KV below fp32 the softmax's weights (of few heads over
// nvfp4: times the scale of a block) are rounded to bf16 for the product with V, as matrix units
// take them. The tokens are cut into tiles by their count alone, so the bits do not depend on the
// number of threads. `poll` is called by the calling thread between tiles, at least every few
// hundred microseconds of work, and may be empty.
template <class Activation, class Kv>
void decode_attention(const AttentionShape& shape, const Activation* q,
                      std::span<const KvView<Kv>> kv, const PartialLayout& part, std::byte* out,
                      const std::function<void()>& poll);

// Merges `parts` messages of the same heads, in rank order: w_i = exp(lse_i - max), out = sum w_i
// o_i / sum w_i. A part with lse -inf is not read (weight 0 selects, it does not multiply); all
// parts empty give 0. NaN or +inf log-sum-exps give NaN: they are errors, and must be seen. out:
// [rows][heads][value_size].
template <class Activation>
void merge_partials(const PartialLayout& part, int parts, const std::byte* messages,
                    Activation* out);

// For merges by reduction: scales this rank's outputs (one message) by exp(lse - max) / sum over
// the `parts` log-sum-exps of each (row, head); lses: [parts][rows][heads], this rank's own among
// them. out: as in `message`.
template <class Activation>
void rescale_partial(const PartialLayout& part, int parts, const std::byte* message,
                     const float* lses, Activation* out);

}  // namespace helix::cpu
