// What stands in for the ranks that are not there (Assignment::shard). What a communicating task
// would have brought is drawn once, before the first step, and lies where the tasks find it that
// read it. So no exchange is carried out, and every other task works on finite numbers of its own
// shapes.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "execute/store.h"

namespace helix {

struct Received {
  std::byte* to;  // in the store's memory
  std::vector<std::byte> bytes;
  bool overwritten;  // by another task, so that each exchange has to bring it anew
};

struct OwnPart {  // of what all ranks of a group gather
  std::span<const std::byte> from;
  std::byte* to;
};

class StandIn {
 public:
  // `store` may be filled later.
  StandIn(const Schedule& schedule, const Store& store, const Assignment& work)
      : schedule_(schedule), store_(store), work_(work) {}

  // What the task brings the micro-batch that the store was turned to: activations and log-sum-exps
  // uniform over (-1, 1), any word as the best of a rank, and rows of all replicas that chose their
  // experts as the work's choices for the first layer say, or evenly.
  std::vector<Received> receive(const Task& task) const;
  // What stands among the parts of others in each step: a rank's share of a merged output is no
  // share unless its log-sum-exp is one of those gathered.
  std::optional<OwnPart> own_part(const Task& task) const;
  // Rows that a dispatch brings, and that would leave and return.
  void observe(StepState& state) const;

 private:
  struct Travellers {  // rows that chose an expert of this rank
    std::vector<std::byte> choices;
    int64_t rows = 0;
    int64_t returning = 0;  // of other replicas
    int64_t leaving = 0;    // of mine, once for each peer
  };
  Travellers travellers() const;
  std::vector<std::byte> draw(const Task& task, Id id) const;
  bool overwritten(Id id) const;

  const Schedule& schedule_;
  const Store& store_;
  const Assignment& work_;
};

}  // namespace helix
