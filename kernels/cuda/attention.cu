// Flash-decoding for grouped queries: softmax(scale q k^T) v for up to 16 query heads that read one
// KV head, over token counts that stand in device memory.
//
// Tokens go in tiles of 4 KB of keys (16 tokens of D 128, 32 of D 64). All tiles of all pairs
// (row, KV head) stand in one line, cut evenly over the blocks (plan.cu, once a step), so that an
// SM reads the same number of bytes whatever the lengths are. In a block the 4 warps take tiles in
// turn; each has its own ring of copies (device.cuh), its own running maximum and sum, and its own
// output [16][D] in registers, so that nothing is synchronised before the last tile.
//   logits [16][tokens] = q [16][D] k^T:   tensor cores, q from shared memory
//   out    [16][D]     += weights v:       weights are rounded to bf16; v is transposed on its way
// fp32 activations are split into two bf16 halves (four products in place of two): 2^-16 exact.
// Then the warps' outputs are merged in shared memory and written, fp32 and normalised, to a slot
// of the plan: a segment is (block, pair) and its slot block + pair, which grows from segment to
// segment, so that a pair's slots stand side by side. merge.cu turns them into messages.
#include "kernels/cuda/attention.cuh"

#include <algorithm>
#include <cassert>
#include <cfloat>
#include <cmath>

namespace helix::cuda {
namespace {

// Few warps with long rings: a block has registers to spare (two fit an SM and leave room for the
// merge, which otherwise keeps the next layer's blocks from their SMs), and few outputs to merge.
constexpr int warps = 4;
constexpr int threads = 32 * warps;
constexpr int slots = 6;
constexpr int max_group = 16;  // query heads a KV head: the rows of a tensor-core product
constexpr int ring_bytes = slots * slot_bytes;  // of one warp

template <int D, class Activation>
struct Tile {
  static constexpr int tokens = attention_tile(D);
  static constexpr int row_bytes = 2 * D;
  static constexpr int chunks = D / 8;  // of a row
  static constexpr bool exact = std::is_same_v<Activation, float>;
  static constexpr int q_bytes = max_group * row_bytes;  // twice where exact
  static constexpr int out_stride = D + 8;               // fp32 values: other banks for each row
  static constexpr int shared_bytes =
      warps * ring_bytes + (exact ? 2 : 1) * q_bytes + 2 * warps * max_group * 4;
  static_assert(max_group * out_stride * 4 <= ring_bytes, "a warp's output reuses its ring");
};

// The running softmax of one warp. Thread (g, t) = (lane / 4, lane % 4) holds heads g and g + 8.
template <int D>
struct Running {
  float out[D / 8][4] = {};
  // A finite start: weights of masked tokens are exp2(-inf) = 0, whatever stood before.
  float max[2] = {-FLT_MAX, -FLT_MAX};
  float sum[2] = {};
};

// logits[n] is the fragment of tokens [8n, 8n + 8).
template <int D, class Activation>
__device__ void add_logits(float (&logits)[Tile<D, Activation>::tokens / 8][4], uint32_t q,
                           uint32_t keys, int lane) {
  using T = Tile<D, Activation>;
  const int row = lane & 7;
  const int half = lane >> 3 & 1;
  const int other = lane >> 4;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    uint32_t a[4], rest[4];
    const uint32_t at = q + swizzled(row + 8 * half, 2 * step + other, T::row_bytes);
    load_matrices(a, at);
    if constexpr (T::exact) load_matrices(rest, at + T::q_bytes);
#pragma unroll
    for (int n = 0; n < T::tokens / 8; n += 2) {
      uint32_t b[4];
      load_matrices(b, keys + swizzled(8 * n + row + 8 * other, 2 * step + half, T::row_bytes));
      multiply_add(logits[n], a, b[0], b[1]);
      multiply_add(logits[n + 1], a, b[2], b[3]);
      if constexpr (T::exact) {
        multiply_add(logits[n], rest, b[0], b[1]);
        multiply_add(logits[n + 1], rest, b[2], b[3]);
      }
    }
  }
}

// Logits become weights under the new maximum; older sums are scaled down to it. A NaN passes the
// maximum by, and comes back with its exponential.
template <int D, int N>
__device__ void weigh(float (&logits)[N][4], float scale, int tokens, int lane,
                      Running<D>& running) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = running.max[half];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        const bool there = 8 * n + 2 * (lane & 3) + (i & 1) < tokens;
        logits[n][i] = there ? logits[n][i] * scale : -INFINITY;
        max = fmaxf(max, logits[n][i]);
      }
    }
    max = fmaxf(max, __shfl_xor_sync(~0U, max, 1));
    max = fmaxf(max, __shfl_xor_sync(~0U, max, 2));
    const float keep = power_of_two(running.max[half] - max);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        logits[n][i] = power_of_two(logits[n][i] - max);
        sum += logits[n][i];
      }
    }
    running.max[half] = max;
    running.sum[half] = running.sum[half] * keep + sum;  // of this thread's tokens alone
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      running.out[n][2 * half] *= keep;
      running.out[n][2 * half + 1] *= keep;
    }
  }
}

template <int D, class Activation>
__device__ void add_values(const float (&weights)[Tile<D, Activation>::tokens / 8][4],
                           uint32_t values, int lane, Running<D>& running) {
  using T = Tile<D, Activation>;
#pragma unroll
  for (int n = 0; n < T::tokens / 8; n += 2) {
    uint32_t a[4], rest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = &weights[n + i / 2][2 * (i % 2)];
      a[i] = pack(pair[0], pair[1]);
      if constexpr (T::exact) rest[i] = pack_rest(pair[0], pair[1], a[i]);
    }
#pragma unroll
    for (int chunk = 0; chunk < T::chunks; chunk += 2) {
      uint32_t b[4];
      load_transposed(b, values + swizzled(8 * n + (lane & 15), chunk + (lane >> 4), T::row_bytes));
      multiply_add(running.out[chunk], a, b[0], b[1]);
      multiply_add(running.out[chunk + 1], a, b[2], b[3]);
      if constexpr (T::exact) {
        multiply_add(running.out[chunk], rest, b[0], b[1]);
        multiply_add(running.out[chunk + 1], rest, b[2], b[3]);
      }
    }
  }
}

// The queries of one pair into shared memory; rows beyond the group are 0.
template <int D, class Activation>
__device__ void load_queries(const Activation* q, int group, unsigned char* to) {
  using T = Tile<D, Activation>;
  for (int i = static_cast<int>(threadIdx.x); i < max_group * T::chunks; i += threads) {
    const int head = i / T::chunks;
    const int chunk = i % T::chunks;
    float v[8] = {};
    if (head < group) load8(q + head * D + chunk * 8, v);
    uint32_t words[4], rest[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      words[j] = pack(v[2 * j], v[2 * j + 1]);
      rest[j] = pack_rest(v[2 * j], v[2 * j + 1], words[j]);
    }
    unsigned char* at = to + swizzled(head, chunk, T::row_bytes);
    *reinterpret_cast<uint4*>(at) = make_uint4(words[0], words[1], words[2], words[3]);
    if constexpr (T::exact) {
      *reinterpret_cast<uint4*>(at + T::q_bytes) = make_uint4(rest[0], rest[1], rest[2], rest[3]);
    }
  }
}

// Two blocks of 128 registers leave half of an SM's to the merges before and after: where one of
// them takes a block's place, the next kernel puts two of its own on another SM, and takes longer.
template <int D, class Activation>
__global__ void __maxnreg__((Tile<D, Activation>::exact ? 168 : 128))
    attend(AttentionPlan plan, const Activation* q, KvView kv) {
  using T = Tile<D, Activation>;
  extern __shared__ __align__(128) unsigned char shared[];
  unsigned char* const q_shared = shared + warps * ring_bytes;
  float* const maxima = reinterpret_cast<float*>(shared + T::shared_bytes) - 2 * warps * max_group;
  float* const sums = maxima + warps * max_group;
  const AttentionShape shape = plan.shape;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  unsigned char* const ring = shared + warp * ring_bytes;
  const float scale = shape.scale * log2_e;  // for powers of two

  release_next();
  for_segments(plan, kv.tokens, static_cast<int>(blockIdx.x), T::tokens, [&](const Segment& at) {
    const int pair = at.pair, row = at.row, tokens = at.tokens, first = at.first, last = at.last;
    const bf16* const keys = static_cast<const bf16*>(kv.base) + kv.keys[pair];
    const bf16* const values = static_cast<const bf16*>(kv.base) + kv.values[pair];

    // This warp's slots in order: the keys of its first tile, the values, the keys of its second …
    const auto tile_of = [&](int slot) { return first + warp + (slot >> 1) * warps; };
    const auto fetch = [&](int slot) {
      const int tile = tile_of(slot);
      if (tile < last) {
        const bf16* from =
            ((slot & 1) ? values : keys) + token_offset(kv, row, tile * T::tokens, D);
        const int there = (tokens - tile * T::tokens) * T::chunks;
        const uint32_t to = shared_address(ring + slot % slots * slot_bytes);
#pragma unroll
        for (int i = 0; i < slot_bytes / 512; ++i) {
          const int chunk = lane + 32 * i;
          const bool valid = chunk < there;
          copy_chunk(to + swizzled(chunk / T::chunks, chunk % T::chunks, T::row_bytes),
                     from + (valid ? chunk * 8 : 0), valid);
        }
      }
      commit_copies();
    };
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      // The newest token alone may not be read ahead.
      if ((tile_of(slot) + 1) * T::tokens >= tokens) wait_for_previous();
      fetch(slot);
    }
    wait_for_previous();
    const int group = shape.group();
    load_queries<D>(q + (int64_t{row} * shape.heads + pair % shape.kv_heads * group) * D, group,
                    q_shared);
    __syncthreads();

    Running<D> running;
    for (int slot = 0; tile_of(slot) < last; slot += 2) {
      float logits[T::tokens / 8][4] = {};
      wait_for_copies<slots - 1>();
      add_logits<D, Activation>(logits, shared_address(q_shared),
                                shared_address(ring + slot % slots * slot_bytes), lane);
      __syncwarp();
      fetch(slot + slots);
      weigh<D>(logits, scale, tokens - tile_of(slot) * T::tokens, lane, running);
      wait_for_copies<slots - 1>();
      add_values<D, Activation>(logits, shared_address(ring + (slot + 1) % slots * slot_bytes),
                                lane, running);
      __syncwarp();
      fetch(slot + 1 + slots);
    }
    wait_for_copies<0>();

    // The warps' results side by side, then their merge.
    float* const own = reinterpret_cast<float*>(ring);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int head = lane / 4 + 8 * half;
      float sum = running.sum[half];
      sum += __shfl_xor_sync(~0U, sum, 1);
      sum += __shfl_xor_sync(~0U, sum, 2);
      if ((lane & 3) == 0) {
        maxima[warp * max_group + head] = running.max[half];
        sums[warp * max_group + head] = sum;
      }
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        *reinterpret_cast<float2*>(own + head * T::out_stride + 8 * n + 2 * (lane & 3)) =
            make_float2(running.out[n][2 * half], running.out[n][2 * half + 1]);
      }
    }
    __syncthreads();
    // A warp without a tile left output 0, sum 0 and the least maximum.
    float* const outs = plan.outs + int64_t{at.slot} * group * D;
#pragma unroll 1  // code that runs once is slow to fetch
    for (int i = static_cast<int>(threadIdx.x); i < group * D / 4; i += threads) {
      const int head = i / (D / 4);
      const int d = i % (D / 4) * 4;
      float max = -FLT_MAX;
#pragma unroll
      for (int w = 0; w < warps; ++w) max = fmaxf(max, maxima[w * max_group + head]);
      float total = 0;
      float4 out{};
#pragma unroll
      for (int w = 0; w < warps; ++w) {
        const float share = power_of_two(maxima[w * max_group + head] - max);
        const float4 v = *reinterpret_cast<const float4*>(
            reinterpret_cast<float*>(shared + w * ring_bytes) + head * T::out_stride + d);
        total += share * sums[w * max_group + head];
        out = make_float4(out.x + share * v.x, out.y + share * v.y, out.z + share * v.z,
                          out.w + share * v.w);
      }
      const float part = reciprocal(total);
      store4(make_float4(out.x * part, out.y * part, out.z * part, out.w * part),
             outs + head * D + d);
      if (d == 0) plan.lses[head * plan.slots() + at.slot] = log_sum_exp(max, total);
    }
    __syncthreads();
  });
  wait_for_previous();
}

}  // namespace

template <class Activation>
void attend_grouped(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                    const Launch& how) {
  const auto start = [&]<int D>() {
    launch("attention", attend<D, Activation>, dim3(static_cast<unsigned>(plan.blocks())), threads,
           Tile<D, Activation>::shared_bytes, how, 1, plan, q, kv);
  };
  plan.shape.head_size == 64 ? start.template operator()<64>() : start.template operator()<128>();
}

template <class Activation>
void decode_attention(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                      const PartialLayout& part, std::byte* out, const Launch& how) {
  const AttentionShape& shape = plan.shape;
  assert(part.rows == shape.rows && shape.heads % part.heads == 0);
  assert(part.value_size == shape.value_size && part.element_bytes == sizeof(Activation));
  const bool grouped = shape.head_size == shape.value_size && shape.group() <= max_group &&
                       (shape.head_size == 64 || shape.head_size == 128);
  const bool latent =
      std::is_same_v<Activation, bf16> && shape.head_size == 576 && shape.value_size == 512;
  if (kv.format == Format::bf16 && grouped) {
    attend_grouped(plan, q, kv, how);
  } else if (kv.format == Format::bf16 && latent) {
    if constexpr (std::is_same_v<Activation, bf16>) attend_latent(plan, q, kv, how);
  } else {
    attend_plain(plan, q, kv, how);
  }
  merge_splits<Activation>(plan, part, out, how);
}

template void decode_attention(const AttentionPlan&, const float*, const KvView&,
                               const PartialLayout&, std::byte*, const Launch&);
template void decode_attention(const AttentionPlan&, const bf16*, const KvView&,
                               const PartialLayout&, std::byte*, const Launch&);

}  // namespace helix::cuda
