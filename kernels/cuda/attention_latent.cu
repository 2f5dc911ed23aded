// MLA's flash-decoding: up to 128 query heads of 576 numbers read one row of 576 numbers a token,
// whose first 512 are also its value. What bounds it are the tensor cores (64 heads and more), so
// these products are a warpgroup's (warpgroup.cuh).
//
// A block has 64 heads (rows beyond the group are 0) and three warpgroups; more heads are a second
// block beside it, which finds the tokens in L2. The third warpgroup only copies: tiles of 64
// tokens into two places, rows of 1152 bytes as 9 blocks of [rows][128 bytes]. The first two hold
// the output [64][512], half of the value each, and take turns with the tiles:
//   logits  [64][64]  = q [64][576] k^T:   the tile's owner
//   weights [64][64]: softmax under the maximum so far, by the owner: for itself in registers, for
//                     the other in shared memory, as bf16
//   out     [64][256] += weights v:        both, each with its half of v
// Queries, two tiles and one tile's weights fill shared memory, so that the next tile must come
// into the place of one that is still in use: by parts, the rotated part when the logits are there,
// each half when its warpgroup has added it.
#include <cassert>
#include <cfloat>
#include <cmath>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace helix::cuda {
namespace {

constexpr int group_threads = 128;  // of a warpgroup
constexpr int threads = 3 * group_threads;
constexpr int block_heads = 64;
constexpr int head_size = 576;
constexpr int value_size = 512;
constexpr int tile_tokens = attention_tile(head_size);
static_assert(tile_tokens == block_heads && tile_tokens == 64 && value_size == 512);

// Queries and tiles: blocks of 64 rows, 128 bytes each. Parts of a tile: the halves of the value,
// then the rotated part of the key.
constexpr int block_bytes = 64 * 128;
constexpr int blocks = head_size / 64;
constexpr int parts = 3;
constexpr int rotated = 2;
constexpr int blocks_of(int part) { return part == rotated ? 1 : 4; }

struct Shared {
  unsigned char queries[blocks * block_bytes];
  unsigned char tiles[2][blocks * block_bytes];
  unsigned char weights[block_bytes];
  float maxima[2][block_heads];  // after tile i: [i % 2]
  float keeps[block_heads];      // by which the newest weights' tile scales what was before it
  float sums[2][block_heads];
  uint64_t full[2][parts];
  uint64_t empty[2][parts];
};

// Blocks [first, first + count) of 64 rows of 576 numbers, which stand one after another; zeros
// from row `there` on.
template <int copiers>
__device__ void fetch_blocks(const bf16* from, int there, uint32_t to, int first, int count) {
  const int thread = static_cast<int>(threadIdx.x) % copiers;
  const int my_row = thread / 8;
  from += (my_row < there ? my_row * head_size : 0) + thread % 8 * 8 + first * 64;
  to += first * block_bytes + swizzled(my_row, thread % 8, 128);
#pragma unroll
  for (int row = 0; row < 64; row += copiers / 8) {
    const bool valid = my_row + row < there;
#pragma unroll
    for (int block = 0; block < count; ++block) {
      copy_chunk(to + block * block_bytes + row * 128,
                 from + (valid ? row * head_size + block * 64 : 0), valid);
    }
  }
}

// The same of quantised rows, which become bf16 on their way through registers (nvfp4: a value
// times its block's scale has 6 bits): 16 values a step, read a few steps ahead.
__device__ uint4 read16(const Values<const fp8>& from) {
  return __ldcg(reinterpret_cast<const uint4*>(from.data));
}
__device__ uint4 read16(const Values<const nvfp4>& from) {
  const uint2 codes = __ldcg(reinterpret_cast<const uint2*>(from.codes));
  return make_uint4(codes.x, codes.y, from.scales->bits, 0);
}
template <class Kv>
__device__ void widen16(const uint4& read, uint32_t (&to)[8]) {
  if constexpr (std::is_same_v<Kv, fp8>) {
    const uint32_t words[4] = {read.x, read.y, read.z, read.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = widen(words[i / 2], i % 2 * 2);
    if (any_nan(read.x, read.y, read.z, read.w)) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t codes = words[i / 2] >> (i % 2 * 16);
        to[i] = with_nan(to[i], codes, codes >> 8, 0x7fc0);
      }
    }
  } else {
    // A code in bf16's exponent is 2^126 too small; the scale makes good for 2^119 of it.
    const float scale = to_float(fp8{static_cast<uint8_t>(read.z)}) * 0x1p119F;
    const uint32_t scales = pack(scale, scale);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t word = i < 4 ? read.x : read.y;
      const uint32_t apart = __byte_perm(word << 4, word, 0x4400 + 0x1111 * (i & 3));
      const uint32_t pair = (apart & 0x80008000U) | (apart >> 6 & 0x01c001c0U);
      to[i] = multiply_pairs(multiply_pairs(pair, scales), 0x43004300U);  // 2^7
    }
  }
}

// Which of the two places a tile of the block's sequence has, and in which round.
struct Place {
  int slot;
  int parity;
  __device__ explicit Place(int tile) : slot(tile & 1), parity(tile >> 1 & 1) {}
};

// The third warpgroup, over one segment: every tile, as room comes. The owner's half of a tile is
// free first, and read first.
template <class Kv>
struct Copier {
  Shared& shared;
  const KvView& kv;
  const Segment& at;
  const int before;  // tiles of the block before this segment's
  const int thread = static_cast<int>(threadIdx.x) % group_threads;

  __device__ Values<const Kv> rows_of(int i) const {
    return values_of<Kv>(kv, 1).at(
        kv.keys[at.pair] + token_offset(kv, at.row, (at.first + i) * tile_tokens, head_size));
  }
  __device__ int there(int i) const { return at.tokens - (at.first + i) * tile_tokens; }
  // The newest token alone may not be read ahead.
  __device__ void wait_for_newest(int i) const {
    if (there(i) <= tile_tokens) wait_for_previous();
  }
  __device__ int tiles() const { return at.last - at.first; }

  __device__ void copy() const requires std::is_same_v<Kv, bf16> {
#pragma unroll 1
    for (int i = 0; i < tiles(); ++i) {
      const Place place(before + i);
      wait_for_newest(i);
      const auto fetch = [&]<int part>(int first) {
        const int index = part == rotated ? part : first / 4;
        wait_for_phase(&shared.empty[place.slot][index], place.parity ^ 1);
        fetch_blocks<group_threads>(rows_of(i).data, there(i),
                                    shared_address(shared.tiles[place.slot]), first,
                                    blocks_of(part));
        arrive_with_copies(&shared.full[place.slot][index]);
      };
      fetch.template operator()<rotated>(8);
      fetch.template operator()<0>(4 * (i & 1));
      fetch.template operator()<0>(4 * (i & 1 ^ 1));
    }
  }

  // Quantised: a thread takes 18 steps of 16 values a tile: 2 of the rotated part, 8 of the owner's
  // half, 8 of the other. When a step has been written, the one 9 later is read into its registers.
  struct Step {
    int row, column;  // column: of 16 values
  };
  __device__ Step step(int i, int s) const {
    if (s < 2) return {thread / 4 + 32 * s, 32 + thread % 4};
    const int part = (s - 2) / 8 ^ (i & 1);
    return {thread / 16 + 8 * ((s - 2) % 8), 16 * part + thread % 16};
  }
  __device__ uint4 read(const Values<const Kv>& rows, int i, int s) const {
    const Step from = step(i, s);
    return from.row < there(i) ? read16(rows.at(from.row * head_size + from.column * 16)) : uint4{};
  }
  __device__ void write(int i, int s, const uint4& from) const {
    const Step to = step(i, s);
    unsigned char* const block = shared.tiles[Place(before + i).slot] + to.column / 4 * block_bytes;
    uint32_t v[8];
    widen16<Kv>(from, v);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<uint4*>(block + swizzled(to.row, to.column % 4 * 2 + half, 128)) =
          make_uint4(v[4 * half], v[4 * half + 1], v[4 * half + 2], v[4 * half + 3]);
    }
  }
  __device__ void copy() const requires(!std::is_same_v<Kv, bf16>) {
    constexpr int steps = 18;
    constexpr int ahead = 9;
    uint4 held[ahead];
    wait_for_newest(0);
    Values<const Kv> rows = rows_of(0);
#pragma unroll
    for (int s = 0; s < ahead; ++s) held[s] = read(rows, 0, s);
#pragma unroll 1
    for (int i = 0; i < tiles(); ++i) {
      const Place place(before + i);
#pragma unroll
      for (int s = 0; s < steps; ++s) {
        const int part = s < 2 ? rotated : (s - 2) / 8 ^ (i & 1);
        if (s == 0 || s == 2 || s == 10) {
          wait_for_phase(&shared.empty[place.slot][part], place.parity ^ 1);
        }
        write(i, s, held[s % ahead]);
        if (s == steps - ahead && i + 1 < tiles()) {
          wait_for_newest(i + 1);
          rows = rows_of(i + 1);
        }
        if (s < steps - ahead) {
          held[s] = read(rows, i, s + ahead);
        } else if (i + 1 < tiles()) {
          held[s - ahead] = read(rows, i + 1, s - ahead);
        }
        if (s == 1 || s == 9 || s == 17) {
          show_to_tensor_cores();
          arrive(&shared.full[place.slot][part]);
        }
      }
    }
  }
};

// One of the first two warpgroups, over one segment. Thread (g, t) = (lane / 4, lane % 4) of warp w
// holds heads 16 w + g (+ 8).
struct Attender {
  Shared& shared;
  const int half;    // of the value, also which warpgroup
  const int before;  // tiles of the block before this segment's
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int row = static_cast<int>(threadIdx.x) % group_threads / 32 * 16 + lane / 4;
  float out[128] = {};
  float sum[2] = {};  // of this thread's tokens, under the maximum so far

  __device__ uint32_t tile(int i) const {
    return shared_address(shared.tiles[Place(before + i).slot]);
  }
  // Barriers: tile i's weights are there; this warpgroup; both.
  __device__ static int ready(int i) { return 1 + (i & 1); }
  __device__ void meet_own() const { meet(3 + half, group_threads); }
  __device__ static void meet_both() { meet(5, 2 * group_threads); }

  __device__ void leave(int i, int part) {
    __syncwarp();
    if (lane == 0) arrive(&shared.empty[Place(before + i).slot][part]);
  }

  __device__ void find_logits(int i, float (&logits)[32]) {
    const Place place(before + i);
    const auto add = [&](int part, int first, int count, bool add_first) {
      wait_for_phase(&shared.full[place.slot][part], place.parity);
      show_to_tensor_cores();
      begin_products();
#pragma unroll
      for (int step = 0; step < 4 * count; ++step) {
        const uint32_t at = (first + step / 4) * block_bytes + step % 4 * 32;
        multiply_rows(logits, factor(shared_address(shared.queries) + at), factor(tile(i) + at),
                      add_first || step > 0);
      }
      commit_products();
    };
    add(rotated, 8, 1, false);
    add(half, 4 * half, 4, true);
    add(half ^ 1, 4 * (half ^ 1), 4, true);
    wait_for_products();
    leave(i, rotated);
  }

  // Logits become weights under the new maximum; by `keep` is scaled what was before.
  __device__ void weigh(int i, int there, float scale, float (&logits)[32],
                        uint32_t (&weights)[4][4], float (&keep)[2], float (&added)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float so_far = shared.maxima[(i & 1) ^ 1][row + 8 * r];
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
      added[r] = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float a = power_of_two(logits[4 * n + 2 * r] - max);
        const float b = power_of_two(logits[4 * n + 2 * r + 1] - max);
        added[r] += a + b;
        weights[n / 2][r + 2 * (n & 1)] = pack(a, b);
      }
    }
  }

  __device__ void hand_over(const uint32_t (&weights)[4][4], const float (&keep)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if ((lane & 3) == 0) shared.keeps[row + 8 * r] = keep[r];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        *reinterpret_cast<uint32_t*>(shared.weights + swizzled(row + 8 * r, n, 128) +
                                     4 * (lane & 3)) = weights[n / 2][r + 2 * (n & 1)];
      }
    }
    show_to_tensor_cores();
  }

  __device__ void rescale(float keep0, float keep1) {
    if (!__any_sync(~0U, keep0 != 1 || keep1 != 1)) return;
#pragma unroll
    for (int n = 0; n < 128; ++n) out[n] *= (n & 2) ? keep1 : keep0;
    sum[0] *= keep0;
    sum[1] *= keep1;
  }
  // Adds tile i's values, by the other's weights or its own; waited for by the caller.
  __device__ void start_values(int i) {
    rescale(shared.keeps[row], shared.keeps[row + 8]);
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      multiply_columns(out, factor(shared_address(shared.weights) + 32 * step), values(i, step));
    }
    commit_products();
  }
  __device__ void start_values(int i, const uint32_t (&weights)[4][4], const float (&keep)[2]) {
    rescale(keep[0], keep[1]);
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) multiply_columns(out, weights[step], values(i, step));
    commit_products();
  }
  __device__ uint64_t values(int i, int step) const {
    return factor(tile(i) + 4 * half * block_bytes + step * 16 * 128, block_bytes);
  }

  // A tile's values are added before the next tile's logits are looked for: else its place could
  // not be filled beside them.
  __device__ void attend(const Segment& at, float scale) {
#pragma unroll 1
    for (int i = 0; i < at.last - at.first; ++i) {
      if ((i & 1) == half) {
        add_own(i, at.tokens - (at.first + i) * tile_tokens, scale);
      } else {
        meet(ready(i), 2 * group_threads);
        start_values(i);
      }
      wait_for_products();
      leave(i, half);
    }
  }
  __device__ void add_own(int i, int there, float scale) {
    float logits[32];
    find_logits(i, logits);
    uint32_t weights[4][4];
    float keep[2], added[2];
    weigh(i, there - 2 * (lane & 3), scale, logits, weights, keep, added);
    meet_own();  // all of it has read the other's weights
    hand_over(weights, keep);
    arrive(ready(i), 2 * group_threads);
    start_values(i, weights, keep);
    sum[0] += added[0];
    sum[1] += added[1];
  }

  __device__ void write(const AttentionPlan& plan, const Segment& at, int first_head, int heads,
                        float scale) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0U, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0U, sum[r], 2);
      if ((lane & 3) == 0) shared.sums[half][row + 8 * r] = sum[r];
    }
    meet_both();
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
               make_float2(out[4 * n + 2 * r] * part, out[4 * n + 2 * r + 1] * part));
      }
      if (half == 0 && (lane & 3) == 0) {
        plan.lses[head * plan.slots() + at.slot] =
            log_sum_exp(shared.maxima[(at.last - at.first - 1) & 1][row + 8 * r], total);
      }
    }
  }
};

__device__ void load_queries(const bf16* q, int heads, Shared& shared) {
  Attender::meet_both();  // nobody reads the earlier ones, or their maxima
  fetch_blocks<2 * group_threads>(q, heads, shared_address(shared.queries), 0, blocks);
  commit_copies();
  if (threadIdx.x < block_heads) shared.maxima[1][threadIdx.x] = -FLT_MAX;  // "after tile -1"
  wait_for_copies<0>();
  show_to_tensor_cores();
  Attender::meet_both();
}

template <class Kv>
__global__ void __launch_bounds__(threads, 1) attend(AttentionPlan plan, const bf16* q, KvView kv) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int head_block = static_cast<int>(blockIdx.x) % plan.shape.head_blocks();
  const int share = static_cast<int>(blockIdx.x) / plan.shape.head_blocks();
  const int warpgroup = static_cast<int>(threadIdx.x) / group_threads;
  release_next();
  if (threadIdx.x < 2 * parts) {
    const int part = static_cast<int>(threadIdx.x) % parts;
    make_barrier(&shared.full[threadIdx.x / parts][part], group_threads);
    make_barrier(&shared.empty[threadIdx.x / parts][part], group_threads / 32);
  }
  __syncthreads();
  if (warpgroup == 2) {
    give_registers<120>();
    int before = 0;
    for_segments(plan, kv.tokens, share, tile_tokens, [&](const Segment& at) {
      Copier<Kv>{shared, kv, at, before}.copy();
      before += at.last - at.first;
    });
    wait_for_copies<0>();
  } else {
    take_registers<192>();
    const AttentionShape& shape = plan.shape;
    const int first_head = head_block * block_heads;
    const int heads = min(block_heads, shape.group() - first_head);
    int before = 0;
    wait_for_previous();
    for_segments(plan, kv.tokens, share, tile_tokens, [&](const Segment& at) {
      const int head = at.pair % shape.kv_heads * shape.group() + first_head;
      load_queries(q + (int64_t{at.row} * shape.heads + head) * head_size, heads, shared);
      Attender attender{shared, warpgroup, before};
      const float scale = scale_of(kv, at.pair % shape.kv_heads);
      attender.attend(at, scale * shape.scale * log2_e);  // for powers of two
      attender.write(plan, at, first_head, heads, scale);
      before += at.last - at.first;
    });
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
