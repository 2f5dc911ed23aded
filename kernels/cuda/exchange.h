// Exchanges inside kernels: a rank writes into its peers' memory and waits in its own, and what was
// exchanged is merged, or added and normalised, by the kernel that waited for it. Payload travels
// in words, each with its flag, so that nothing is packed, fenced or announced; or, where that
// doubles what takes long, as it is, with a flag behind each piece.
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
struct alignas(16) ChannelState {
  // Exchanges that began, in units of 2^-32: each block of one adds its part, all blocks add 1, so
  // that the upper half is the last one's number until all have read it.
  unsigned long long begun;
  uint32_t broken;  // a wait ran out of time: nothing waits any more, results are void
};
// What did not come, in host memory that the device writes.
struct Missing {
  uint32_t epoch;  // 0: nothing is missing
  int32_t member;
};

// How payload travels.
enum class Way : uint8_t {
  words,   // 8 bytes and their flag together: the fastest up to some 100 KB, where few rows are
           // summed
  pieces,  // as it is, with a flag for each piece (a row of a sum)
  owners,  // so too, a row of a sum to its owner alone, and the row's sum from there to all
};

// Payload bytes of one sender in one exchange, multiples of 16.
struct Room {
  int64_t words = 0;
  int64_t pieces = 0;

  static constexpr int64_t least_piece = 256;
  constexpr int64_t flags() const { return (pieces / least_piece + 4) / 4 * 4; }
  constexpr int64_t slot_bytes() const { return 2 * words + pieces + 4 * flags(); }
};
constexpr Room larger(const Room& a, const Room& b) {
  return {a.words < b.words ? b.words : a.words, a.pieces < b.pieces ? b.pieces : a.pieces};
}
constexpr bool fits(const Room& needed, const Room& room) {
  return needed.words <= room.words && needed.pieces <= room.pieces;
}
constexpr Room room_of(int64_t words_bytes, int64_t pieces_bytes) {
  return {(words_bytes + 15) / 16 * 16, (pieces_bytes + 15) / 16 * 16};
}
constexpr Room room_of(Way way, int64_t bytes) {
  return way == Way::words ? room_of(bytes, 0) : room_of(0, bytes);
}

struct Channel {
  std::byte* inboxes[max_members] = {};  // of each member, mapped here; [index] is mine
  int size = 1;
  int index = 0;
  Room room;
  int64_t slot_bytes = 0;  // room.slot_bytes(): a sender's in an exchange
  ChannelState* state = nullptr;
  Missing* missing = nullptr;
  uint64_t patience_ns = 0;  // how long a block waits for a message
  // The next kernel may be launched while this one waits. Only where no other rank's kernels need
  // the SMs that it would hold: else both could wait for each other.
  bool own_card = true;

  constexpr int64_t inbox_bytes() const { return 2 * size * slot_bytes; }
};

// messages: [size] of `part`, one a member, as attention left them. Member i's message for me is
// merged with the others' into out [part.rows][part.heads][part.value_size], as merge_partials does
// with the same bits on every call. value_size: a multiple of 4. Twin: reference::merge_partials of
// what all members sent.
template <class Activation>
void exchange_merge(const Channel& channel, Way way, const PartialLayout& part,
                    const std::byte* messages, Activation* out, const Launch& launch);
constexpr Room exchange_room(Way way, const PartialLayout& part) {
  return room_of(way, part.bytes());
}
// For `blocks` SMs, as in Launch. All members must come to the same way.
Way best_way(int blocks, const PartialLayout& part);

// y [rows][width] of all members, added in order of the members and rounded once: the same bits on
// every member. Then, where `hidden` is not null, hidden += that sum (rounded) and out = the norm
// of hidden with gains w, as add_rms_norm; else out = the sum. width: a multiple of 4, at most
// 32768; of 8 where it does not travel in words.
template <class Activation>
void all_reduce_norm(const Channel& channel, Way way, int rows, int width, const Activation* y,
                     Activation* hidden, const Stored& w, float eps, Activation* out,
                     const Launch& launch);
constexpr Room all_reduce_room(Way way, int members, int64_t rows, int64_t width,
                               int64_t element_bytes) {
  const int64_t sent = way == Way::owners ? 2 * ((rows + members - 1) / members) : rows;
  return room_of(way, sent * width * element_bytes);
}
Way best_way(int blocks, int members, int64_t rows, int64_t width, int64_t element_bytes);

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
