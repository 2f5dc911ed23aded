// Attention for shapes and formats that the tensor-core kernels do not serve: tiny models, fp32 for
// checking. A warp takes one query head over all tokens of a segment, its lanes share a token's
// numbers; sums in fp32. It reads the tokens once for each head.
#include <cassert>
#include <cfloat>

#include "kernels/cuda/attention.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = 8;
constexpr int max_words = 576 / 32;  // of a lane

template <class T>
__device__ void load_strided(const Values<const T>& from, int64_t first, int size, int lane,
                             float (&to)[max_words]) {
#pragma unroll
  for (int i = 0; i < max_words; ++i) {
    to[i] = lane + 32 * i < size ? value_at(from, first + lane + 32 * i) : 0;
  }
}

template <class Kv, class Activation>
__device__ void attend_heads(const AttentionPlan& plan, const Activation* q, const KvView& kv) {
  const AttentionShape& shape = plan.shape;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int tile = attention_tile(shape.head_size);
  const float scale = shape.scale * log2_e;  // for powers of two
  const int head_block = static_cast<int>(blockIdx.x) % shape.head_blocks();
  for_segments(
      plan, kv.tokens, static_cast<int>(blockIdx.x) / shape.head_blocks(), tile,
      [&](const Segment& at) {
        const Values<const Kv> values = values_of<Kv>(kv, scale_of(kv, at.pair % shape.kv_heads));
        const int end = min(shape.group(), 64 * (head_block + 1));
        for (int head = 64 * head_block + static_cast<int>(threadIdx.x) / 32; head < end;
             head += warps) {
          float query[max_words], key[max_words], value[max_words];
          float out[max_words] = {};
          float max = -FLT_MAX;
          float total = 0;
          const int query_head = at.pair % shape.kv_heads * shape.group() + head;
          load_strided(Values<const Activation>(q),
                       (int64_t{at.row} * shape.heads + query_head) * shape.head_size,
                       shape.head_size, lane, query);
          const int last = min(at.last * tile, at.tokens);
          for (int token = at.first * tile; token < last; ++token) {
            load_strided(values,
                         kv.keys[at.pair] + token_offset(kv, at.row, token, shape.head_size),
                         shape.head_size, lane, key);
            load_strided(values,
                         kv.values[at.pair] + token_offset(kv, at.row, token, shape.value_stride()),
                         shape.value_size, lane, value);
            float logit = 0;
#pragma unroll
            for (int i = 0; i < max_words; ++i) logit += query[i] * key[i];
            for (int step = 16; step > 0; step /= 2) logit += __shfl_xor_sync(~0U, logit, step);
            logit *= scale;
            const float larger = fmaxf(max, logit);
            const float keep = power_of_two(max - larger);
            const float weight = power_of_two(logit - larger);
            max = larger;
            total = total * keep + weight;
#pragma unroll
            for (int i = 0; i < max_words; ++i) out[i] = out[i] * keep + weight * value[i];
          }
          float* const to =
              plan.outs + (int64_t{at.slot} * shape.group() + head) * shape.value_size;
#pragma unroll
          for (int i = 0; i < max_words; ++i) {
            if (lane + 32 * i < shape.value_size) to[lane + 32 * i] = out[i] / total;
          }
          if (lane == 0) plan.lses[head * plan.slots() + at.slot] = log_sum_exp(max, total);
        }
      });
}

__global__ void __launch_bounds__(32 * warps, 1)
    attend_all(AttentionPlan plan, const void* q, Format activations, KvView kv) {
  release_next();
  wait_for_previous();
  with_type(activations, [&]<class Activation>(Activation*) {
    with_stored(kv.format, [&]<class Kv>(Kv*) {
      attend_heads<Kv>(plan, static_cast<const Activation*>(q), kv);
    });
  });
}

}  // namespace

template <class Activation>
void attend_plain(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                  const Launch& how) {
  launch("attention", attend_all, dim3(static_cast<unsigned>(plan.blocks())), 32 * warps, 0, how, 1,
         plan, q, format_of<Activation>, kv);
}

template void attend_plain(const AttentionPlan&, const float*, const KvView&, const Launch&);
template void attend_plain(const AttentionPlan&, const bf16*, const KvView&, const Launch&);

}  // namespace helix::cuda
