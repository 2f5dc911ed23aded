// Flash-decoding for grouped queries: softmax(scale q k^T) v for up to 16 query heads that read one
// KV head, over token counts that stand in device memory.
//
// Tokens go in tiles (16 tokens of D 128, 32 of D 64; attention_tiles.cuh). All tiles of all pairs
// (row, KV head) stand in one line, cut evenly over the blocks (plan.cu, once a step), so that an
// SM reads the same number of bytes whatever the lengths are. In a block the warps take tiles in
// turn; each has its own ring of copies (device.cuh), its own running maximum and sum, and its own
// output [16][D] in registers, so that nothing is synchronised before the last tile.
//   logits [16][tokens] = q [16][D] k^T:   tensor cores, q from shared memory
//   out    [16][D]     += weights v:       weights are rounded to bf16; v is transposed on its way
// Then the warps' outputs are merged in shared memory and written, fp32 and normalised, to a slot
// of the plan: a segment is (block, pair) and its slot block + pair, which grows from segment to
// segment, so that a pair's slots stand side by side. merge.cu turns them into messages.
#include <algorithm>
#include <cassert>
#include <cfloat>
#include <cmath>

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/attention_tiles_nvfp4.cuh"

namespace helix::cuda {
namespace {

template <class Tile, int D>
struct Room {
  static constexpr int warps = Tile::warps;
  static constexpr int threads = 32 * warps;
  static constexpr int ring_bytes = Tile::slots * Tile::slot_bytes;  // of one warp
  static constexpr int out_stride = D + 8;  // fp32 values: other banks for each row
  static constexpr int floats = (2 * warps + 1) * max_group;  // maxima, sums, factors
  static constexpr int bytes = warps * ring_bytes + Tile::q_bytes + floats * 4;
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

// Logits become weights under the new maximum; older sums are scaled down to it. A NaN passes the
// maximum by, and comes back with its exponential.
template <int D, int N>
__device__ void weigh(float (&logits)[N][4], const float (&scale)[2], int tokens, int lane,
                      Running<D>& running) {
  float keep[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = running.max[half];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        logits[n][i] *= scale[half];
        if (tokens < 8 * N && 8 * n + 2 * (lane & 3) + (i & 1) >= tokens) logits[n][i] = -INFINITY;
        max = fmaxf(max, logits[n][i]);
      }
    }
    max = fmaxf(max, __shfl_xor_sync(~0U, max, 1));
    max = fmaxf(max, __shfl_xor_sync(~0U, max, 2));
    keep[half] = power_of_two(running.max[half] - max);
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
    running.sum[half] = running.sum[half] * keep[half] + sum;  // of this thread's tokens alone
  }
  if (!__any_sync(~0U, keep[0] != 1 || keep[1] != 1)) return;  // mostly
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) running.out[n][i] *= keep[i / 2];
  }
}

// 128 registers leave room on the SM for what runs before, after and beside it.
template <int D, class T>
__global__ void __maxnreg__(128) attend(AttentionPlan plan, const bf16* q, KvView kv) {
  using Kv = typename T::Kv;
  using R = Room<T, D>;
  constexpr int warps = T::warps;
  constexpr int slots = T::slots;
  extern __shared__ __align__(128) unsigned char shared[];
  unsigned char* const q_shared = shared + warps * R::ring_bytes;
  float* const maxima = reinterpret_cast<float*>(q_shared + T::q_bytes);
  float* const sums = maxima + warps * max_group;
  float* const factors = sums + warps * max_group;
  const AttentionShape shape = plan.shape;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  unsigned char* const ring = shared + warp * R::ring_bytes;

  begin_chunk(plan);
  for_segments(plan, kv.tokens, static_cast<int>(blockIdx.x), T::tokens, [&](const Segment& at) {
    const int pair = at.pair, row = at.row, tokens = at.tokens, first = at.first, last = at.last;
    const Values<const Kv> all = values_of<Kv>(kv, 1);
    const Values<const Kv> keys = all.at(kv.keys[pair]), values = all.at(kv.values[pair]);

    // This warp's slots in order: the keys of its first tile, the values, the keys of its second …
    // A tile lies in one page, which is looked up when the tile before it has been asked for.
    constexpr int page_tiles = page_tokens / T::tokens;
    const int page_rows = static_cast<int>(kv.page_stride / D);
    const auto tile_of = [&](int slot) { return first + warp + (slot >> 1) * warps; };
    int page = 0;
    const auto look_up = [&](int tile) {
      if (kv.pages != nullptr && tile < last)
        page = kv.pages[row * kv.max_pages + tile / page_tiles];
    };
    look_up(tile_of(0));
    const auto fetch = [&](int slot) {
      const int tile = tile_of(slot);
      if (tile < last) {
        const int64_t begin = kv.pages == nullptr
                                  ? tile * T::tokens
                                  : int64_t{page} * page_rows + (tile & page_tiles - 1) * T::tokens;
        T::fetch((slot & 1) ? Values<const Kv>(values) : Values<const Kv>(keys), begin,
                 tokens - tile * T::tokens, shared_address(ring + slot % slots * T::slot_bytes),
                 lane);
      }
      commit_copies();
      if (slot & 1) look_up(tile_of(slot + 1));
    };
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      // The newest token alone may not be read ahead.
      if ((tile_of(slot) + 1) * T::tokens >= tokens) wait_for_inputs(plan);
      fetch(slot);
    }
    wait_for_inputs(plan);
    const int group = shape.group();
    T::load_queries(q + (int64_t{row} * shape.heads + pair % shape.kv_heads * group) * D, group,
                    q_shared, factors);
    __syncthreads();
    const float kv_scale = scale_of(kv, pair % shape.kv_heads);
    const float scale[2] = {// for powers of two
                            shape.scale * log2_e * kv_scale * factors[lane / 4],
                            shape.scale * log2_e * kv_scale * factors[lane / 4 + 8]};

    Running<D> running;
    for (int slot = 0; tile_of(slot) < last; slot += 2) {
      float logits[T::tokens / 8][4] = {};
      wait_for_copies<slots - 1>();
      T::add_logits(logits, shared_address(q_shared),
                    shared_address(ring + slot % slots * T::slot_bytes), lane);
      __syncwarp();
      fetch(slot + slots);
      weigh<D>(logits, scale, tokens - tile_of(slot) * T::tokens, lane, running);
      wait_for_copies<slots - 1>();
      T::add_values(logits, shared_address(ring + (slot + 1) % slots * T::slot_bytes), lane,
                    running.out);
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
      T::write(running.out, half, lane, own + head * R::out_stride);
    }
    __syncthreads();
    // A warp without a tile left output 0, sum 0 and the least maximum.
    float* const outs = plan.outs + int64_t{at.slot} * group * D;
#pragma unroll 1  // code that runs once is slow to fetch
    for (int i = static_cast<int>(threadIdx.x); i < group * D / 4; i += R::threads) {
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
            reinterpret_cast<float*>(shared + w * R::ring_bytes) + head * R::out_stride + d);
        total += share * sums[w * max_group + head];
        out = make_float4(out.x + share * v.x, out.y + share * v.y, out.z + share * v.z,
                          out.w + share * v.w);
      }
      const float part = reciprocal(total) * kv_scale * T::out_factor;
      store4(make_float4(out.x * part, out.y * part, out.z * part, out.w * part),
             outs + head * D + d);
      if (d == 0) plan.lses[head * plan.slots() + at.slot] = log_sum_exp(max, total);
    }
    __syncthreads();
  });
  wait_for_previous();
}

}  // namespace

void attend_grouped(const AttentionPlan& plan, const bf16* q, const KvView& kv, const Launch& how) {
  const auto start = [&]<int D, class T>() {
    using R = Room<T, D>;
    launch("attention", attend<D, T>, dim3(static_cast<unsigned>(plan.blocks())), R::threads,
           lone_block_bytes(R::bytes, how), how, 1, plan, q, kv);
  };
  if (kv.format == Format::fp8) {
    start.template operator()<128, Fp8Tile>();
  } else if (kv.format == Format::nvfp4) {
    start.template operator()<128, Nvfp4Tile>();
  } else if (plan.shape.head_size == 64) {
    start.template operator()<64, PlainTile<64>>();
  } else {
    start.template operator()<128, PlainTile<128>>();
  }
}

namespace {

bool serves_grouped(const AttentionShape& shape, Format format) {
  if (shape.head_size != shape.value_size || shape.group() > max_group) return false;
  return shape.head_size == 128 ? format != Format::fp32
                                : shape.head_size == 64 && format == Format::bf16;
}
bool serves_latent(const AttentionShape& shape, Format format) {
  return format != Format::fp32 && shape.head_size == 576 && shape.value_size == 512;
}

}  // namespace

template <>
void attend_splits(const AttentionPlan& plan, const bf16* q, const KvView& kv, const Launch& how) {
  if (serves_grouped(plan.shape, kv.format)) return attend_grouped(plan, q, kv, how);
  if (serves_latent(plan.shape, kv.format)) return attend_latent(plan, q, kv, how);
  attend_plain(plan, q, kv, how);
}
template <>
void attend_splits(const AttentionPlan& plan, const float* q, const KvView& kv, const Launch& how) {
  attend_plain(plan, q, kv, how);
}

template <class Activation>
void decode_attention(const AttentionPlan& plan, const Activation* q, const KvView& kv,
                      const PartialLayout& part, std::byte* out, const Launch& how) {
  const AttentionShape& shape = plan.shape;
  assert(part.rows == shape.rows && shape.heads % part.heads == 0);
  assert(part.value_size == shape.value_size && part.element_bytes == sizeof(Activation));
  attend_splits(plan, q, kv, how);
  merge_splits<Activation>(plan, part, out, how);
}

template void decode_attention(const AttentionPlan&, const float*, const KvView&,
                               const PartialLayout&, std::byte*, const Launch&);
template void decode_attention(const AttentionPlan&, const bf16*, const KvView&,
                               const PartialLayout&, std::byte*, const Launch&);

}  // namespace helix::cuda
