// What the attention kernels share: which tokens a block takes, where they stand, where results go.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"

namespace helix::cuda {

// Tiles [first, last) of one pair, not empty: what one share has of it.
struct Segment {
  int pair;
  int row;
  int tokens;  // of the row
  int first;
  int last;
  int slot;  // of the partial results
};
// What is the same in all lanes, said to nvcc: it keeps it in a uniform register.
__device__ inline int same(int value) { return __shfl_sync(~0U, value, 0); }
__device__ inline Cut same(Cut cut) { return {same(cut.pair), same(cut.tile)}; }

template <class Body>
__device__ void for_segments(const AttentionPlan& plan, const int32_t* tokens, int share,
                             int tile_tokens, Body&& body) {
  const Cut begin = same(plan.cuts[share]);
  const Cut end = same(plan.cuts[share + 1]);
  for (int pair = begin.pair; pair < end.pair + (end.tile > 0 ? 1 : 0); ++pair) {
    const int row = pair / plan.shape.kv_heads;
    const int count = same(tokens[row]);
    const int first = pair == begin.pair ? begin.tile : 0;
    const int last = pair == end.pair ? end.tile : (count + tile_tokens - 1) / tile_tokens;
    if (first < last) body(Segment{pair, row, count, first, last, share + pair});
  }
}

// What this kernel reads beside the KV history has been written. The first of several chunks lets
// the next begin only then, so that those behind it find it so (a fence, so that no stale line of
// L1 is read), and wait at their end alone, for whoever waits for them.
__device__ inline void begin_chunk(const AttentionPlan& plan) {
  if (plan.has_previous) __threadfence();
  if (plan.has_previous || !plan.has_next) release_next();
}
__device__ inline void wait_for_inputs(const AttentionPlan& plan) {
  if (plan.has_previous) return;
  wait_for_previous();
  if (plan.has_next) release_next();
}

// How far behind the pair's first token another one stands, in values of `size` a token.
__device__ inline int64_t token_offset(const KvView& kv, int row, int token, int size) {
  if (kv.pages == nullptr) return int64_t{token} * size;
  return kv.pages[row * kv.max_pages + token / page_tokens] * kv.page_stride +
         token % page_tokens * size;
}

__device__ inline float scale_of(const KvView& kv, int head) {
  return kv.scales == nullptr ? 1 : kv.scales[head];
}
template <class Kv>
__device__ Values<Kv> values_of(const KvView& kv, float scale) {
  if constexpr (std::is_same_v<Kv, nvfp4>) {
    return {static_cast<uint8_t*>(kv.base), kv.block_scales, scale};
  } else {
    return Values<Kv>(static_cast<Kv*>(kv.base), scale);
  }
}

// Logits that are all -inf, or any NaN, are no empty shard: they must be seen.
__device__ inline float log_sum_exp(float max, float total) {
  return total > 0 ? (max + log_two(total)) * ln_2 : NAN;
}

// The kernels: partial results of every segment into the plan's slots.
void attend_grouped(const AttentionPlan& plan, const bf16* q, const KvView& kv,
                    const Launch& launch);
void attend_latent(const AttentionPlan& plan, const bf16* q, const KvView& kv,
                   const Launch& launch);
template <class Activation>
void attend_plain(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                  const Launch& launch);

}  // namespace helix::cuda
