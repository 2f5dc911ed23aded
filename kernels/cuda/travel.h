// Tokens to the ranks that hold their experts, and back: dp_ep's messages between replicas, packed
// and unpacked on the card. A message stands at its largest, so that a graph may hold it; how many
// rows it has is its first number. All pointers are device memory; a row
// has an even number of 4-byte words.
#pragma once

#include <cstdint>

#include "base/slice.h"
#include "kernels/cuda/exchange.h"
#include "kernels/cuda/moe.h"

namespace helix::cuda {

// Between one rank and those of the other replicas; [me] is what stays.
struct Travel {
  int peers = 1;
  int me = 0;
  int chosen = 0;                   // experts of a row
  int row_words = 0;                // of its hidden values
  int32_t rows[max_members] = {};   // of each replica
  Slice experts[max_members] = {};  // that each peer holds
  std::byte* to[max_members] = {};  // messages; [me] is from[me]
  std::byte* from[max_members] = {};
  int32_t* slots = nullptr;     // [peers][my rows]: a row's place in a message; negative: in none
  int32_t* received = nullptr;  // [peers]: rows of each message
  int32_t* arrived = nullptr;   // [1]: rows of all messages
  int64_t* met = nullptr;       // [3] is added to: rows leaving, arrived, returning

  constexpr int choice_words() const { return 2 * chosen; }
  // A count of 8 bytes, the rows' hidden values, their choices.
  constexpr int64_t message_bytes(int64_t most_rows) const {
    return 8 + most_rows * 4 * (row_words + choice_words());
  }
};

// A row goes once to each peer that holds one of its experts. x: [my rows][row_words], choices:
// [my rows][chosen].
void pack_travellers(const Travel& travel, const std::byte* x, const Choice* choices,
                     const Launch& launch);
// The rows of all messages behind each other, in order of the peers.
void unpack_travellers(const Travel& travel, std::byte* x, Choice* choices, const Launch& launch);

// The way back: each row of y, which stand as they arrived, to where it came from. Messages are
// rows alone.
void pack_returning(const Travel& travel, const std::byte* y, const Launch& launch);
// out[r] = the sum of what came back for row r, in order of the peers, in fp32, rounded once; zero
// where it went nowhere. What stayed is read from y. out: [my rows][row_words].
template <class Activation>
void sum_returned(const Travel& travel, const Activation* y, Activation* out, const Launch& launch);

}  // namespace helix::cuda
