// MLA's flash-decoding: up to 128 query heads of 576 numbers read one row of 576 numbers a token,
// whose first 512 are also its value. What bounds it are the tensor cores (64 heads and more), so
// these products are a warpgroup's (warpgroup.cuh).
//
// A block has 64 heads (rows beyond the group are 0) and two warpgroups; more heads are a second
// block beside it, which finds the tokens in L2. The output [64][512] fills half of an SM's
// registers, queries and two tiles of 64 tokens all of its shared memory: rows of 1152 bytes as 9
// blocks of [64 rows][128 bytes]. While one tile is used the other is on its way. For each tile:
//   logits  [64][32]  = q [64][576] k^T:     each warpgroup its half of the tokens
//   weights [64][64]: softmax under the maximum of both halves, to shared memory as bf16
//   out     [64][256] += weights v:          each warpgroup its half of the value
#include <cassert>
#include <cfloat>
#include <cmath>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace helix::cuda {
namespace {

constexpr int threads = 256;
constexpr int block_heads = 64;
constexpr int head_size = 576;
constexpr int value_size = 512;
constexpr int tile_tokens = attention_tile(head_size);
constexpr int row_chunks = head_size * 2 / 16;
constexpr int column_bytes = tile_tokens * 128;  // 64 numbers of all rows
constexpr int tile_bytes = head_size / 64 * column_bytes;
static_assert(tile_tokens == 64 && tile_tokens == block_heads && value_size % 256 == 0);

struct Shared {
  unsigned char queries[tile_bytes];
  unsigned char tiles[2][tile_bytes];
  unsigned char weights[column_bytes];
  float maxima[2][block_heads];  // of each warpgroup's tokens
  float sums[2][block_heads];
};

// Rows of 576 numbers, one after another in memory, as a tile; zeros from row `there` on.
__device__ void fetch_rows(const bf16* from, int there, uint32_t to) {
#pragma unroll
  for (int i = 0; i < 64 * row_chunks / threads; ++i) {
    const int chunk = static_cast<int>(threadIdx.x) + threads * i;
    const int row = chunk / row_chunks;
    const int column = chunk % row_chunks;
    const bool valid = row < there;
    copy_chunk(to + column / 8 * column_bytes + swizzled(row, column % 8, 128),
               from + (valid ? chunk * 8 : 0), valid);
  }
}

__global__ void __launch_bounds__(threads, 1) attend(AttentionPlan plan, const bf16* q, KvView kv) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const AttentionShape shape = plan.shape;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int half = static_cast<int>(threadIdx.x) / 128;                         // the warpgroup
  const int my_row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;  // and + 8
  const int first_head = static_cast<int>(blockIdx.x) % shape.head_blocks() * block_heads;
  const int heads = min(block_heads, shape.group() - first_head);
  const float scale = shape.scale * log2_e;  // for powers of two
  const uint32_t queries = shared_address(shared.queries);
  const uint32_t weights = shared_address(shared.weights);

  release_next();
  for_segments(
      plan, kv.tokens, static_cast<int>(blockIdx.x) / shape.head_blocks(), tile_tokens,
      [&](const Segment& at) {
        const bf16* const keys = static_cast<const bf16*>(kv.base) + kv.keys[at.pair];
        const auto buffer_of = [&](int tile) {
          return shared_address(shared.tiles[(tile - at.first) & 1]);
        };
        const auto fetch = [&](int tile) {
          if (tile < at.last) {
            // The newest token alone may not be read ahead.
            if ((tile + 1) * tile_tokens >= at.tokens) wait_for_previous();
            fetch_rows(keys + token_offset(kv, at.row, tile * tile_tokens, head_size),
                       at.tokens - tile * tile_tokens, buffer_of(tile));
          }
          commit_copies();
        };
        fetch(at.first);
        wait_for_previous();
        fetch_rows(q + (int64_t{at.row} * shape.heads + at.pair % shape.kv_heads * shape.group() +
                        first_head) *
                           head_size,
                   heads, queries);
        commit_copies();
        fetch(at.first + 1);

        float out[2][64] = {};  // 128 of the value each
        float max[2] = {-FLT_MAX, -FLT_MAX};
        float sum[2] = {};  // of this thread's tokens alone
#pragma unroll 1
        for (int tile = at.first; tile < at.last; ++tile) {
          wait_for_copies<1>();
          show_to_tensor_cores();
          __syncthreads();
          const uint32_t rows = buffer_of(tile);
          float logits[16];
          begin_products();
#pragma unroll
          for (int step = 0; step < head_size / 16; ++step) {
            const uint32_t column = step / 4 * column_bytes + step % 4 * 32;
            multiply_rows(logits, factor(queries + column),
                          factor(rows + column + half * (column_bytes / 2)), step > 0);
          }
          wait_for_products();

          const int there = at.tokens - tile * tile_tokens - 32 * half - 2 * (lane & 3);
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float most = -INFINITY;
#pragma unroll
            for (int n = 0; n < 4; ++n) {
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                float& logit = logits[4 * n + 2 * r + i];
                logit = 8 * n + i < there ? logit * scale : -INFINITY;
                most = fmaxf(most, logit);
              }
            }
            most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
            most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
            if ((lane & 3) == 0) shared.maxima[half][my_row + 8 * r] = most;
          }
          __syncthreads();
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int row = my_row + 8 * r;
            // A NaN passes the maximum by, and comes back with its exponential.
            const float most = fmaxf(max[r], fmaxf(shared.maxima[0][row], shared.maxima[1][row]));
            const float keep = power_of_two(max[r] - most);
            max[r] = most;
            sum[r] *= keep;
#pragma unroll
            for (int n = 0; n < 4; ++n) {
              const float a = power_of_two(logits[4 * n + 2 * r] - most);
              const float b = power_of_two(logits[4 * n + 2 * r + 1] - most);
              sum[r] += a + b;
              *reinterpret_cast<uint32_t*>(shared.weights + swizzled(row, 4 * half + n, 128) +
                                           4 * (lane & 3)) = pack(a, b);
            }
#pragma unroll
            for (int n = 0; n < 64; n += 4) {
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                out[0][n + 2 * r + i] *= keep;
                out[1][n + 2 * r + i] *= keep;
              }
            }
          }
          show_to_tensor_cores();
          __syncthreads();
          begin_products();
#pragma unroll
          for (int step = 0; step < tile_tokens / 16; ++step) {
#pragma unroll
            for (int part = 0; part < 2; ++part) {
              multiply_columns(out[part], factor(weights + 32 * step),
                               factor(rows + (4 * half + 2 * part) * column_bytes + step * 16 * 128,
                                      column_bytes));
            }
          }
          wait_for_products();
          __syncthreads();
          fetch(tile + 2);
        }
        wait_for_copies<0>();

#pragma unroll
        for (int r = 0; r < 2; ++r) {
          sum[r] += __shfl_xor_sync(~0U, sum[r], 1);
          sum[r] += __shfl_xor_sync(~0U, sum[r], 2);
          if ((lane & 3) == 0) shared.sums[half][my_row + 8 * r] = sum[r];
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = my_row + 8 * r;
          if (row >= heads) continue;
          const float total = shared.sums[0][row] + shared.sums[1][row];
          const float share = reciprocal(total);
          const int head = first_head + row;
          float* const to = plan.outs + (int64_t{at.slot} * shape.group() + head) * value_size +
                            half * (value_size / 2) + 2 * (lane & 3);
#pragma unroll
          for (int part = 0; part < 2; ++part) {
#pragma unroll
            for (int n = 0; n < 16; ++n) {
              __stcg(reinterpret_cast<float2*>(to + 128 * part + 8 * n),
                     make_float2(out[part][4 * n + 2 * r] * share,
                                 out[part][4 * n + 2 * r + 1] * share));
            }
          }
          if (half == 0 && (lane & 3) == 0) {
            plan.lses[head * plan.slots() + at.slot] = log_sum_exp(max[r], total);
          }
        }
        __syncthreads();
      });
  wait_for_previous();
}

}  // namespace

void attend_latent(const AttentionPlan& plan, const bf16* q, const KvView& kv, const Launch& how) {
  assert(plan.shape.head_size == head_size && plan.shape.value_size == value_size);
  launch("attention", attend, dim3(static_cast<unsigned>(plan.blocks())), threads, sizeof(Shared),
         how, 1, plan, q, kv);
}

}  // namespace helix::cuda
