// The messages of a communicating task, for exchanges that happen on the card. Those of dp_ep's
// tokens to their experts and back have one size, and stand between two kernels.
#pragma once

#include <vector>

#include "execute/cuda/exchange.h"
#include "execute/exchange/rounds.h"
#include "kernels/cuda/travel.h"

namespace helix::cuda {

class Travellers {
 public:
  // `store` may be filled later.
  Travellers(const Schedule& schedule, const Store& store, const Assignment& work)
      : schedule_(schedule), store_(store), work_(work) {}

  // Before the first of these, for the micro-batch in hand: takes memory where tokens travel. Their
  // dispatches add to `met` what they met (Travel::met).
  void prepare(const Task& task, int64_t* met);
  std::vector<Round> rounds(const Task& task) const;
  // Before the messages and after them. True: something was launched.
  bool pack(const Task& task, const Launch& how) const;
  bool unpack(const Task& task, const Launch& how) const;
  const int32_t* arrived() const { return counts_.data() + schedule_.place.l.dp; }

 private:
  Travel travel_of(const Task& task) const;

  const Schedule& schedule_;
  const Store& store_;
  const Assignment& work_;
  Buffer<int32_t> slots_, counts_;  // counts: rows of each peer's message, then of all
  std::vector<int64_t*> met_;       // a micro-batch
};

}  // namespace helix::cuda
