// The device's side of a channel: 16-byte stores into a peer's inbox that carry 8 bytes of payload
// (a word) and the epoch twice, one beside each half, and loads that spin until both are there.
// Each half is written as 8 aligned bytes at least, which arrive together.
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
      if ((++tries & 1023U) == 0) look_at_clock(sender);
    }
    return make_uint2(seen.x, seen.z);
  }

 private:
  __device__ std::byte* at(int member, int sender, int64_t word) const {
    const int64_t slot = (epoch_ & 1U) * channel_.size + sender;
    return channel_.inboxes[member] + slot * 2 * channel_.room + word * 16;
  }
  __device__ void look_at_clock(int sender) {
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (began_ns_ == 0) began_ns_ = now;
    broken_ = *static_cast<volatile uint32_t*>(&channel_.state->broken) != 0;
    if (broken_ || now - began_ns_ < channel_.patience_ns) return;
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
