// Exchanges inside kernels: a rank writes into its peers' memory and waits in its own. Payload and
// flags travel together, so that nothing is packed, fenced or announced, and what was exchanged is
// merged, or added and normalised, by the kernel that waited for it.
//
// All members of a channel call the same exchanges in the same order. The flag is the exchange's
// number (epoch), which lives in device memory: a graph may be replayed, with an odd number of
// exchanges, and batches of several sizes share a channel. An inbox has room for two epochs, which
// is enough: who sends epoch e + 2 has received e + 1 from all, and they had then ended e.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/format.h"
#include "kernels/cpu/partial.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

using cpu::PartialLayout;

inline constexpr int max_members = 64;

// Of one rank, in device memory, zeroed at first.
struct ChannelState {
  uint32_t epoch;  // of the last exchange that began
  uint32_t blocks_seen;
  uint32_t broken;  // a wait ran out of time: nothing waits any more, results are void
};
// What did not come, in host memory that the device writes.
struct Missing {
  uint32_t epoch;  // 0: nothing is missing
  int32_t member;
};

struct Channel {
  std::byte* inboxes[max_members] = {};  // of each member, mapped here; [index] is mine
  int size = 1;
  int index = 0;
  int64_t room = 0;  // payload bytes of one sender in one exchange; a multiple of 16
  ChannelState* state = nullptr;
  Missing* missing = nullptr;
  uint64_t patience_ns = 0;  // how long a block waits for a message
  // The next kernel may be launched while this one waits. Only where no other rank's kernels need
  // the SMs that it would hold: else both could wait for each other.
  bool own_card = true;

  constexpr int64_t inbox_bytes() const { return 2 * size * 2 * room; }
};

// messages: [size] of `part`, one a member, as attention left them. Member i's message for me is
// merged with the others' into out [part.rows][part.heads][part.value_size], as merge_partials does
// with the same bits on every call. value_size: a multiple of 4. Twin: reference::merge_partials of
// what all members sent.
template <class Activation>
void exchange_merge(const Channel& channel, const PartialLayout& part, const std::byte* messages,
                    Activation* out, const Launch& launch);
constexpr int64_t exchange_room(const PartialLayout& part) { return (part.bytes() + 15) / 16 * 16; }

// y [rows][width] of all members, added in order of the members and rounded once: the same bits on
// every member. Then, where `hidden` is not null, hidden += that sum (rounded) and out = the norm
// of hidden with gains w, as add_rms_norm; else out = the sum. width: a multiple of 4, at most
// 32768. one-shot sends y to every member; two-shot a share to each, and its sum back to all.
enum class Shots : uint8_t { one, two };
template <class Activation>
void all_reduce_norm(const Channel& channel, Shots shots, int rows, int width, const Activation* y,
                     Activation* hidden, const Stored& w, float eps, Activation* out,
                     const Launch& launch);
constexpr int64_t all_reduce_room(Shots shots, int members, int64_t rows, int64_t width,
                                  int64_t element_bytes) {
  const int64_t units = width / 4;
  const int64_t sent = shots == Shots::one ? units : 2 * ((units + members - 1) / members);
  return (rows * sent * 4 * element_bytes + 15) / 16 * 16;
}

// Any other collective: parcels between this rank and members (itself among them). `put_at` and
// `take_at` are the words of an inbox's slot where a parcel stands, from 1 on, the same on both
// sides; the table is in device memory. Bytes may be odd, addresses anything.
struct Parcel {
  const std::byte* from;
  std::byte* to;
  int32_t from_bytes;
  int32_t to_bytes;
  int32_t member;
  int32_t put_at;
  int32_t take_at;
};
void exchange_parcels(const Channel& channel, int count, const Parcel* parcels,
                      const Launch& launch);
constexpr int32_t parcel_words(int64_t bytes) { return static_cast<int32_t>((bytes + 7) / 8); }

}  // namespace helix::cuda
