// The GPUs of a launch: which ranks share one.
#pragma once

#include <optional>

#include "bench/world.h"
#include "execute/factory.h"

namespace helix {

class Cards {
 public:
  // Opens this rank's card. Collective; throws InputError on all ranks alike.
  explicit Cards(World& world);

  const Card& mine() const { return card_; }
  // Of a point on the first `ranks` ranks: cards, and the most ranks on one of them. Collective.
  struct Use {
    int64_t gpus = 0;
    int64_t ranks_per_gpu = 0;
  };
  Use use(int ranks) const;
  // Adds up over the ranks that share this rank's card. Collective.
  double sum_on_card(double value) const;
  int64_t most_ranks_on_a_card() const { return use(world_.size()).ranks_per_gpu; }

 private:
  World& world_;
  Card card_;
  Communicator sharing_;
};

// `how` on these cards, with the exchange that a launch asks for ("auto": the best that these ranks
// can use). Throws InputError where it cannot be had, or leaves too few SMs to ranks that share a
// card. Collective.
ExecutorChoice choose_exchange(ExecutorChoice how, const Cards& cards, const World& world,
                               const std::string& wanted);

}  // namespace helix
