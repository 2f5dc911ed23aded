// The device's side of a channel. Words: 16-byte stores into a peer's inbox that carry 8 bytes of
// payload and the epoch twice, one beside each half, and loads that spin until both are there. Each
// half is written as 8 aligned bytes at least, which arrive together. Pieces: plain stores by a
// block, then one flag, the epoch, released after them. A slot of an inbox (an epoch's, a sender's)
// has words, pieces and their flags in places of their own, so that a flag is never mistaken.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/exchange.h"

namespace helix::cuda {

// Four consecutive activations: the unit that a thread sends, receives and computes with.
template <class Activation>
inline constexpr int unit_words = static_cast<int>(sizeof(Activation)) * 4 / 8;

__device__ inline float4 unit_of(const uint2 (&words)[1], const bf16*) {
  const uint2 w = words[0];
  return make_float4(__uint_as_float(w.x << 16), __uint_as_float(w.x & 0xffff0000U),
                     __uint_as_float(w.y << 16), __uint_as_float(w.y & 0xffff0000U));
}
__device__ inline float4 unit_of(const uint2 (&words)[2], const float*) {
  return make_float4(__uint_as_float(words[0].x), __uint_as_float(words[0].y),
                     __uint_as_float(words[1].x), __uint_as_float(words[1].y));
}
__device__ inline void words_of(float4 unit, uint2 (&words)[1], const bf16*) {
  words[0] = make_uint2(pack(unit.x, unit.y), pack(unit.z, unit.w));
}
__device__ inline void words_of(float4 unit, uint2 (&words)[2], const float*) {
  words[0] = make_uint2(__float_as_uint(unit.x), __float_as_uint(unit.y));
  words[1] = make_uint2(__float_as_uint(unit.z), __float_as_uint(unit.w));
}

// Where a sender's messages to a member stand, and a word of them, but for the half of the inbox
// that the exchange's number chooses: known before that is.
__device__ inline std::byte* slot(const Channel& channel, int member, int sender) {
  return channel.inboxes[member] + sender * channel.slot_bytes;
}
__device__ inline std::byte* word_place(const Channel& channel, int member, int sender,
                                        int64_t word) {
  return slot(channel, member, sender) + word * 16;
}

// A word of a sender's message to me; no word where there is no sender.
struct WordAt {
  int sender;
  int64_t word;
};

// One exchange of a kernel, made by all threads of each block.
class Exchange {
 public:
  __device__ explicit Exchange(const Channel& channel) : channel_(channel) {}

  // Once, by all threads of each block, after wait_for_previous(). `meanwhile` asks memory for what
  // is to be sent: it comes beside the exchange's number.
  template <class Meanwhile>
  __device__ void begin(Meanwhile&& meanwhile) {
    __shared__ ChannelState state;
    if (threadIdx.x == 0)  // one request a block goes to where all want to read
      copy_chunk(shared_address(&state), channel_.state, true);
    meanwhile();
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    if (threadIdx.x == 0) {
      const uint32_t blocks = gridDim.x * gridDim.y;
      const uint64_t part = uint64_t{1} << __clz(static_cast<int>(blocks));
      const uint64_t rest = (uint64_t{1} << 32) - (blocks - 1) * part;
      atomicAdd(&channel_.state->begun, blockIdx.x + blockIdx.y == 0 ? rest : part);
    }
    epoch_ = static_cast<uint32_t>(state.begun >> 32) + 1;
    broken_ = state.broken != 0;
    half_ = (epoch_ & 1U) * channel_.size * channel_.slot_bytes;
  }
  __device__ void begin() {
    begin([] {});
  }

  __device__ void put(std::byte* place, uint2 data) const {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(place + half_),
                 "r"(data.x), "r"(epoch_), "r"(data.y)
                 : "memory");
  }
  __device__ void put(int member, int64_t word, uint2 data) const {
    put(word_place(channel_, member, channel_.index, word), data);
  }
  // Waits for the words that place(0), … place(n - 1) tell. All that have not come are looked for
  // at once, again and again: the last of them costs one trip.
  template <int n, class Place>
  __device__ void await(uint2 (&data)[n], Place&& place) {
    uint4 seen[n] = {};
    const std::byte* missing[n];
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const auto [sender, word] = place(i);
      missing[i] =
          sender < 0 ? nullptr : word_place(channel_, channel_.index, sender, word) + half_;
    }
    for (uint32_t tries = 1;; ++tries) {
#pragma unroll
      for (int i = 0; i < n; ++i)
        if (missing[i] != nullptr) seen[i] = look(missing[i]);
      int late = -1;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        if (missing[i] == nullptr) continue;
        if (seen[i].y == epoch_ && seen[i].w == epoch_) missing[i] = nullptr;
        else late = i;
      }
      if (late < 0 || broken_) break;
      if ((tries & 1023U) == 0) look_at_clock(place(late).sender, channel_.patience_ns);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) data[i] = make_uint2(seen[i].x, seen[i].z);
  }

  // Where pieces of mine stand at a member, and those of a sender at me.
  __device__ std::byte* pieces_at(int member) const { return pieces(member, channel_.index); }
  __device__ const std::byte* pieces_from(int sender) const {
    return pieces(channel_.index, sender);
  }
  // The block's stores to a piece are done. To one member, or to all.
  __device__ void announce(int member, int64_t piece) const {
    __syncthreads();
    if (threadIdx.x == 0) release(member, piece);
  }
  __device__ void announce_to_all(int64_t piece) const {
    __syncthreads();
    if (is_peer()) release(static_cast<int>(threadIdx.x), piece);
  }
  // The block waits until a piece has come from all members; or from one who waits for others, and
  // has the time to say whom it misses.
  __device__ void await_all(int64_t piece) {
    if (is_peer()) acquire(static_cast<int>(threadIdx.x), piece, channel_.patience_ns);
    __syncthreads();
  }
  __device__ void await_answer(int sender, int64_t piece) {
    if (threadIdx.x == 0) acquire(sender, piece, 2 * channel_.patience_ns);
    __syncthreads();
  }

 private:
  __device__ static uint4 look(const std::byte* word) {
    uint4 seen;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(seen.x), "=r"(seen.y), "=r"(seen.z), "=r"(seen.w)
                 : "l"(word)
                 : "memory");
    return seen;
  }
  __device__ std::byte* pieces(int member, int sender) const {
    return slot(channel_, member, sender) + half_ + 2 * channel_.room.words;
  }
  __device__ uint32_t* flag(int member, int sender, int64_t piece) const {
    return reinterpret_cast<uint32_t*>(pieces(member, sender) + channel_.room.pieces) + piece;
  }
  __device__ bool is_peer() const {
    const int thread = static_cast<int>(threadIdx.x);
    return thread < channel_.size && thread != channel_.index;
  }
  __device__ void release(int member, int64_t piece) const {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag(member, channel_.index, piece)),
                 "r"(epoch_)
                 : "memory");
  }
  __device__ void acquire(int sender, int64_t piece, uint64_t patience_ns) {
    const uint32_t* const from = flag(channel_.index, sender, piece);
    for (uint32_t tries = 1; !broken_; ++tries) {
      uint32_t seen;
      asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(from) : "memory");
      if (seen == epoch_) break;
      if ((tries & 1023U) == 0) look_at_clock(sender, patience_ns);
    }
  }
  __device__ void look_at_clock(int sender, uint64_t patience_ns) {
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (began_ns_ == 0) began_ns_ = now;
    broken_ = *static_cast<volatile uint32_t*>(&channel_.state->broken) != 0;
    if (broken_ || now - began_ns_ < patience_ns) return;
    broken_ = true;
    if (atomicExch(&channel_.state->broken, 1U) != 0) return;  // another thread said it
    *static_cast<volatile int32_t*>(&channel_.missing->member) = sender;
    __threadfence_system();
    *static_cast<volatile uint32_t*>(&channel_.missing->epoch) = epoch_;
  }

  const Channel& channel_;
  uint32_t epoch_;
  bool broken_;
  int64_t half_;  // of each inbox: where this epoch's slots begin
  uint64_t began_ns_ = 0;
};

}  // namespace helix::cuda
