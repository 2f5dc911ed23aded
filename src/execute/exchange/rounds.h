// A communicating task as rounds of messages between memory addresses: what an exchange needs that
// sends and receives by itself. Sums are taken in rank order, so that every rank, and every
// exchange, has the same bits. Not for tokens to their experts, whose number only a run knows, and
// not for shifts.
#pragma once

#include <optional>
#include <vector>

#include "execute/store.h"

namespace helix {

struct Message {  // one to and one from a rank of the layout, itself among them
  int peer;
  const std::byte* from;
  int64_t from_bytes;
  std::byte* to;
  int64_t to_bytes;
};
struct RankSum {  // out = the sum of `parts` arrays of `count` values, one after another
  int parts;
  int64_t count;
  const std::byte* from;
  std::byte* out;
};
struct Round {
  std::vector<Message> messages;  // to and from each peer in the same order on both sides
  std::optional<RankSum> sum = {};
};

// Of the micro-batch that the store was turned to.
std::vector<Round> rounds_of(const Schedule& schedule, const Store& store, const Task& task);

}  // namespace helix
