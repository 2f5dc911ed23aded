// MLA's flash-decoding: up to 128 query heads of 576 numbers read one row of 576 numbers a token,
// whose first 512 are also its value. What bounds it are the tensor cores (64 heads and more), so
// these products are a warpgroup's (warpgroup.cuh).
//
// A block has 64 heads (rows beyond the group are 0) and four warpgroups; more heads are a second
// block beside it, which finds the tokens in L2. Two warpgroups only copy tiles
// (attention_latent.cuh), into two places. The first two hold the output [64][512], half of the
// value each, and own the tiles in turn:
//   logits  [64][64]  = q [64][576] k^T:   the tile's owner
//   weights [64][64]: softmax under the maximum so far, by the owner: for itself in registers, for
//                     the other in shared memory, as bf16
//   out     [64][256] += weights v:        both, each with its half of v
// Queries, two tiles and one tile's weights fill shared memory, so that the next tile must come
// into the place of one that is still in use: by parts, the rotated part when the logits are there,
// each half when its warpgroup has added it. Tiles a, b go in pairs, so that the tensor cores have
// work of one warpgroup while the other makes weights:
//   warpgroup 0: logits a | weights a     | values a            | values b
//   warpgroup 1:          | logits b      | values a, weights b | values b
#include <cassert>
#include <cfloat>
#include <cmath>

#include "kernels/cuda/attention_latent.cuh"

namespace helix::cuda {
namespace {

using namespace latent;

constexpr int threads = 2 * group_threads + copiers;
// Of a thread that attends, that copies. Together what a block is launched with, 128 for each of
// its threads: who took more would wait for ever.
constexpr int attending_registers = 192;
constexpr int copying_registers = 64;
static_assert(attending_registers + copying_registers == 2 * 65536 / threads);

// nvcc computes nothing of it ahead, which registers would have to keep.
__device__ int thread_anew() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}
// Both that attend: before a segment's tiles (0), and behind them (1).
__device__ void meet_both(Shared& shared, int parity) {
  arrive(&shared.both);
  wait_for_phase(&shared.both, parity);
}

// One of the first two warpgroups, which has this half of the value, over one segment. Thread
// (g, t) = (lane / 4, lane % 4) of warp w holds heads 16 w + g (+ 8).
template <int half>
struct Attender {
  Shared& shared;
  const int before;  // tiles of the block before this segment's
  const int lane = thread_anew() & 31;
  const int row = thread_anew() % group_threads / 32 * 16 + lane / 4;
  float out[2][64] = {};  // of 128 values each
  float sum[2] = {};      // of this thread's tokens, under the maximum so far

  // Of a factor. Lane 0's, so that the compiler keeps it in a uniform register.
  __device__ static uint32_t address_of(const unsigned char* factor) {
    return __shfl_sync(~0U, shared_address(factor), 0);
  }
  __device__ uint32_t tile(int i) const { return address_of(shared.tiles[Place(before + i).slot]); }
  __device__ void meet_own() const { meet(1 + half, group_threads); }

  __device__ void leave(int i, int part) {
    __syncwarp();
    if (lane == 0) arrive(&shared.empty[Place(before + i).slot][part]);
  }

  __device__ void find_logits(int i, float (&logits)[32]) {
    const Place place(before + i);
    const uint32_t q = address_of(shared.queries);
    const uint32_t k = tile(i);
    const auto add = [&]<int count>(int part, int first) {
      wait_for_phase(&shared.full[place.slot][part], place.parity);
      show_to_tensor_cores();
      begin_products();
      const uint64_t queries = factor(q + first * block_bytes);
      const uint64_t keys = factor(k + first * block_bytes);
#pragma unroll
      for (int step = 0; step < 4 * count; ++step) {
        const uint32_t at = (step / 4 * block_bytes + step % 4 * 32) / 16;
        multiply_rows(logits, queries + at, keys + at, count > 1 || step > 0);
      }
      commit_products();
    };
    add.template operator()<1>(rotated, 8);
    add.template operator()<4>(half, 4 * half);
    add.template operator()<4>(half ^ 1, 4 * (half ^ 1));
    wait_for_products();
    leave(i, rotated);
  }

  // Logits become weights under the new maximum; by `keep` is scaled what was before (the sum is).
  __device__ void weigh(int i, int there, float scale, float (&logits)[32],
                        uint32_t (&weights)[4][4], float (&keep)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float so_far = i == 0 ? -FLT_MAX : shared.maxima[(i & 1) ^ 1][row + 8 * r];
      float max = so_far;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        float& logit = logits[4 * (n >> 1) + 2 * r + (n & 1)];
        logit = 8 * (n >> 1) + (n & 1) < there ? logit * scale : -INFINITY;
        max = fmaxf(max, logit);  // a NaN passes it by, and comes back with its exponential
      }
      max = fmaxf(max, __shfl_xor_sync(~0U, max, 1));
      max = fmaxf(max, __shfl_xor_sync(~0U, max, 2));
      keep[r] = power_of_two(so_far - max);
      if ((lane & 3) == 0) shared.maxima[i & 1][row + 8 * r] = max;
      sum[r] *= keep[r];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float a = power_of_two(logits[4 * n + 2 * r] - max);
        const float b = power_of_two(logits[4 * n + 2 * r + 1] - max);
        sum[r] += a + b;
        weights[n / 2][r + 2 * (n & 1)] = pack(a, b);
      }
    }
  }

  // To the other warpgroup, which waits for it in start_values.
  __device__ void hand_over(int i, const uint32_t (&weights)[4][4], const float (&keep)[2]) {
    unsigned char* const to = shared.weights + 4 * (lane & 3);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if ((lane & 3) == 0) shared.keeps[row + 8 * r] = keep[r];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        *reinterpret_cast<uint32_t*>(to + swizzled(row + 8 * r, n, 128)) =
            weights[n / 2][r + 2 * (n & 1)];
      }
    }
    show_to_tensor_cores();
    arrive(&shared.weighed[Place(before + i).slot]);
  }

  __device__ void rescale(const float (&keep)[2]) {
    if (!__any_sync(~0U, keep[0] != 1 || keep[1] != 1)) return;
#pragma unroll
    for (int n = 0; n < 128; ++n) out[n / 64][n % 64] *= keep[n / 2 % 2];
  }
  // Adds tile i's values, by the other's weights or its own.
  __device__ void start_values(int i) {
    const Place place(before + i);
    wait_for_phase(&shared.weighed[place.slot], place.parity);
    const float keep[2] = {shared.keeps[row], shared.keeps[row + 8]};
    sum[0] *= keep[0];
    sum[1] *= keep[1];
    rescale(keep);
    const uint64_t weights = factor(address_of(shared.weights));
    const uint64_t values = values_of(i);
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      for (int n = 0; n < 2; ++n) {
        multiply_columns(out[n], weights + step * 32 / 16,
                         values + step * values_step + n * values_apart);
      }
    }
    commit_products();
  }
  __device__ void start_values(int i, const uint32_t (&weights)[4][4], const float (&keep)[2]) {
    rescale(keep);
    const uint64_t values = values_of(i);
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      for (int n = 0; n < 2; ++n) {
        multiply_columns(out[n], weights[step], values + step * values_step + n * values_apart);
      }
    }
    commit_products();
  }
  __device__ uint64_t values_of(int i) const {
    return factor(tile(i) + 4 * half * block_bytes, block_bytes);
  }
  // In a factor's units: 16 tokens, 128 values.
  static constexpr int values_step = 16 * 128 / 16;
  static constexpr int values_apart = 2 * block_bytes / 16;
  __device__ void finish_values(int i) {
    wait_for_products();
    leave(i, half);
  }

  __device__ void attend(const Segment& at, float scale) {
    const int tiles = at.last - at.first;
#pragma unroll 1
    for (int a = 0; a < tiles; a += 2) {
      const int own = a + half;
      if (half == 1 && own == tiles) {
        start_values(a);
        return finish_values(a);
      }
      float logits[32];
      find_logits(own, logits);
      if (half == 1) start_values(a);
      uint32_t weights[4][4];
      float keep[2];
      weigh(own, at.tokens - (at.first + own) * tile_tokens - 2 * (lane & 3), scale, logits,
            weights, keep);
      if (half == 1) finish_values(a);
      meet_own();  // all of it has read the other's weights
      hand_over(own, weights, keep);
      start_values(own, weights, keep);
      finish_values(own);
      if (half == 0 && own + 1 < tiles) {
        start_values(own + 1);
        finish_values(own + 1);
      }
    }
  }

  __device__ void write(const AttentionPlan& plan, const Segment& at, int first_head, int heads,
                        float scale) {
    const int lane = thread_anew() & 31;
    const int row = thread_anew() % group_threads / 32 * 16 + lane / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0U, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0U, sum[r], 2);
      if ((lane & 3) == 0) shared.sums[half][row + 8 * r] = sum[r];
    }
    meet_both(shared, 1);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (row + 8 * r >= heads) continue;
      const float total = shared.sums[0][row + 8 * r] + shared.sums[1][row + 8 * r];
      const float part = reciprocal(total) * scale;
      const int head = first_head + row + 8 * r;
      float* const to = plan.outs + (int64_t{at.slot} * plan.shape.group() + head) * value_size +
                        half * (value_size / 2) + 2 * (lane & 3);
#pragma unroll
      for (int n = 0; n < 32; ++n) {
        __stcg(reinterpret_cast<float2*>(to + 8 * n),
               make_float2(out[n / 16][4 * n % 64 + 2 * r] * part,
                           out[n / 16][4 * n % 64 + 2 * r + 1] * part));
      }
      if (half == 0 && (lane & 3) == 0) {
        plan.lses[head * plan.slots() + at.slot] =
            log_sum_exp(shared.maxima[(at.last - at.first - 1) & 1][row + 8 * r], total);
      }
    }
  }
};

__device__ void load_queries(const bf16* q, int heads, Shared& shared) {
  const int thread = thread_anew();
  fetch_blocks<blocks>(thread, q, heads, shared_address(shared.queries), 0);
  commit_copies();
  wait_for_copies<0>();
  show_to_tensor_cores();
  meet_both(shared, 0);
}

template <int half>
__device__ void attend_half(const AttentionPlan& plan, const bf16* q, const KvView& kv, int share,
                            int head_block, Shared& shared) {
  const AttentionShape& shape = plan.shape;
  const int first_head = head_block * block_heads;
  const int heads = min(block_heads, shape.group() - first_head);
  int before = 0;
  for_segments(plan, kv.tokens, share, tile_tokens, [&](const Segment& at) {
    const int head = at.pair % shape.kv_heads * shape.group() + first_head;
    load_queries(q + (int64_t{at.row} * shape.heads + head) * head_size, heads, shared);
    Attender<half> attender{shared, before};
    const int kv_head = at.pair % shape.kv_heads;
    attender.attend(at, scale_of(kv, kv_head) * shape.scale * log2_e);  // for powers of two
    attender.write(plan, at, first_head, heads, scale_of(kv, kv_head));
    before += at.last - at.first;
  });
}

template <class Kv>
__global__ void __launch_bounds__(threads, 1) attend(AttentionPlan plan, const bf16* q, KvView kv) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int head_block = static_cast<int>(blockIdx.x) % plan.shape.head_blocks();
  const int share = static_cast<int>(blockIdx.x) / plan.shape.head_blocks();
  const int warpgroup = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / group_threads, 0);
  release_next();
  if (threadIdx.x == 0) make_barrier(&shared.both, 2 * group_threads);
  if (threadIdx.x < 2) make_barrier(&shared.weighed[threadIdx.x], group_threads);
  if (threadIdx.x < 2 * parts) {
    const int part = static_cast<int>(threadIdx.x) % parts;
    make_barrier(&shared.full[threadIdx.x / parts][part], copiers);
    make_barrier(&shared.empty[threadIdx.x / parts][part], group_threads / 32);
  }
  __syncthreads();
  if (warpgroup >= 2) {
    give_registers<copying_registers>();
    int before = 0;
    for_segments(plan, kv.tokens, share, tile_tokens, [&](const Segment& at) {
      Copier<Kv>{shared, kv, at, before}.copy();
      before += at.last - at.first;
    });
    wait_for_copies<0>();
  } else {
    take_registers<attending_registers>();
    wait_for_previous();
    warpgroup == 0 ? attend_half<0>(plan, q, kv, share, head_block, shared)
                   : attend_half<1>(plan, q, kv, share, head_block, shared);
  }
  wait_for_previous();
}

}  // namespace

void attend_latent(const AttentionPlan& plan, const bf16* q, const KvView& kv, const Launch& how) {
  assert(plan.shape.head_size == head_size && plan.shape.value_size == value_size);
  const auto start = [&]<class Kv>(Kv*) {
    launch("attention", attend<Kv>, dim3(static_cast<unsigned>(plan.blocks())), threads,
           sizeof(Shared), how, 1, plan, q, kv);
  };
  switch (kv.format) {
    case Format::bf16: return start(static_cast<bf16*>(nullptr));
    case Format::fp8: return start(static_cast<fp8*>(nullptr));
    default: return start(static_cast<nvfp4*>(nullptr));
  }
}

}  // namespace helix::cuda
