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
constexpr int words_ahead = 8;  // that a lane waits for at once

// A message is 4-byte aligned and may end in half a word.
__device__ inline uint2 word_of(const std::byte* message, int64_t word, int64_t bytes) {
  const auto* from = reinterpret_cast<const uint32_t*>(message + word * 8);
  return make_uint2(__ldcg(from), word * 8 + 4 < bytes ? __ldcg(from + 1) : 0);
}

// A thread's share of the words to all peers: some at a time, one grid apart.
struct Sending {
  static constexpr int some = 4;
  const Channel& channel;
  const std::byte* messages;
  int64_t bytes;  // of a message
  uint32_t first = blockIdx.x * threads + threadIdx.x;
  const std::byte* message[some];
  std::byte* to[some];  // none: nullptr
  uint32_t word[some];
  uint2 data[some] = {};

  __device__ uint32_t words() const { return static_cast<uint32_t>((bytes + 7) / 8); }
  __device__ uint32_t all() const { return words() * static_cast<uint32_t>(channel.size - 1); }
  __device__ uint32_t step() const { return gridDim.x * threads; }
  __device__ bool ended() const { return first >= all(); }
  __device__ void find() {
#pragma unroll
    for (int j = 0; j < some; ++j) {
      const uint32_t i = first + j * step();
      // Each member begins with another peer.
      const int member = (channel.index + 1 + static_cast<int>(i / words())) % channel.size;
      word[j] = i % words();
      message[j] = messages + member * bytes;
      to[j] = i < all() ? word_place(channel, member, channel.index, word[j]) : nullptr;
    }
  }
  __device__ void load() {
#pragma unroll
    for (int j = 0; j < some; ++j)
      if (to[j] != nullptr) data[j] = word_of(message[j], word[j], bytes);
  }
  __device__ void put(const Exchange& exchange) {
#pragma unroll
    for (int j = 0; j < some; ++j)
      if (to[j] != nullptr) exchange.put(to[j], data[j]);
    first += some * step();
  }
};

// A warp merges up to 128 values of one (row, head), four a lane: w_i = exp(lse_i - max), out = sum
// w_i o_i / sum w_i in order of the members.
template <class Activation>
__global__ void __launch_bounds__(threads)
    exchange_and_merge(const __grid_constant__ Channel channel, PartialLayout part,
                       const std::byte* messages, Activation* out) {
  constexpr int words = unit_words<Activation>;
  constexpr int ahead = words_ahead / words;  // members
  if (channel.own_card) release_next();
  const int64_t bytes = part.bytes();
  Sending sending{channel, messages, bytes};
  sending.find();
  Exchange exchange(channel);
  wait_for_previous();
  exchange.begin([&] { sending.load(); });
  sending.put(exchange);
  while (!sending.ended()) {
    sending.find();
    sending.load();
    sending.put(exchange);
  }
  const std::byte* const own = messages + channel.index * bytes;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  int span = 1;
  while (span < min(channel.size, 32)) span *= 2;
  const int slices = static_cast<int>((part.value_size + 127) / 128);
  const int tasks = static_cast<int>(part.rows * part.heads) * slices;
  for (int task = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
       task < tasks; task += static_cast<int>(gridDim.x) * warps) {
    const int64_t vector = task / slices;
    const int64_t d = task % slices * 128 + lane * 4;
    const int64_t lse_at = part.outputs_bytes() + vector * 4;
    const int64_t at = (vector * part.value_size + d) * sizeof(Activation);
    const bool mine = d < part.value_size;
    const auto is_peer = [&](int i) { return i < channel.size && i != channel.index; };
    const auto word_from = [&](int i, int w) {
      return WordAt{mine && is_peer(i) ? i : -1, at / 8 + w};
    };
    const auto lse_from = [&](int i) { return WordAt{is_peer(i) ? i : -1, lse_at / 8}; };

    uint2 own_words[words] = {};
    if (mine)
      for (int w = 0; w < words; ++w) own_words[w] = word_of(own, at / 8 + w, bytes);
    const float own_lse = __ldcg(reinterpret_cast<const float*>(own + lse_at));
    const auto lse_of = [&](int i, uint2 word) {
      if (i >= channel.size) return -INFINITY;
      if (i == channel.index) return own_lse;
      return __uint_as_float(lse_at % 8 == 0 ? word.x : word.y);
    };
    // Lanes have the log-sum-exps of `span` members, and of as many behind them, each several
    // times.
    uint2 upper_lse[1] = {};
    if (channel.size > 32) exchange.await(upper_lse, [&](int) { return lse_from(lane + 32); });
    float lses[2], weights[2];
    float total = 0;
    float4 sum{};
#pragma unroll 1
    for (int first = 0; first < channel.size; first += ahead) {
      uint2 came[words_ahead + 1];
      exchange.await(came, [&](int k) {
        return k == words_ahead ? lse_from(lane & (span - 1))
                                : word_from(first + k / words, k % words);
      });
      if (first == 0) {
        lses[0] = lse_of(lane & (span - 1), came[words_ahead]);
        lses[1] = lse_of(lane + 32, upper_lse[0]);
        float max = fmaxf(lses[0], lses[1]);
        for (int step = span / 2; step > 0; step /= 2)
          max = fmaxf(max, __shfl_xor_sync(~0U, max, step));
        for (int k = 0; k < 2; ++k)  // +inf gives inf - inf, so that it is seen as NaN is
          weights[k] = lses[k] == -INFINITY ? 0 : expf(lses[k] - max);
        total = weights[0] + weights[1];
        for (int step = span / 2; step > 0; step /= 2) total += __shfl_xor_sync(~0U, total, step);
      }
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
          unit[w] = i == channel.index ? own_words[w] : came[j * words + w];
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

// A warp a parcel, some words a lane at a time. Word 0 of each slot goes to and comes from every
// member, also where they have no parcels for each other: what makes two epochs' room enough. The
// table was written before the step began.
__global__ void __launch_bounds__(threads)
    exchange_all(const __grid_constant__ Channel channel, int count, const Parcel* parcels) {
  constexpr int some = 4;
  constexpr int apart = 32 * 8;
  if (channel.own_card) release_next();
  const int begin = static_cast<int>(threadIdx.x) % 32 * 8;
  const int first = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  const int step = static_cast<int>(gridDim.x) * warps;
  uint2 data[some];
  const auto load = [&](const Parcel& p, int at) {
#pragma unroll
    for (int j = 0; j < some; ++j, at += apart)
      if (at < p.from_bytes) data[j] = load_any(p.from + at, p.from_bytes - at);
  };
  Parcel p = first < count ? parcels[first] : Parcel{};
  Exchange exchange(channel);
  wait_for_previous();
  exchange.begin([&] { load(p, begin); });
  const int member = static_cast<int>(threadIdx.x);
  const bool says = blockIdx.x == 0 && member < channel.size && member != channel.index;
  if (says) exchange.put(member, 0, uint2{});
  for (int i = first; i < count; i += step) {
    if (i > first) load(p = parcels[i], begin);
    for (int at = begin; at < p.from_bytes;) {
#pragma unroll
      for (int j = 0; j < some; ++j, at += apart) {
        if (at >= p.from_bytes) continue;
        if (p.member == channel.index) store_any(data[j], p.to + at, p.to_bytes - at);
        else exchange.put(p.member, p.put_at + at / 8, data[j]);
      }
      load(p, at);
    }
  }
  for (int i = first; i < count; i += step) {
    p = parcels[i];
    if (p.member == channel.index) continue;
    for (int at = begin; at < p.to_bytes; at += some * apart) {
      const auto bytes_left = [&](int j) { return p.to_bytes - at - j * apart; };
      exchange.await(data, [&](int j) {
        return WordAt{bytes_left(j) > 0 ? p.member : -1, p.take_at + at / 8 + j * 32};
      });
#pragma unroll
      for (int j = 0; j < some; ++j)
        if (bytes_left(j) > 0) store_any(data[j], p.to + at + j * apart, bytes_left(j));
    }
  }
  uint2 said[1];
  exchange.await(said, [&](int) { return WordAt{says ? member : -1, 0}; });
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
