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

// One exchange of a kernel. Made once by all threads of each block, after wait_for_previous().
class Exchange {
 public:
  __device__ explicit Exchange(const Channel& channel)
      : channel_(channel),
        epoch_(*static_cast<volatile uint32_t*>(&channel.state->epoch) + 1),
        broken_(*static_cast<volatile uint32_t*>(&channel.state->broken) != 0) {
    // The last block that has read the epoch writes it for the next kernel, while messages travel.
    __syncthreads();
    if (threadIdx.x != 0) return;
    const unsigned blocks = gridDim.x * gridDim.y;
    if (atomicAdd(&channel_.state->blocks_seen, 1) != blocks - 1) return;
    channel_.state->blocks_seen = 0;
    *static_cast<volatile uint32_t*>(&channel_.state->epoch) = epoch_;
  }

  __device__ void put(int member, int64_t word, uint2 data) const {
    asm volatile(
        "st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(at(member, channel_.index, word)),
        "r"(data.x), "r"(epoch_), "r"(data.y)
        : "memory");
  }
  // What is in my inbox, whether it has come or not; `finish` waits until it has.
  __device__ uint4 look(int sender, int64_t word) const {
    uint4 seen;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(seen.x), "=r"(seen.y), "=r"(seen.z), "=r"(seen.w)
                 : "l"(at(channel_.index, sender, word))
                 : "memory");
    return seen;
  }
  __device__ uint2 finish(uint4 seen, int sender, int64_t word) {
    for (uint32_t tries = 0; seen.y != epoch_ || seen.w != epoch_; seen = look(sender, word)) {
      if (broken_) break;
      if ((++tries & 1023U) == 0) look_at_clock(sender, channel_.patience_ns);
    }
    return make_uint2(seen.x, seen.z);
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
  __device__ std::byte* slot(int member, int sender) const {
    return channel_.inboxes[member] +
           ((epoch_ & 1U) * channel_.size + sender) * channel_.slot_bytes;
  }
  __device__ std::byte* at(int member, int sender, int64_t word) const {
    return slot(member, sender) + word * 16;
  }
  __device__ std::byte* pieces(int member, int sender) const {
    return slot(member, sender) + 2 * channel_.room.words;
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
  const uint32_t epoch_;
  bool broken_;
  uint64_t began_ns_ = 0;
};

}  // namespace helix::cuda
