// Send, receive and merge of partial attention outputs in one kernel, of messages that travel in
// words (longer ones: exchange_pieces.cu), and the exchange of anything else.
#include <algorithm>
#include <cassert>
#include <cmath>

#include "kernels/cuda/pieces.cuh"

namespace helix::cuda {
namespace {

constexpr int threads = 256;  // so that registers for a block are left beside one of attention
constexpr int warps = threads / 32;
constexpr int sm_blocks = 2;
constexpr int ahead = 8;  // messages that a lane asks for before it waits for the first

// A message is 4-byte aligned and may end in half a word.
__device__ inline uint2 word_of(const std::byte* message, int64_t word, int64_t bytes) {
  const auto* from = reinterpret_cast<const uint32_t*>(message + word * 8);
  return make_uint2(__ldcg(from), word * 8 + 4 < bytes ? __ldcg(from + 1) : 0);
}

__device__ void send(const Channel& channel, const Exchange& exchange, int64_t bytes,
                     const std::byte* messages) {
  const auto words = static_cast<uint32_t>((bytes + 7) / 8);
  const uint32_t all = words * static_cast<uint32_t>(channel.size - 1);
  const uint32_t step = gridDim.x * threads;
#pragma unroll 4
  for (uint32_t i = blockIdx.x * threads + threadIdx.x; i < all; i += step) {
    // Each member begins with another peer.
    const int member = (channel.index + 1 + static_cast<int>(i / words)) % channel.size;
    const int64_t word = i % words;
    exchange.put(member, word, word_of(messages + member * bytes, word, bytes));
  }
}

// A warp merges up to 128 values of one (row, head), four a lane: w_i = exp(lse_i - max), out = sum
// w_i o_i / sum w_i in order of the members. A message with lse -inf is not waited for further.
template <class Activation>
__global__ void __launch_bounds__(threads)
    exchange_and_merge(const __grid_constant__ Channel channel, PartialLayout part,
                       const std::byte* messages, Activation* out) {
  constexpr int words = unit_words<Activation>;
  if (channel.own_card) release_next();
  wait_for_previous();
  Exchange exchange(channel);
  const int64_t bytes = part.bytes();
  send(channel, exchange, bytes, messages);
  const std::byte* const own = messages + channel.index * bytes;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int slices = static_cast<int>((part.value_size + 127) / 128);
  const int tasks = static_cast<int>(part.rows * part.heads) * slices;
  for (int task = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
       task < tasks; task += static_cast<int>(gridDim.x) * warps) {
    const int64_t vector = task / slices;
    const int64_t d = task % slices * 128 + lane * 4;
    const int64_t lse_at = part.outputs_bytes() + vector * 4;
    const int64_t at = (vector * part.value_size + d) * sizeof(Activation);
    const bool mine = d < part.value_size;
    uint4 seen[ahead][words] = {};
    const auto look_from = [&](int first) {
#pragma unroll
      for (int j = 0; j < ahead; ++j)
#pragma unroll
        for (int w = 0; w < words; ++w)
          if (mine && first + j < channel.size && first + j != channel.index)
            seen[j][w] = exchange.look(first + j, at / 8 + w);
    };
    look_from(0);  // before the log-sum-exps are here: one trip for both
    const auto lse_of = [&](int i) {
      if (i >= channel.size) return -INFINITY;
      if (i == channel.index) return __ldcg(reinterpret_cast<const float*>(own + lse_at));
      const uint2 word = exchange.finish(exchange.look(i, lse_at / 8), i, lse_at / 8);
      return __uint_as_float(lse_at % 8 == 0 ? word.x : word.y);
    };
    const float lses[2] = {lse_of(lane), lse_of(lane + 32)};
    float max = fmaxf(lses[0], lses[1]);
    for (int step = 16; step > 0; step /= 2) max = fmaxf(max, __shfl_xor_sync(~0U, max, step));
    // +inf gives inf - inf, so that it is seen as NaN is.
    const auto weight_of = [&](float lse) { return lse == -INFINITY ? 0 : expf(lse - max); };
    const float weights[2] = {weight_of(lses[0]), weight_of(lses[1])};
    float total = weights[0] + weights[1];
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0U, total, step);

    float4 sum{};
#pragma unroll 1
    for (int first = 0; first < channel.size; first += ahead) {
      if (first > 0) look_from(first);
#pragma unroll
      for (int j = 0; j < ahead; ++j) {
        const int i = first + j;
        if (i >= channel.size) break;
        const float weight = __shfl_sync(~0U, i < 32 ? weights[0] : weights[1], i % 32);
        const float lse = __shfl_sync(~0U, i < 32 ? lses[0] : lses[1], i % 32);
        if (lse == -INFINITY || !mine) continue;
        uint2 unit[words];
#pragma unroll
        for (int w = 0; w < words; ++w)
          unit[w] = i == channel.index ? word_of(own, at / 8 + w, bytes)
                                       : exchange.finish(seen[j][w], i, at / 8 + w);
        const float4 v = unit_of(unit, out);
        sum = make_float4(sum.x + weight * v.x, sum.y + weight * v.y, sum.z + weight * v.z,
                          sum.w + weight * v.w);
      }
    }
    if (!mine) continue;
    const float scale = total == 0 ? 0 : 1 / total;
    store_words(make_float4(sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale),
                out + vector * part.value_size + d);
  }
}

__device__ inline uint2 load_any(const std::byte* from, int bytes) {
  if (bytes >= 8 && reinterpret_cast<uintptr_t>(from) % 4 == 0) {
    const auto* words = reinterpret_cast<const uint32_t*>(from);
    return make_uint2(__ldcg(words), __ldcg(words + 1));
  }
  uint64_t all = 0;
  for (int i = 0; i < min(bytes, 8); ++i)
    all |= static_cast<uint64_t>(std::to_integer<uint8_t>(from[i])) << (8 * i);
  return make_uint2(static_cast<uint32_t>(all), static_cast<uint32_t>(all >> 32));
}
__device__ inline void store_any(uint2 word, std::byte* to, int bytes) {
  if (bytes >= 8 && reinterpret_cast<uintptr_t>(to) % 4 == 0) {
    auto* const words = reinterpret_cast<uint32_t*>(to);
    words[0] = word.x;
    words[1] = word.y;
    return;
  }
  const uint64_t all = static_cast<uint64_t>(word.y) << 32 | word.x;
  for (int i = 0; i < min(bytes, 8); ++i) to[i] = static_cast<std::byte>(all >> (8 * i));
}

// A warp a parcel. Word 0 of each slot goes to and comes from every member, also where they have no
// parcels for each other: what makes two epochs' room enough.
__global__ void __launch_bounds__(threads)
    exchange_all(const __grid_constant__ Channel channel, int count, const Parcel* parcels) {
  if (channel.own_card) release_next();
  wait_for_previous();
  Exchange exchange(channel);
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int first = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  const int step = static_cast<int>(gridDim.x) * warps;
  if (blockIdx.x == 0 && static_cast<int>(threadIdx.x) < channel.size &&
      static_cast<int>(threadIdx.x) != channel.index)
    exchange.put(static_cast<int>(threadIdx.x), 0, uint2{});
  for (int i = first; i < count; i += step) {
    const Parcel p = parcels[i];
    for (int at = lane * 8; at < p.from_bytes; at += 32 * 8) {
      const uint2 word = load_any(p.from + at, p.from_bytes - at);
      if (p.member == channel.index) store_any(word, p.to + at, p.to_bytes - at);
      else exchange.put(p.member, p.put_at + at / 8, word);
    }
  }
  for (int i = first; i < count; i += step) {
    const Parcel p = parcels[i];
    if (p.member == channel.index) continue;
    for (int at = lane * 8; at < p.to_bytes; at += 32 * 8) {
      const int64_t word = p.take_at + at / 8;
      store_any(exchange.finish(exchange.look(p.member, word), p.member, word), p.to + at,
                p.to_bytes - at);
    }
  }
  if (blockIdx.x == 0 && static_cast<int>(threadIdx.x) < channel.size &&
      static_cast<int>(threadIdx.x) != channel.index) {
    const int member = static_cast<int>(threadIdx.x);
    exchange.finish(exchange.look(member, 0), member, 0);
  }
}

}  // namespace

void exchange_parcels(const Channel& channel, int count, const Parcel* parcels, const Launch& how) {
  assert(channel.size <= max_members && how.blocks > 0);
  const int blocks = std::clamp((count + warps - 1) / warps, 1, sm_blocks * how.blocks);
  launch("exchange", exchange_all, dim3(static_cast<unsigned>(blocks)), threads, 0, how, 1, channel,
         count, parcels);
}

// Measured on two and four H200, and by eight ranks of one: above 850, 530 and 90 KB for a member.
Way best_way(int blocks, const PartialLayout& part) {
  const int64_t most_in_words = std::min(blocks, 64) * (int64_t{10} << 10);
  return part.bytes() > most_in_words && part.bytes() % 16 == 0 && part.value_size % 8 == 0
             ? Way::pieces
             : Way::words;
}

template <class Activation>
void exchange_merge(const Channel& channel, Way way, const PartialLayout& part,
                    const std::byte* messages, Activation* out, const Launch& how) {
  assert(channel.size <= max_members && part.value_size % 4 == 0 && how.blocks > 0);
  assert(fits(exchange_room(way, part), channel.room));
  if (way != Way::words) return exchange_pieces(channel, part, messages, out, how);
  const int64_t sent = (part.bytes() + 7) / 8 * (channel.size - 1);
  const int64_t merged = part.rows * part.heads * ((part.value_size + 127) / 128);
  const int64_t wanted =
      std::max<int64_t>({1, (sent + threads - 1) / threads, (merged + warps - 1) / warps});
  launch("exchange+merge", exchange_and_merge<Activation>,
         dim3(static_cast<unsigned>(std::min<int64_t>(wanted, sm_blocks * how.blocks))), threads, 0,
         how, 1, channel, part, messages, out);
}

template void exchange_merge(const Channel&, Way, const PartialLayout&, const std::byte*, float*,
                             const Launch&);
template void exchange_merge(const Channel&, Way, const PartialLayout&, const std::byte*, bf16*,
                             const Launch&);

}  // namespace helix::cuda
